"""Continue prompts, greedily or sampled.

A prompt is run once for all of its answers, and the common prefix of a batch (a question's wording before the name) once for
all prompts. Prompts of several lengths are generated together, with padding masked, because a step of few
rows is too small to be efficient.

An answer ends at an end token, at the budget of new tokens, and where lines end answers at the first newline after something
other than white space: models often begin an answer with newlines. Which tokens hold a newline is read from the text that they
decode to, since a tokenizer may have many such tokens, or none.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float

from xlmech.engine.batching import BATCH_SIZE, run_in_batches
from xlmech.engine.sampling import Sampling, drawn_tokens
from xlmech.engine.unembed import greedy_tokens
from xlmech.models.backends import Backend
from xlmech.models.kv_cache import KeyValues

_MIN_SAVED_TOKENS = 64
"""Least number of tokens that sharing a prefix must save: its forward pass costs as much as some tokens."""
_Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]
"""(row,) next tokens from (row, d_model) hidden states, the rows' numbers, and the step."""
_FIRST_LINE = re.compile(r"\s*[^\s][^\n]*")


def first_line(text: str) -> str:
    """Return a text up to the newline that ends an answer: the first one after something other than white space."""
    match = _FIRST_LINE.match(text)
    return match.group() if match else text


class _AnswerEnd:
    """Tells of each new token whether its row goes on, and whether the token is part of the answer.

    Args:
        tokenizer: Decodes tokens; the text of each token that is met is kept.
        end_tokens: End an answer, and are not part of it.
        lines_end_answers: Whether a newline ends an answer, once something other than white space was written.
        n_rows: Number of answers.
    """

    def __init__(self, tokenizer: Any, end_tokens: Collection[int], lines_end_answers: bool, n_rows: int) -> None:
        self._tokenizer, self._end_tokens, self._lines = tokenizer, frozenset(end_tokens), lines_end_answers
        self._texts: dict[int, str] = {}
        self._begun = [False] * n_rows

    def follow(self, row: int, token: int) -> tuple[bool, bool]:
        """Return whether the token is kept, and whether the row goes on after it."""
        if token in self._end_tokens:
            return False, False
        if not self._lines:
            return True, True
        if token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token], skip_special_tokens=True)
        text = self._texts[token]
        written = "." if self._begun[row] else ""
        kept = first_line(written + text)
        self._begun[row] = bool(kept.strip())
        if len(kept) == len(written + text):
            return True, True
        return bool(kept.removeprefix(written).strip()), False


def run_prompts(
    backend: Backend, prompts: Sequence[Sequence[int]]
) -> tuple[Float[torch.Tensor, "prompt d_model"], KeyValues]:
    """Run prompts of equal length, their common prefix once; return the hidden state after each, and keys and values."""
    n_common = min(len(os.path.commonprefix([list(prompt) for prompt in prompts])), len(prompts[0]) - 1)
    past = None
    if n_common * (len(prompts) - 1) >= _MIN_SAVED_TOKENS:
        _, past = backend.hidden(torch.tensor([list(prompts[0][:n_common])]))
        past = past.repeat(len(prompts))
    rest = torch.tensor([list(prompt[n_common if past else 0 :]) for prompt in prompts])
    hidden, past = backend.hidden(rest, past)
    return hidden[:, -1], past


