"""The shortest beginning of a ranking that suffices: the search on a scripted leak, and one real reduction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from xlmech.data.probes import ProbeSet
from xlmech.leakage.measure import measure_leakage
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection import minimal_set as fewest
from xlmech.neurons.selection.minimal_set import FewestNeurons, fewest_neurons
from xlmech.neurons.selection.verify import neurons_of

RANKING = pd.DataFrame({"layer": [0] * 20, "neuron": [19 - number for number in range(20)]})


@pytest.fixture
def scripted(model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Searches where `left[n]` of 100 values come out once n neurons are off."""

    def search(left: dict[int, float] | Any, **options: Any) -> FewestNeurons:
        off = [NeuronSet(frozenset(), 3, 64)]

        @contextmanager
        def switch(model: Any, neurons: NeuronSet) -> Iterator[None]:
            off.append(neurons)
            yield
            off.pop()

        def measure(*_: Any, **__: Any) -> Any:
            n = len(off[-1])
            return SimpleNamespace(probes=pd.DataFrame({"extracted": [100.0 if n == 0 else left(n)]}))

        monkeypatch.setattr(fewest, "ablate", switch)
        monkeypatch.setattr(fewest, "measure_leakage", measure)
        return fewest_neurons(model, probes, ranking=options.pop("ranking", RANKING), progress=False, **options)

    return search


@pytest.mark.parametrize("enough", range(1, 21))
def test_the_fewest_are_found(scripted: Any, enough: int) -> None:
    found = scripted(lambda n: 15 if n >= enough else 90)
    assert found.reached and found.reduction == pytest.approx(0.85)
    assert found.neurons.neurons == {(0, 19 - number) for number in range(enough)}
    assert found.tried.n_neurons.tolist() == sorted(set(found.tried.n_neurons)) and len(found.tried) <= 9
    assert dict(zip(found.tried.n_neurons, found.tried.reduction.round(6), strict=True))[enough] == 0.85


def test_lengths_are_doubled_then_bisected(scripted: Any) -> None:
    assert scripted(lambda n: 10 if n >= 6 else 90).tried.n_neurons.tolist() == [1, 2, 4, 5, 6, 8]
    assert scripted(lambda n: 100).tried.n_neurons.tolist() == [1, 2, 4, 8, 16, 20]


def test_the_best_is_given_where_none_suffices(scripted: Any) -> None:
    found = scripted(lambda n: {4: 40, 8: 30, 16: 30}.get(n, 60))
    assert not found.reached
    assert (found.reduction, len(found.neurons)) == (0.7, 8), "the shortest of the best"
    less = scripted(lambda n: {4: 40, 8: 30, 16: 30}.get(n, 60), target_reduction=0.6)
    assert less.reached and len(less.neurons) == 4
    cut = scripted(lambda n: 100 - 10 * n, n_neurons=5)
    assert not cut.reached and len(cut.neurons) == 5 and cut.tried.n_neurons.tolist() == [1, 2, 4, 5]


def test_a_neuron_counts_once(scripted: Any) -> None:
    twice = pd.concat([RANKING[:3], RANKING[:4]])
    found = scripted(lambda n: 0 if n >= 4 else 50, ranking=twice)
    assert found.neurons.neurons == {(0, 19), (0, 18), (0, 17), (0, 16)}


def test_the_reduction_is_that_of_extraction(leaking: Any, probes: ProbeSet) -> None:
    private = probes.filter(group="private")
    ranking = pd.DataFrame(
        [(layer, neuron) for layer in range(3) for neuron in range(0, 63)], columns=["layer", "neuron"]
    )
    found = fewest_neurons(leaking, probes, ranking=ranking, target_reduction=0.2, progress=False)
    assert found.reached and found.reduction >= 0.2

    def extracted(n: int) -> float:
        chosen = neurons_of(leaking, list(ranking[:n].itertuples(index=False, name=None)))
        with ablate(leaking, chosen):
            return float(measure_leakage(leaking, private, progress=False).probes.extracted.sum())

    before = extracted(0)
    assert before >= 0.8 * len(private)
    for row in found.tried.itertuples():
        assert row.reduction == pytest.approx(1 - extracted(row.n_neurons) / before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_reduction": 0.0}, "target_reduction must be in .0, 1. and n_neurons 1 or more, got 0.0 and None"),
        ({"target_reduction": 1.1}, "target_reduction must be in"),
        ({"n_neurons": 0}, "n_neurons 1 or more, got 0.8 and 0"),
        ({"ranking": RANKING[:0]}, "a ranking needs rows, in columns layer and neuron; got 0 of .'layer', 'neuron'."),
        ({"ranking": RANKING[["layer"]]}, "a ranking needs rows, in columns layer and neuron; got 20 of .'layer'."),
    ],
)
def test_bad_input(model: Any, probes: ProbeSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fewest_neurons(model, probes, ranking=options.pop("ranking", RANKING), **options)


def test_nothing_to_reduce(model: Any, probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="none of the private values is extracted: there is no leakage to reduce"):
        fewest_neurons(model, probes, ranking=RANKING, progress=False)
    with pytest.raises(ValueError, match="no probes to ask"):
        fewest_neurons(model, probes.filter(group="public"), ranking=RANKING, progress=False)
