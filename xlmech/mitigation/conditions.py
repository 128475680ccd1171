"""What is ablated, and what it is compared with: named sets of neurons or gates, and control conditions of the same size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from xlmech.checks import check_choices
from xlmech.data.probes import ProbeSet
from xlmech.engine.record import ActivationMoments
from xlmech.leakage.measure import LeakageResult
from xlmech.models.backends import backend_of
from xlmech.models.load import model_name
from xlmech.neurons.ablation import Ablated
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.random_neurons import mean_magnitudes, random_neurons
from xlmech.options import ControlCondition, EvaluateOptions, Measure, Mode

COLUMN_OF: dict[Measure, str] = {"extraction": "extracted", "exposure": "exposure_bits"}
"""Column of `LeakageResult.probes` that holds each measure."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One ablation to measure under.

    Attributes:
        name: Name of the set, the gates or the control condition.
        draws: The set or the gates; several for random neurons and permuted gates, whose effects are pooled.
        ablation: Keyword arguments of `ablate`.
    """

    name: str
    draws: tuple[Ablated, ...]
    ablation: Mapping[str, Any]


def is_random(name: str) -> bool:
    """Tell by its name whether a condition ablates random neurons, or turns them down by permuted gates."""
    return name.startswith("random") or is_permuted(name)


def is_permuted(name: str) -> bool:
    """Tell by its name whether a condition permutes gates."""
    return name.partition("@")[0] == "permuted"


def is_control(name: str) -> bool:
    """Tell by its name whether a condition is a control condition."""
    return is_random(name) or name.partition("@")[0] == "noise"


def check_sets(model: Any, sets: Iterable[Ablated], mode: Mode = "zero") -> None:
    """Raise ValueError unless all sets and gates are of this model, before anything is measured; gates take no mode."""
    backend = backend_of(model)
    for neurons in sets:
        neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
        if mode != "zero" and isinstance(neurons, NeuronGates):
            raise ValueError(f"mode {mode!r} with gates, which have factors of their own; leave the mode out")


def mean_factors(sets: Mapping[str, Ablated]) -> dict[str, float]:
    """Return the mean factor of the neurons that gates turn down, by name; sets of neurons have none."""
    return {name: gates.mean_factor for name, gates in sets.items() if isinstance(gates, NeuronGates)}


def named_sets(
    neurons: Ablated | Mapping[str, Ablated], control_conditions: Sequence[ControlCondition] = ()
) -> dict[str, Ablated]:
    """Return sets and gates by name; a single set is named `neurons`, single gates `gates`.

    Raises:
        ValueError: There is no set, an empty one, gates that are all 1, or a name of a control condition.
    """
    single = "gates" if isinstance(neurons, NeuronGates) else "neurons"
    sets = dict(neurons) if isinstance(neurons, Mapping) else {single: neurons}
    if not sets:
        raise ValueError("no neuron sets: there is nothing to evaluate")
    for name, of_name in sets.items():
        are_gates = isinstance(of_name, NeuronGates)
        what = f"{'gates' if are_gates else 'neuron set'} {name!r}"
        if not len(of_name):
            raise ValueError(f"{what} {'are all 1' if are_gates else 'is empty'}: there is nothing to evaluate")
        if name in control_conditions or (are_gates and is_permuted(name)):
            raise ValueError(f"{what} {'have' if are_gates else 'has'} the name of a control condition; rename it")
    return sets


def check_before(
    before: LeakageResult, probes: ProbeSet, measures: tuple[Measure, ...] = ("extraction",)
) -> LeakageResult:
    """Return the rows of `before` that belong to these probes, in their order.

    Raises:
        ValueError: A measure or a probe is missing.
    """
    for measure in measures:
        if COLUMN_OF[measure] not in before.probes:
            raise ValueError(f"`before` has no {measure}; measure it with measures={measures!r}, or leave it out")
    ids = [probe.id for probe in probes]
    rows = pd.Index(before.probes.probe).get_indexer(ids)
    if (rows < 0).any():
        missing = ids[int((rows < 0).argmax())]
        raise ValueError(
            f"`before` was measured on other probes: it lacks {(rows < 0).sum()} of {len(ids)}, {missing} the first of them"
        )
    return replace(before, probes=before.probes.iloc[rows].reset_index(drop=True))


def ablation_arguments(
    mode: Mode, *, factor: float = 0.0, moments: ActivationMoments | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return keyword arguments of `ablate`; `moments` are used in modes `mean` and `noise`."""
    arguments: dict[str, Any] = {"mode": mode, "factor": factor, "seed": seed}
    if moments is not None and mode in ("mean", "noise"):
        arguments["values"] = moments.mean
    if moments is not None and mode == "noise":
        arguments["std"] = moments.std
    return arguments


def control_conditions(
    model: Any,
    probes: ProbeSet,
    sets: Mapping[str, Ablated],
    options: EvaluateOptions,
    *,
    moments: ActivationMoments | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Condition]:
    """Make the control conditions of `options.matched_sets`, or of the first set.

    Draws of random neurons share the ablation of the sets, by `options` and `moments`; magnitudes are measured on the prompts of
    `probes`. The first draw has the seed, the next draws count on. Gates are compared with permuted ones where `options` names
    no control conditions.

    Raises:
        ValueError: Matched sets are unknown or of one size, there are too few neurons to draw from, or a control condition of
            sets is named for gates, or of gates for sets.
    """
    matched = check_choices("set in matched_sets", options.matched_sets, sets)
    if len({len(sets[name]) for name in matched}) < len(matched):
        raise ValueError(f"matched_sets {matched} hold sets of one size, whose control conditions would have one name")
    controls = {name: _controls_of(name, sets[name], options) for name in matched or tuple(sets)[:1]}
    magnitudes = None
    if any("random_magnitude" in of_set for of_set in controls.values()):
        magnitudes = mean_magnitudes(model, probes, progress=progress)
    shared = ablation_arguments(options.mode, factor=options.factor, moments=moments, seed=seed)
    noise = ablation_arguments("noise", moments=moments, seed=seed)
    conditions = []
    seeds = range(seed, seed + options.n_random)
    for of_set, of_kind in controls.items():
        neurons = sets[of_set]
        for control in of_kind:
            name = f"{control}@{len(neurons)}" if matched else control
            draws: tuple[Ablated, ...] = (neurons,)
            if isinstance(neurons, NeuronGates):
                draws = tuple(neurons.permuted(number) for number in seeds)
            elif control != "noise":
                of_control = magnitudes if control == "random_magnitude" else None
                draws = tuple(random_neurons(neurons, magnitudes=of_control, seed=number) for number in seeds)
            conditions.append(Condition(name=name, draws=draws, ablation=noise if control == "noise" else shared))
    return conditions


def _controls_of(name: str, neurons: Ablated, options: EvaluateOptions) -> tuple[ControlCondition, ...]:
    """Return the control conditions of one set, or of gates: for these `permuted` where none is named."""
    if not isinstance(neurons, NeuronGates):
        if "permuted" in options.control_conditions:
            raise ValueError(
                f"control condition 'permuted' permutes factors, and {name!r} is a set of neurons; use 'random', or name gates "
                "in matched_sets"
            )
        return options.control_conditions
    if "control_conditions" not in options.model_fields_set:
        return ("permuted",)
    others = [control for control in options.control_conditions if control != "permuted"]
    if others:
        raise ValueError(
            f"control condition {others[0]!r} is of sets of neurons, and {name!r} are gates; use 'permuted', which gives their "
            "factors to random neurons, or name sets in matched_sets"
        )
    return options.control_conditions
