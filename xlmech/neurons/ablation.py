"""Ablate neurons for the length of a `with` block, in every forward pass and generation step.

with ablate(model, found.universal):       # zeroed wherever the model runs
    measure_leakage(model, probes)
with ablate(model, found), asking("fr"):   # the universal ones, and those of French
    measure_leakage(model, probes.filter(languages=["fr"]))
moments = activation_moments(model, prompts)
with ablate(model, found.universal, mode="noise", values=moments.mean, std=moments.std, positions=slice(1, None)):
    ...
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from xlmech.checks import check_choice
from xlmech.data.languages import check_language
from xlmech.engine.ablation_state import ASKED_LANGUAGE, record_ablation
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.load import model_name
from xlmech.models.sequence_positions import SequencePositions, follow_positions
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.options import Mode

_NOISE_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class _Edit:
    """What replaces an activation, and where; `values` and `std` are (layer, neuron) on the model's device."""

    mode: Mode
    factor: float
    values: torch.Tensor | None
    std: torch.Tensor | None
    seed: int
    positions: slice | None


@contextmanager
def ablate(
    model: Any,
    neurons: NeuronSet | PrivacyNeurons | Mapping[str, NeuronSet],
    *,
    mode: Mode = "zero",
    factor: float = 0.0,
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    std: Float[torch.Tensor, "layer neuron"] | float | None = None,
    seed: int = 0,
    positions: slice | None = None,
) -> Iterator[Any]:
    """Ablate `neurons` while the block runs, in whole forward passes and in cached generation alike.

    Blocks nest, and compose with hooks of your own in the order in which they were added; on any exit, in any order, exactly
    these hooks are removed.

    Args:
        model: Hooked model.
        neurons: A set, ablated always; or sets by query language, each ablated only inside `asking(language)`, and the one
            under "" always; or privacy neurons: their universal set always, their specific sets by language (`found.union`
            for all of them always).
        mode: `zero`; `mean`, replace by `values`; `scale`, multiply by `factor`; or `noise`, replace by a Gaussian draw around
            `values` with `std`, which depends on seed, layer, neuron and position alone: the same in every row and step.
        factor: Factor of the activations in mode `scale`.
        values: (layer, neuron) activations of modes `mean` and `noise`; see `activation_moments`.
        std: (layer, neuron) or single standard deviation of mode `noise`.
        seed: Seed of mode `noise`.
        positions: Positions of the whole sequence at which to ablate, all by default. They count from the first token (BOS is
            0), in cached generation too; padding on the left does not count, if the model is given its attention mask.

    Yields:
        The model.

    Raises:
        ValueError: A set from a model of another name or shape, an unknown mode, or values, deviations, factors or positions
            that do not fit it.
        RuntimeError: The model is run without `asking` while sets by language are on it, or so that positions are unknown.

    Warns:
        UserWarning: Every neuron of a layer is ablated.
    """
    backend = backend_of(model)
    sets = _sets(neurons)
    for chosen in sets.values():
        chosen.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    edit = _checked_edit(backend, mode, factor, values, std, seed, positions)
    _warn_of_whole_layers(sets, edit)
    with (
        follow_positions(backend)
        if mode == "noise" or positions is not None
        else nullcontext(SequencePositions()) as sequence
    ):
        hooks = [
            (backend.hook_name(NEURON_HOOK, layer), _hook(edit, layer, indices, language, sequence))
            for language, chosen in sets.items()
            for layer, indices in chosen.by_layer().items()
        ]
        given = {"mode": mode, "factor": factor, "values": values, "std": std, "seed": seed, "positions": positions}
        with backend.hooks(hooks), record_ablation(backend.model, _Active(sets=sets, arguments=given)):
            yield model


@dataclass(frozen=True, eq=False, kw_only=True)
class _Active:
    """An `ActiveAblation`: the sets by language, and the other arguments of `ablate` as they were given."""

    sets: Mapping[str, NeuronSet]
    arguments: Mapping[str, Any]

    def apply(self, model: Any) -> AbstractContextManager[Any]:
        return ablate(model, self.sets, **self.arguments)


