"""Ablate neurons for the length of a `with` block, in every forward pass and generation step.

with ablate(model, found.universal):       # zeroed wherever the model runs
    measure_leakage(model, probes)
with ablate(model, found), asking("fr"):   # the universal ones, and those of French
    measure_leakage(model, probes.filter(languages=["fr"]))
with ablate(model, gates):                 # each activation multiplied by its learned factor
    ...
moments = activation_moments(model, prompts)
with ablate(model, found.universal, mode="noise", values=moments.mean, std=moments.std, positions=slice(1, None)):
    ...
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from xlmech.checks import check_choice
from xlmech.data.languages import check_language
from xlmech.engine.ablation_state import ASKED_LANGUAGE, record_ablation
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.load import model_name
from xlmech.models.sequence_positions import SequencePositions, follow_positions
from xlmech.neurons.edits import Edit, Hook, replacing_hook, scaling_hook
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.options import Mode

Ablated = NeuronSet | NeuronGates
"""What can be ablated: a set of neurons, or gates."""


@contextmanager
def ablate(
    model: Any,
    neurons: Ablated | PrivacyNeurons | Mapping[str, Ablated],
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
            for all of them always). Gates may stand wherever a set may: they multiply each activation by its own factor, and
            where several act at once, by all of theirs.
        mode: `zero`; `mean`, replace by `values`; `scale`, multiply by `factor`; or `noise`, replace by a Gaussian draw around
            `values` with `std`, which depends on seed, layer, neuron and position alone: the same in every row and step. Gates
            have factors of their own: leave the mode out.
        factor: Factor of the activations in mode `scale`.
        values: (layer, neuron) activations of modes `mean` and `noise`; see `activation_moments`.
        std: (layer, neuron) or single standard deviation of mode `noise`.
        seed: Seed of mode `noise`.
        positions: Positions of the whole sequence at which to ablate, all by default. They count from the first token (BOS is
            0), in cached generation too; padding on the left does not count, if the model is given its attention mask.

    Yields:
        The model.

    Raises:
        ValueError: A set or gates from a model of another name or shape, an unknown mode or one for gates, or values,
            deviations, factors or positions that do not fit it.
        RuntimeError: The model is run without `asking` while sets by language are on it, or so that positions are unknown.

    Warns:
        UserWarning: Every neuron of a layer is ablated.
    """
    backend = backend_of(model)
    sets = _sets(neurons)
    for chosen in sets.values():
        chosen.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    edit = _checked_edit(backend, mode, factor, values, std, seed, positions)
    if mode != "zero" and any(isinstance(chosen, NeuronGates) for chosen in sets.values()):
        raise ValueError(f"mode {mode!r} with gates, which have factors of their own; leave the mode out")
    _warn_of_whole_layers(sets, edit)
    with (
        follow_positions(backend)
        if mode == "noise" or positions is not None
        else nullcontext(SequencePositions()) as sequence
    ):
        hooks = [
            (backend.hook_name(NEURON_HOOK, layer), _hook(chosen, edit, layer, indices, language, sequence))
            for language, chosen in sets.items()
            for layer, indices in chosen.by_layer().items()
        ]
        given = {"mode": mode, "factor": factor, "values": values, "std": std, "seed": seed, "positions": positions}
        with backend.hooks(hooks), record_ablation(backend.model, _Active(sets=sets, arguments=given)):
            yield model


def _hook(
    chosen: Ablated, edit: Edit, layer: int, indices: list[int], language: str, sequence: SequencePositions
) -> Hook:
    """Make the hook of one layer, whose neurons with these indices are ablated."""
    if isinstance(chosen, NeuronGates):
        return scaling_hook(chosen.factors[layer], edit.positions, language, sequence)
    return replacing_hook(edit, layer, indices, language, sequence)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Active:
    """An `ActiveAblation`: the sets or gates by language, and the other arguments of `ablate` as they were given."""

    sets: Mapping[str, Ablated]
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


def _sets(neurons: Ablated | PrivacyNeurons | Mapping[str, Ablated]) -> dict[str, Ablated]:
    """Return sets by language, "" for always; a neuron of the set under "" is in no other, so that it is ablated once."""
    if isinstance(neurons, NeuronSet | NeuronGates):
        return {"": neurons}
    if isinstance(neurons, PrivacyNeurons):
        return _sets({"": neurons.universal} | neurons.specific)
    if not isinstance(neurons, Mapping):
        raise ValueError(
            "expected a NeuronSet, NeuronGates, PrivacyNeurons, or sets or gates by language, got "
            f"{type(neurons).__name__}"
        )
    for code in filter(None, neurons):
        check_language(code)
    always = neurons.get("")
    return {
        code: chosen - always if code and isinstance(chosen, NeuronSet) and isinstance(always, NeuronSet) else chosen
        for code, chosen in neurons.items()
    }


def _checked_edit(
    backend: Backend,
    mode: Mode,
    factor: float,
    values: torch.Tensor | None,
    std: torch.Tensor | float | None,
    seed: int,
    positions: slice | None,
) -> Edit:
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
    return Edit(mode=mode, factor=factor, values=values, std=spread, seed=seed, positions=positions)


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


def _warn_of_whole_layers(sets: Mapping[str, Ablated], edit: Edit) -> None:
    if edit.mode == "scale" and edit.factor:
        return
    zeroed = {code: chosen.zeroed if isinstance(chosen, NeuronGates) else chosen for code, chosen in sets.items()}
    always = zeroed.get("")
    together = [chosen | always if always is not None else chosen for chosen in zeroed.values()]
    layers = sorted({layer for chosen in together for layer in chosen.whole_layers()})
    if layers:
        warnings.warn(
            f"every neuron of layer {', '.join(map(str, layers))} is ablated: the whole MLP is gone there, and what the "
            "model loses is no longer about single neurons; choose fewer (n_neurons)",
            UserWarning,
            stacklevel=4,
        )
