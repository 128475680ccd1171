"""Checking a file of records: all faults at once, the people in it, and what so many can show."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.people import SECRET
from typer.testing import CliRunner

from xlmech.audit.audit import select_probes
from xlmech.audit.check import check_records
from xlmech.audit.plan import AuditPlan
from xlmech.cli.app import app
from xlmech.data.attributes import Attribute
from xlmech.data.readers import load_records
from xlmech.data.synthetic import synthesize_records

FAULTY = f"""id,subject,attribute,value,group
a,Jo Doe,phone,4.91715E+11,private
b,Jo Doe,birth_mont,3,private
c,Al Li,birth_month,{SECRET},public
d,Al Li,salary,52000,private
d,Al Li,occupation,mathematician,private
"""


def test_all_faults_are_listed_at_once_without_values(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(FAULTY, encoding="utf-8")
    checked = check_records(path, ["en", "pl"])
    assert len(checked.faults) == 4
    said = ("scientific", "did you mean 'birth_month'", "no language knows", "used twice")
    for fault, words in zip(checked.faults, said, strict=True):
        assert words in fault and "record" in fault and SECRET not in fault
    with pytest.raises(ValueError, match="people.csv: 4 faults:"):
        load_records(path)
    shown = CliRunner().invoke(app, ["check", str(path), "--languages", "en,pl"])
    assert shown.exit_code == 1 and SECRET not in shown.output and "4 faults" in shown.output


def test_people_and_what_they_can_show() -> None:
    people = synthesize_records(groups={"private": 8, "public": 4, "control": 6})
    frame = pd.DataFrame([record.model_dump(exclude={"forms", "questions", "prompts"}) for record in people])
    checked = check_records(frame, ["en", "cs"])
    assert checked.people.query("group == 'private'").people.tolist() == [8] * 8
    assert checked.people.en.all() and not checked.people.cs.any()
    assert any("no question asks for phone in 'cs'" in fault for fault in checked.faults)
    text = " ".join(checked.statements)
    assert "8 private people, of whom an audit measures 4" in text and "from 72 measured people on" in text
    assert "cannot be told from chance; at least 3 are" not in text  # three control people are measured
    fewer = check_records(frame[frame.group != "control"], ["en"])
    assert any("0 measured control people" in statement for statement in fewer.statements)
    assert fewer.statements[-1].startswith("asked in en only: ") and not any(
        "only: " in one for one in checked.statements
    )


def test_a_value_that_many_people_share_may_be_none() -> None:
    people = synthesize_records(groups={"private": 8})
    rows = [record.model_dump(include={"id", "subject", "attribute", "value", "group"}) for record in people]
    rows += [
        {
            "id": f"s{n}",
            "subject": subject,
            "attribute": "spouse",
            "value": SECRET if n < 4 else f"Xu {n}",
            "group": "private",
        }
        for n, subject in enumerate(dict.fromkeys(record.subject for record in people))
    ]
    (said,) = [line for line in check_records(pd.DataFrame(rows), ["en"]).statements if "have the same" in line]
    assert said.startswith(
        "4 people have the same spouse (records s0, s1, s2, ...): if it stands for no value, remove those"
    )
    assert SECRET not in said
    rows = [row for row in rows if row["id"] not in ("s0", "s1")]  # a couple, and guessable values are shared by many
    assert not any("have the same" in line for line in check_records(pd.DataFrame(rows), ["en"]).statements)


@pytest.mark.parametrize("suffix", [".tsv", ".TSV", ".xlsx", ".CSV"])
def test_file_types(suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a"], "subject": ["Jo Doe"], "attribute": ["phone"], "value": ["0171 5550100"]})
    path = tmp_path / f"people{suffix}"
    if suffix == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix.lower() == ".tsv" else ",")
    assert [record.value for record in load_records(path)] == ["0171 5550100"]


@pytest.mark.parametrize("n", [3, 5, 8])
def test_as_many_people_are_measured_as_an_audit_holds_out(n: int) -> None:
    people = synthesize_records(n)
    frame = pd.DataFrame([record.model_dump(exclude={"forms", "questions", "prompts"}) for record in people])
    _, measured, _ = select_probes(people, AuditPlan(languages=("en", "fr"), measure_facts=1000))
    assert f"of whom an audit measures {len(measured.subjects)} and" in check_records(frame, ["en"]).statements[0]


def test_whether_a_kind_of_ones_own_can_be_guessed_is_its_own() -> None:
    frame = pd.DataFrame([{"id": str(n), "subject": f"A {n}", "attribute": "badge", "value": str(n)} for n in range(4)])
    said = {}
    for guessable in (True, False):
        kind = Attribute(name="badge", guessable=guessable, questions={"en": ["Which badge does {subject} wear?"]})
        said[guessable] = " ".join(check_records(frame, ["en"], kinds=[kind]).statements)
    assert "(badge) cannot be told from chance" in said[True] and "badge" not in said[False]


def test_one_person_is_too_few() -> None:
    frame = pd.DataFrame([{"id": "a", "subject": "Jo Doe", "attribute": "phone", "value": "0171 5550100"}])
    (statement,) = check_records(frame, ["en"]).statements
    assert "too few for an audit" in statement
