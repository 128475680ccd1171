"""Where in a prompt's tokens a place of its text lies, and which of two prompts' correspond, by the tokenizer's offsets."""

from __future__ import annotations

from typing import Literal

from xlmech.checks import check_choice
from xlmech.data.probes import Probe
from xlmech.models.backends import Backend
from xlmech.models.tokens import encode_prompt, masked_prompt, subject_tokens, token_offsets

Place = Literal["subject_last", "last"]
Span = Literal["subject_last", "last", "subject", "all"]


def token_position(backend: Backend, probe: Probe, place: Place) -> int:
    """Position of `place` in the encoded prompt: the subject's last token, or the last of all.

    Raises:
        ValueError: An unknown place, or as `subject_tokens`.
    """
    check_choice("position", place, Place)
    if place == "last":
        return len(encode_prompt(backend, probe.prompt, what=f"probe {probe.id}")) - 1
    return subject_tokens(backend, probe)[-1]


def segments(backend: Backend, probe: Probe) -> dict[str, range]:
    """Positions of the prompt's four parts: `special` tokens in front, what is `before` the subject, `subject`, `after`.

    Raises:
        ValueError: As `subject_tokens`.
    """
    subject, offsets = subject_tokens(backend, probe), token_offsets(backend, probe)
    n_special = next((number for number, (low, high) in enumerate(offsets) if high > low), 0)
    return {
        "special": range(n_special),
        "before": range(n_special, subject.start),
        "subject": subject,
        "after": range(subject.stop, len(offsets)),
    }


def aligned_positions(backend: Backend, source: Probe, target: Probe, span: Span) -> list[tuple[int, int]]:
    """(target, source) positions that correspond: one pair for each target position in `span`.

    The last token goes with the last, the subject's last with the subject's last. Longer spans are aligned part by part
    (see `segments`): in a part with as many tokens in both prompts, one by one; else each target token goes with the
    source token at the same relative place, first with first and last with last, and a single one with the last. So all
    of the target's span is covered, whatever the lengths; a source token may be used twice, or not at all.

    Raises:
        ValueError: An unknown span; a part that the source's prompt lacks; or as `subject_tokens`.
    """
    check_choice("position", span, Span)
    if span in ("last", "subject_last"):
        return [(token_position(backend, target, span), token_position(backend, source, span))]
    parts, of_source = segments(backend, target), segments(backend, source)
    found = []
    for part in ["subject"] if span == "subject" else parts:
        if len(parts[part]) and not len(of_source[part]):
            raise ValueError(
                f"the target prompt {masked_prompt(target)!r} ({target.id}) has tokens in its part {part!r} (of the parts "
                f"{', '.join(parts)}), and the source prompt {masked_prompt(source)!r} ({source.id}) has none; use "
                "templates that put the subject at the same place, or position='subject'"
            )
        found += list(zip(parts[part], _stretched(of_source[part], len(parts[part])), strict=True))
    return found


def _stretched(places: range, n: int) -> list[int]:
    """`n` of the places, evenly: first to first, last to last; the last one where n is 1."""
    if n == 1:
        return [places[-1]]
    return [places[(2 * number * (len(places) - 1) + n - 1) // (2 * (n - 1))] for number in range(n)]
