"""Text as tokens of one model: prompts, probes with their answers in context, and the tokens that hold a subject's name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xlmech.data.probes import Probe, answer_gap, masked_prompt
from xlmech.models.backends import Backend
from xlmech.models.in_context import InContext, encode_alike, encode_in_context, holds_bos


def warn_of_straddling(n_straddling: Sequence[int], *, stacklevel: int = 3) -> None:
    """Warn once, saying how many prompts were cut because a token straddles their end (`n_straddling` of each `InContext`)."""
    if n := sum(map(bool, n_straddling)):
        warnings.warn(
            f"in {n:,} of {len(n_straddling):,} prompts a token straddles the cut between prompt and answer: they end, and the "
            f"answers begin, up to {max(n_straddling)} tokens earlier. A prompt format that ends in no space mostly avoids it",
            stacklevel=stacklevel,
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class EncodedProbe:
    """A probe as tokens of one model; `encode_probe` makes it. Tasks take it as their item.

    Attributes:
        probe: The probe.
        prompt: (position,) token ids of the prompt, with the special tokens in front. It is cut where the encodings of all
            forms of the probe's answer agree, whichever of them are in `answers`.
        answers: (token,) token ids of the answer's form after `prompt`, per language that was asked for.
        straddling: Tokens at the prompt's end that were given over to the answers (see `InContext`).
        subject: Positions of the subject's tokens in the prompt, None where they were not asked for.
        group: Probes of different groups share no shard (see `run_task`).
    """

    probe: Probe
    prompt: tuple[int, ...]
    answers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    straddling: tuple[int, ...] = ()
    subject: range | None = None
    group: str = ""

    @property
    def id(self) -> str:
        """The probe's id."""
        return self.probe.id

    @property
    def length(self) -> tuple[int, int]:
        """By which probes are sorted into shards: bytes of the prompt, then characters of the answer."""
        probe = self.probe
        return len(probe.prompt.encode()), len(probe.answers[probe.query_language])

    @property
    def n_straddling(self) -> int:
        """Number of tokens in `straddling`."""
        return len(self.straddling)

    def written_after(self, tokenizer: Any) -> tuple[int, ...]:
        """(position,) token ids after which the model writes: all of the prompt but white space that answers' tokens hold."""
        rest = self.straddling
        return self.prompt + rest if rest and tokenizer.decode(list(rest)).strip() else self.prompt

    @property
    def answer(self) -> tuple[int, ...]:
        """(token,) token ids of the answer in the query language's form."""
        return self.answers[self.probe.query_language]

    @property
    def first_tokens(self) -> dict[str, int]:
        """First token of each form, by language."""
        return {code: tokens[0] for code, tokens in self.answers.items()}

    def __repr__(self) -> str:
        return f"EncodedProbe({self.id}, {len(self.prompt)} tokens)"


def encode_probe(
    backend: Backend,
    probe: Probe,
    *,
    languages: Iterable[str] | None = None,
    max_answer_tokens: int | None = None,
    room: int | None = None,
    subject: bool = False,
) -> EncodedProbe:
    """Encode a probe's prompt and its answer after it.

    Args:
        backend: The model.
        probe: The probe.
        languages: Languages in whose forms the answer is encoded; the query language by default.
        max_answer_tokens: Keep only the first so many tokens of each form.
        room: Tokens that must fit the model's context after the prompt; as many as the longest form has by default.
        subject: Whether to find the subject's tokens.

    Raises:
        ValueError: The model cannot take the prompt or a form (names the probe); or, with `subject`, no token holds the subject.
    """
    codes = [probe.query_language] if languages is None else list(languages)
    forms, what = [probe.answers[code] for code in codes], f"the {' or '.join(codes)} form of {probe.id}"
    encoded = encode_choices(backend, probe, forms, max_answer_tokens=max_answer_tokens, room=room, what=what)
    return EncodedProbe(
        probe=probe,
        prompt=encoded.prompt,
        answers=dict(zip(codes, encoded.answers, strict=True)),
        straddling=encoded.straddling,
        subject=_subject_tokens(backend, probe, len(encoded.prompt)) if subject else None,
    )