@contextmanager
def asking(language: str) -> Iterator[None]:
    """Declare that all prompts in the block ask in `language`, for neurons that `ablate` ablates only then.

    Nothing is guessed from the prompts: run one language's prompts at a time, e.g. `probes.filter(languages=["fr"])`. Of several
    open blocks the one entered last counts.

    Raises:
        ValueError: A language that has no pack and is not in CLDR.
    """
    check_language(language)
    with ASKED_LANGUAGE.holding(language):
        yield


def _sets(neurons: NeuronSet | PrivacyNeurons | Mapping[str, NeuronSet]) -> dict[str, NeuronSet]:
    """Return sets by language, "" for always; a neuron of the set under "" is in no other, so that it is ablated once."""
    if isinstance(neurons, NeuronSet):
        return {"": neurons}
    if isinstance(neurons, PrivacyNeurons):
        return _sets({"": neurons.universal} | neurons.specific)
    if not isinstance(neurons, Mapping):
        raise ValueError(
            f"expected a NeuronSet, PrivacyNeurons or NeuronSets by language, got {type(neurons).__name__}"
        )
    for code in filter(None, neurons):
        check_language(code)
    always = neurons.get("")
    return {code: chosen - always if code and always is not None else chosen for code, chosen in neurons.items()}


def _checked_edit(
    backend: Backend,
    mode: Mode,
    factor: float,
    values: torch.Tensor | None,
    std: torch.Tensor | float | None,
    seed: int,
    positions: slice | None,
) -> _Edit:
    check_choice("mode", mode, Mode)
    if (values is not None) != (mode in ("mean", "noise")) or (std is not None) != (mode == "noise"):
        raise ValueError(
            f"mode {mode!r} with values {'given' if values is not None else 'missing'} and std "
            f"{'given' if std is not None else 'missing'}: 'mean' takes values=, 'noise' values= and std= (see "
            "activation_moments), the others neither"
        )
    if not math.isfinite(factor):
        raise ValueError(f"factor must be a finite number, got {factor}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    _check_positions(positions)
    spread = torch.full((backend.n_layers, backend.d_mlp), float(std)) if isinstance(std, float | int) else std
    values = None if values is None else check_values(backend, "values", values)
    spread = None if spread is None else check_values(backend, "std", spread)
    if spread is not None and bool((spread < 0).any()):
        raise ValueError("std has negative entries; a standard deviation is at least 0")
    return _Edit(mode=mode, factor=factor, values=values, std=spread, seed=seed, positions=positions)


def check_values(backend: Backend, name: str, values: torch.Tensor) -> Float[torch.Tensor, "layer neuron"]:
    """Return (layer, neuron) values on the model's device; raise ValueError if they are not finite or of another shape."""
    shape = (backend.n_layers, backend.d_mlp)
    if tuple(values.shape) != shape or not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite, of shape (layer, neuron) {shape}, got {tuple(values.shape)}")
    return values.detach().to(backend.device)


def _check_positions(positions: slice | None) -> None:
    if positions is None:
        return
    if not isinstance(positions, slice):
        raise ValueError(f"positions must be a slice such as slice(4, 9), got {positions!r}")
    start, step = positions.start or 0, 1 if positions.step is None else positions.step
    if min(start, positions.stop or 0) < 0 or step < 1:
        raise ValueError(
            f"positions {positions} must count forwards from the sequence's start: its end moves in generation, so negative "
            "numbers have no fixed position"
        )


def _warn_of_whole_layers(sets: Mapping[str, NeuronSet], edit: _Edit) -> None:
    if edit.mode == "scale" and edit.factor:
        return
    always = sets.get("")
    together = [chosen | always if always is not None else chosen for chosen in sets.values()]
    layers = sorted({layer for chosen in together for layer in chosen.whole_layers()})
    if layers:
        warnings.warn(
            f"every neuron of layer {', '.join(map(str, layers))} is ablated: the whole MLP is gone there, and what the "
            "model loses is no longer about single neurons; choose fewer (n_neurons)",
            UserWarning,
            stacklevel=4,
        )


def _hook(
    edit: _Edit, layer: int, indices: list[int], language: str, sequence: SequencePositions
) -> Callable[..., torch.Tensor]:
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


def _replacement(
    edit: _Edit,
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
