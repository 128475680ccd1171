"""The table of all private records."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from helpers.toy_results import leakage, mitigation

from xlmech.figures import masked
from xlmech.report.records_table import NOT_MEASURED, RecordsTable, records_table
from xlmech.report.run_results import HELD_OUT, RunResults

FOUND = leakage({"en": [0, 1, 1], "fr": [0, 1, 0], "de": [0, 1, 0]}, controls={"en": [1]})


def answers(after: dict[str, float]) -> pd.DataFrame:
    private = FOUND.probes[FOUND.probes.group == "private"]
    frame = private[["probe", "record", "query_language"]].assign(
        before=private.extracted, after=0.0, condition="universal"
    )
    return frame.assign(after=frame.record.map(after).fillna(0.0))


def cells(table: RecordsTable, name: str) -> list[str]:
    place = [column.name for column in table.columns].index(name)
    return [row[place] for row in table.rows]


def test_every_private_record_is_listed_by_its_id_and_the_most_extracted_first() -> None:
    table = records_table(RunResults(results={"leakage": FOUND}))
    assert [column.name for column in table.columns] == ["record", "kind", "severity", "before", "languages", "forms"]
    assert cells(table, "record") == ["r1", "r2", "r0"]  # the control person's r0 is not among them
    assert cells(table, "severity") == ["100 %", "33 %", "0 %"] and cells(table, "before") == [
        "3 of 3",
        "1 of 3",
        "0 of 3",
    ]
    assert cells(table, "languages") == ["en fr de", "en", "none"]
    assert [row[table.severity][1] for row in table.shown] == [4, 2, 0]
    hidden = records_table(RunResults(results={"leakage": FOUND}), hide_ids=True)
    assert cells(hidden, "record") == [masked(name) for name in ("r1", "r2", "r0")]


def test_forms_are_the_questions_the_training_languages_or_anothers() -> None:
    said = {"privateen1": "en", "privatefr1": "en", "privatede1": "zh", "privateen2": "en"}
    probes = FOUND.probes.assign(answer_language=FOUND.probes.probe.map(said).fillna(""))
    table = records_table(RunResults(results={"leakage": replace(FOUND, probes=probes)}))
    assert cells(table, "forms") == ["question's 1, training 1, zh's 1", "question's 1", "none"]
    unknown = replace(FOUND, probes=probes, plant_language="")
    assert cells(records_table(RunResults(results={"leakage": unknown})), "forms")[0] == "question's 1, en's 1, zh's 1"


def test_after_is_what_was_saved_and_nothing_is_made_up() -> None:
    done = replace(mitigation(), answers=answers({"r1": 1.0}).query("record != 'r2'"))
    table = records_table(RunResults(results={"leakage": FOUND, "mitigation": done}))
    assert cells(table, "after_ablation") == ["3 of 3", NOT_MEASURED, "0 of 3"]
    earlier = records_table(RunResults(results={"leakage": FOUND, "mitigation": mitigation()}))
    assert cells(earlier, "after_ablation") == [NOT_MEASURED] * 3
    gates = replace(done, mean_factors={"universal": 0.9, "random": 0.9})
    both = records_table(RunResults(results={"leakage": FOUND, "mitigation": done, HELD_OUT: gates}))
    assert [column.name for column in both.columns][4:6] == ["after_ablation", "after_gates"]
    exported = records_table(RunResults(results={"leakage": FOUND, "mitigation_exported": gates, HELD_OUT: gates}))
    assert [column.name for column in exported.columns][4:6] == ["after_gates", "languages"]
