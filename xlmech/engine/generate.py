"""What a model writes after a prompt, and how likely it finds given answers: generation, forced answers, plain text.

A prompt is run once, whatever is asked of it, and the tokens that all prompts of a batch begin with (a question's wording
before the name) once for all of them. Only generation, whose steps are too small alone, joins prompts of several lengths, with
padding masked.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from jaxtyping import Float

from xlmech.engine.batching import BATCH_SIZE, drain, run_batched
from xlmech.engine.sampling import Sampling, drawn_tokens
from xlmech.engine.unembed import greedy_tokens, token_log_prob
from xlmech.models.backends import Backend
from xlmech.models.kv_cache import KeyValues

_ROWS_PER_WALK = 1024
_WORTH_SHARING = 64
"""Tokens that sharing a beginning must save: a forward pass of its own costs as much as some tokens."""
_Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]
"""(row,) next tokens from (row, d_model) hidden states, the rows' numbers, and the step."""


def run_prompts(
    backend: Backend, prompts: Sequence[Sequence[int]]
) -> tuple[Float[torch.Tensor, "prompt d_model"], KeyValues]:
    """Final hidden state after each of some equally long prompts, and keys and values; what all begin with is run once."""
    common = min(len(os.path.commonprefix([list(prompt) for prompt in prompts])), len(prompts[0]) - 1)
    past = None
    if common * (len(prompts) - 1) >= _WORTH_SHARING:
        _, past = backend.hidden(torch.tensor([list(prompts[0][:common])]))
        past = past.repeat(len(prompts))
    rest = torch.tensor([list(prompt[common if past else 0 :]) for prompt in prompts])
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
    """Greedy continuations, with a key/value cache; rows that are done leave the batch.

    Args:
        backend: The model; hooks that are on it stay active at every step.
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

    written = _written(backend, prompts, 1, lambda _: choose, max_new_tokens, stop_token, batch_size, progress)
    return [answer for (answer,) in written]


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
    """Several continuations of every prompt, each token drawn from the model's own distribution.

    A prompt is run once for all of its answers. Every draw inverts the cumulative distribution at one uniform number, so two
    models (one of them ablated) are sampled with the same numbers.

    Args:
        backend: The model; hooks that are on it stay active at every step.
        prompts: Token ids.
        sampling: How many, how hot, which seed.
        names: A name for each prompt, such as its probe's id. Draws depend on it and not on the prompt's place.
        max_new_tokens: Longest continuation.
        stop_token: Ends a continuation, and is not part of it; the end-of-text token always does.
        batch_size: Rows at a time, at first; one prompt's answers share a batch.
        progress: Label of a progress bar; none without.

    Returns:
        New tokens per prompt and sample, in the prompts' order.
    """

    def chooser(indices: list[int]) -> _Choose:
        uniform = sampling.uniform([names[index] for index in indices], max_new_tokens).to(backend.device)
        return lambda hidden, rows, step: drawn_tokens(backend, hidden, uniform[rows, step], sampling.temperature)

    return _written(backend, prompts, sampling.n_samples, chooser, max_new_tokens, stop_token, batch_size, progress)


def _written(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    n_answers: int,
    chooser: Callable[[list[int]], _Choose],
    max_new_tokens: int,
    stop_token: int | None,
    batch_size: int,
    progress: str,
) -> list[list[list[int]]]:
    """`n_answers` continuations per prompt; `chooser` makes, for the prompts of a batch, what chooses the next tokens."""
    stops = {token for token in (stop_token, backend.tokenizer.eos_token_id) if token is not None}
    done: list[list[list[int]]] = [[] for _ in prompts]

    def extend(indices: list[int]) -> None:
        batch = [prompts[index] for index in indices]
        written = _extend(backend, batch, n_answers, chooser(indices), max_new_tokens, stops)
        for row, index in enumerate(indices):
            done[index] = written[row * n_answers : (row + 1) * n_answers]

    drain(
        len(prompts),
        extend,
        key=lambda index: (len(prompts[index]), prompts[index]),
        batch_size=max(1, batch_size // n_answers),
        progress=progress,
    )
    return done


def _extend(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    n_answers: int,
    choose: _Choose,
    max_new_tokens: int,
    stops: set[int],
) -> list[list[int]]:
    """Continuations of prompts sorted by length: run by equal length, then extended together, padded on the left.

    Answers of one prompt follow each other.
    """
    hidden, parts = [], []
    for _, group in groupby(prompts, key=len):
        states, past = run_prompts(backend, list(group))
        hidden.append(states)
        parts.append(past)
    past, last = (KeyValues.join(parts) if len(parts) > 1 else parts[0]), torch.cat(hidden)
    rows = list(range(len(prompts) * n_answers))
    written = [list[int]() for _ in rows]
    if n_answers > 1:
        of_prompt = torch.tensor(rows, device=backend.device) // n_answers
        past, last = past.select(of_prompt), last[of_prompt]
    for step in range(max_new_tokens):
        chosen = choose(last, rows, step).tolist()
        alive = [number for number, token in enumerate(chosen) if token not in stops]
        for number in alive:
            written[rows[number]].append(chosen[number])
        if not alive or step + 1 == max_new_tokens:
            break
        if len(alive) < len(rows):
            past = past.select(torch.tensor(alive, device=backend.device))
        rows = [rows[number] for number in alive]
        states, past = backend.hidden(torch.tensor([[chosen[number]] for number in alive]), past)
        last = states[:, -1]
    return written


@torch.no_grad()
def answer_log_probs(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    wanted: Sequence[int] | None = None,
    batch_size: int = 4 * BATCH_SIZE,
    progress: str = "",
) -> list[Float[torch.Tensor, " answer"]]:
    """Log-probability (nats, summed over tokens) of every answer to every prompt.

    Args:
        backend: The model.
        prompts: Token ids.
        answers: Token ids of each prompt's answers.
        wanted: How many of each prompt's answers, the first ones, are to be ranked among all. Others that are less likely than
            the best of these already at their first token are not followed further: what they get is that token's
            log-probability, above their own, and the rank is the same. Without it every answer is followed.
        batch_size: Rows at a time, at first.
        progress: Label of a progress bar; none without.

    Returns:
        (answer,) per prompt.
    """
    found: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    wanted = wanted or [len(of_prompt) for of_prompt in answers]

    def work(indices: list[int]) -> None:
        asked, first = [answers[index] for index in indices], [wanted[index] for index in indices]
        scores, past = _first_tokens(backend, [prompts[index] for index in indices], asked)
        ranked = [(row, number) for row, n in enumerate(first) for number in range(n)]
        _follow(backend, past, asked, scores, ranked, batch_size)
        likely = [
            (row, number)
            for row, n in enumerate(first)
            for number in range(n, len(asked[row]))
            if not scores[row][number] < scores[row][:n].max()
        ]
        _follow(backend, past, asked, scores, likely, batch_size)
        for row, index in enumerate(indices):
            found[index] = scores[row]

    drain(
        len(prompts),
        work,
        key=lambda index: (len(prompts[index]), prompts[index]),
        apart=lambda index: len(prompts[index]),
        batch_size=max(1, batch_size // 4),
        progress=progress,
    )
    return found


def _first_tokens(
    backend: Backend, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
) -> tuple[list[torch.Tensor], KeyValues]:
    """(answer,) log-probability of each answer's first token per prompt, from one walk through the vocabulary."""
    hidden, past = run_prompts(backend, prompts)
    firsts = [torch.tensor([answer[0] for answer in of_prompt]) for of_prompt in answers]
    targets = torch.nn.utils.rnn.pad_sequence(firsts, batch_first=True).to(backend.device)
    scores = token_log_prob(hidden, backend.unembed, targets, **backend.readout).cpu()
    return [row[: len(of_prompt)].clone() for row, of_prompt in zip(scores, answers, strict=True)], past


