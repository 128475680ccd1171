"""What is ablated, and what it is compared with: named sets of neurons, and control conditions of the same size."""

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
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.random_neurons import mean_magnitudes, random_neurons
from xlmech.options import ControlCondition, EvaluateOptions, Measure, Mode

COLUMN_OF: dict[Measure, str] = {"extraction": "extracted", "exposure": "exposure_bits"}
"""Column of `LeakageResult.probes` that holds each measure."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One ablation to measure under.

    Attributes:
        name: Name of the set or control condition.
        draws: The set; several for random neurons, whose effects are pooled.
        ablation: Keyword arguments of `ablate`.
    """

    name: str
    draws: tuple[NeuronSet, ...]
    ablation: Mapping[str, Any]


def is_random(name: str) -> bool:
    """Tell by its name whether a condition ablates random neurons."""
    return name.startswith("random")


def is_control(name: str) -> bool:
    """Tell by its name whether a condition is a control condition."""
    return is_random(name) or name.partition("@")[0] == "noise"


def check_sets(model: Any, sets: Iterable[NeuronSet]) -> None:
    """Raise ValueError unless all sets are of this model, before anything is measured."""
    backend = backend_of(model)
    for neurons in sets:
        neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)


def named_sets(
    neurons: NeuronSet | Mapping[str, NeuronSet], control_conditions: Sequence[ControlCondition] = ()
) -> dict[str, NeuronSet]:
    """Return sets by name; a single set is named `neurons`.

    Raises:
        ValueError: There is no set, an empty one, or one with the name of a control condition.
    """
    sets = dict(neurons) if isinstance(neurons, Mapping) else {"neurons": neurons}
    if not sets:
        raise ValueError("no neuron sets: there is nothing to evaluate")
    for name, of_name in sets.items():
        if not len(of_name):
            raise ValueError(f"neuron set {name!r} is empty: there is nothing to evaluate")
        if name in control_conditions:
            raise ValueError(f"neuron set {name!r} has the name of a control condition; rename it")
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
    sets: Mapping[str, NeuronSet],
    options: EvaluateOptions,
    *,
    moments: ActivationMoments | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Condition]:
    """Make the control conditions of `options.matched_sets`, or of the first set.

    Draws of random neurons share the ablation of the sets, by `options` and `moments`; magnitudes are measured on the prompts of
    `probes`. The first draw has the seed, the next draws count on.

    Raises:
        ValueError: Matched sets are unknown or of one size, or there are too few neurons to draw from.
    """
    matched = check_choices("set in matched_sets", options.matched_sets, sets)
    if len({len(sets[name]) for name in matched}) < len(matched):
        raise ValueError(f"matched_sets {matched} hold sets of one size, whose control conditions would have one name")
    magnitudes = None
    if "random_magnitude" in options.control_conditions:
        magnitudes = mean_magnitudes(model, probes, progress=progress)
    shared = ablation_arguments(options.mode, factor=options.factor, moments=moments, seed=seed)
    noise = ablation_arguments("noise", moments=moments, seed=seed)
    conditions = []
    for of_set in matched or tuple(sets)[:1]:
        neurons = sets[of_set]
        for control in options.control_conditions:
            name = f"{control}@{len(neurons)}" if matched else control
            if control == "noise":
                conditions.append(Condition(name=name, draws=(neurons,), ablation=noise))
                continue
            of_control = magnitudes if control == "random_magnitude" else None
            seeds = range(seed, seed + options.n_random)
            draws = tuple(random_neurons(neurons, magnitudes=of_control, seed=number) for number in seeds)
            conditions.append(Condition(name=name, draws=draws, ablation=shared))
    return conditions
