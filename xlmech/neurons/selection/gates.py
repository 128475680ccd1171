"""Gates: how far each neuron is ablated, between 0 and 1. Losses and slopes under gates, and which gates to change.

A gate of 1 multiplies a neuron's activation by 0 at every position, a gate of 0 leaves it. The slope of a value by a gate is its
derivative where the gates stand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.nn.utils.rnn import pad_sequence

from xlmech.engine.batching import run_in_batches
from xlmech.engine.unembed import token_log_prob
from xlmech.metrics.attribution import of_log_prob
from xlmech.models.backends import NEURON_HOOK, Backend
from xlmech.neurons.attribution.gradient import PromptAndAnswer, answer_tokens

Value = Callable[[Backend, Sequence[PromptAndAnswer]], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_CEILING = 1 - 1e-4
"""Factor of an answer's probability, so that the log-odds of a certain answer stay finite."""
_SOLVER_STEPS = 200


def answer_log_odds(backend: Backend, batch: Sequence[PromptAndAnswer]) -> Float[torch.Tensor, " row"]:
    """Compute the (row,) log p - log(1 - p) of each answer as a whole (nats), differentiable."""
    total, _ = _forced_log_probs(backend, batch)
    return of_log_prob(total + math.log(_CEILING), "log_odds")


def nats_per_token(backend: Backend, batch: Sequence[PromptAndAnswer]) -> Float[torch.Tensor, " row"]:
    """Compute the (row,) mean negative log-likelihood of the forced tokens, differentiable."""
    total, n_tokens = _forced_log_probs(backend, batch)
    return -total / n_tokens


def _forced_log_probs(
    backend: Backend, batch: Sequence[PromptAndAnswer]
) -> tuple[Float[torch.Tensor, " row"], Int[torch.Tensor, " row"]]:
    """Sum the (row,) log-probabilities (nats) of forced tokens, and count these; padding is right, where no token sees it."""
    tokens = pad_sequence([torch.tensor([*prompt, *forced]) for prompt, forced in batch], batch_first=True)
    rows, columns, targets = answer_tokens(backend, batch)
    hidden, _ = backend.hidden(tokens)
    log_probs = token_log_prob(hidden[rows, columns], backend.unembed, targets, **backend.unembed_options)
    total = torch.zeros(len(batch), dtype=log_probs.dtype, device=log_probs.device).index_add(0, rows, log_probs)
    return total, torch.bincount(rows, minlength=len(batch))


def run_gated(
    backend: Backend,
    samples: Sequence[PromptAndAnswer],
    gates: Float[torch.Tensor, "layer neuron"],
    *,
    value: Value,
    slopes: bool,
    batch_size: int,
    progress: str = "",
) -> tuple[Float[torch.Tensor, " row"], Float[torch.Tensor, "row unit"]]:
    """Compute the (row,) values of samples under gates, and their (row, unit) slopes by all gates, float32 on the CPU.

    Args:
        backend: The model; hooks that are on it stay active.
        samples: What is run.
        gates: (layer, neuron); its units are its neurons in this order.
        value: `answer_log_odds` or `nats_per_token`.
        slopes: Whether slopes are wanted; without them they have no units.
        batch_size: Samples at a time, at first.
        progress: Label of a progress bar; none without.
    """
    values = torch.zeros(len(samples))
    all_slopes = torch.zeros(len(samples), gates.numel() if slopes else 0)
    dtype = torch.promote_types(backend.unembed.dtype, torch.float32)

    def work(indices: list[int]) -> None:
        by_row = gates.to(backend.device, dtype).repeat(len(indices), 1, 1).requires_grad_(slopes)
        with torch.set_grad_enabled(slopes), backend.hooks(_gate_hooks(backend, by_row)):
            of_batch = value(backend, [samples[index] for index in indices])
            if slopes:
                (gradient,) = torch.autograd.grad(of_batch.sum(), by_row)
                all_slopes[indices] = gradient.flatten(1).to(all_slopes)
        values[indices] = of_batch.detach().to(values)

    run_in_batches(
        len(samples), work, key=lambda index: sum(map(len, samples[index])), batch_size=batch_size, progress=progress
    )
    return values, all_slopes


