"""What is refused when a caller passes something else: one sentence with the remedy, and nothing of the data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.people import SECRET, phone

from xlmech.audit.check import check_records
from xlmech.data.attributes import Attribute, all_attributes
from xlmech.data.candidates import candidate_forms
from xlmech.data.questions import build_probes
from xlmech.data.readers import load_records, save_records
from xlmech.data.records import Record

BADGE = Attribute(name="badge", questions={"en": ["Which badge has {subject}?"]})
ROW = {"id": "a", "subject": "Jo Doe", "attribute": "phone", "value": SECRET}


def refusal(call: Callable[[], Any], kind: type[Exception] = ValueError) -> str:
    """The message of what is raised, which is one sentence and shows no value."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and SECRET not in message and "Jo Doe" not in message and "pydantic" not in message
    return message


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("people.csv", "got a str; read it by load_records"),
        (Path("people.csv"), "read it by load_records"),
        (pd.DataFrame([ROW]), "got a DataFrame; read it by load_records"),
        (ROW, "got a dict; make it a list of Record"),
        ([ROW, phone()], "1 of 2 are no Record, such as a dict; make each one by Record(...)"),
        (phone(), "got one Record alone; give a list: [record]"),
        (None, "got a NoneType; make it a list of Record"),
    ],
    ids=["text", "path", "frame", "dict", "rows", "record", "none"],
)
def test_records_are_a_list_of_records(records: Any, message: str, tmp_path: Path) -> None:
    probes = build_probes([phone()], ["en"])
    for call in (lambda: build_probes(records), lambda: save_records(records, tmp_path / "a.csv")):
        assert message in refusal(call)
    if records is not None:
        assert message in refusal(lambda: candidate_forms(probes, records))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (BADGE, "kinds: expected a list of Attribute, got one alone; give a list: [badge]"),
        ("kinds.toml", "got a str; read it by load_attributes"),
        ({"badge": {}}, "got a dict; read it by load_attributes"),
        (["badge"], "got a str in the list; make it by Attribute(...)"),
    ],
    ids=["one", "path", "dict", "names"],
)
def test_kinds_are_a_list_of_attributes(kinds: Any, message: str) -> None:
    frame = pd.DataFrame([ROW])
    for call in (
        lambda: all_attributes(kinds),
        lambda: build_probes([phone()], ["en"], kinds=kinds),
        lambda: load_records(frame, kinds=kinds),
        lambda: check_records(frame, kinds=kinds),
    ):
        assert message in refusal(call)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": ["0"]}, "templates: expected numbers, counted from 0; give a list such as [0, 1]"),
        ({"prompt": None}, "prompt: expected a text or a PromptFormat, got NoneType; use 'plain', 'qa'"),
        ({"prompt": 3}, "got int"),
    ],
    ids=["templates", "no prompt", "number"],
)
def test_options_of_probes(options: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: build_probes([phone()], ["en"], **options))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compare": "colour"}, "Attribute: compare: Input should be 'text'"),
        (
            {"questions": {"en": "Who?"}},
            "Attribute: questions: Value error, en[0]: 'Who?' must hold {subject} exactly once",
        ),
        ({"questions": {"English": "Who is {subject}?"}}, "'English' is no language code"),
        ({"questions": {"EN": "Who is {subject}?"}}, "'EN' is no language code as packs name it; write 'en'"),
        ({"values": {"high": {"English": "high"}}}, "'English' is no language code"),
        ({"values": {"high": {"high"}}}, "Attribute: values.high: Input should be a valid"),
        ({"colour": SECRET}, "Attribute: colour: Extra inputs are not permitted"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_a_kind_of_data(fields: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: Attribute(name="badge", **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": 447700900123}, "Record: value: Input should be a valid string"),
        ({"forms": {SECRET}}, "Record: forms: Input should be a valid dictionary"),
        (
            {"questions": {"en": "What is {foo} of {subject}?"}},
            "en: a question must hold {subject} exactly once, and no other",
        ),
        ({"questions": {"en": "What of {subject}{"}}, "and no other brace"),
    ],
    ids=["number", "set", "placeholder", "brace"],
)
def test_a_record(fields: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: Record(**{**ROW, **fields}))  # type: ignore[arg-type]


def table(folder: Path, text: str, name: str = "a.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


TABLES = {
    "header only": (
        "a.csv",
        "id,subject,attribute,value\n",
        "a.csv: no records in it; write one row per fact, below a header",
    ),
    "semicolons": (
        "a.csv",
        f"id;subject;attribute;value\na;Jo;phone;{SECRET}\n",
        "columns are separated by ';'; save it with",
    ),
    "huge cell": (
        "a.csv",
        f'id,subject,attribute,value\na,Jo,phone,"{"x" * csv.field_size_limit()}x"\n',
        "a.csv, record 1 (line 2): a field has more than 131,072 characters; close the quotes",
    ),
    "placeholder": (
        "a.csv",
        f"id,subject,attribute,value,question_en\na,Jo,badge,{SECRET},What is {{foo}} of {{subject}}?\n",
        "questions: en: a question must hold {subject} exactly once, and no other brace",
    ),
    "a form column twice": (
        "a.csv",
        f"id,subject,attribute,value,form_en,form_en-GB\na,Jo,phone,{SECRET},1,2\n",
        "columns form_en, form_en-GB are all of language 'en'; keep one",
    ),
    "a column without a name": (
        "a.csv",
        f"id,subject,attribute,value,\na,Jo,phone,{SECRET},x\n",
        "a.csv: a column has no name in the header; name it, or remove it",
    ),
    "nested value": (
        "a.jsonl",
        json.dumps({**ROW, "value": {"number": SECRET}}),
        "value: Input should be one text, not a list or an object; write one row per value",
    ),
    "forms without languages": (
        "a.jsonl",
        json.dumps({**ROW, "forms": [SECRET]}),
        "forms: expected a mapping from language",
    ),
    "forms of no language": (
        "a.jsonl",
        json.dumps({**ROW, "forms": {"English": SECRET}}),
        "forms: 'English' is no language",
    ),
}


@pytest.mark.parametrize(("name", "text", "message"), TABLES.values(), ids=TABLES)
def test_tables(name: str, text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(lambda: load_records(table(tmp_path, text, name)))


def test_a_mapping_is_no_dataset() -> None:
    assert "not dict" in refusal(lambda: load_records({"id": ["a"], "value": [SECRET]}), TypeError)  # type: ignore[arg-type]


def test_capital_keys_are_read_in_jsonl(tmp_path: Path) -> None:
    row = {"ID": "a", "Subject": "Jo Doe", "ATTRIBUTE": "phone", "Value": "0171 5550100", "Forms": None}
    (record,) = load_records(table(tmp_path, json.dumps({**row, "forms": {"FR": "0171"}}), "a.jsonl"))
    assert record.value == "0171 5550100" and record.forms == {"fr": "0171"}


@pytest.mark.parametrize("suffix", ["csv", "xlsx", "parquet"])
def test_an_index_that_pandas_wrote_is_left_out(suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame([{**ROW, "id": name} for name in "abc"]).sample(frac=1, random_state=1)
    if suffix == "csv":
        frame.to_csv(tmp_path / "a.csv")
    elif suffix == "xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(tmp_path / "a.xlsx")
    else:
        frame.reset_index(names="Unnamed: 0").to_parquet(tmp_path / "a.parquet")
    assert {record.id for record in load_records(tmp_path / f"a.{suffix}")} == {"a", "b", "c"}
