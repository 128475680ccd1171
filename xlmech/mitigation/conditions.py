"""What is deactivated, and what it is compared with: named sets of neurons, and controls of the same size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from xlmech.checks import check_choices
from xlmech.data.probes import ProbeSet
from xlmech.engine.record import ActivationMoments
from xlmech.models.backends import backend_of
from xlmech.models.load import model_name
from xlmech.neurons.ablation import Mode
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.random_neurons import mean_magnitudes, random_neurons

Control = Literal["random", "random_magnitude", "noise"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing to deactivate.

    Attributes:
        name: Of the set or control.
        draws: The set; of a random control several, whose effects are pooled.
        how: Keyword arguments of `ablate`.
    """

    name: str
    draws: tuple[NeuronSet, ...]
    how: Mapping[str, Any]


def is_random(name: str) -> bool:
    """Whether a condition is a control of random neurons, by its name."""
    return name.startswith("random")


def is_control(name: str) -> bool:
    """Whether a condition is any control, by its name."""
    return is_random(name) or name == "noise"


def check_sets(model: Any, sets: Iterable[NeuronSet]) -> None:
    """Raise ValueError unless all are neurons of this model: before anything is measured, not when it is their turn."""
    backend = backend_of(model)
    for chosen in sets:
        chosen.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)


def named_sets(neurons: NeuronSet | Mapping[str, NeuronSet], controls: Sequence[Control]) -> dict[str, NeuronSet]:
    """Sets by name, a single one as `neurons`.

    Raises:
        ValueError: None, an empty one, an unknown control, or a set that has a wanted control's name.
    """
    controls = check_choices("control", controls, Control)
    sets = dict(neurons) if isinstance(neurons, Mapping) else {"neurons": neurons}
    if not sets:
        raise ValueError("no neuron sets: there is nothing to evaluate")
    for name, chosen in sets.items():
        if not len(chosen):
            raise ValueError(f"neuron set {name!r} is empty: there is nothing to evaluate")
        if name in controls:
            raise ValueError(f"neuron set {name!r} has the name of a control that is to be measured too; rename it")
    return sets


def how_of(mode: Mode, *, factor: float, moments: ActivationMoments | None, seed: int) -> dict[str, Any]:
    """Keyword arguments of `ablate` for one mode; `moments` are those of modes `mean` and `noise`."""
    how: dict[str, Any] = {"mode": mode, "factor": factor, "seed": seed}
    if moments is not None and mode in ("mean", "noise"):
        how["values"] = moments.mean
    if moments is not None and mode == "noise":
        how["std"] = moments.std
    return how


def control_conditions(
    model: Any,
    probes: ProbeSet,
    like: NeuronSet,
    controls: Sequence[Control],
    *,
    n_random: int,
    how: Mapping[str, Any],
    moments: ActivationMoments | None,
    seed: int,
    progress: bool = False,
) -> list[Condition]:
    """Controls of one set: `n_random` draws of as many random neurons of its layers, or noise on the set itself.

    Args:
        model: Hooked model.
        probes: At whose prompts magnitudes are compared for `random_magnitude`.
        like: The set.
        controls: Which ones.
        n_random: Draws of each random control.
        how: The deactivation of the set, which random neurons share.
        moments: Mean and spread of the noise.
        seed: Of the first draw; the next ones count on.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: No draws, or too few neurons to draw from.
    """
    if n_random < 1:
        raise ValueError(f"n_random must be at least 1, got {n_random}")
    found = []
    for name in controls:
        if name == "noise":
            noise = how_of("noise", factor=0.0, moments=moments, seed=seed)
            found.append(Condition(name=name, draws=(like,), how=noise))
            continue
        magnitudes = mean_magnitudes(model, probes, progress=progress) if name == "random_magnitude" else None
        draws = tuple(random_neurons(like, magnitudes=magnitudes, seed=seed + draw) for draw in range(n_random))
        found.append(Condition(name=name, draws=draws, how=how))
    return found