def _gate_hooks(
    backend: Backend, gates: Float[torch.Tensor, "row layer neuron"]
) -> list[tuple[str, Callable[..., Any]]]:
    """Make hooks that multiply each row's activations by 1 - its gates."""

    def of_layer(layer: int) -> Callable[..., Any]:
        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            return value * (1 - gates[:, layer, None]).to(value.dtype)

        return edit

    return [(backend.hook_name(NEURON_HOOK, layer), of_layer(layer)) for layer in range(backend.n_layers)]


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One term of the loss, as last measured, and linear in the gates from there.

    Attributes:
        loss: Takes (row,) values, and those of the intact model, to a loss.
        start: (row,) values of the intact model.
        values: (row,) values under the present gates.
        slopes: (row, unit) their derivative by each gate.
    """

    loss: Loss
    start: Float[torch.Tensor, " row"]
    values: Float[torch.Tensor, " row"]
    slopes: Float[torch.Tensor, "row unit"]

    @property
    def measured(self) -> float:
        """The loss of the values as measured."""
        return float(self.loss(self.values, self.start))

    def gradient(self, moved: Float[torch.Tensor, " unit"]) -> Float[torch.Tensor, " unit"]:
        """Compute the loss's (unit,) gradient after a move of the gates, if the slopes hold so far."""
        values = (self.values + self.slopes @ moved).requires_grad_()
        with torch.enable_grad():
            (by_value,) = torch.autograd.grad(self.loss(values, self.start), values)
        return by_value @ self.slopes

    def broyden_update(
        self, moved: Float[torch.Tensor, " unit"], values: Float[torch.Tensor, " row"]
    ) -> Float[torch.Tensor, "row unit"]:
        """Compute the least change of the slopes with which they lead to `values` after the move."""
        return torch.outer(values - self.values - self.slopes @ moved, moved / moved.square().sum())

    def corrected(self, update: Float[torch.Tensor, "row unit"]) -> LossTerm:
        """Return the same term with an update added to its slopes."""
        return dataclasses.replace(self, slopes=self.slopes + update)


def best_set(
    terms: Sequence[LossTerm], present: Float[torch.Tensor, " unit"], *, n_neurons: int, n_changes: int
) -> Float[torch.Tensor, " unit"]:
    """Choose the (unit,) gates, each 0 or 1, of least loss if the slopes hold.

    At most `n_changes` gates differ from the present ones, and at most `n_neurons` are 1. Frank and Wolfe's method is used on
    gates between 0 and 1: every iteration moves towards the allowed set that lowers the loss most at first order. At the end the
    gates that have moved furthest are changed.
    """
    moved, direction = torch.zeros_like(present), 1 - 2 * present
    for number in range(_SOLVER_STEPS):
        gradient = torch.stack([term.gradient(moved) for term in terms]).sum(0)
        vertex = direction * _best_changes(-gradient * direction, present, n_neurons=n_neurons, n_changes=n_changes)
        moved += (vertex - moved) * 2 / (number + 2)
    return present + direction * _best_changes(moved.abs(), present, n_neurons=n_neurons, n_changes=n_changes)


def _best_changes(
    gains: Float[torch.Tensor, " unit"], present: Float[torch.Tensor, " unit"], *, n_neurons: int, n_changes: int
) -> Float[torch.Tensor, " unit"]:
    """Mark with 1 the gates to change that gain most together; `n_neurons` and `n_changes` as in `best_set`."""
    (gains_added, added), (gains_removed, removed) = (
        torch.where(side, gains, -torch.inf).topk(min(n_changes, int(side.sum())))
        for side in (present == 0, present == 1)
    )
    total_added, total_removed = (torch.cat([torch.zeros(1), gain.cumsum(0)]) for gain in (gains_added, gains_removed))
    n_free, n_helpful = n_neurons - int(present.sum()), int((gains_removed > 0).sum())
    most, chosen = 0.0, (0, 0)
    for n_added in range(len(total_added)):
        n_removed = max(n_added - n_free, min(n_helpful, n_changes - n_added))
        if n_removed <= min(n_changes - n_added, len(gains_removed)):
            gain = float(total_added[n_added] + total_removed[n_removed])
            if gain > most:
                most, chosen = gain, (n_added, n_removed)
    changed = torch.cat([added[: chosen[0]], removed[: chosen[1]]])
    return torch.zeros_like(gains).scatter_(0, changed, 1.0)
