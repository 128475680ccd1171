"""How active the MLP neurons usually are: the mean and spread that deactivation by mean or noise needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float

from xlmech.backends import backend_of
from xlmech.effects import COMPONENT
from xlmech.runner import BATCH_SIZE, Recorder, encode_prompt, run_batched

Where = Literal["all", "last"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ActivationMoments:
    """Mean and standard deviation of every MLP neuron's activation.

    Attributes:
        mean: (layer, neuron).
        std: (layer, neuron), of the population.
        n_positions: Over how many positions.
    """

    mean: Float[torch.Tensor, "layer neuron"]
    std: Float[torch.Tensor, "layer neuron"]
    n_positions: int


@torch.no_grad()
def activation_moments(
    model: Any,
    prompts: Sequence[str],
    *,
    positions: Where = "all",
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> ActivationMoments:
    """Mean and standard deviation of each neuron over prompts that say nothing private, e.g. neutral text or controls.

    Args:
        model: Hooked model.
        prompts: Texts.
        positions: `all` of each text, or its `last`.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        ActivationMoments, in float64 on the CPU.

    Raises:
        ValueError: No prompts, one that does not fit the model, unknown positions, or NaN in an activation.
    """
    if not prompts:
        raise ValueError("no prompts to take activations from; give a few neutral texts")
    if positions not in get_args(Where):
        raise ValueError(f"unknown positions {positions!r}; use 'all' or 'last'")
    backend = backend_of(model)
    recorder = Recorder(backend, COMPONENT)
    total, squares = (torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64) for _ in range(2))
    count = 0

    def add(tokens: torch.Tensor, _: list[int]) -> None:
        nonlocal count
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        for layer, kept in enumerate(recorder.kept):
            rows = (kept[:, -1:] if positions == "last" else kept).flatten(0, 1).double().cpu()
            total[layer] += rows.sum(0)
            squares[layer] += rows.square().sum(0)
        count += len(rows)

    tokens = [encode_prompt(backend, prompt, what=f"prompt {number}") for number, prompt in enumerate(prompts)]
    run_batched(tokens, add, batch_size=batch_size, progress="activations" if progress else "")
    mean = total / count
    if not mean.isfinite().all():
        raise ValueError("NaN or infinity in an MLP's activations; use a wider dtype")
    return ActivationMoments(mean=mean, std=(squares / count - mean.square()).clamp_min(0).sqrt(), n_positions=count)
