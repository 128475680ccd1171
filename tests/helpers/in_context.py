"""Answers as tokens, the plain way: the encoding of prompt and answer together, without the prompt's tokens."""

from __future__ import annotations

from typing import Any


def answer_tokens(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """The answer's tokens after the prompt; the prompt's own tokens must be those in front of them."""
    start, tokens = tokenizer(prompt).input_ids, tokenizer(prompt + answer).input_ids
    assert tokens[: len(start)] == start, "a token straddles the cut"
    return list(tokens[len(start) :])
