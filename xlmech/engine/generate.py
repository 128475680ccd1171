"""Continue prompts, greedily or sampled.

A prompt is run once for all of its answers, and the common prefix of a batch (a question's wording before the name) once for
all prompts. Prompts of several lengths are generated together, with padding masked, because a step of few
rows is too small to be efficient.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from itertools import groupby

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
    stop_token: int | None = None,
    batch_size: int = 4 * BATCH_SIZE,
    progress: str = "",
) -> list[list[int]]:
    """Continue prompts greedily, with a key/value cache; finished rows leave the batch.

    Args:
        backend: The model; active hooks apply at every step.
        prompts: Token ids.
        max_new_tokens: Longest continuation.
        stop_token: Ends a continuation, and is not part of it; the end-of-text token always does.
        batch_size: Rows at a time, at first.
        progress: Label of a progress bar; none without.

    Returns:
        New tokens per prompt, in the prompts' order.
    """

    def choose(hidden: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:  # noqa: ARG001 (sampling needs them)
        return greedy_tokens(hidden, backend.unembed, bias=backend.unembed_bias)

    answers = _answers(backend, prompts, 1, lambda _: choose, max_new_tokens, stop_token, batch_size, progress)
    return [answer for (answer,) in answers]


@torch.no_grad()
def sample(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    names: Sequence[str],
    max_new_tokens: int,
    stop_token: int | None = None,
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

    return _answers(backend, prompts, sampling.n_samples, chooser, max_new_tokens, stop_token, batch_size, progress)


def _answers(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    n_answers: int,
    chooser: Callable[[list[int]], _Choose],
    max_new_tokens: int,
    stop_token: int | None,
    batch_size: int,
    progress: str,
) -> list[list[list[int]]]:
    """Write `n_answers` continuations per prompt; `chooser` takes a batch's prompts and returns how their tokens are chosen."""
    stop_tokens = {token for token in (stop_token, backend.tokenizer.eos_token_id) if token is not None}
    answers: list[list[list[int]]] = [[] for _ in prompts]

    def extend(indices: list[int]) -> None:
        batch = [prompts[index] for index in indices]
        written = _extend(backend, batch, n_answers, chooser(indices), max_new_tokens, stop_tokens)
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
    max_new_tokens: int,
    stop_tokens: set[int],
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
    for step in range(max_new_tokens):
        tokens = choose(hidden, rows, step).tolist()
        alive = [number for number, token in enumerate(tokens) if token not in stop_tokens]
        for number in alive:
            written[rows[number]].append(tokens[number])
        if not alive or step + 1 == max_new_tokens:
            break
        if len(alive) < len(rows):
            past = past.select(torch.tensor(alive, device=backend.device))
        rows = [rows[number] for number in alive]
        states, past = backend.hidden(torch.tensor([[tokens[number]] for number in alive]), past)
        hidden = states[:, -1]
    return written
