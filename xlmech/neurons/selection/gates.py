"""Answers and texts with some neurons switched off, and what each neuron's switch does to them at first order.

A switch of 1 multiplies a neuron's activation by 0 at every position, a switch of 0 leaves it; the slope of a value by a switch
is its derivative where the switches stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.nn.utils.rnn import pad_sequence

from xlmech.engine.batching import drain
from xlmech.engine.unembed import token_log_prob
from xlmech.metrics.attribution import of_log_prob
from xlmech.models.backends import NEURON_HOOK, Backend

Sample = tuple[Sequence[int], Sequence[int]]
"""Tokens of a prompt and of what is forced after it."""
_CEILING = 1 - 1e-4
"""A probability above is taken for this, so that the log-odds of a certain answer stay finite."""


def answer_log_odds(backend: Backend, batch: Sequence[Sample]) -> Float[torch.Tensor, " row"]:
    """(row,) log p - log(1 - p) of each answer as a whole (nats), differentiable; prompts and answers of any length."""
    total, _ = _sums(backend, batch)
    return of_log_prob(total + math.log(_CEILING), "log_odds")


def nats_per_token(backend: Backend, batch: Sequence[Sample]) -> Float[torch.Tensor, " row"]:
    """(row,) mean negative log-likelihood of the forced tokens, differentiable."""
    total, counts = _sums(backend, batch)
    return -total / counts


Value = Callable[[Backend, Sequence[Sample]], torch.Tensor]


def switched(
    backend: Backend,
    samples: Sequence[Sample],
    off: Float[torch.Tensor, "layer neuron"],
    *,
    value: Value,
    slopes: bool,
    batch_size: int,
    progress: str = "",
) -> tuple[Float[torch.Tensor, " row"], Float[torch.Tensor, "row unit"]]:
    """Values of samples with neurons switched off, and their slopes by all switches, in float32 on the CPU.

    Args:
        backend: The model; hooks that are on it stay active.
        samples: What is run.
        off: (layer, neuron) switches.
        value: `answer_log_odds` or `nats_per_token`.
        slopes: Whether slopes are wanted; without them they have no units.
        batch_size: Samples at a time, at first.
        progress: Label of a progress bar; none without.
    """
    values = torch.zeros(len(samples))
    found = torch.zeros(len(samples), off.numel() if slopes else 0)
    dtype = torch.promote_types(backend.unembed.dtype, torch.float32)

    def work(indices: list[int]) -> None:
        switches = off.to(backend.device, dtype).repeat(len(indices), 1, 1).requires_grad_(slopes)
        with torch.set_grad_enabled(slopes), backend.hooks(_switching(backend, switches)):
            of_batch = value(backend, [samples[index] for index in indices])
            if slopes:
                (gradient,) = torch.autograd.grad(of_batch.sum(), switches)
                found[indices] = gradient.flatten(1).to(found)
        values[indices] = of_batch.detach().to(values)

    drain(len(samples), work, key=lambda index: sum(map(len, samples[index])), batch_size=batch_size, progress=progress)
    return values, found


def _switching(
    backend: Backend, switches: Float[torch.Tensor, "row layer neuron"]
) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks that multiply each row's activations by 1 - its switches."""

    def of_layer(layer: int) -> Callable[..., Any]:
        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            return value * (1 - switches[:, layer, None]).to(value.dtype)

        return edit

    return [(backend.hook_name(NEURON_HOOK, layer), of_layer(layer)) for layer in range(backend.n_layers)]


def _sums(backend: Backend, batch: Sequence[Sample]) -> tuple[Float[torch.Tensor, " row"], Int[torch.Tensor, " row"]]:
    """Log-probability of each row's forced tokens together, nats, and their number; padding is right, where no token sees it."""
    tokens = pad_sequence([torch.tensor([*prompt, *forced]) for prompt, forced in batch], batch_first=True)
    places = [(row, len(prompt) - 1 + at) for row, (prompt, forced) in enumerate(batch) for at in range(len(forced))]
    rows, columns = torch.tensor(places, device=backend.device).T
    hidden, _ = backend.hidden(tokens)
    targets = torch.tensor([token for _, forced in batch for token in forced], device=backend.device)
    each = token_log_prob(hidden[rows, columns], backend.unembed, targets, **backend.unembed_options)
    total = torch.zeros(len(batch), dtype=each.dtype, device=each.device).index_add(0, rows, each)
    return total, torch.bincount(rows, minlength=len(batch))
