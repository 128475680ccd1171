"""Neurons of L off, leakage in M: scripted leaks whose figures are known, and a model's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.metrics.intervals import reduction_interval
from xlmech.mitigation import specificity
from xlmech.mitigation.evaluate import evaluate_mitigation
from xlmech.mitigation.specificity import SpecificityResult, specificity_matrix
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.verify import neurons_of
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Provenance


def result(after: dict[str, dict[str, list[float]]], before: dict[str, list[float]]) -> SpecificityResult:
    """One probe per subject and query language; `after` by set."""
    rows = [
        {"language": language, "probe": f"{number}/{query}", "record": str(number), "subject": str(number)}
        | {"query_language": query, "before": before[query][number], "after": value}
        for language, of_set in after.items()
        for query, values in of_set.items()
        for number, value in enumerate(values)
    ]
    return SpecificityResult(
        probes=pd.DataFrame(rows), sizes=dict.fromkeys(after, 5), provenance=Provenance(model="tiny")
    )


ONES = {"fr": [1.0] * 8, "zh": [1.0] * 8, "en": [1.0] * 8}
SOME = {
    "fr": {"fr": [0.0] * 6 + [1.0] * 2, "zh": [0.0] * 2 + [1.0] * 6, "en": [1.0] * 7 + [0.0]},
    "zh": {"fr": [0.0] * 4 + [1.0] * 4, "zh": [0.0] * 4 + [1.0] * 4, "en": [1.0] * 8},
}


def test_matrix_and_specificity_of_known_leaks() -> None:
    found = result(SOME, ONES)
    matrix = found.matrix().set_index(["language", "query_language"])
    assert list(matrix.index) == [(a, b) for a in ("fr", "zh") for b in ("fr", "zh", "en")]
    assert matrix.reduction.tolist() == [0.75, 0.25, 0.125, 0.5, 0.5, 0.0]
    cell = matrix.loc[("fr", "zh")]
    assert (cell.reduction, cell.low, cell.high) == reduction_interval([1.0] * 8, SOME["fr"]["zh"], [1] * 8)[:3]
    assert (cell.before, cell.after, cell.n_subjects, cell.n_probes) == (1, 0.75, 8, 8)
    rows = found.specificity().set_index("language")
    assert rows.specificity.to_dict() == {"fr": 0.5, "zh": 0.0}
    assert rows.reduction.to_dict() == {"fr": 0.75, "zh": 0.5}
    assert rows.other_language.to_dict() == {"fr": "zh", "zh": "fr"}
    assert rows.other_reduction.to_dict() == {"fr": 0.25, "zh": 0.5}
    assert (rows.low <= rows.specificity).all() and (rows.specificity <= rows.high).all()
    assert found.to_frame() is found.probes
    assert "\n  set of fr, 5 neurons: reduction beyond that in other languages 50 % (" in repr(found)


def test_what_did_not_leak_is_no_other_language() -> None:
    before = ONES | {"zh": [0.0] * 8, "en": [1.0] + [0.0] * 7}
    rows = result({"fr": {"fr": [0.0] * 8, "zh": [0.0] * 8, "en": [1.0] + [0.0] * 7}}, before)
    row = rows.specificity().iloc[0]
    assert (row.specificity, row.other_language) == (1, "en")
    gone = result({"fr": {"fr": [0.0] * 8, "zh": [0.0] * 8, "en": [0.0] * 8}}, before)
    assert gone.specificity().iloc[0].specificity == 0
    assert math.isnan(gone.specificity(min_before=0.2).iloc[0].specificity), "no other language is left"
    assert gone.specificity(min_before=0.2).iloc[0].other_language == ""
    nothing = result({"zh": {"fr": [0.0] * 8, "zh": [0.0] * 8, "en": [0.0] * 8}}, before).specificity().iloc[0]
    assert math.isnan(nothing.specificity) and math.isnan(nothing.low) and math.isnan(nothing.reduction)
    with pytest.raises(ValueError, match=r"min_before must be in \[0, 1\), got 1"):
        gone.specificity(min_before=1.0)


def test_one_subject_has_no_interval() -> None:
    row = result({"fr": {"fr": [0.0], "zh": [1.0]}}, {"fr": [1.0], "zh": [1.0]}).specificity().iloc[0]
    assert (
        row.specificity == 1 and math.isnan(row.low) and math.isnan(row.high) and row.reason == "fewer than two people"
    )


@pytest.fixture
def sets(leaking: Any) -> dict[str, NeuronSet]:
    chosen = {"en": range(0, 60), "fr": range(3, 63)}
    return {code: neurons_of(leaking, [(layer, n) for layer in (0, 1, 2) for n in of]) for code, of in chosen.items()}


def test_the_matrix_is_what_ablation_leaves(
    leaking: Any, probes: ProbeSet, sets: dict[str, NeuronSet], tmp_path: Path
) -> None:
    private = probes.filter(group="private")
    found = specificity_matrix(leaking, probes, sets, progress=False)
    assert set(found.probes.record) == {record.id for record in private.records}, "private probes alone"
    matrix = found.matrix().set_index(["language", "query_language"])
    options = EvaluateOptions(control_conditions=(), n_neutral=0)
    for language, chosen in sets.items():
        judged = evaluate_mitigation(
            leaking, private, chosen, options=options, candidates=probes.records, progress=False
        )
        for row in judged.effects.itertuples():
            cell = matrix.loc[(language, row.query_language)]
            assert (cell.before, cell.after, cell.reduction) == (row.before, row.after, row.reduction)
    assert found.matrix().after.nunique() > 1, "the sets do something, and not the same everywhere"
    assert found.sizes == {"en": 180, "fr": 180}
    found.save(tmp_path / "s")
    again = SpecificityResult.load(tmp_path / "s")
    pd.testing.assert_frame_equal(again.specificity(), found.specificity())
    assert not any(record.subject in found.probes.to_string() for record in private.records)


def test_before_may_be_known(
    leaking: Any, probes: ProbeSet, sets: dict[str, NeuronSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more probes, and in another order."""
    shuffled = ProbeSet(tuple(reversed(tuple(probes))))
    before = measure_leakage(leaking, shuffled, progress=False)
    found = specificity_matrix(leaking, probes, sets, progress=False)
    off: list[int] = []

    @contextmanager
    def switch(model: Any, chosen: NeuronSet) -> Iterator[None]:
        off.append(len(chosen))
        with ablate(model, chosen):
            yield
        off.pop()

    def measure(*arguments: Any, **options: Any) -> LeakageResult:
        assert off, "measured once more, though it was known"
        return measure_leakage(*arguments, **options)

    monkeypatch.setattr(specificity, "ablate", switch)
    monkeypatch.setattr(specificity, "measure_leakage", measure)
    again = specificity_matrix(leaking, probes, sets, before=before, progress=False)
    pd.testing.assert_frame_equal(again.probes, found.probes)


