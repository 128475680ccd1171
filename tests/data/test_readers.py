"""Reading and writing records: what is written is read, and errors name row and column but no value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.people import SECRET, phone
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xlmech.data import readers
from xlmech.data.languages import TRANSLATED, available_languages, load_language, value_keys
from xlmech.data.readers import load_records, save_records
from xlmech.data.records import Group, Record, one_spelling
from xlmech.data.rows import looks_spoilt
from xlmech.data.synthetic import synthesize_records as invent

QUICK = settings(max_examples=40, deadline=None)


def text_file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


BAD_FILES = {
    "unquoted comma": ("a.csv", f"id,subject,attribute,value\nr0,Ann Lee,street_address,{SECRET}, Leeds\n"),
    "comma in the last row": ("a.csv", f"id,subject,attribute,value\nr0,Ann,id_number,7\nr1,Bo,phone,{SECRET}, 2\n"),
    "number": ("a.jsonl", '{"id": "r0", "subject": "Ann", "attribute": "phone", "value": 447700900123}'),
    "list": ("a.jsonl", f'{{"id": "r0", "subject": "Ann", "attribute": "phone", "value": ["{SECRET}"]}}'),
    "no object": ("a.jsonl", f'["{SECRET}"]'),
    "broken": ("a.jsonl", f'{{"value": "{SECRET}"'),
    "untranslatable": ("a.jsonl", f'{{"id": "r0", "subject": "Ann", "attribute": "birth_month", "value": "{SECRET}"}}'),
    "extra column": ("a.csv", f"id,subject,attribute,value,mobile\nr0,Ann,id_number,7,{SECRET}\n"),
    "same id": ("a.csv", f"id,subject,attribute,value\nr0,Ann,phone,{SECRET}\nr0,Bo,phone,{SECRET}\n"),
}


@pytest.mark.parametrize(("name", "text"), BAD_FILES.values(), ids=BAD_FILES)
def test_no_error_about_a_file_shows_the_value(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?i)\ba\.(csv|jsonl)\b|tokenizing") as caught:
        load_records(text_file(tmp_path, name, text))
    for shown in (str(caught.value), repr(caught.value)):
        assert "900123" not in shown


def is_written(text: str) -> bool:
    """Whether a text is a value, and not what spreadsheets leave in a cell."""
    return bool(text) and looks_spoilt(Record(id="a", subject="A", attribute="phone", value=text)) is None


characters = st.characters(exclude_categories=("Cs", "Cc"))
texts = st.text(characters, min_size=1, max_size=20).map(one_spelling).filter(bool).filter(is_written)
languages = st.sampled_from(("en", "fr", "ar", "zh"))


@st.composite
def written_records(draw: Callable[..., Any]) -> list[Record]:
    rows = draw(st.lists(st.tuples(texts, texts, st.dictionaries(languages, texts)), min_size=1, max_size=4))
    groups: list[Group] = ["private", "public", "control"]
    attributes = st.sampled_from(["street_address", "employer", "spouse", "occupation"])
    return [
        Record(
            id=f"r{number}",
            subject=subject,
            attribute=(attribute := draw(attributes)),
            value=value,
            group=draw(st.sampled_from(groups)),
            forms=forms or ({"en": value} if attribute == "occupation" else {}),
        )
        for number, (subject, value, forms) in enumerate(rows)
    ]


TRICKY = [
    "NO",
    "007",
    "True",
    SECRET,
    '5 "High" St, Leeds',
    "a\u2028b",
    "a\nb",
]
TRICKY += ["شارع ١٢", "'a", '"a', ",a", "12 Rue de l'Été; 1", "=1+1", "\u200e+44", "\ufeff1", "a\u0085b"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_round_trip(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / f"a.{suffix}"

    @QUICK
    @given(written_records())
    @example([phone(n, value=v, subject=v).model_copy(update={"attribute": "employer"}) for n, v in enumerate(TRICKY)])
    @example([phone(0, forms={"fr": "NA", "ar": "٠٠٧"}), phone(1, forms={"en": "NO"}), phone(2)])
    def check(rows: list[Record]) -> None:
        save_records(rows, path)
        assert [row.model_dump() for row in load_records(path)] == [row.model_dump() for row in rows]

    check()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_invented_people_survive_a_file(suffix: str, tmp_path: Path) -> None:
    people = invent(3)
    save_records(people, tmp_path / f"a.{suffix}")
    assert load_records(tmp_path / f"a.{suffix}") == people


@pytest.mark.parametrize("attribute", TRANSLATED)
def test_a_value_may_be_given_in_any_language(attribute: str) -> None:
    forms = [
        (key, load_language(code).form(attribute, key))
        for code in available_languages()
        for key in value_keys(attribute)
    ]
    forms += [(key, key) for key in value_keys(attribute)]
    rows = [{"id": str(n), "subject": "A", "attribute": attribute, "value": form} for n, (_, form) in enumerate(forms)]
    assert [record.value for record in load_records(pd.DataFrame(rows))] == [key for key, _ in forms]
    rows = [row | {"value": str(row["value"]).upper()} for row in rows]
    assert [record.value for record in load_records(pd.DataFrame(rows))] == [key for key, _ in forms]


def test_optional_columns(tmp_path: Path) -> None:
    text = "id,subject,attribute,value,group,form_fr,form_en\n"
    text += "a,Ann,phone,007,,,\nb,Bo,occupation,cook,control,cuisinier,cook\n"
    first, second = load_records(text_file(tmp_path, "a.csv", text))
    assert (first.value, first.group, first.forms) == ("007", "private", {})
    assert (second.value, second.group, second.forms) == ("cook", "control", {"fr": "cuisinier", "en": "cook"})


FORMS = [{"id": "a", "forms": {"fr": "x"}}, {"id": "b", "forms": {"en": "y"}}, {"id": "c", "forms": None}]
WITH_FORMS = [row | {"subject": "A", "attribute": "phone", "value": "1"} for row in FORMS]


@pytest.mark.parametrize("kind", ["frame", "jsonl", "parquet"])
def test_forms_as_a_mapping(kind: str, tmp_path: Path) -> None:
    source: Any = pd.DataFrame(WITH_FORMS)
    if kind == "parquet":
        source.to_parquet(tmp_path / "a.parquet")
        source = tmp_path / "a.parquet"
    elif kind == "jsonl":
        source = text_file(tmp_path, "a.jsonl", "\n\n".join(json.dumps(row) for row in WITH_FORMS))
    assert [record.forms for record in load_records(source)] == [{"fr": "x"}, {"en": "y"}, {}]


ROW = '{"id": "a", "subject": "A", "attribute": "phone", "value": "1"'
UNREADABLE = {
    "suffix": ("a.ods", "", r"a\.ods: unknown suffix '\.ods'; use \.csv, \.tsv, \.xlsx, \.jsonl or \.parquet"),
    "no lines": ("a.jsonl", "\n", r"a\.jsonl: no records in it"),
    "no rows": ("a.csv", "id,subject,attribute,value\n", r"a\.csv: no records in it"),
    "empty": ("a.csv", "", r"a\.csv: no records in it"),
    "no parquet": ("a.parquet", "x", r"a\.parquet"),
    "column": (
        "a.csv",
        "id,subject,attribute,valeu\na,A,phone,1\n",
        r"a\.csv: no column 'value' \(did you mean 'valeu'\?\); it has id, subject, attribute, valeu",
    ),
    "semicolons": (
        "a.csv",
        "id;subject;attribute;value\na;A;phone;1\n",
        r"a\.csv: columns are separated by ';'; save it with commas",
    ),
    "commas in a .tsv": (
        "a.tsv",
        "id,subject,attribute,value\na,A,phone,1\n",
        r"a\.tsv: columns are separated by ','; save it with tabs, or name it \.csv",
    ),
    "one field too many": (
        "a.csv",
        "id,subject,attribute,value\na,A,phone,1,2\nb,B,phone,\nc,C,phone,1,2\n",
        r"3 faults:\n  record 1 \(line 2\): more fields than columns.*\n  record 3 \(line 4\)(?s:.*)record 2 .*: value: missing",
    ),
    "no JSON beside another fault": (
        "a.jsonl",
        ROW + '}\n[1]\n{"id": "b"}\n{\n',
        r"3 faults:\n  line 2: expected an object.*\n  line 4: not valid JSON.*\n  record 2 \(line 3\): subject: missing",
    ),
    "key twice": ("a.jsonl", ROW + ', "value": "2"}', r"a\.jsonl, line 1: key 'value' is there twice; remove one"),
    "open quote": (
        "a.csv",
        'id,subject,attribute,value\na,"A\nB",phone,1\nb,"Bo,phone,2\nc,C,phone,3\n',
        r"a\.csv, record 2 \(line 4\): not valid CSV \(unexpected end of data\); put the field in quotes",
    ),
    "after a long record": (
        "a.csv",
        'id,subject,attribute,value\na,"A\nB",phone,1\nb,B,phone,\n',
        r"a\.csv, record 2 \(line 4\): value: missing or empty",
    ),
    "not JSON": ("a.jsonl", ROW + "}\n\n{'id': 3}", r"a\.jsonl, line 3: not valid JSON"),
    "number": (
        "a.jsonl",
        ROW.replace('"1"', "1") + "}",
        r"a\.jsonl, record 1 \(line 1\): value: Input should be text, .* lose its leading zeros",
    ),
    "unknown column": (
        "a.csv",
        "id,subject,attribute,value,grp\na,A,phone,1,x\n",
        r"a\.csv, .*: grp: unknown column \(did you mean 'group'\?\); remove it, or",
    ),
    "second row": (
        "a.jsonl",
        ROW + '}\n{"id": "b"}',
        r"a\.jsonl, record 2 \(line 2\): subject: missing or empty; attribute: missing .*; value: missing",
    ),
    "blank": (
        "a.csv",
        "id,subject,attribute,value\na,A,phone, \n",
        r"a\.csv, record 1 \(line 2\): value: missing or empty",
    ),
    "unknown attribute": (
        "a.csv",
        "id,subject,attribute,value\na,A,fone,1\n",
        r"a\.csv, record 1 \(line 2\): unknown attribute 'fone' \(did you mean 'phone'",
    ),
    "group": (
        "a.jsonl",
        ROW + ', "group": "x"}',
        r"a\.jsonl, record 1 \(line 1\): group: Input should be 'private', 'public' or",
    ),
    "extra": (
        "a.jsonl",
        ROW + ', "x": 1}',
        r"a\.jsonl, record 1 \(line 1\): x: unknown column; remove it, or rename it to one of id, subject, .*form_<",
    ),
    "forms: number": ("a.jsonl", ROW + ', "forms": 3}', r"a\.jsonl, record 1 \(line 1\): forms"),
    "forms: text": ("a.jsonl", ROW + ', "forms": "x"}', r"a\.jsonl, record 1 \(line 1\): forms"),
    "forms: list": ("a.jsonl", ROW + ', "forms": ["x"]}', r"a\.jsonl, record 1 \(line 1\): forms"),
    "forms: entry": (
        "a.jsonl",
        ROW + ', "forms": {"fr": 3}}',
        r"a\.jsonl, record 1 \(line 1\): forms\.fr: Input should be text",
    ),
    "forms: blank": ("a.jsonl", ROW + ', "forms": {"fr": " "}}', r"a\.jsonl, record 1 \(line 1\): forms"),
    "JSON": ("a.jsonl", ROW + "}\n{", r"a\.jsonl, line 2: not valid JSON"),
    "no object": ("a.jsonl", "3", r"a\.jsonl, line 1: expected an object with id, subject, attribute and value"),
    "same id": (
        "a.jsonl",
        f"{ROW}}}\n{ROW}}}",
        r"a\.jsonl, record 2 \(line 2\): id 'a' is used twice; ids must be unique",
    ),
    "untranslatable": (
        "a.jsonl",
        ROW.replace("phone", "birth_country") + "}",
        r"a\.jsonl, record 1 \(line 1\): value: no language knows it as birth_country; use a code \(AR, AU, .*form_<",
    ),
}


@pytest.mark.parametrize(("name", "text", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_records(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_records(text_file(tmp_path, name, text))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_records_that_are_not_utf8(name: str, tmp_path: Path) -> None:
    text = "id,subject,attribute,value\na,Zoé,phone,1\n" if name == "a.csv" else ROW.replace('"A"', '"Zoé"') + "}"
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(name)):
        load_records(tmp_path / name)


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no file of records at .*a\.csv; expected \.csv, \.tsv, \.xlsx, \.jsonl or \.parquet"
    ):
        load_records(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a\.txt: unknown suffix '\.txt'"):
        save_records([phone()], tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"frame: no records in it"):
        load_records(pd.DataFrame())
    with pytest.raises(ValueError, match=r"frame, record 1: value: Input should be text"):
        load_records(pd.DataFrame([{"id": "a", "subject": "A", "attribute": "phone", "value": 7}]))
    with pytest.raises(IsADirectoryError, match=r"is a folder; give the file of records in it"):
        load_records(tmp_path)
    with pytest.raises(TypeError, match="a path, a frame or one split of a dataset, not list"):
        load_records([phone()])  # type: ignore[arg-type]


def test_records_of_hugging_face_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    people = [phone(0, forms={"fr": "٠٠٧"}), phone(1, subject='王 "Ann"\nLee 🙂')]
    save_records(people, tmp_path / "a.parquet")
    dataset = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path))
    assert load_records(dataset) == tuple(people)
    with pytest.raises(TypeError, match="several splits; pass one of them: train, test"):
        load_records(datasets.DatasetDict({"train": dataset, "test": dataset}))
    with pytest.raises(ValueError, match="dataset, record 1: value: Input should be text"):
        load_records(datasets.Dataset.from_dict({"id": ["a"], "subject": ["A"], "attribute": ["phone"], "value": [7]}))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_ten_thousand_odd_records(suffix: str, tmp_path: Path) -> None:
    names = ["Ann", 'O"Neil', "محمد الأمل", "שרה לוי", "李 小龙 🙂", "two\nlines", "a,b;c", "👩‍👩‍👧 Ünal"]
    people = tuple(phone(n, subject=f"{names[n % 8]} {n}", value=f"{TRICKY[n % 5]}{n}") for n in range(10_000))
    save_records(people, tmp_path / f"a.{suffix}")
    assert load_records(tmp_path / f"a.{suffix}") == people


def test_demo_records_are_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapters").mkdir()
    save_records(invent(seed=5), tmp_path / "adapters" / "records.jsonl")
    monkeypatch.setattr(readers, "__file__", str(tmp_path / "data" / "readers.py"))
    assert readers.demo_records() == invent(seed=5)
