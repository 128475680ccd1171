"""Text as tokens of one model: prompts, answers, probes, and the tokens that hold a subject's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xlmech.data.probes import Probe
from xlmech.data.records import MASK
from xlmech.models.backends import Backend


@dataclass(frozen=True, kw_only=True, repr=False)
class EncodedProbe:
    """A probe as tokens of one model; `encode_probe` makes it. Tasks take it as their item.

    Attributes:
        probe: The probe.
        prompt: (position,) token ids of the prompt, with the special tokens in front.
        answers: (token,) token ids of the answer's form, per language that was asked for.
        subject: Positions of the subject's tokens in the prompt, None where they were not asked for.
        group: Probes of different groups share no shard (see `run_task`).
    """

    probe: Probe
    prompt: tuple[int, ...]
    answers: dict[str, tuple[int, ...]] = field(default_factory=dict)
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
    """Encode a probe's prompt and its answer.

    Args:
        backend: The model.
        probe: The probe.
        languages: Languages in whose forms the answer is encoded; the query language by default.
        max_answer_tokens: Keep only the first so many tokens of each form.
        room: Tokens that must fit the model's context after the prompt; as many as the longest form has by default.
        subject: Whether to find the subject's tokens.

    Raises:
        ValueError: The model cannot take the prompt or a form (names the probe), or as `subject_tokens`.
    """
    answers = encode_forms(backend, probe, languages, max_answer_tokens=max_answer_tokens)
    longest = max(map(len, answers.values()), default=0)
    return EncodedProbe(
        probe=probe,
        prompt=tuple(
            encode_prompt(backend, probe.prompt, room=longest if room is None else room, what=f"probe {probe.id}")
        ),
        answers=answers,
        subject=subject_tokens(backend, probe) if subject else None,
    )


def encode_forms(
    backend: Backend, probe: Probe, languages: Iterable[str] | None = None, *, max_answer_tokens: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Encode a probe's answer: token ids by language, as of `encode_probe`.

    Raises:
        ValueError: A form tokenises to nothing (names the probe and the language).
    """
    return {
        code: tuple(
            encode_answer(backend, probe.answers[code], what=f"the {code} form of {probe.id}")[:max_answer_tokens]
        )
        for code in ([probe.query_language] if languages is None else languages)
    }


def check_room(backend: Backend, encoded: EncodedProbe, room: int) -> None:
    """Check that a prompt leaves room for `room` more tokens in the model's context.

    Raises:
        ValueError: It does not (names the probe).
    """
    _check_room(backend, len(encoded.prompt), room, f"probe {encoded.id}")


def encode_prompt(backend: Backend, prompt: str, *, room: int = 0, what: str = "prompt") -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts in front.

    Raises:
        ValueError: It has no tokens, or leaves no room for `room` more in the model's context.
    """
    tokens = list(backend.tokenizer(prompt).input_ids)
    if tokens and tokens[-1] == backend.tokenizer.eos_token_id:
        tokens.pop()
    if not tokens:
        raise ValueError(f"{what}: tokenises to nothing")
    _check_room(backend, len(tokens), room, what)
    return tokens


def _check_room(backend: Backend, n_tokens: int, room: int, what: str) -> None:
    if n_tokens + room > backend.n_ctx:
        raise ValueError(
            f"{what}: {n_tokens} tokens and {room} for the answer do not fit the model's context of {backend.n_ctx}; shorten it"
        )


def encode_answer(backend: Backend, answer: str, *, what: str = "answer") -> list[int]:
    """Token ids of an answer as it continues a prompt.

    Raises:
        ValueError: It has no tokens.
    """
    tokens = list(backend.tokenizer(answer, add_special_tokens=False).input_ids)
    if not tokens:
        raise ValueError(f"{what}: tokenises to nothing; the model's tokenizer cannot write it")
    return tokens


def n_special(backend: Backend) -> int:
    """Number of special tokens that the tokenizer puts in front of a text."""
    return len(encode_prompt(backend, "a")) - len(encode_answer(backend, "a"))


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
    offsets = token_offsets(backend, probe)
    positions = [position for position, (low, high) in enumerate(offsets) if low < end and high > start]
    if not positions:
        raise ValueError(
            f"probe {probe.id}: no token of the prompt {masked_prompt(probe)!r} holds the subject; the tokenizer drops its "
            "characters"
        )
    return range(positions[0], positions[-1] + 1)


def token_offsets(backend: Backend, probe: Probe) -> list[tuple[int, int]]:
    """Start and end of every token of the encoded prompt, in characters; nothing for special tokens."""
    n_tokens = len(encode_prompt(backend, probe.prompt, what=f"probe {probe.id}"))
    return list(backend.tokenizer(probe.prompt, return_offsets_mapping=True)["offset_mapping"][:n_tokens])


def masked_prompt(probe: Probe) -> str:
    """The prompt without the subject and the answer, also where only a part of the name stands in it."""
    text = probe.prompt
    for hidden in (probe.record.subject, *probe.answers.values(), *probe.record.subject.split()):
        text = text.replace(hidden, MASK)
    return text
