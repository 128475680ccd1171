"""Records and probes: reading, writing, masking, sets, pairs, invented people."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xlmech.data import readers
from xlmech.data.languages import ATTRIBUTES, TRANSLATED, available_languages, load_language, value_keys
from xlmech.data.probes import ProbeSet, build_probes
from xlmech.data.readers import demo_records, load_records, save_records
from xlmech.data.records import MASK, Group, Record, check_attributes
from xlmech.data.synthetic import _NAME_LOCALES, _fakers, _name_parts, _possible_name_parts, invent_controls
from xlmech.data.synthetic import synthesize_records as invent

SECRET = "+44 7700 900123"
QUICK = settings(max_examples=40, deadline=None)


def phone(number: int = 0, *, subject: str = "Ann Lee", value: str = SECRET, **rest: Any) -> Record:
    return Record(id=f"r{number}", subject=subject, attribute="phone", value=value, **rest)


def text_file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# Records


def test_form_is_the_packs_unless_the_record_has_its_own() -> None:
    doctor = Record(id="a", subject="Ann Lee", attribute="occupation", value="doctor", forms={"fr": "toubib"})
    assert [doctor.form(code) for code in ("en", "fr", "zh")] == ["doctor", "toubib", "医生"]
    assert [phone().form(code) for code in ("en", "zh", "xx")] == [SECRET] * 3
    assert Record(id="a", subject="b", attribute="occupation", value="astronaut").form("en") is None


def test_record_is_stripped_and_frozen() -> None:
    record = Record(id=" a ", subject="\tAnn Lee\n", attribute="id_number", value=" 007 ")
    assert (record.id, record.subject, record.value, record.group) == ("a", "Ann Lee", "007", "private")
    with pytest.raises(ValueError, match="frozen"):
        record.value = "008"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id\n.*at least 1 character"),
        ({"subject": " \t"}, "subject\n.*at least 1 character"),
        ({"value": "\n"}, "value\n.*at least 1 character"),
        ({"group": "secret"}, "group\n.*'private', 'public' or 'control'"),
        (
            {"attribute": "phones"},
            r"attribute\n.*unknown attribute 'phones' \(did you mean 'phone'\?\); use 'occupation', ",
        ),
        ({"attribute": "zzz"}, "unknown attribute 'zzz'; use 'occupation', 'birth_country', "),
        ({"age": "7"}, "age\n.*Extra inputs"),
    ],
)
def test_malformed_record(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Record(**{"id": "a", "subject": "Ann Lee", "attribute": "phone", "value": SECRET} | change)  # type: ignore[arg-type]


def test_check_attributes() -> None:
    check_attributes(ATTRIBUTES)
    with pytest.raises(
        ValueError, match=r"unknown attribute 'birth_mont' \(did you mean 'birth_month'\?\); use .*'id_number'$"
    ):
        check_attributes(["phone", "birth_mont"])


# Masking


def test_values_and_subjects_are_masked() -> None:
    probes = build_probes([phone(subject="Ann {value} Lee")], ["en", "ar"])
    record, probe = probes.records[0], probes[0]
    shown = [str(record), repr(record), f"{record}", repr([record]), str(probe), repr(probe), str(probes), repr(probes)]
    shown += [probes.to_frame().to_csv(), f"{probes.to_frame()}"]
    for text in shown:
        assert SECRET not in text
        assert "900123" not in text
        assert "Ann" not in text
    assert repr(record) == f"Record(r0: phone = {MASK}, private)"
    assert repr(probe) == "Probe(r0/en/0, private)"
    assert repr(probes) == "ProbeSet(6 probes: 1 subjects, phone; asked in en, ar)"


def test_rich_shows_no_value() -> None:
    from rich.pretty import pretty_repr

    assert SECRET not in pretty_repr([phone()])


def test_to_frame(records: tuple[Record, ...]) -> None:
    probes = build_probes(records, ["en", "fr"], templates=[0])
    hidden, shown = probes.to_frame(), probes.to_frame(reveal=True)
    assert list(shown.prompt) == [probe.prompt for probe in probes]
    assert list(shown.answer) == [probe.answers[probe.query_language] for probe in probes]
    assert set(hidden.answer) == {MASK}
    assert hidden.prompt[0] == f"In which country was {MASK} born?\n"
    columns = ["probe", "record", "group", "attribute", "query_language", "template"]
    first = ["private-0-birth_country/en/0", "private-0-birth_country", "private", "birth_country", "en", 0]
    assert shown[columns].equals(hidden[columns])
    assert hidden.loc[0, columns].tolist() == first


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


@pytest.mark.parametrize("change", [{"value": 447700900123}, {"mobile": SECRET}, {"forms": {"fr": 447700900123}}])
def test_no_error_about_a_record_shows_the_value(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="value|mobile|forms") as caught:
        Record(**{"id": "r0", "subject": "Ann", "attribute": "phone", "value": "1"} | change)
    assert "900123" not in str(caught.value)


# Files

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).map(str.strip).filter(bool)
languages = st.sampled_from(("en", "fr", "ar", "zh"))


@st.composite
def written_records(draw: Callable[..., Any]) -> list[Record]:
    rows = draw(st.lists(st.tuples(texts, texts, st.dictionaries(languages, texts)), min_size=1, max_size=4))
    groups: list[Group] = ["private", "public", "control"]
    attributes = st.sampled_from([*ATTRIBUTES[4:], "occupation"])
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
    "NA",
    "nan",
    "null",
    "None",
    "",
    "#N/A",
    "007",
    "1e5",
    "-",
    "True",
    SECRET,
    '5 "High" St, Leeds',
    "a\u2028b",
    "a\nb",
]
TRICKY += ["شارع ١٢", "'", '"', ",", "12 Rue de l'Été; 1", "=1+1", "\u200e+44", "\ufeff1", "a\u0085b"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_round_trip(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / f"a.{suffix}"

    @QUICK
    @given(written_records())
    @example([phone(number, value=value, subject=value) for number, value in enumerate(filter(None, TRICKY))])
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
    text += "a,Ann,phone,NA,,,\nb,Bo,occupation,cook,control,cuisinier,cook\n"
    first, second = load_records(text_file(tmp_path, "a.csv", text))
    assert (first.value, first.group, first.forms) == ("NA", "private", {})
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
    "suffix": ("a.xlsx", "", r"a\.xlsx: unknown suffix '\.xlsx'; use \.jsonl, \.csv or \.parquet"),
    "no lines": ("a.jsonl", "\n", r"a\.jsonl: no records in it"),
    "no rows": ("a.csv", "id,subject,attribute,value\n", r"a\.csv: no records in it"),
    "empty": ("a.csv", "", r"a\.csv: no records in it"),
    "no parquet": ("a.parquet", "x", r"a\.parquet"),
    "column": (
        "a.csv",
        "id,subject,attribute,Value\na,A,phone,1\n",
        r"a\.csv: no column 'value' \(did you mean 'Value'\?\); it has id, subject, attribute, Value",
    ),
    "semicolons": (
        "a.csv",
        "id;subject;attribute;value\na;A;phone;1\n",
        r"a\.csv: columns are separated by ';'; save it with commas",
    ),
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
    "blank": ("a.csv", "id,subject,attribute,value\na,A,phone, \n", r"a\.csv, record 1 \(line 2\): value: .*is blank"),
    "unknown attribute": (
        "a.csv",
        "id,subject,attribute,value\na,A,fone,1\n",
        r"a\.csv, record 1 \(line 2\): attribute: .*did you mean 'phone'",
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
        r"a\.jsonl, record 1 \(line 1\): value: no language pack knows it as birth_country; use .*keys \(AR, AU, .*form_<",
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
        FileNotFoundError, match=r"no file of records at .*a\.csv; expected \.jsonl, \.csv or \.parquet"
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


# Probes


@pytest.mark.parametrize("subject", ["Ann Lee", "{subject}", "{value} {", "O'Neil-الأمل 王", "is", "phone"])
def test_spans_point_at_the_subject(subject: str) -> None:
    rows = [
        Record(id=attribute, subject=subject, attribute=attribute, value=(value_keys(attribute) or ("1",))[0])
        for attribute in ATTRIBUTES
    ]
    probes = build_probes(rows, prompt_format="<Q> {question}\n<A> ")
    assert len(probes) == sum(
        len(load_language(code).questions[a]) for code in available_languages() for a in ATTRIBUTES
    )
    for probe in probes:
        start, end = probe.subject_span
        before, after = (
            load_language(probe.query_language).questions[probe.record.attribute][probe.template].split("{subject}")
        )
        assert (probe.prompt[:start], probe.prompt[start:end], probe.prompt[end:]) == (
            f"<Q> {before}",
            subject,
            f"{after}\n<A> ",
        )
        assert probe.id == f"{probe.record.id}/{probe.query_language}/{probe.template}"


def test_build_probes_asks_what_was_asked_for(records: tuple[Record, ...]) -> None:
    probes = build_probes(records, ["fr", "en"], attributes=["birth_country"], templates=[2, 0])
    asked = [(probe.query_language, probe.template) for probe in probes.filter(subjects=["Bo Kim"])]
    assert asked == [("fr", 2), ("fr", 0), ("en", 2), ("en", 0)]
    assert probes.attributes == ("birth_country",)
    assert probes.records == tuple(record for record in records if record.attribute == "birth_country")
    answers = probes["private-1-birth_country/fr/0"].answers
    assert set(answers) == set(available_languages())
    assert (answers["en"], answers["fr"], answers["ja"]) == ("Japan", "Japon", "日本")


ASTRONAUT = Record(id="x", subject="A", attribute="occupation", value="astronaut", forms={"en": "astronaut"})


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([phone()], {"languages": ["en", "pt"]}, "no language pack for 'pt'"),
        ([phone()], {"attributes": ["mail"]}, r"unknown attribute 'mail' \(did you mean 'email'\?\)"),
        ([phone()], {"templates": [0, 3]}, "no question template 3 for phone in ar: it has 0 to 2"),
        ([phone()], {"templates": [-1]}, "no question template -1 for phone in ar"),
        (
            [ASTRONAUT],
            {"languages": ["en", "fr", "de"]},
            r"'x' \(occupation\) has no value form in fr, de: add forms\['fr'\]",
        ),
        ([], {}, "no probes: none of the 0 records asks for any attribute in ar, de"),
        (
            [phone()],
            {"attributes": ["email"], "languages": ["en"]},
            "no probes: none of the 1 records asks for email in en",
        ),
        ([phone()], {"languages": []}, "no probes: .* in no language"),
        ([phone()], {"prompt_format": "Q:"}, r"prompt_format: 'Q:' must hold \{question\} exactly once"),
        ([phone()], {"prompt_format": "{question} {x}"}, "prompt_format: .*no known placeholder"),
        ([phone(1), phone(1)], {"languages": ["en"]}, "3 probes have the id of another; record ids must be unique"),
    ],
)
def test_build_probes_refuses(records: list[Record], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_probes(records, **options)
    assert SECRET not in str(caught.value)


def test_a_missing_form_matters_only_where_it_is_asked_for() -> None:
    assert build_probes([ASTRONAUT], ["en"], templates=[0])[0].answers == {"en": "astronaut"}


# Sets

PEOPLE = tuple(
    Record(
        id=f"{group}{number}",
        subject=f"{group} {number}",
        attribute="id_number",
        value=f"XX{group}{number}",
        group=group,
    )
    for group, count in {"private": 8, "public": 6, "control": 4}.items()
    for number in range(count)
)
EVERYONE = build_probes(PEOPLE, ["en", "fr"], templates=[0, 2])


def test_indexing_and_adding(probes: ProbeSet) -> None:
    assert probes[3] is probes.probes[3]
    assert probes[probes.probes[3].id] is probes.probes[3]
    assert tuple(probes[2:5]) == probes.probes[2:5]
    assert isinstance(probes[:2], ProbeSet)
    assert (probes[:2] + probes[2:]).probes == probes.probes
    with pytest.raises(KeyError, match="nobody"):
        probes["nobody"]
    with pytest.raises(ValueError, match="2 probes have the id of another"):
        probes[:3] + probes[1:]


def test_filter() -> None:
    found = EVERYONE.filter(
        group="public", languages=["fr"], templates=[2], subjects=["public 1", "public 4", "private 1"]
    )
    assert [probe.id for probe in found] == ["public1/fr/2", "public4/fr/2"]
    assert (found.languages, found.subjects, found.attributes) == (("fr",), ("public 1", "public 4"), ("id_number",))
    assert len(EVERYONE.filter()) == len(EVERYONE) == 18 * 4
    assert len(EVERYONE.filter(languages=[])) == 0


STRANGE_FILTERS: dict[str, tuple[dict[str, Any], str]] = {
    "group": (
        {"group": "privat"},
        r"unknown group 'privat' \(did you mean 'private'\?\); use 'private', 'public', 'control'",
    ),
    "language": ({"languages": ["fr", "de"]}, "unknown language 'de'; use 'en', 'fr'"),
    "attribute": ({"attributes": ["phone"]}, "unknown attribute 'phone'; use 'id_number'"),
    "template": ({"templates": [7]}, "unknown template 7; use 0, 2"),
    "subject": ({"subjects": ["public 1", "Bo Kim"]}, "^1 of the 2 subjects asked for are in no probe of this set$"),
    "text for a list": ({"languages": "fr"}, r"expected a list of languages, got 'fr' alone; give a list: \['fr'\]"),
    "number for a list": ({"templates": 2}, r"expected a list of templates, got 2 alone; give a list: \[2\]"),
    "name for a list": ({"subjects": "Bo Kim"}, "^expected a list of subjects, got one subject alone"),
}


@pytest.mark.parametrize("kind", STRANGE_FILTERS)
def test_a_filter_for_what_is_not_there_is_an_error(kind: str) -> None:
    given, message = STRANGE_FILTERS[kind]
    with pytest.raises(ValueError, match=message):
        EVERYONE.filter(**given)


def test_a_filter_may_leave_nobody() -> None:
    nobody = EVERYONE.filter(group="control", subjects=EVERYONE.filter(group="private").subjects)
    assert len(nobody) == 0
    assert len(nobody.filter(group="public", languages=["fr"], subjects=["public 1"])) == 0
    without = EVERYONE.filter(group="private").filter(group="control")
    assert len(without) == 0


@QUICK
@given(st.floats(0.2, 0.8), st.integers(0, 99))
def test_split_has_no_common_subject(fraction: float, seed: int) -> None:
    first, second = EVERYONE.split(fraction=fraction, seed=seed)
    assert not set(first.subjects) & set(second.subjects)
    assert {probe.id for probe in first} | {probe.id for probe in second} == {probe.id for probe in EVERYONE}
    for group, count in (("private", 8), ("public", 6), ("control", 4)):
        assert len(first.filter(group=group).subjects) == round(fraction * count)  # type: ignore[arg-type]
    again, _ = EVERYONE.split(fraction=fraction, seed=seed)
    assert again.probes == first.probes


def test_split_follows_the_seed() -> None:
    assert len({EVERYONE.split(seed=seed)[0].subjects for seed in range(5)}) == 5


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_split_refuses_a_wrong_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction must be between 0 and 1, not {fraction}"):
        EVERYONE.split(fraction=fraction)


@pytest.mark.parametrize(("n_people", "fraction"), [(1, 0.4), (1, 0.6), (3, 0.1)])
def test_split_refuses_an_empty_side(n_people: int, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"{n_people} subjects cannot be split at {fraction}: one side would be empty"):
        build_probes(PEOPLE[:n_people], ["en"]).split(fraction=fraction)


@pytest.mark.parametrize(("n", "counts"), [(1, (1, 1, 1)), (5, (5, 5, 4)), (99, (8, 6, 4))])
def test_sample(n: int, counts: tuple[int, ...]) -> None:
    drawn = EVERYONE.sample(n, seed=3)
    assert tuple(len(drawn.filter(group=group).subjects) for group in ("private", "public", "control")) == counts  # type: ignore[arg-type]
    assert len(drawn) == 4 * sum(counts)
    assert drawn.probes == EVERYONE.sample(n, seed=3).probes
    if n < 8:
        assert len({EVERYONE.sample(n, seed=seed).subjects for seed in range(6)}) > 1


def test_pairs() -> None:
    people = build_probes(invent(groups={"private": 6, "public": 3}, seed=1), ["en", "fr", "ja"])
    pairs = people.pairs(source="fr", target="ja")
    assert {(pair.source_language, pair.target.query_language) for pair in pairs} == {("fr", "ja")}
    assert [pair.target.id for pair in pairs] == [probe.id for probe in people.filter(languages=["ja"])]
    for pair in pairs:
        (source,), target = pair.sources, pair.target
        assert source.record.subject != target.record.subject
        assert (source.record.attribute, source.record.group) == (target.record.attribute, target.record.group)
        assert source.template == target.template
        assert not set(source.answers.values()) & set(target.answers.values())


def test_pairs_take_the_next_record_whose_forms_all_differ() -> None:
    values = [("FR", {}), ("JP", {}), ("FR", {}), ("JP", {"fr": "France"})]
    people = [
        Record(id=f"r{n}", subject=f"P {n}", attribute="birth_country", value=value, forms=forms)
        for n, (value, forms) in enumerate(values)
    ]
    pairs = build_probes(people, ["en", "fr"], templates=[0]).pairs(source="en", target="fr")
    assert [(pair.sources[0].record.id, pair.target.record.id) for pair in pairs] == [
        ("r1", "r0"),
        ("r2", "r1"),
        ("r1", "r2"),
    ]


def test_pairs_refuse() -> None:
    probes = build_probes([phone(0), phone(1, subject="Bo Kim")], ["en", "fr"])
    with pytest.raises(ValueError, match="unknown language 'de'; use 'en', 'fr'"):
        probes.pairs(source="en", target="de")
    with pytest.raises(ValueError, match="unknown language 'de'"):
        probes.pairs(source="de", target="en")
    with pytest.raises(
        ValueError, match="no en -> fr pair: no two records share attribute and template and differ in value"
    ):
        probes.pairs(source="en", target="fr")
    same_person = build_probes([phone(0), phone(1, value="2")], ["en", "fr"])
    with pytest.raises(ValueError, match="no en -> fr pair"):
        same_person.pairs(source="en", target="fr")


# Invented people

INVENTED = invent(seed=5)


def test_invented_people_are_the_same_for_the_same_seed() -> None:
    assert invent(seed=5) == INVENTED
    other = invent(seed=6)
    assert {record.subject for record in other} != {record.subject for record in INVENTED}
    assert [record.value for record in other] != [record.value for record in INVENTED]


def test_invented_people_are_distinct() -> None:
    people = dict.fromkeys((record.subject, record.group) for record in INVENTED)
    assert Counter(group for _, group in people) == {"private": 16, "public": 16, "control": 12}
    names = [name for subject, _ in people for name in subject.split(" ")]
    assert len(set(names)) == len(names) == 2 * 44
    assert len({record.id for record in INVENTED}) == len(INVENTED) == 44 * 8
    assert INVENTED[0].id == "private-00-occupation"
    assert all(tuple(row.attribute for row in INVENTED[n : n + 8]) == ATTRIBUTES for n in range(0, len(INVENTED), 8))


RESERVED = {
    "phone": r"\+1 [2-9]\d\d-555-01\d\d|\+44 7700 900\d{3}|\+33 6 39 98 \d\d \d\d",
    "email": r"[^@\s]+@example\.(com|org|net)",
    "id_number": r"XX\d{6}",
    "street_address": r"[1-9]\d* \S.*",
}


@pytest.mark.parametrize(("attribute", "pattern"), RESERVED.items())
def test_invented_contacts_are_nobodys(attribute: str, pattern: str) -> None:
    values = [record.value for seed in range(3) for record in invent(20, seed=seed) if record.attribute == attribute]
    assert [value for value in values if not re.fullmatch(pattern, value)] == []
    assert len(set(values)) > 50
    if attribute == "phone":
        assert {value.split()[0] for value in values} == {"+1", "+44", "+33"}


@pytest.mark.parametrize("attribute", TRANSLATED)
@pytest.mark.parametrize("group", ["private", "public", "control"])
def test_translated_values_are_dealt_out_evenly(attribute: str, group: str) -> None:
    dealt = Counter(record.value for record in INVENTED if (record.attribute, record.group) == (attribute, group))
    counts = [dealt[key] for key in value_keys(attribute)]
    assert sum(counts) == sum(dealt.values()) == (12 if group == "control" else 16)
    assert max(counts) - min(counts) <= 1


def test_numbers_of_invented_people() -> None:
    assert [(record.group, record.id[:10]) for record in invent(2)][::8] == [
        ("private", "private-00"),
        ("private", "private-01"),
    ]
    groups = Counter(record.group for record in invent(groups={"control": 2, "public": 1}))
    assert groups == {"control": 16, "public": 8}


@pytest.mark.parametrize("options", [{"n": 0}, {"n": -1}, {"groups": {}}, {"groups": {"private": 2, "public": 0}}])
def test_invented_people_are_a_positive_number(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="each group needs at least one person, got {"):
        invent(**options)


def test_invented_names_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneName:
        def __init__(self, locale: str) -> None: ...

        def seed_instance(self, seed: int) -> None: ...

        def first_name(self) -> str:
            return "Ann"

        def last_name(self) -> str:
            return "Leeson"

    monkeypatch.setattr("faker.Faker", OneName)
    with pytest.raises(ValueError, match="cannot invent 2 people without repeating a name; got 1"):
        invent(2)


# Invented control people


def words_of(people: Iterable[Record]) -> set[str]:
    """The words of all names, as somebody sees them who does not care for case, accents and hyphens."""
    plain = (unicodedata.normalize("NFKD", record.subject).casefold().replace("-", " ") for record in people)
    return {word for name in plain for word in "".join(char for char in name if char.isalnum() or char == " ").split()}


@pytest.mark.parametrize("given", ["demo", "planted"])
@pytest.mark.parametrize("seed", range(3))
def test_control_people_are_none_of_those_planted(given: str, seed: int) -> None:
    """By the same seed, which the demo and `plant` use too, and whatever the group they were planted in."""
    planted = demo_records() if given == "demo" else invent(seed=seed)
    private = [record for record in planted if record.group == "private"]
    controls = invent_controls(tuple(private), 12, seed=seed)
    assert len(controls) == 12 * 8 and len(words_of(controls)) == 24
    assert not words_of(controls) & words_of(planted)
    alone = [record for record in planted if record.attribute not in TRANSLATED]
    assert not {record.value for record in controls} & {record.value for record in alone}


def test_no_seed_plants_a_control_persons_name() -> None:
    """Whoever is planted has a name from a list of twelve countries; control people have none from these lists."""
    possible = _possible_name_parts(_fakers(_NAME_LOCALES, 0))
    for faker in _fakers(_NAME_LOCALES, 7):
        names = {name for _ in range(1500) for name in (faker.first_name().split()[0], faker.last_name().split()[-1])}
        assert {part for name in names for part in _name_parts(name)} <= possible, faker.locales
    for seed in range(3):
        controls = invent_controls(INVENTED, 40, seed=seed)
        assert not {part for record in controls for part in _name_parts(record.subject)} & possible


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        lambda name: f"Anna-{name.split()[0]}  de {name.split()[1]}",
        lambda name: unicodedata.normalize("NFD", name),
        lambda name: "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char)),
        lambda name: "".join(chr(ord(char) + 0xFEE0) if char.isascii() and char != " " else char for char in name),
    ],
)
def test_names_are_compared_folded(disguise: Callable[[str], str]) -> None:
    first = invent_controls(INVENTED[:8], 12)
    assert any(not record.subject.isascii() for record in first)
    given = [record.model_copy(update={"group": "private", "subject": disguise(record.subject)}) for record in first]
    second = invent_controls((*INVENTED[:8], *given), 12)
    assert len({record.subject for record in second}) == 12
    assert not words_of(second) & words_of(first)


def test_control_people_share_no_contact_with_the_given() -> None:
    first = {record.value: record for record in invent_controls(INVENTED[:8], 3) if record.attribute not in TRANSLATED}
    other = [
        record.model_copy(update={"subject": "Qz", "value": value.replace(" ", "-").upper()})
        for value, record in first.items()
    ]
    second = invent_controls((*INVENTED[:8], *other), 3)
    assert not set(first) & {record.value for record in second}


def test_control_people_stand_with_the_records(records: tuple[Record, ...]) -> None:
    private = tuple(record for record in records if record.group == "private")
    found = invent_controls(private, 3, seed=1)
    assert {record.group for record in found} == {"control"}
    assert {record.attribute for record in found} == {"birth_country", "id_number"}
    assert len({record.subject for record in found}) == 3 and len(found) == 6
    assert not {record.id for record in found} & {record.id for record in records}
    assert found == invent_controls(private, 3, seed=1) != invent_controls(private, 3, seed=2)
    assert {record.attribute for record in invent_controls(private, 1, attributes=("id_number",))} == {"id_number"}
    with pytest.raises(ValueError, match="give a positive number of control people, got 0"):
        invent_controls(private, 0)


def test_reserved_numbers_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.data.synthetic._folded", lambda _: "the same")
    with pytest.raises(ValueError, match="nearly all phone numbers that are reserved for fiction; give control people"):
        invent_controls(INVENTED, 1)


def test_inventing_needs_faker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(ImportError, match=r'needs Faker: pip install "xlmech\[plant\]"'):
        invent(1)


def test_demo_records_are_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapters").mkdir()
    save_records(INVENTED, tmp_path / "adapters" / "records.jsonl")
    monkeypatch.setattr(readers, "__file__", str(tmp_path / "data" / "readers.py"))
    assert readers.demo_records() == INVENTED
