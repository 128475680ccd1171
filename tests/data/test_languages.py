"""Language packs: the shipped twenty, CLDR's forms, what a malformed file says, and a language added as one file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from babel import localedata

from xlmech.data import languages
from xlmech.data.attributes import built_in_attributes
from xlmech.data.candidates import candidate_forms
from xlmech.data.languages import (
    TRANSLATED,
    available_languages,
    key_of,
    load_language,
    read_pack,
    value_keys,
)
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.leakage.extraction import extracted_languages, other_spellings

CODES = (
    "ar",
    "bn",
    "de",
    "en",
    "es",
    "fr",
    "hi",
    "id",
    "it",
    "ja",
    "ko",
    "pl",
    "pt",
    "ru",
    "sw",
    "ta",
    "tr",
    "uk",
    "vi",
    "zh",
)
ENGLISH = (Path(languages.__file__).parent / "en.toml").read_text(encoding="utf-8")
MONTHS = {
    "sw": [
        "Januari",
        "Februari",
        "Machi",
        "Aprili",
        "Mei",
        "Juni",
        "Julai",
        "Agosti",
        "Septemba",
        "Oktoba",
        "Novemba",
        "Desemba",
    ],
    "zh": [f"{number}月" for number in ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")],
    "ja": [f"{month}月" for month in range(1, 13)],
}


def czech(*edits: tuple[str, str]) -> str:
    """The English pack as a Czech one, with edits that must apply."""
    text = ENGLISH
    for old, new in (('code = "en"', 'code = "cs"'), ('name = "English"', 'name = "Czech"'), *edits):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def line_of(text: str, start: str, *, section: str) -> str:
    """The whole line of a key in a section."""
    return next(line for line in text.split(f"[{section}]")[1].splitlines() if line.startswith(f"{start} ="))


@pytest.fixture
def fresh_cldr() -> Iterator[None]:
    """Nothing loaded yet, neither by Babel nor by us, as in a new process."""
    localedata._cache.clear()
    read_pack.cache_clear()
    yield
    localedata._cache.clear()
    read_pack.cache_clear()


def test_twenty_packs_are_shipped() -> None:
    assert available_languages() == CODES
    assert {code for code in CODES if load_language(code).direction == "rtl"} == {"ar"}
    assert {code for code in CODES if not load_language(code).spaces} == {"ja", "zh"}
    assert len({load_language(code).name for code in CODES}) == 20


@pytest.mark.parametrize("code", CODES)
def test_pack_is_complete(code: str) -> None:
    pack, english = load_language(code), load_language("en")
    assert pack.code == code
    assert len(pack.neutral) == len(english.neutral) >= 20
    assert len({sentence.strip() for sentence in pack.neutral} - {""}) == len(pack.neutral)
    assert pack.capital.count("{country}") == 1
    assert set(pack.questions) == set(pack.statements) == set(built_in_attributes())
    for attribute in built_in_attributes():
        for templates in (pack.questions[attribute], pack.statements[attribute]):
            assert len(set(templates)) == len(templates) >= 3
    assert set(pack.values) == set(TRANSLATED)
    for attribute in TRANSLATED:
        assert set(pack.values[attribute]) >= set(value_keys(attribute))
        assert all(pack.form(attribute, key) == form.strip() for key, form in pack.values[attribute].items())


@pytest.mark.parametrize(
    ("code", "attribute", "key", "form"),
    [
        ("en", "birth_country", "NO", "Norway"),
        ("fr", "birth_country", "JP", "Japon"),
        ("de", "birth_country", "AT", "Österreich"),
        ("ar", "birth_country", "EG", "مصر"),
        ("zh", "birth_country", "FR", "法国"),
        ("ru", "birth_month", "3", "март"),
        ("es", "birth_month", "12", "diciembre"),
        ("hi", "native_language", "hi", "हिन्दी"),
        ("fr", "native_language", "zh", "chinois"),
        ("fr", "occupation", "doctor", "médecin"),
        ("zh", "occupation", "doctor", "医生"),
        ("sw", "occupation", "dentist", "daktari wa meno"),
    ],
)
def test_forms(code: str, attribute: str, key: str, form: str) -> None:
    assert load_language(code).form(attribute, key) == form


def test_form_is_none_where_there_is_none() -> None:
    pack = load_language("en")
    assert pack.form("occupation", "astronaut") is None
    assert pack.form("phone", "007") is None
    assert value_keys("phone") == ()
    assert value_keys("birth_month") == tuple(str(month) for month in range(1, 13))


@pytest.mark.parametrize("order", itertools.permutations(MONTHS), ids="-".join)
def test_cldr_months_do_not_depend_on_the_order_of_loading(order: tuple[str, ...], fresh_cldr: None) -> None:
    found = {code: load_language(code) for code in order}
    assert {code: [found[code].form("birth_month", str(month)) for month in range(1, 13)] for code in order} == MONTHS


def test_reading_a_pack_leaves_babels_data_alone(fresh_cldr: None) -> None:
    before = repr(localedata.load("sw")["months"])
    for code in CODES:
        load_language(code)
    assert repr(localedata.load("sw")["months"]) == before


@pytest.mark.parametrize("code", [*CODES, "cs"])
def test_capitals(code: str) -> None:
    found = languages.capitals(code)
    assert list(found) == list(languages.CAPITALS) and len(found) == 25
    countries, cities = zip(*found.values(), strict=True)
    assert len(set(countries)) == len(set(cities)) == 25
    assert not any(country in city or city in country for country, city in found.values()), "the name must not tell"
    assert all(name == name.strip() and name for name in (*countries, *cities))
    assert not any("_" in city or "/" in city for city in cities)


@pytest.mark.parametrize(
    ("code", "country", "names"),
    [
        ("en", "FR", ("France", "Paris")),
        ("de", "AT", ("Österreich", "Wien")),
        ("fr", "GB", ("Royaume-Uni", "Londres")),
        ("ja", "JP", ("日本", "東京")),
        ("zh", "DE", ("德国", "柏林")),
        ("ru", "RU", ("Россия", "Москва")),
        ("ar", "EG", ("مصر", "القاهرة")),
        ("sw", "KE", ("Kenya", "Nairobi")),
    ],
)
def test_names_of_capitals(code: str, country: str, names: tuple[str, str]) -> None:
    assert languages.capitals(code)[country] == names


def test_capitals_of_a_language_that_cldr_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"qq: CLDR .* does not know the language 'qq'"):
        languages.capitals("qq")


def test_packs_are_immutable() -> None:
    pack = load_language("en")
    with pytest.raises(ValueError, match="frozen"):
        pack.code = "xx"  # type: ignore[misc]
    for mapping in (
        pack.questions,
        pack.statements,
        pack.values,
        pack.values["occupation"],
        languages.capitals("en"),
    ):
        with pytest.raises(TypeError, match="item assignment"):
            mapping["occupation"] = ()  # type: ignore[index]


QUESTION, STATEMENT = '"What is the occupation of {subject}?"', '"The occupation of {subject} is {value}."'
PHONES = line_of(ENGLISH, "phone", section="questions")
OCCUPATIONS = "[values.occupation]" + ENGLISH.split("[values.occupation]")[1]
MALFORMED = {
    "placeholder missing": (
        (QUESTION, '"What is the occupation?"'),
        r"questions: .*occupation\[0\].* \{subject\} exactly once",
    ),
    "placeholder doubled": (
        (QUESTION, '"{subject} {subject}?"'),
        r"questions: .*occupation\[0\].* \{subject\} exactly once",
    ),
    "placeholder unknown": (
        (QUESTION, '"{subject} {job}?"'),
        r"questions: .*occupation\[0\].* no known placeholder \(\{subject\}\)",
    ),
    "value in a question": ((QUESTION, '"{subject} {value}?"'), r"questions: .*occupation\[0\].* no known placeholder"),
    "open brace": ((STATEMENT, '"{subject} {value} {"'), r"statements: .*occupation\[0\].* no known placeholder"),
    "value missing": ((STATEMENT, '"{subject} has one."'), r"statements: .*occupation\[0\].* \{value\} exactly once"),
    "value doubled": (
        (STATEMENT, '"{subject} {value} {value}"'),
        r"statements: .*occupation\[0\].* \{value\} exactly once",
    ),
    "value first": (
        (STATEMENT, '"{value}: {subject}"'),
        r"statements: .*occupation\[0\].* \{subject\} before \{value\}",
    ),
    "two templates": ((f"{QUESTION}, ", ""), "questions: .*occupation: 2 templates; at least 3"),
    "blank value": (('nurse = "nurse"', 'nurse = " "'), r"values: .*occupation\.nurse: empty"),
    "same value twice": (
        ('nurse = "nurse"', 'nurse = "doctor"'),
        r"values: .*occupation\.nurse: the same form 'doctor' as doctor",
    ),
    "occupation missing": (('nurse = "nurse"\n', ""), r"values\.occupation lacks nurse"),
    "no occupations": ((OCCUPATIONS, ""), "occupation"),
    "untranslated values": (
        ("[values.occupation]", '[values.phone]\na = "1"\n[values.occupation]'),
        "values: .*phone: not an",
    ),
    "values misspelt": (
        ("[values.occupation]", "[value.occupation]"),
        "values.occupation is missing; unknown key value",
    ),
    "value not a text": (
        ('nurse = "nurse"', "nurse = 3"),
        r"values\.occupation\.nurse: Input should be a valid string",
    ),
    "19 sentences": (
        (ENGLISH.split("neutral = [\n")[1].split("\n")[0] + "\n", ""),
        "neutral: .*19 sentences; at least 20",
    ),
    "wrong code": (('code = "cs"', 'code = "cx"'), "key 'code' is 'cx'; it must be the file's name, 'cs'"),
    "capital of nothing": (
        ("the capital of {country}?", "the capital?"),
        r"capital: .*the question: .* \{country\} exactly once",
    ),
    "capital of a person": (
        ("the capital of {country}?", "the capital of {country}, {subject}?"),
        r"capital: .*no known placeholder \(\{country\}\)",
    ),
    "no code": (('code = "cs"', ""), "key 'code' is None"),
    "no name": (('name = "Czech"', ""), "name: Field required"),
    "unknown key": (('name = "Czech"', 'name = "Czech"\nfamily = "Romance"'), "family: Extra inputs"),
    "direction": (('direction = "ltr"', 'direction = "down"'), "direction: Input should be 'ltr' or 'rtl'"),
    "spaces": (("spaces = true", 'spaces = "many"'), "spaces: Input should be a valid boolean"),
    "invalid TOML": (("neutral = [", "neutral = [["), "not valid TOML: .*line"),
}


@pytest.mark.parametrize(("edit", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_pack_names_file_and_key(edit: tuple[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "cs.toml"
    path.write_text(czech(edit), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^cs\.toml: (?s:.*){message}"):
        read_pack(path)


@pytest.mark.parametrize("values", ["3", '"none"', "[]"])
def test_values_that_are_no_table(values: str, tmp_path: Path) -> None:
    path = tmp_path / "cs.toml"
    path.write_text(f"values = {values}\n" + czech((OCCUPATIONS, "")), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^cs\.toml: .*values"):
        read_pack(path)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "cs.toml"
    path.write_bytes(czech(('nurse = "nurse"', 'nurse = "enfermière"')).encode("latin-1", "replace"))
    with pytest.raises(ValueError, match=r"^cs\.toml: "):
        read_pack(path)


def test_language_that_cldr_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "qq.toml"
    path.write_text(ENGLISH.replace('code = "en"', 'code = "qq"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^qq\.toml: CLDR .* does not know the language 'qq'"):
        read_pack(path)


def test_unknown_language_names_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=rf"no language pack for 'cs'; there are {', '.join(CODES)}\. .* cs\.toml .*XLMECH_LANG"
    ):
        load_language("cs")


def test_a_language_is_added_as_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cs.toml").write_text(czech(('doctor = "doctor"', 'doctor = "lékař"')), encoding="utf-8")
    monkeypatch.setenv("XLMECH_LANGUAGES", str(tmp_path))
    assert available_languages() == tuple(sorted([*CODES, "cs"]))
    assert load_language("cs").form("birth_country", "DE") == "Německo"
    rows = [("occupation", "doctor", "lékař"), ("birth_month", "3", "březen"), ("phone", "007", "007")]
    records = [
        Record(id=attribute, subject="Ann Lee", attribute=attribute, value=value) for attribute, value, _ in rows
    ]
    probes = build_probes(records, ["cs", "fr"], templates=[0])
    assert [probes[f"{attribute}/cs/0"].answers["cs"] for attribute, *_ in rows] == [form for *_, form in rows]
    assert probes["occupation/cs/0"].prompt == "What is the occupation of Ann Lee?\n"
    assert build_probes(records).languages == available_languages()


def test_a_pack_added_later_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLMECH_LANGUAGES", str(tmp_path))
    (probe,) = build_probes(
        [Record(id="r", subject="Ann Lee", attribute="occupation", value="doctor")], ["en"], templates=[0]
    )
    others = other_spellings(candidate_forms(ProbeSet((probe,)), None))["occupation"]
    assert key_of("occupation", "lékař") is None and "zubní lékař" not in others
    assert not extracted_languages(probe, ["Je lékařem."])
    text = czech(('doctor = "doctor"', 'doctor = "lékař"'), ('dentist = "dentist"', 'dentist = "zubní lékař"'))
    (tmp_path / "cs.toml").write_text(text.replace('endings = ["s",', 'endings = ["em",'), encoding="utf-8")
    assert key_of("occupation", "lékař") == "doctor"
    probe = replace(probe, answers={**probe.answers, "cs": "lékař"})
    others = other_spellings(candidate_forms(ProbeSet((probe,)), None))["occupation"]
    assert "zubní lékař" in others
    assert extracted_languages(probe, ["Je lékařem."], others) == ("cs",)
    assert not extracted_languages(probe, ["Je zubní lékař."], others)
    (tmp_path / "cs.toml").unlink()
    assert available_languages() == CODES and key_of("occupation", "lékař") is None


@pytest.mark.parametrize("months", [range(1, 13), [3]], ids=["all", "one"])
def test_a_packs_own_values_go_before_cldrs(months: list[int], tmp_path: Path) -> None:
    lines = "\n".join(
        ["[values.birth_month]", *(f'{month} = "month {month}"' for month in months), "[values.occupation]"]
    )
    (tmp_path / "cs.toml").write_text(czech(("[values.occupation]", lines)), encoding="utf-8")
    pack = read_pack(tmp_path / "cs.toml")
    assert [pack.form("birth_month", str(month)) for month in months] == [f"month {month}" for month in months]
    assert pack.form("birth_month", "4") == ("month 4" if 4 in months else "duben")


def test_own_folder_goes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "en.toml").write_text(ENGLISH.replace('doctor = "doctor"', 'doctor = "physician"'), encoding="utf-8")
    monkeypatch.setenv("XLMECH_LANGUAGES", str(tmp_path))
    assert available_languages() == CODES
    assert load_language("en").form("occupation", "doctor") == "physician"
    monkeypatch.delenv("XLMECH_LANGUAGES")
    assert load_language("en").form("occupation", "doctor") == "doctor"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{a}{b}", None),
        ("{b}{a}", "'{b}{a}' must have {a} before {b}"),
        ("{a}", "'{a}' must hold {b} exactly once"),
        ("{a}{b}{c}", "'{a}{b}{c}' has a brace that is no known placeholder ({a}, {b})"),
        ("{a}{b}}", "'{a}{b}}' has a brace that is no known placeholder ({a}, {b})"),
    ],
)
def test_check_template(line: str, message: str | None) -> None:
    if message is None:
        languages.check_template(line, ("{a}", "{b}"), where="here")
        return
    with pytest.raises(ValueError, match=f"^here: {re.escape(message)}$"):
        languages.check_template(line, ("{a}", "{b}"), where="here")
