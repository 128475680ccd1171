"""How often neurons are chosen again: attributions made by hand whose answer is known, and a model's own."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.toy_attribution import BIG, CODES, made

from xlmech.data.probes import ProbeSet
from xlmech.neurons.attribution.attribute import attribute_neurons
from xlmech.neurons.evidence.stability import StabilityResult, chosen_again, pool_of, selection_stability
from xlmech.neurons.neuron_set import NeuronSet, overlap
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.rules import chosen_frame, select_universal
from xlmech.storage.result import Provenance


def shares(found: StabilityResult) -> dict[tuple[int, int], float]:
    return {(row.layer, row.neuron): row.share for row in found.neurons.itertuples()}


def test_what_rests_on_one_subject_is_chosen_as_often_as_that_subject() -> None:
    """(0, 1) acts in one subject of five, strongly; without that one (0, 2) is chosen, which acts a little in all."""
    private = made({(0, 1): [0.9, 0, 0, 0, 0], (0, 2): [0.05] * 5})
    found = selection_stability(private, n_neurons=2, n_draws=2000)
    assert shares(found)[BIG] == 1
    assert shares(found)[(0, 1)] == pytest.approx(1 - 0.8**5, abs=0.03)
    assert shares(found)[(0, 1)] + shares(found)[(0, 2)] == pytest.approx(1)
    assert found.neurons[found.neurons.chosen][["layer", "neuron"]].values.tolist() == [list(BIG), [0, 1]]
    subjects = found.draws[found.draws.by == "subjects"].jaccard
    assert set(subjects) == {1.0, 1 / 3} and (subjects == 1).mean() == shares(found)[(0, 1)]
    halves = found.draws[found.draws.by == "halves"].jaccard
    assert set(halves) == {1 / 3}, "the one subject is in one half, and not in the other"
    summary = found.summary().set_index("by")
    assert summary.jaccard["halves"] == pytest.approx(1 / 3) and summary.n_draws["subjects"] == 2000
    assert (summary.low["subjects"], summary.high["subjects"]) == pytest.approx((1 / 3, 1))


def test_alike_subjects_choose_alike_and_templates_may_not() -> None:
    """Template 0 asks through (0, 1), template 1 through (0, 2): together they choose both."""
    private = made({(0, 1): [0.5, 0.0] * 5, (0, 2): [0.0, 0.4] * 5}, templates=2)
    found = selection_stability(private, n_neurons=2, n_draws=20)
    summary = found.summary().set_index("by")
    assert summary.jaccard.to_dict() == {"subjects": 1.0, "halves": 1.0, "templates": pytest.approx(1 / 3)}
    assert summary.what["templates"] == "0 and 1" and summary.n_draws["templates"] == 20
    assert list(shares(found)) == [(0, 1), BIG] and set(shares(found).values()) == {1.0}


def test_in_one_language_its_own_neurons_are_chosen_again() -> None:
    """(0, 1) acts in English for one subject of five alone, (0, 2) in all of them a little; French does not matter."""
    private = made({(0, 1): [0.9, 0, 0, 0, 0], (0, 2): [0.05] * 5}, codes=("en",))
    found = selection_stability(private, n_neurons=2, n_draws=2000)
    assert shares(found)[BIG] == 1 and shares(found)[(0, 1)] == pytest.approx(1 - 0.8**5, abs=0.03)


def test_a_neuron_must_act_in_every_language_and_not_on_public_facts() -> None:
    private = made({(0, 1): [0.5] * 5, (0, 2): [0.4] * 5})
    french_lacks = dataclasses.replace(
        private, top=private.top[~(private.top.probe.str.contains("/fr/") & (private.top.neuron == 1))]
    )
    assert (0, 1) not in shares(selection_stability(french_lacks, n_neurons=3, n_draws=5))
    public = made({(0, 1): [0.9] * 5})
    found = selection_stability(private, public, n_neurons=3, contrast=0.5, n_draws=5)
    assert shares(found) == {BIG: 1.0, (0, 1): 1.0, (0, 2): 1.0}
    assert shares(selection_stability(private, public, n_neurons=3, contrast=0.6, n_draws=5)).keys() == {BIG, (0, 2)}
    assert found.tracked == 1.0
    unknown = made({(0, 1): [0.5, None, None, 0.5, 0.5]})
    assert selection_stability(unknown, n_neurons=2, n_draws=5).tracked == pytest.approx(0.6)


def test_the_whole_choice_is_that_of_the_rule(leaking: Any, probes: ProbeSet, tmp_path: Path) -> None:
    """With every neuron tracked, scores are those that `attribute_neurons` averages itself."""
    private = probes.filter(group="private")
    every = NeuronSet(frozenset((layer, n) for layer in range(3) for n in range(64)), 3, 64)
    few = NeuronSet(frozenset({(0, 1), (2, 60)}), 3, 64)
    options: dict[str, Any] = {"progress": False}
    people = attribute_neurons(leaking, private, track=every, **options)
    with pytest.raises(ValueError, match="private probes of 3 subjects: resampling takes 4 or more"):
        selection_stability(people, n_neurons=5)
    people = dataclasses.replace(people, probes=people.probes.assign(subject=people.probes.probe.str.slice(0, 20)))
    found = selection_stability(people, n_neurons=6, n_draws=10)
    nobody = torch.zeros_like(people.mean, dtype=torch.bool)
    wanted = select_universal(people.mean, rule="min", n_neurons=6, is_candidate=nobody)
    chosen = found.neurons[found.neurons.chosen]
    assert set(zip(chosen.layer, chosen.neuron, strict=True)) == {(layer, n) for layer, n, _ in wanted}
    assert found.tracked == 1 and found.to_frame() is found.neurons
    tracked = attribute_neurons(leaking, private[:2], track=few, **options).top
    assert tracked.groupby("probe").size().tolist() == [192, 192], "so small a model is kept whole"
    found.save(tmp_path / "s")
    again = StabilityResult.load(tmp_path / "s")
    pd.testing.assert_frame_equal(again.summary(), found.summary())
    with pytest.raises(ValueError, match="neurons of a model with"):
        attribute_neurons(leaking, private[:1], track=NeuronSet(frozenset(), 9, 64), **options)


def test_tracked_neurons_are_kept_beside_the_top(
    leaking: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, tracked = probes.filter(group="private")[:3], [(0, 1), (0, 2), (2, 60)]
    options: dict[str, Any] = {"progress": False}
    whole = attribute_neurons(leaking, few, **options).top.set_index(["probe", "layer", "neuron"]).effect
    monkeypatch.setattr("xlmech.neurons.attribution.accumulator.TOP_PER_PROBE", 4)
    found = attribute_neurons(leaking, few, track=NeuronSet(frozenset(tracked), 3, 64), **options).top
    for _, part in found.groupby("probe"):
        held = list(zip(part.layer, part.neuron, strict=True))
        assert len(held) == len(set(held)) and set(tracked) <= set(held)
        assert part.effect.tolist()[:4] == sorted(part.effect, reverse=True)[:4]
    assert 3 * 4 < len(found) <= 3 * 7
    own = found.set_index(["probe", "layer", "neuron"]).effect
    assert own.tolist() == whole[own.index].tolist()


def test_pool_and_sets() -> None:
    scores = torch.tensor([[[0.9, 0.1, 0.5]], [[0.2, 0.7, 0.5]]])
    located = PrivacyNeurons(
        languages=CODES, scores=scores, chosen=chosen_frame([]), rule="min", model="m", provenance=Provenance(model="m")
    )
    assert pool_of(located, 2) == NeuronSet(frozenset({(0, 2), (0, 0)}), 1, 3, "m")
    assert len(pool_of(located, 99)) == 3
    sets = {str(n): NeuronSet(frozenset({(0, 0), (0, n)}), 1, 3) for n in (1, 2)}
    found = chosen_again(sets)
    assert found.values.tolist() == [[0, 0, 1.0], [0, 1, 0.5], [0, 2, 0.5]]
    assert overlap(sets).loc["1", "2"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="1 neuron set: how often a neuron is chosen again takes two or more"):
        chosen_again({"1": sets["1"]})
    with pytest.raises(ValueError, match="neuron sets of different models"):
        chosen_again(sets | {"3": NeuronSet(frozenset(), 2, 3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_neurons": 0},
            "n_neurons must be 1 or more, n_draws 2 or more, contrast a finite number from 0 on; got 0, 500 and 0.5",
        ),
        ({"n_draws": 1}, "n_draws 2 or more"),
        ({"contrast": math.nan}, "contrast a finite number from 0 on"),
        (
            {"private": dataclasses.replace(made({}), probes=pd.DataFrame())},
            "the private attributions do not list their probes",
        ),
        ({"public": made({}, codes=("en",))}, "no public attributions in fr"),
        (
            {"public": dataclasses.replace(made({}), mean=torch.zeros(2, 3, 8))},
            r"public attributions of a model with .* \(3, 8\); the private ones have \(2, 8\)",
        ),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    given = {"private": made({}), "public": None, "n_neurons": 2} | options
    with pytest.raises(ValueError, match=message):
        selection_stability(given.pop("private"), given.pop("public"), **given)
