"""Dose and response: what growing sets of neurons buy and cost, for one or several methods of choosing them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.engine.batching import BATCH_SIZE
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.conditions import Condition, check_sets, control_conditions, how_of, is_control
from xlmech.mitigation.evaluate import Asked, MitigationResult
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import model_name
from xlmech.neurons.attribution.neutral_text import check_texts
from xlmech.neurons.neuron_set import NeuronSet

Ranking = Sequence[NeuronSet] | Sequence[tuple[Any, ...]] | pd.DataFrame
"""Sets of growing size, or neurons, the best first: as (layer, index, ...), or in the columns `layer` and `neuron` of a frame."""


def dose_response(
    model: Any,
    probes: ProbeSet,
    rankings: Ranking | Mapping[str, Ranking],
    *,
    counts: Sequence[int] | None = None,
    n_random: int = 0,
    before: LeakageResult | None = None,
    control_people: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    neutral: Mapping[str, Sequence[str]] | None = None,
    n_neutral: int = packs.N_NEUTRAL,
    seed: int = 0,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> MitigationResult:
    """Deactivate (mode zero) growing numbers of neurons of one or several rankings, on the same probes.

    `MitigationResult.trade_off` gives the curves and the Pareto front, `figures.trade_off` draws them.

    Args:
        model: Hooked model.
        probes: Held-out private probes, and public ones to see what is lost.
        rankings: An ordered list of neurons (or the rows of one kind of `PrivacyNeurons.chosen`), a list of sets of growing size,
            or several of these by the method's name.
        counts: How many of an ordered list's first neurons make each set.
        n_random: Draws of a layer-matched random control of the first method's set at every size, pooled; 0 for none.
        before: As of `evaluate_mitigation`, like all that follow.
        control_people: Leakage without deactivation that has control people.
        candidates: Records whose values are candidates.
        neutral: Texts by language for the cost.
        n_neutral: Most neutral texts per language.
        seed: Of the random controls' first draw.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        MitigationResult; conditions are named by their size, `method@size` for several methods, controls `random@size`.

    Raises:
        ValueError: No or an empty ranking, counts missing, given for sets or beyond a ranking, a neuron ranked twice, sets
            that do not grow, a method named like a control, or what `evaluate_mitigation` refuses.
    """
    if counts is not None:
        check_list("count", counts)
    check_texts(neutral)
    named = dict(rankings) if isinstance(rankings, Mapping) else {"": rankings}
    if not named:
        raise ValueError("no rankings: there is nothing to deactivate")
    backend, how = backend_of(model), how_of("zero", factor=0.0, moments=None, seed=seed)
    conditions: list[Condition] = []
    for method, ranking in named.items():
        if is_control(method) or "@" in method:
            raise ValueError(f"a method cannot be called {method!r}: names of controls are reserved, and so is '@'")
        sets = _growing(backend, method, ranking, counts)
        check_sets(model, sets)
        for chosen in sets:
            name = f"{method}@{len(chosen)}" if method else str(len(chosen))
            conditions.append(Condition(name=name, draws=(chosen,), how=how))
    for chosen in _growing(backend, *next(iter(named.items())), counts) if n_random else []:
        (random,) = control_conditions(
            model, probes, chosen, ["random"], n_random=n_random, how=how, moments=None, seed=seed
        )
        conditions.append(Condition(name=f"random@{len(chosen)}", draws=random.draws, how=how))
    asked = Asked(
        model=model, probes=probes, measures=("extraction",), candidates=tuple(candidates or probes.records),
        neutral=neutral, n_neutral=n_neutral, knowledge=False, held_out_languages=(), seed=seed, batch_size=batch_size,
        progress=progress, control_people=control_people,
    )  # fmt: skip
    return asked.result(conditions, before)


def _growing(backend: Backend, method: str, ranking: Ranking, counts: Sequence[int] | None) -> list[NeuronSet]:
    """The sets of one ranking."""
    what = f"ranking {method!r}" if method else "the ranking"
    if isinstance(ranking, pd.DataFrame):
        ranking = list(zip(ranking["layer"], ranking["neuron"], strict=True))
    if not len(ranking):
        raise ValueError(f"{what} is empty: there is nothing to deactivate")
    sets = [chosen for chosen in ranking if isinstance(chosen, NeuronSet)]
    neurons = [(int(row[0]), int(row[1])) for row in ranking if not isinstance(row, NeuronSet)]
    if sets and (neurons or counts is not None):
        raise ValueError(f"{what} holds sets, which have sizes of their own; counts= cuts ordered lists of neurons")
    if not sets:
        if len(set(neurons)) < len(neurons):
            raise ValueError(f"{what} holds a neuron twice")
        if not counts or not all(1 <= count <= len(neurons) for count in counts):
            raise ValueError(f"{what} has {len(neurons)} neurons: give counts= of 1 to {len(neurons)}, got {counts}")
        name, shape = model_name(backend.model), (backend.n_layers, backend.d_mlp)
        sets = [NeuronSet(frozenset(neurons[:count]), *shape, name) for count in counts]
    sizes = [len(chosen) for chosen in sets]
    if sizes[0] == 0 or any(one >= other for one, other in pairwise(sizes)):
        raise ValueError(f"{what}: sets must grow from 1 neuron or more, got sizes {sizes}")
    return sets