def _follow(
    backend: Backend,
    past: KeyValues,
    answers: Sequence[Sequence[Sequence[int]]],
    scores: list[torch.Tensor],
    chosen: Sequence[tuple[int, int]],
    batch_size: int,
) -> None:
    """Add to `scores` the log-probabilities of the later tokens of chosen (row, number) answers."""
    longer = [(row, number) for row, number in chosen if len(answers[row][number]) > 1]

    def work(tokens: torch.Tensor, indices: list[int]) -> None:
        rows = torch.tensor([longer[index][0] for index in indices], device=backend.device)
        hidden, _ = backend.hidden(tokens[:, :-1], past.select(rows))
        targets = tokens[:, 1:].flatten().to(backend.device)
        found = token_log_prob(hidden.flatten(0, 1), backend.unembed, targets, **backend.readout)
        for index, score in zip(indices, found.view(len(indices), -1).sum(1).tolist(), strict=True):
            scores[longer[index][0]][longer[index][1]] += score

    run_batched([answers[row][number] for row, number in longer], work, batch_size=batch_size)


@torch.no_grad()
def sequence_nll(
    backend: Backend, sequences: Sequence[Sequence[int]], *, batch_size: int = BATCH_SIZE, progress: str = ""
) -> tuple[Float[torch.Tensor, " sequence"], list[int]]:
    """Negative log-likelihood (nats, summed over the tokens after the first) and number of tokens of each text."""
    states: list[torch.Tensor] = [torch.empty(0)] * len(sequences)

    def run(tokens: torch.Tensor, indices: list[int]) -> None:
        hidden, _ = backend.hidden(tokens)
        for row, index in enumerate(indices):
            states[index] = hidden[row, :-1]

    run_batched(sequences, run, batch_size=batch_size, progress=progress)
    counts = [len(sequence) - 1 for sequence in sequences]
    targets = torch.tensor([token for sequence in sequences for token in sequence[1:]], device=backend.device)
    # Few texts are equally long, but their tokens can share one walk through the vocabulary.
    scores = [
        token_log_prob(rows, backend.unembed, wanted, **backend.readout).double()
        for rows, wanted in zip(
            torch.split(torch.cat(states), _ROWS_PER_WALK), torch.split(targets, _ROWS_PER_WALK), strict=True
        )
    ]
    return -torch.stack([part.sum() for part in torch.split(torch.cat(scores), counts)]).cpu(), counts
