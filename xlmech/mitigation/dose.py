"""Dose and response: the reduction and cost of growing sets of neurons, for one or several ways to choose them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from xlmech.checks import check_list
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.conditions import is_control
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import model_name
from xlmech.neurons.ablation import Ablated
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import EvaluateOptions

Ranking = Sequence[Ablated] | Sequence[tuple[Any, ...]] | pd.DataFrame
"""Sets or gates of growing size; or neurons, the best first, as (layer, index, ...) or in the columns `layer` and `neuron`."""


def dose_response(
    model: Any,
    probes: ProbeSet,
    rankings: Ranking | Mapping[str, Ranking],
    *,
    n_neurons: Sequence[int] | None = None,
    options: EvaluateOptions = EvaluateOptions(control_conditions=()),
    before: LeakageResult | None = None,
    control_people: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    neutral: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> MitigationResult:
    """Ablate growing numbers of neurons of one or several rankings, and measure each on the same probes.

    `MitigationResult.trade_off` returns the curves and the Pareto front; `figures.trade_off` draws them.

    Args:
        model: Hooked model.
        probes: Probes of held-out private people, and of public people for what is lost.
        rankings: Neurons, the best first (or the rows of one kind of `PrivacyNeurons.chosen`); or sets or gates of growing
            size; or several of these by method.
        n_neurons: Sizes of the sets that are taken from ranked neurons.
        options: As of `evaluate_mitigation`, but without control conditions by default. They match every set of the first
            method, unless `matched_sets` names others.
        before: As of `evaluate_mitigation`, like all that follow.
        control_people: Leakage of control people without ablation.
        candidates: Records whose values are candidates.
        neutral: Texts by language whose likelihood is the cost.
        seed: Seed of the first random draw.
        progress: Whether to show progress bars.

    Returns:
        MitigationResult; conditions are named by size, `method@size` for several methods, control conditions `random@size`.

    Raises:
        ValueError: A ranking is empty, or ranks a neuron twice; `n_neurons` is missing, beyond a ranking, or given for sets;
            sets do not grow; a method is named like a control condition; or what `evaluate_mitigation` refuses.
    """
    if n_neurons is not None:
        n_neurons = check_list("size", n_neurons)
    methods = dict(rankings) if isinstance(rankings, Mapping) else {"": rankings}
    if not methods:
        raise ValueError("no rankings: there is nothing to ablate")
    sets: dict[str, Ablated] = {}
    matched = options.matched_sets
    for method, ranking in methods.items():
        if is_control(method) or "@" in method:
            raise ValueError(f"a method cannot be called {method!r}: names of control conditions and '@' are reserved")
        for neurons in _growing_sets(backend_of(model), method, ranking, n_neurons):
            sets[f"{method}@{len(neurons)}" if method else str(len(neurons))] = neurons
        matched = matched or tuple(sets)
    return evaluate_mitigation(
        model, probes, sets, options=options.updated(matched_sets=matched), before=before, control_people=control_people,
        candidates=candidates, neutral=neutral, seed=seed, progress=progress,
    )  # fmt: skip


def _growing_sets(backend: Backend, method: str, ranking: Ranking, n_neurons: Sequence[int] | None) -> list[Ablated]:
    """Return the sets of one ranking, from the smallest to the largest."""
    what = f"ranking {method!r}" if method else "the ranking"
    if isinstance(ranking, pd.DataFrame):
        ranking = list(zip(ranking["layer"], ranking["neuron"], strict=True))
    if not len(ranking):
        raise ValueError(f"{what} is empty: there is nothing to ablate")
    sets: list[Ablated] = [row for row in ranking if isinstance(row, NeuronSet | NeuronGates)]
    neurons = [(int(row[0]), int(row[1])) for row in ranking if not isinstance(row, NeuronSet | NeuronGates)]
    if sets and (neurons or n_neurons is not None):
        raise ValueError(f"{what} holds sets, which have sizes of their own; n_neurons= cuts ranked neurons")
    if not sets:
        if len(set(neurons)) < len(neurons):
            raise ValueError(f"{what} holds a neuron twice")
        if not n_neurons or not all(1 <= size <= len(neurons) for size in n_neurons):
            given = list(n_neurons) if n_neurons is not None else None
            raise ValueError(f"{what} has {len(neurons)} neurons: give n_neurons= of 1 to {len(neurons)}, got {given}")
        shape = (backend.n_layers, backend.d_mlp, model_name(backend.model))
        sets = [NeuronSet(frozenset(neurons[:size]), *shape) for size in n_neurons]
    sizes = [len(of_size) for of_size in sets]
    if sizes[0] == 0 or any(size >= following for size, following in pairwise(sizes)):
        raise ValueError(f"{what}: sets must grow from 1 neuron or more, got sizes {sizes}")
    return sets
