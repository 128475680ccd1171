"""Record how active MLP neurons usually are: the mean and spread that ablation by mean or noise needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from xlmech.checks import check_choice, check_list
from xlmech.engine.batching import BATCH_SIZE, Where, mean_over_tokens
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.models.tokens import encode_prompt, n_special


@dataclass(frozen=True, eq=False, kw_only=True)
class ActivationMoments:
    """Mean and standard deviation of every MLP neuron's activation.

    Attributes:
        mean: (layer, neuron).
        std: (layer, neuron), of the population.
        n_positions: Number of positions they were taken over.
    """

    mean: Float[torch.Tensor, "layer neuron"]
    std: Float[torch.Tensor, "layer neuron"]
    n_positions: int


def activation_moments(
    model: Any,
    prompts: Sequence[str],
    *,
    positions: Where = "all",
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> ActivationMoments:
    """Measure the mean and standard deviation of each MLP neuron's activation over neutral texts.

    Args:
        model: Hooked model.
        prompts: Texts that hold nothing private, e.g. neutral texts or prompts about control people.
        positions: `all` positions of each text but the special tokens in front, or the `last`.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        ActivationMoments, in float64 on the CPU.

    Raises:
        ValueError: No prompts, one that does not fit the model, unknown positions, or NaN in an activation.
    """
    prompts = check_list("prompt", prompts)
    if not prompts:
        raise ValueError("no prompts to take activations from; give a few neutral texts")
    check_choice("positions", positions, Where)
    backend = backend_of(model)
    means = mean_over_tokens(
        backend,
        prompts,
        NEURON_HOOK,
        lambda value: torch.stack([value, value.square()]),
        positions=positions,
        batch_size=batch_size,
        progress="activations" if progress else "",
        what="prompt",
    )
    mean, squares = means.unbind(1)
    if not mean.isfinite().all():
        raise ValueError("NaN or infinity in an MLP's activations; use a wider dtype")
    n_positions = len(prompts)
    if positions == "all":
        n_positions = sum(len(encode_prompt(backend, prompt)) for prompt in prompts) - n_positions * n_special(backend)
    std = (squares - mean.square()).clamp_min(0).sqrt()
    return ActivationMoments(mean=mean, std=std, n_positions=n_positions)
