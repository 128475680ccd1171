"""Where in a prompt's tokens a place of its text lies, by the tokenizer's own offsets."""

from __future__ import annotations

from typing import Literal

from xlmech.backends import Backend
from xlmech.probes import Probe
from xlmech.records import MASK
from xlmech.runner import encode_prompt

Place = Literal["subject_last", "last"]


def subject_tokens(backend: Backend, probe: Probe) -> range:
    """Positions of the subject's tokens in the encoded prompt.

    A token that holds part of the subject counts whole, also where it holds a neighbouring character too.

    Raises:
        ValueError: The tokenizer gives no offsets, or no token holds the subject (shows the prompt masked).
    """
    if not getattr(backend.tokenizer, "is_fast", False):
        raise ValueError(
            f"probe {probe.id}: {type(backend.tokenizer).__name__} gives no offsets, so the subject's tokens cannot be "
            "told; load the model with a fast tokenizer"
        )
    start, end = probe.subject_span
    if probe.prompt[start:end] != probe.record.subject:
        raise ValueError(
            f"probe {probe.id}: the subject is not at its span ({start}, {end}) of the prompt {masked_prompt(probe)!r}; "
            "make the probe with build_probes, or mend its subject_span"
        )
    n_tokens = len(encode_prompt(backend, probe.prompt, what=f"probe {probe.id}"))
    offsets = backend.tokenizer(probe.prompt, return_offsets_mapping=True)["offset_mapping"][:n_tokens]
    held = [place for place, (low, high) in enumerate(offsets) if low < end and high > start]
    if not held:
        raise ValueError(
            f"probe {probe.id}: no token of the prompt {masked_prompt(probe)!r} holds the subject; the tokenizer drops its "
            "characters"
        )
    return range(held[0], held[-1] + 1)


def token_position(backend: Backend, probe: Probe, place: Place) -> int:
    """Position of `place` in the encoded prompt: the subject's last token, or the last of all.

    Raises:
        ValueError: An unknown place, or as `subject_tokens`.
    """
    if place == "last":
        return len(encode_prompt(backend, probe.prompt, what=f"probe {probe.id}")) - 1
    if place == "subject_last":
        return subject_tokens(backend, probe)[-1]
    raise ValueError(f"unknown position {place!r}; use 'subject_last' or 'last'")


def masked_prompt(probe: Probe) -> str:
    """The prompt without the subject and the answer, also where only a part of the name stands in it."""
    text = probe.prompt
    for hidden in (probe.record.subject, *probe.answers.values(), *probe.record.subject.split()):
        text = text.replace(hidden, MASK)
    return text
