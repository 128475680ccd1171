"""Answers as tokens in their context: prompt and answer are encoded together, and cut at the prompt's end.

Encoded alone, an answer may get a space in front, or lack one, and then the model is scored on what it never writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, repr=False)
class InContext:
    """A prompt and answers that may follow it, as tokens; `encode_in_context` makes it.

    Attributes:
        prompt: (position,) token ids of the prompt, up to the last on which the prompt and all its answers agree.
        answers: (token,) token ids of each answer after `prompt`.
        straddling: Tokens at the prompt's end that are not in `prompt`, because an answer changes them. None mostly.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    straddling: tuple[int, ...]

    @property
    def n_straddling(self) -> int:
        """Number of tokens at the prompt's end that were given over to the answers."""
        return len(self.straddling)


def encode_in_context(
    tokenizer: Any,
    prompt: str,
    answers: Sequence[str],
    *,
    others: Iterable[str] = (),
    add_special_tokens: bool = True,
    what: str = "prompt",
    what_answer: str = "an answer",
) -> InContext:
    """Encode a prompt together with each of its answers.

    The prompt is cut at the last token on which all encodings agree: its last, unless a token straddles its end ("Answer: " and
    "doctor" may become "Answer:" and " doctor").

    Args:
        tokenizer: The model's tokenizer.
        prompt: Text up to the answer.
        answers: Texts that may follow it, with the space in front if there is one (see `answer_gap`).
        others: Further texts for which the prompt is cut.
        add_special_tokens: Whether the tokenizer puts its special tokens in front, as `PromptFormat` says.
        what: Name of the prompt in errors.
        what_answer: Name of an answer in errors.

    Raises:
        ValueError: The prompt has no tokens, or none before the answers'; or an answer has none.
    """
    texts = list(dict.fromkeys([*answers, *others]))
    whole = [prompt, f"{prompt} ", *(prompt + text for text in texts)]
    alone, unwritten, *together = encode_alike(tokenizer, whole, add_special_tokens=add_special_tokens)
    if not alone:
        raise ValueError(f"{what}: tokenises to nothing")
    n_common = min([len(alone), *(_n_common(alone, tokens) for tokens in together)])
    if not n_common:
        raise ValueError(f"{what}: its first token holds the answer too; use a prompt format that ends in a line break")
    by_text = dict(zip(texts, together, strict=True))
    if any(by_text[answer] == (unwritten if answer.startswith(" ") else alone) for answer in answers):
        raise ValueError(f"{what_answer}: tokenises to nothing; the model's tokenizer cannot write it")
    return InContext(
        prompt=tuple(alone[:n_common]),
        answers=tuple(tuple(by_text[answer][n_common:]) for answer in answers),
        straddling=tuple(alone[n_common:]),
    )


def _n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count tokens with which both begin."""
    differing = (number for number, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs)
    return next(differing, min(len(one), len(other)))


def encode_alike(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
    """Encode texts that begin alike: with one BOS where the tokenizer adds it or they begin with it, without an EOS added."""
    begun = not add_special_tokens or holds_bos(tokenizer, texts[0])
    encoded = [list(tokens) for tokens in tokenizer(list(texts), add_special_tokens=not begun).input_ids]
    for text, tokens in zip(texts, encoded, strict=True):
        if not begun and tokens and tokens[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
            tokens.pop()
    return encoded


def holds_bos(tokenizer: Any, text: str) -> bool:
    """Tell whether a text begins with the tokenizer's BOS token already, as chat templates write it."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
