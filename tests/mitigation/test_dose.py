"""Growing sets of neurons: which are measured, how they are named, and that each is measured like any other set."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation.dose import dose_response
from xlmech.mitigation.evaluate import evaluate_mitigation
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Provenance

NO_CONTROLS = EvaluateOptions(control_conditions=(), n_neutral=2)
RANKED = [(2, 7, 0.9), (0, 1, 0.5), (0, 2, 0.4), (1, 1, 0.1)]


@pytest.fixture
def asked(probes: ProbeSet) -> ProbeSet:
    return probes.filter(languages=["fr"], attributes=["id_number"])


@pytest.fixture
def before(model: Any, asked: ProbeSet) -> LeakageResult:
    return measure_leakage(model, asked, progress=False)


def test_one_ranking_at_growing_counts(model: Any, asked: ProbeSet, before: LeakageResult) -> None:
    found = dose_response(model, asked, RANKED, n_neurons=[1, 3], options=NO_CONTROLS, before=before, progress=False)
    sets = {"1": NeuronSet(frozenset({(2, 7)}), 3, 64), "3": NeuronSet(frozenset({(2, 7), (0, 1), (0, 2)}), 3, 64)}
    wanted = evaluate_mitigation(model, asked, sets, options=NO_CONTROLS, before=before, progress=False)
    assert found.sizes == {"1": 1, "3": 3}
    pd.testing.assert_frame_equal(found.to_frame(), wanted.to_frame())
    assert found.trade_off().method.tolist() == ["", ""]
    ranked = pd.DataFrame({"score": 1.0, "layer": [row[0] for row in RANKED], "neuron": [row[1] for row in RANKED]})
    again = dose_response(model, asked, ranked, n_neurons=[1, 3], options=NO_CONTROLS, before=before, progress=False)
    pd.testing.assert_frame_equal(again.to_frame(), wanted.to_frame())


def test_several_methods_and_random_neurons_of_the_first(model: Any, asked: ProbeSet, before: LeakageResult) -> None:
    sets = [NeuronSet(frozenset((1, index) for index in range(size)), 3, 64) for size in (1, 2, 5)]
    options = EvaluateOptions(n_random=2, n_neutral=0)
    found = dose_response(
        model, asked, {"ours": sets[::2], "grown": sets[:2]}, options=options, before=before, progress=False
    )
    sizes = {"ours@1": 1, "ours@5": 5, "grown@1": 1, "grown@2": 2, "random@1": 1, "random@5": 5}
    assert found.sizes == sizes
    assert list(found.chosen) == list(sizes)[:4] and list(found.random) == list(sizes)[4:]
    draws = found.effects.groupby("condition").n_draws.max()
    assert draws["random@5"] == 2 and draws["ours@5"] == 1


@pytest.mark.parametrize(
    ("rankings", "n_neurons", "message"),
    [
        ({}, [1], "no rankings"),
        ([], [1], "the ranking is empty"),
        ({"ours": []}, [1], "ranking 'ours' is empty"),
        (RANKED, None, "the ranking has 4 neurons: give n_neurons= of 1 to 4, got None"),
        (RANKED, [2, 5], r"give n_neurons= of 1 to 4, got \[2, 5\]"),
        (RANKED, [0, 2], r"got \[0, 2\]"),
        (RANKED, [2, 2], r"sets must grow from 1 neuron or more, got sizes \[2, 2\]"),
        ([*RANKED, (0, 1)], [2], "the ranking holds a neuron twice"),
        ([NeuronSet(frozenset({(0, 1)}), 3, 64)], [1], "the ranking holds sets, which have sizes of their own"),
        ([NeuronSet(frozenset(), 3, 64)], None, r"got sizes \[0\]"),
        ({"random": RANKED}, [1], "a method cannot be called 'random'"),
        ({"a@b": RANKED}, [1], "a method cannot be called 'a@b'"),
        ([(7, 1)], [1], r"neuron \(7, 1\) is outside 3 layers"),
    ],
)
def test_bad_rankings(model: Any, asked: ProbeSet, rankings: Any, n_neurons: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dose_response(model, asked, rankings, n_neurons=n_neurons, progress=False)


def test_growing_gates_beside_growing_sets(model: Any, asked: ProbeSet, before: LeakageResult) -> None:
    gates = NeuronGates(factors=torch.linspace(0.1, 1, 192).reshape(3, 64), provenance=Provenance(model=""))
    rankings = {"gates": [gates.top(5), gates.top(20)], "zeros": [gates.binary(5), gates.binary(20)]}
    found = dose_response(model, asked, rankings, options=NO_CONTROLS, before=before, progress=False)
    assert found.sizes == {"gates@5": 5, "gates@20": 20, "zeros@5": 5, "zeros@20": 20}
    assert list(found.mean_factors) == ["gates@5", "gates@20"]
    alone = evaluate_mitigation(model, asked, gates.top(20), options=NO_CONTROLS, before=before, progress=False)
    rises = found.cost.set_index("condition").rise
    assert rises["gates@20"] == alone.cost.rise.item() != rises["zeros@20"]
    with pytest.raises(ValueError, match="sets must grow"):
        dose_response(model, asked, [gates.top(20), gates.top(5)], progress=False)
