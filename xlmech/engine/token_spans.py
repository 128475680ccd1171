"""Find the positions of a prompt's tokens by the tokenizer's offsets, and align those of two prompts."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from xlmech.checks import check_choice
from xlmech.data.probes import Probe, masked_prompt
from xlmech.data.records import MASK
from xlmech.models.backends import Backend
from xlmech.models.tokens import encode_probe, subject_tokens, token_offsets

Position = Literal["subject_last", "last"]
Span = Literal["subject_last", "last", "subject", "all"]


def token_position(backend: Backend, probe: Probe, place: Position) -> int:
    """Find the position of the subject's last token, or of the last token of all, in the encoded prompt.

    Raises:
        ValueError: Another `place`, or as `subject_tokens`.
    """
    check_choice("position", place, Position)
    if place == "last":
        return len(encode_probe(backend, probe, languages=(), room=0).prompt) - 1
    return subject_tokens(backend, probe)[-1]


def prompt_spans(backend: Backend, probe: Probe) -> dict[str, range]:
    """Find the positions of the prompt's parts: `special` tokens in front, `before` the subject, `subject`, `after` it.

    Raises:
        ValueError: As `subject_tokens`.
    """
    encoded = encode_probe(backend, probe, languages=(), room=0, subject=True)
    subject = encoded.subject or range(0)
    offsets = token_offsets(backend, probe, len(encoded.prompt))
    n_special = next((number for number, (low, high) in enumerate(offsets) if high > low), 0)
    return {
        "special": range(n_special),
        "before": range(n_special, subject.start),
        "subject": subject,
        "after": range(subject.stop, len(offsets)),
    }


def aligned_positions(backend: Backend, source: Probe, target: Probe, span: Span) -> list[tuple[int, int]]:
    """Align two prompts: for each target position in `span`, return (target, source) positions that correspond.

    The last tokens correspond, and the subjects' last tokens. Longer spans are aligned part by part (see `prompt_spans`). Parts
    with as many tokens are aligned one by one. Otherwise the source token of the same relative position is used, so the
    first tokens and the last tokens correspond; a single target token gets the source's last. All target positions are covered; a
    source token may be used twice or not at all.

    Raises:
        ValueError: An unknown span; a part that the source's prompt lacks; or as `subject_tokens`.
    """
    check_choice("position", span, Span)
    if span in ("last", "subject_last"):
        return [(token_position(backend, target, span), token_position(backend, source, span))]
    targets, sources = prompt_spans(backend, target), prompt_spans(backend, source)
    pairs: list[tuple[int, int]] = []
    for part in ["subject"] if span == "subject" else targets:
        if len(targets[part]) and not len(sources[part]):
            raise ValueError(
                f"the target prompt {masked_prompt(target)!r} ({target.id}) has tokens in its part {part!r} (of the parts "
                f"{', '.join(targets)}), and the source prompt {masked_prompt(source)!r} ({source.id}) has none; use "
                "templates that put the subject at the same place, or position='subject'"
            )
        pairs += zip(targets[part], _spaced(sources[part], len(targets[part])), strict=True)
    return pairs


def _spaced(positions: range, n: int) -> list[int]:
    """Take `n` evenly spaced positions, from the first to the last; the last one where n is 1."""
    if n == 1:
        return [positions[-1]]
    return [positions[(2 * number * (len(positions) - 1) + n - 1) // (2 * (n - 1))] for number in range(n)]


def token_table(backend: Backend, probe: Probe, *, reveal: bool = False) -> pd.DataFrame:
    """List `position`, `part` and `token` (text; masked in the subject unless `reveal`) of a prompt's tokens."""
    tokens = encode_probe(backend, probe, languages=(), room=0).prompt
    return pd.DataFrame(
        {
            "position": position,
            "part": part,
            "token": MASK if part == "subject" and not reveal else backend.tokenizer.decode([tokens[position]]),
        }
        for part, positions in prompt_spans(backend, probe).items()
        for position in positions
    )
