"""Score given texts: the log-probability of answers forced after prompts, and of plain texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from xlmech.engine.batching import BATCH_SIZE, run_batched, run_in_batches
from xlmech.engine.generate import run_prompts
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import Backend
from xlmech.models.kv_cache import KeyValues

ROWS_PER_PASS = 1024
"""Hidden states that share one pass over the vocabulary, where many are there at once."""


def forced_log_prob(
    backend: Backend,
    hidden: Float[torch.Tensor, "row position d_model"],
    targets: Int[torch.Tensor, ...],
    *,
    rows_per_pass: int | None = None,
) -> Float[torch.Tensor, " row"]:
    """Sum the (row,) log-probabilities (nats) of forced tokens over positions, differentiable in `hidden`.

    Args:
        backend: The model.
        hidden: Final hidden states at the positions that predict the tokens.
        targets: The tokens; any shape that expands to (row, position).
        rows_per_pass: Hidden states at a time; all by default.
    """
    states = hidden.flatten(0, 1)
    tokens = targets.to(backend.device).expand(hidden.shape[:2]).flatten()
    size = rows_per_pass or max(1, len(states))
    scores = [
        token_log_prob(part, backend.unembed, target, **backend.unembed_options)
        for part, target in zip(torch.split(states, size), torch.split(tokens, size), strict=True)
    ]
    return torch.cat(scores).view(hidden.shape[:2]).sum(1)


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
    """Compute, per prompt, the (answer,) log-probability (nats, summed over tokens) of each of its answers.

    Args:
        backend: The model.
        prompts: Token ids.
        answers: Token ids of each prompt's answers.
        wanted: How many of each prompt's answers, the first ones, are to be ranked among all. Another answer whose first token
            alone is less likely than the best of these is not run further. It gets that token's log-probability, which is
            above its own, and the rank is the same. Without it every answer is run.
        batch_size: Rows at a time, at first.
        progress: Label of a progress bar; none without.
    """
    log_probs: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    n_wanted = wanted or [len(of_prompt) for of_prompt in answers]

    def score(indices: list[int]) -> None:
        of_batch = [answers[index] for index in indices]
        scores, past = _first_tokens(backend, [prompts[index] for index in indices], of_batch)
        limits = [n_wanted[index] for index in indices]
        ranked = [(row, number) for row, n in enumerate(limits) for number in range(n)]
        _add_later_tokens(backend, past, of_batch, scores, ranked, batch_size)
        likely = [
            (row, number)
            for row, n in enumerate(limits)
            for number in range(n, len(of_batch[row]))
            if not scores[row][number] < scores[row][:n].max()
        ]
        _add_later_tokens(backend, past, of_batch, scores, likely, batch_size)
        for index, of_prompt in zip(indices, scores, strict=True):
            log_probs[index] = of_prompt

    run_in_batches(
        len(prompts),
        score,
        key=lambda index: (len(prompts[index]), prompts[index]),
        group=lambda index: len(prompts[index]),
        batch_size=max(1, batch_size // 4),
        progress=progress,
    )
    return log_probs


def _first_tokens(
    backend: Backend, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
) -> tuple[list[torch.Tensor], KeyValues]:
    """Compute, per prompt, the (answer,) log-probability of each answer's first token, and the prompts' keys and values."""
    hidden, past = run_prompts(backend, prompts)
    firsts = [torch.tensor([answer[0] for answer in of_prompt]) for of_prompt in answers]
    targets = torch.nn.utils.rnn.pad_sequence(firsts, batch_first=True).to(backend.device)
    scores = token_log_prob(hidden, backend.unembed, targets, **backend.unembed_options).cpu()
    return [row[: len(of_prompt)].clone() for row, of_prompt in zip(scores, answers, strict=True)], past


def _add_later_tokens(
    backend: Backend,
    past: KeyValues,
    answers: Sequence[Sequence[Sequence[int]]],
    scores: list[torch.Tensor],
    chosen: Sequence[tuple[int, int]],
    batch_size: int,
) -> None:
    """Add to `scores` the log-probabilities of the tokens after the first of the chosen (row, number) answers."""
    longer = [(row, number) for row, number in chosen if len(answers[row][number]) > 1]

    def score(tokens: torch.Tensor, indices: list[int]) -> None:
        rows = torch.tensor([longer[index][0] for index in indices], device=backend.device)
        hidden, _ = backend.hidden(tokens[:, :-1], past.select(rows))
        for index, log_prob in zip(indices, forced_log_prob(backend, hidden, tokens[:, 1:]).tolist(), strict=True):
            row, number = longer[index]
            scores[row][number] += log_prob

    run_batched([answers[row][number] for row, number in longer], score, batch_size=batch_size)


@torch.no_grad()
def sequence_nll(
    backend: Backend, sequences: Sequence[Sequence[int]], *, batch_size: int = BATCH_SIZE
) -> tuple[Float[torch.Tensor, " sequence"], list[int]]:
    """Compute the (sequence,) negative log-likelihood (nats, summed over the tokens after the first) and these tokens' number."""
    tails = [sequence[1:] for sequence in sequences]
    scores = log_probs_of_tails(backend, sequences, tails, batch_size=batch_size)
    return -scores, list(map(len, tails))


@torch.no_grad()
def log_probs_of_tails(
    backend: Backend,
    sequences: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    *,
    batch_size: int = BATCH_SIZE,
) -> Float[torch.Tensor, " sequence"]:
    """Compute the (sequence,) log-probability (nats, float64, on the CPU) of each sequence's last tokens after those before them.

    For one tail of each sequence; `answer_log_probs` is for many answers to each prompt. Sequences of several lengths are run
    together, filled up at their end: no position sees a later one.

    Args:
        backend: The model.
        sequences: Token ids.
        tails: The tokens that each sequence ends with, fewer than it has.
        batch_size: Sequences at a time, at first.
    """
    states: list[torch.Tensor] = [torch.empty(0)] * len(sequences)

    def run(indices: list[int]) -> None:
        length = max(len(sequences[index]) for index in indices)
        rows = [[*sequences[index], *[sequences[index][-1]] * (length - len(sequences[index]))] for index in indices]
        hidden, _ = backend.hidden(torch.tensor(rows))
        for row, index in enumerate(indices):
            end = len(sequences[index]) - 1
            states[index] = hidden[row, end - len(tails[index]) : end]

    run_in_batches(len(sequences), run, key=lambda index: len(sequences[index]), batch_size=batch_size)
    targets = torch.tensor([token for tail in tails for token in tail])
    # All texts share a pass over the vocabulary, token by token.
    scores = forced_log_prob(
        backend, torch.cat(states)[:, None], targets[:, None], rows_per_pass=ROWS_PER_PASS
    ).double()
    return torch.stack([part.sum() for part in torch.split(scores, list(map(len, tails)))]).cpu()
