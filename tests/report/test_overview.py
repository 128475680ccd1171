"""Tiles, the matrix of kinds and languages, and the table by language."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from helpers.toy_results import leakage, mitigation

from xlmech.leakage.above_controls import compare
from xlmech.report.overview import language_table, matrix, severity, tiles
from xlmech.report.run_results import GIVEN, HELD_OUT, RunResults


def shown(found: Any, **more: Any) -> dict[str, tuple[str, str]]:
    results = RunResults(results={"leakage": found} | more)
    return {tile.label: (tile.value, tile.note) for tile in tiles(results, compare(found))}


def test_tiles_are_of_what_was_measured() -> None:
    found = leakage({"en": [1, 1, 1, 0], "fr": [1, 0, 0, 0]}, controls={"en": [0, 0, 0, 0], "fr": [0, 0, 0, 0]})
    few = shown(found)
    assert list(few) == ["extracted", "by chance"]
    value, note = few["extracted"]
    assert value == "50 %" and note.endswith(" %; 4 people, 8 questions")
    assert few["by chance"][0] == "0 %" and "4 people whom the model never saw" in few["by chance"][1]
    assert list(shown(leakage({"en": [1, 0]}))) == ["extracted"]  # without control people chance is not known


def test_tiles_of_remedies_name_people_neurons_and_intervals() -> None:
    found = leakage({"en": [1, 1, 1, 0]}, controls={"en": [0, 0, 0, 0]})
    done = shown(found, mitigation=mitigation())
    assert done["after ablation"] == ("10 %", "no interval; 40 people; 74 neurons ablated")
    assert done["public facts kept"][0] == "90 %"
    row = {
        "condition": "universal",
        "before": 0.8,
        "after": 0.2,
        "after_low": 0.1,
        "after_high": 0.4,
        "reduction": 0.75,
    }
    row |= {"low": 0.5, "high": 0.9, "n_subjects": 40, "n_probes": 80}
    groups = pd.DataFrame(
        [row | {"group": "private"}, row | {"group": "public", "after": 0.6, "low": 0.1, "high": 0.5}]
    )
    gates = replace(mitigation(), overall=groups, mean_factors={"universal": 0.9, "random": 0.9})
    done = shown(found, mitigation=mitigation(), **{GIVEN: gates, HELD_OUT: gates})
    assert done["after gates, given people"] == (
        "20 %",
        "instead of 80 %; 10 to 40 %; 40 people; 74 neurons turned down",
    )
    assert done["after gates, held-out people"] == ("20 %", "10 to 40 %; 40 people; 74 neurons turned down")
    exported = shown(found, mitigation_exported=gates, **{HELD_OUT: gates})
    assert list(exported) == ["extracted", "by chance", "after gates, held-out people", "public facts kept"]
    assert exported["public facts kept"] == ("75 %", "50 to 90 %; 40 people; of those known before")


@pytest.mark.parametrize(
    ("share", "level"), [(0.0, 0), (0.01, 1), (0.25, 1), (0.26, 2), (0.75, 3), (1.0, 4), (math.nan, -1)]
)
def test_severity_has_five_steps(share: float, level: int) -> None:
    assert severity(share) == level


def test_the_matrix_has_each_kind_and_language_and_says_what_was_not_asked() -> None:
    found = leakage({"en": [1, 1, 0, 0], "fr": [1, 0, 0, 0]}, controls={"en": [0] * 4, "fr": [0] * 4}, plant="fr")
    probes = found.probes
    person = probes.subject.str.extract(r"(\d+)$")[0].astype(int)
    probes = probes.assign(attribute=probes.attribute.where(person > 0, "job"))
    probes = probes[~((probes.attribute == "job") & (probes.query_language == "en"))]
    results = RunResults(results={"leakage": replace(found, probes=probes)})
    made = matrix(results, compare(results.leakage))
    assert [code for code, _ in made["codes"]] == ["fr", "en"]  # the training language first
    job, city = made["rows"]
    assert (job.kind, [cell.text for cell in job.cells], job.overall.text) == ("job", ["100", "–"], "100")
    assert [cell.level for cell in job.cells] == [4, -1] and job.cells[1].note == "not asked"
    assert (city.kind, [cell.text for cell in city.cells]) == ("city", ["0", "33"])
    assert city.cells[1].note == "33 % of 3 questions about 3 people" and job.overall.note.endswith(
        "of 1 question about 1 person"
    )
    assert made["total"].found is not None and [each.n_subjects for each in made["languages"]] == [4, 3]


def test_the_table_by_language_rounds_like_the_figures() -> None:
    found = leakage({"en": [1, 1, 0, 0], "fr": [1, 0, 0, 0]}, controls={"en": [0] * 4, "fr": [0] * 4})
    done = mitigation()
    cost = done.cost.assign(rise=[-0.014, -0.0001, 0.0])
    results = RunResults(results={"leakage": found, "mitigation": replace(done, cost=cost)})
    table = language_table(results, compare(found))
    assert [row[-1] for row in table["rows"]] == ["−1.4 %", "0.0 %"]
    assert table["ablated"] == "74 neurons (universal) ablated"
    assert language_table(RunResults(results={"leakage": found}), compare(found))["columns"][-1] == "judged"