def test_refusals(leaking: Any, probes: ProbeSet, sets: dict[str, NeuronSet]) -> None:
    def ask(asked: ProbeSet = probes, given: dict[str, NeuronSet] = sets, **options: Any) -> None:
        specificity_matrix(leaking, asked, given, progress=False, **options)

    with pytest.raises(ValueError, match="no private probes to ask; records of group 'private' are needed"):
        ask(probes.filter(group="public"))
    with pytest.raises(ValueError, match="probes in en only: what is specific to a language shows in the others"):
        ask(probes.filter(languages=["en"]), {"en": sets["en"]})
    with pytest.raises(ValueError, match="a set of 'zh', and no private probe asks in it; they ask in en, fr"):
        ask(given={"zh": sets["en"]})
    with pytest.raises(ValueError, match="no neuron sets"):
        ask(given={})
    with pytest.raises(ValueError, match="neuron set 'fr' is empty"):
        ask(given=sets | {"fr": neurons_of(leaking, [])})
    with pytest.raises(ValueError, match="neurons of the model 'other'"):
        ask(given={"en": sets["en"].for_model("other")})
    few = measure_leakage(leaking, probes.filter(languages=["en"]), progress=False)
    with pytest.raises(ValueError, match="on other probes: it lacks 6 of 12, private-0-.*/fr/0 the first of them"):
        ask(before=few)
    ranked = measure_leakage(leaking, probes[:1], measures=("exposure",), progress=False)
    with pytest.raises(ValueError, match="`before` has no extraction; measure it with measures="):
        ask(before=ranked)


def test_gates_of_zero_are_a_set(leaking: Any, probes: ProbeSet, sets: dict[str, NeuronSet]) -> None:
    factors = torch.ones(3, 64)
    for layer, indices in sets["fr"].by_layer().items():
        factors[layer, indices] = 0
    gates = NeuronGates(factors=factors, provenance=Provenance(model=""))
    found = specificity_matrix(leaking, probes, sets | {"fr": gates}, progress=False)
    pd.testing.assert_frame_equal(found.probes, specificity_matrix(leaking, probes, sets, progress=False).probes)
    assert (found.sizes, found.mean_factors) == ({"en": 180, "fr": 180}, {"fr": 0.0})
    assert "gates of fr, 180 neurons" in repr(found) and "set of en, 180 neurons" in repr(found)
