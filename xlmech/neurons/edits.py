"""Hooks by which `ablate` changes activations: neurons of one layer are replaced, or a whole layer is multiplied by factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from xlmech.engine.ablation_state import ASKED_LANGUAGE
from xlmech.models.sequence_positions import SequencePositions
from xlmech.options import Mode

Hook = Callable[..., torch.Tensor]
_NOISE_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What replaces an activation, and where.

    Attributes:
        mode: As of `ablate`; so are `factor` and `seed`.
        values: (layer, neuron) activations on the model's device, for modes `mean` and `noise`.
        std: (layer, neuron) standard deviations there, for mode `noise`.
        positions: Positions of the whole sequence; None for all.
    """

    mode: Mode
    factor: float
    values: torch.Tensor | None
    std: torch.Tensor | None
    seed: int
    positions: slice | None


def replacing_hook(edit: Edit, layer: int, indices: list[int], language: str, sequence: SequencePositions) -> Hook:
    """Make a hook that replaces the activations of one layer's neurons, in a language only if one is given."""
    chosen: torch.Tensor | None = None
    noise = _noise_blocks(edit.seed, layer, indices)

    def ablated(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        nonlocal chosen
        if language and not _is_asking(language):
            return value
        if chosen is None or chosen.device != value.device:
            chosen = torch.tensor(indices, device=value.device)
        old = value[..., chosen]
        new = _replacement(edit, layer, chosen, old, noise, sequence)
        if edit.positions is not None:
            new = torch.where(_inside(sequence.of(value), edit.positions)[..., None], new, old)
        value = value.clone()
        value[..., chosen] = new
        return value

    return ablated


def scaling_hook(
    factors: Float[torch.Tensor, " neuron"], positions: slice | None, language: str, sequence: SequencePositions
) -> Hook:
    """Make a hook that multiplies one layer's activations by factors, in a language only if one is given.

    The product is taken in float32 at least. A factor of 1 leaves an activation bit for bit as it is.
    """

    def scaled(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        nonlocal factors
        if language and not _is_asking(language):
            return value
        if factors.device != value.device:
            factors = factors.to(value.device)
        new = (value * factors).to(value.dtype)
        if positions is None:
            return new
        return torch.where(_inside(sequence.of(value), positions)[..., None], new, value)

    return scaled


def _replacement(
    edit: Edit,
    layer: int,
    chosen: torch.Tensor,
    old: torch.Tensor,
    noise: Callable[[int], torch.Tensor],
    sequence: SequencePositions,
) -> torch.Tensor:
    """Return (row, position, neuron) activations that replace those of the chosen neurons."""
    if edit.mode == "scale" and edit.factor:
        return old * edit.factor
    if edit.values is None:
        return torch.zeros_like(old)
    new = edit.values[layer].to(old.device)[chosen]
    if edit.std is not None:
        positions = sequence.of(old).clamp_min(0)
        draws = torch.cat([noise(block) for block in range(int(positions.max()) // _NOISE_BLOCK + 1)]).to(new)
        new = new + edit.std[layer].to(new)[chosen] * draws[positions]
    return new.to(old.dtype).expand_as(old)


def _noise_blocks(seed: int, layer: int, indices: list[int]) -> Callable[[int], torch.Tensor]:
    """Draw blocks of (position, neuron) standard normal noise when needed; a neuron's draws depend on no other neuron."""

    @cache
    def block(number: int) -> torch.Tensor:
        draws = [np.random.default_rng((seed, layer, index, number)).standard_normal(_NOISE_BLOCK) for index in indices]
        return torch.from_numpy(np.stack(draws, axis=1))

    return block


def _inside(positions: torch.Tensor, span: slice) -> torch.Tensor:
    """Tell which positions are in the slice."""
    start, step = span.start or 0, span.step or 1
    inside = (positions >= start) & ((positions - start) % step == 0)
    return inside if span.stop is None else inside & (positions < span.stop)


def _is_asking(language: str) -> bool:
    current = ASKED_LANGUAGE.get()
    if current is None:
        raise RuntimeError(
            f"neurons of {language!r} are ablated only for prompts in {language!r}, and the prompts' language is not known: run "
            "the model inside `with asking('fr')`, or ablate the union of the sets"
        )
    return current == language