def encode_choices(
    backend: Backend,
    probe: Probe,
    answers: Sequence[str],
    *,
    max_answer_tokens: int | None = None,
    room: int | None = None,
    what: str = "an answer",
) -> InContext:
    """Encode a probe's prompt with answers that are to be scored after it, as `encode_probe` does with the probe's own forms.

    Both decide where the prompt ends.

    Args:
        backend: The model.
        probe: The probe.
        answers: Texts that may follow the prompt, without the space in front that the prompt may need.
        max_answer_tokens: Keep only the first so many tokens of each.
        room: Tokens that must fit the model's context after the prompt; as many as the longest answer has by default.
        what: Name of an answer in errors.

    Raises:
        ValueError: The model cannot take the prompt (names the probe) or an answer.
    """
    gap, name = answer_gap(probe.prompt), f"probe {probe.id}"
    texts, others = [gap + text for text in answers], [gap + text for text in probe.answers.values()]
    encoded = encode_in_context(
        backend.tokenizer,
        probe.prompt,
        texts,
        others=others,
        add_special_tokens=probe.format.adds_special_tokens,
        what=name,
        what_answer=what,
    )
    kept = tuple(tokens[:max_answer_tokens] for tokens in encoded.answers)
    check_room(backend, encoded.prompt, max(map(len, kept), default=0) if room is None else room, name)
    return replace(encoded, answers=kept)


def check_room(backend: Backend, prompt: Sequence[int], room: int, what: str) -> None:
    """Check that a prompt's tokens leave room for `room` more in the model's context.

    Raises:
        ValueError: They do not (says `what` the prompt is).
    """
    if len(prompt) + room > backend.n_ctx:
        answer = f" and {room} for the answer" if room else ""
        raise ValueError(
            f"{what}: {len(prompt)} tokens{answer} do not fit the model's context of {backend.n_ctx}; shorten it"
        )


def check_budget(backend: Backend, items: Iterable[EncodedProbe], max_new_tokens: int) -> None:
    """Check that every prompt leaves room for an answer of `max_new_tokens` in the model's context.

    Raises:
        ValueError: The longest does not; says how far to lower `max_new_tokens`.
    """
    lengths = {item.id: len(item.written_after(backend.tokenizer)) for item in items}
    longest = max(lengths, key=lengths.__getitem__)
    left, prompt = backend.n_ctx - lengths[longest], f"the prompt of probe {longest} has {lengths[longest]} tokens"
    if left < 1:
        raise ValueError(
            f"{prompt}, and the model's context of {backend.n_ctx} has no room for an answer after it, whatever max_new_tokens "
            "is; shorten the question, the system text or the prompt format"
        )
    if max_new_tokens > left:
        raise ValueError(
            f"max_new_tokens: {prompt}, and {max_new_tokens} more do not fit the model's context of {backend.n_ctx}; lower "
            f"max_new_tokens to {left} at most, or shorten the question"
        )


def encode_prompt(backend: Backend, prompt: str, *, room: int = 0, what: str = "prompt") -> list[int]:
    """Token ids of a text that nothing follows, with the special tokens that the tokenizer puts in front.

    Raises:
        ValueError: It has no tokens, or leaves no room for `room` more in the model's context.
    """
    tokens = list(encode_in_context(backend.tokenizer, prompt, [], what=what).prompt)
    check_room(backend, tokens, room, what)
    return tokens


def n_special(backend: Backend) -> int:
    """Count special tokens that the tokenizer puts in front of a text."""
    (tokens,) = encode_alike(backend.tokenizer, ["a"])
    return len(tokens) - len(backend.tokenizer("a", add_special_tokens=False).input_ids)


def subject_tokens(backend: Backend, probe: Probe) -> range:
    """Return positions of the subject's tokens in the encoded prompt.

    A token that holds part of the subject counts whole, also where it holds a neighbouring character too.

    Raises:
        ValueError: The tokenizer gives no offsets, or no token holds the subject (shows the prompt masked).
    """
    return _subject_tokens(backend, probe, len(encode_probe(backend, probe, languages=(), room=0).prompt))


def _subject_tokens(backend: Backend, probe: Probe, n_tokens: int) -> range:
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
    offsets = token_offsets(backend, probe, n_tokens)
    positions = [position for position, (low, high) in enumerate(offsets) if low < end and high > start]
    if not positions:
        raise ValueError(
            f"probe {probe.id}: no token of the prompt {masked_prompt(probe)!r} holds the subject; the tokenizer drops its "
            "characters"
        )
    return range(positions[0], positions[-1] + 1)


def token_offsets(backend: Backend, probe: Probe, n_tokens: int) -> list[tuple[int, int]]:
    """Start and end of the encoded prompt's first `n_tokens` tokens, in characters; nothing for special tokens in front."""
    begun = holds_bos(backend.tokenizer, probe.prompt)
    special = probe.format.adds_special_tokens and not begun
    encoded = backend.tokenizer(probe.prompt, return_offsets_mapping=True, add_special_tokens=special)
    offsets = list(encoded["offset_mapping"][:n_tokens])
    return [(0, 0), *offsets[1:]] if begun else offsets