@torch.no_grad()
def generate(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_tokens: Collection[int] = (),
    lines_end_answers: bool = False,
    batch_size: int = 4 * BATCH_SIZE,
    progress: str = "",
) -> list[list[int]]:
    """Continue prompts greedily, with a key/value cache; finished rows leave the batch.

    Args:
        backend: The model; active hooks apply at every step.
        prompts: Token ids.
        max_new_tokens: Longest continuation.
        end_tokens: End a continuation, and are not part of it; the tokenizer's end-of-text token always does.
        lines_end_answers: Whether a newline ends a continuation, once something other than white space was written. A token that
            holds other text before the newline is kept whole; `first_line` cuts the decoded text.
        batch_size: Rows at a time, at first.
        progress: Label of a progress bar; none without.

    Returns:
        New tokens per prompt, in the prompts' order.
    """

    def choose(hidden: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:  # noqa: ARG001 (sampling needs them)
        return greedy_tokens(hidden, backend.unembed, bias=backend.unembed_bias)

    until = _Until(max_new_tokens, end_tokens, lines_end_answers)
    answers = _answers(backend, prompts, 1, lambda _: choose, until, batch_size, progress)
    return [answer for (answer,) in answers]


@torch.no_grad()
def sample(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    names: Sequence[str],
    max_new_tokens: int,
    end_tokens: Collection[int] = (),
    lines_end_answers: bool = False,
    batch_size: int = 4 * BATCH_SIZE,
    progress: str = "",
) -> list[list[list[int]]]:
    """Draw several continuations of every prompt, each token from the model's own distribution.

    Every draw inverts the cumulative distribution at one uniform number, so two models (one of them ablated) are sampled with the
    same numbers. These depend on the prompt's name (such as its probe's id) and not on its index. One prompt's
    answers share a batch. Other arguments are as of `generate`.

    Returns:
        New tokens of every sample, per prompt, in the prompts' order.
    """

    def chooser(indices: list[int]) -> _Choose:
        uniform = sampling.uniform([names[index] for index in indices], max_new_tokens).to(backend.device)
        return lambda hidden, rows, step: drawn_tokens(backend, hidden, uniform[rows, step], sampling.temperature)

    until = _Until(max_new_tokens, end_tokens, lines_end_answers)
    return _answers(backend, prompts, sampling.n_samples, chooser, until, batch_size, progress)


class _Until(NamedTuple):
    """What ends answers, as of `generate`."""

    max_new_tokens: int
    end_tokens: Collection[int]
    lines_end_answers: bool


def _answers(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    n_answers: int,
    chooser: Callable[[list[int]], _Choose],
    until: _Until,
    batch_size: int,
    progress: str,
) -> list[list[list[int]]]:
    """Write `n_answers` continuations per prompt; `chooser` takes a batch's prompts and returns how their tokens are chosen."""
    if (end_of_text := backend.tokenizer.eos_token_id) is not None:
        until = until._replace(end_tokens={*until.end_tokens, end_of_text})
    answers: list[list[list[int]]] = [[] for _ in prompts]

    def extend(indices: list[int]) -> None:
        batch = [prompts[index] for index in indices]
        written = _extend(backend, batch, n_answers, chooser(indices), until)
        for row, index in enumerate(indices):
            answers[index] = written[row * n_answers : (row + 1) * n_answers]

    run_in_batches(
        len(prompts),
        extend,
        key=lambda index: (len(prompts[index]), prompts[index]),
        batch_size=max(1, batch_size // n_answers),
        progress=progress,
    )
    return answers


def _extend(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    n_answers: int,
    choose: _Choose,
    until: _Until,
) -> list[list[int]]:
    """Continue prompts sorted by length: run by equal length, then extended together, padded on the left.

    Answers of one prompt follow each other.
    """
    by_length = [run_prompts(backend, list(group)) for _, group in groupby(prompts, key=len)]
    hidden = torch.cat([states for states, _ in by_length])
    past = KeyValues.join([past for _, past in by_length]) if len(by_length) > 1 else by_length[0][1]
    rows = list(range(len(prompts) * n_answers))
    written = [list[int]() for _ in rows]
    if n_answers > 1:
        prompt_of_row = torch.tensor(rows, device=backend.device) // n_answers
        past, hidden = past.select(prompt_of_row), hidden[prompt_of_row]
    end = _AnswerEnd(backend.tokenizer, until.end_tokens, until.lines_end_answers, len(rows))
    for step in range(until.max_new_tokens):
        tokens = choose(hidden, rows, step).tolist()
        alive = []
        for number, token in enumerate(tokens):
            is_kept, goes_on = end.follow(rows[number], token)
            if is_kept:
                written[rows[number]].append(token)
            if goes_on:
                alive.append(number)
        if not alive or step + 1 == until.max_new_tokens:
            break
        if len(alive) < len(rows):
            past = past.select(torch.tensor(alive, device=backend.device))
        rows = [rows[number] for number in alive]
        states, past = backend.hidden(torch.tensor([[tokens[number]] for number in alive]), past)
        hidden = states[:, -1]
    return written
