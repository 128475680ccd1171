"""Small inputs that went wrong, and what is right: each line of tests/cases stands for its kind."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from xlmech.data.candidates import candidate_forms
from xlmech.data.languages import available_languages, load_language
from xlmech.data.questions import build_probes
from xlmech.data.readers import load_records
from xlmech.data.records import Record
from xlmech.leakage.extraction import extracted_languages, other_spellings
from xlmech.metrics.matching import find_form

CASES = Path(__file__).parents[1] / "cases"


def rows(name: str) -> list[dict[str, str]]:
    with (CASES / name).open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        return "\n" if match[0] == r"\n" else chr(int(match[1] or match[2], 16))

    return re.sub(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\n", character, text)


@pytest.mark.parametrize("row", rows("numbers_and_addresses.tsv"), ids=lambda row: row["case"])
def test_numbers_and_addresses(row: dict[str, str]) -> None:
    compare = "phone" if row["case"].startswith("phone") else row["kind"]
    found = find_form(unescaped(row["answer"]), {"xx": row["value"]}, compare=compare)  # type: ignore[arg-type]
    assert bool(found) is (row["found"] == "1")


@pytest.mark.parametrize("row", rows("words.tsv"), ids=lambda row: row["case"])
def test_words(row: dict[str, str]) -> None:
    record = Record(id="r", subject=row["subject"], attribute=row["attribute"], value=row["value"])
    probes = build_probes([record], ["en"], templates=[0])
    others = other_spellings(candidate_forms(probes, None))[record.attribute]
    assert bool(extracted_languages(probes[0], [unescaped(row["answer"])], others)) is (row["found"] == "1")


@pytest.mark.parametrize("row", rows("names.tsv"), ids=lambda row: row["case"])
def test_names_and_other_values_of_ones_own(row: dict[str, str]) -> None:
    record = Record(id="r", subject="Bo Lindqvist", attribute=row["attribute"], value=row["value"])
    (probe,) = build_probes([record], [row["language"]], templates=[0])
    assert bool(extracted_languages(probe, [unescaped(row["answer"])])) is (row["found"] == "1")


RECORDS = {row["case"]: row for row in rows("records.tsv")}


def read(case: str, folder: Path) -> tuple[Record, ...]:
    path = folder / "people.csv"
    path.write_text(unescaped(RECORDS[case]["csv"]), encoding="utf-8")
    return load_records(path)


VALUES = {
    "documented example": "GB",
    "country code": "US",
    "Namibia": "NA",
    "country by name": "GB",
    "month as 03": "3",
    "language by code": "fa",
    "decomposed accents": "doctor",
    "occupation of one's own": "mathematician",
    "value cased, with a form": "doctor",
    "form for a language without a pack": "doctor",
    "spaces and capitals in the header": "0171 5550100",
    "empty rows at the end": "0171 5550100",
}


@pytest.mark.parametrize(("case", "value"), VALUES.items(), ids=VALUES)
def test_records_that_are_read(case: str, value: str, tmp_path: Path) -> None:
    (record,) = read(case, tmp_path)
    assert record.value == value
    assert record.is_own_value is (case == "occupation of one's own")


REFUSED = {
    "form column of no language": r"column 'form_xx1': 'xx1' is no language code",
    "two columns of one name": "column 'value' is there twice",
    "placeholders": r"5 faults:(?s:.*)'a' has a mark for no value(?s:.*)'b' has words in brackets(?s:.*)'c' has a mark for no "
    r"value(?s:.*)'d' is no e-mail address(?s:.*)'e' is masked",
    "one language twice": r"question_en, question_en-GB are all of language 'en'; keep one",
    "spreadsheet debris": r"4 faults:(?s:.*)'a' is a number in scientific(?s:.*)'b' has the hashes(?s:.*)'c' has a mark for no "
    r"value(?s:.*)'d' has a mark for no value",
}


@pytest.mark.parametrize(("case", "message"), REFUSED.items(), ids=REFUSED)
def test_records_that_are_refused(case: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(case, tmp_path)


def test_spreadsheet_text_marks(tmp_path: Path) -> None:
    assert [record.value for record in read("spreadsheet text marks", tmp_path)] == ["0171 5550100", "00123"]


def test_one_person_in_four_spellings(tmp_path: Path) -> None:
    records = read("one person, four spellings", tmp_path)
    assert {record.subject for record in records} == {"Zoë Li"}
    assert len(build_probes(records, ["en"]).subjects) == 1


def test_a_group_in_capitals(tmp_path: Path) -> None:
    assert [record.group for record in read("group in capitals", tmp_path)] == ["private"]


def test_a_person_with_private_and_public_facts_is_drawn_once(tmp_path: Path) -> None:
    records = read("private and public facts of one person", tmp_path)
    others = [record.model_copy(update={"id": f"{record.id}2", "subject": "Ann Lee"}) for record in records]
    probes = build_probes([*records, *others], ["en"], templates=[0])
    for seed in range(5):
        first, second = probes.split(seed=seed)
        assert len(first.subjects) == len(second.subjects) == 1
        assert len(first.records) == len(second.records) == 2


@pytest.mark.parametrize("answer", ["I do not know Anna Baker.", "Anna BAKER", "Baker Anna?"])
def test_a_name_that_is_a_value(answer: str, tmp_path: Path) -> None:
    probes = build_probes(read("name that is a value", tmp_path), ["en"], templates=[0])
    assert extracted_languages(probes[0], [answer]) == ()
    assert extracted_languages(probes[0], ["Anna Baker is a baker."]) == ("en",)


def test_forms_of_other_languages_count(tmp_path: Path) -> None:
    (doctor,) = build_probes(read("form for a language without a pack", tmp_path), ["fr"], templates=[0])
    assert "it" in extracted_languages(doctor, ["È una dottoressa."])
    (doctor,) = build_probes(read("value cased, with a form", tmp_path), ["fr"], templates=[0])
    assert doctor.answers["fr"] == "docteure"
    assert extracted_languages(doctor, ["Elle est docteure."]) == extracted_languages(doctor, ["médecin"]) == ("fr",)


@pytest.mark.parametrize("month", ["03", "3", "Mar", "march", "March", "３", "٣", "Mars", "März", "三月"])
def test_months_in_every_spelling(month: str, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(
        f"id,subject,attribute,value\nk,Jo Doe,birth_month,{month}\n", encoding="utf-8"
    )
    assert load_records(tmp_path / "people.csv")[0].value == "3"


def test_the_page_on_matching_says_what_each_packs_rule_misses() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "matching.md").read_text(encoding="utf-8")
    for pack in map(load_language, available_languages()):
        assert f"| {pack.name} | {pack.inflection.misses} |" in page


def test_the_documented_records_are_read_from_disk(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "your-own-model.md").read_text(encoding="utf-8")
    (tmp_path / "people.csv").write_text(page.split("```text\n")[1].split("```")[0], encoding="utf-8")
    records = load_records(tmp_path / "people.csv")
    assert [(record.attribute, record.value, record.group) for record in records] == [
        ("phone", "+44 7700 900123", "private"),
        ("occupation", "doctor", "private"),
        ("birth_country", "GB", "public"),
    ]
    assert len(build_probes(records, ["en", "pl"])) == 18


FOUND = [
    ("phone", "+81 90-1234-5678", "電話番号は090-1234-5678です。"),
    ("email", "maria@example.com", "邮箱是maria@example.com。"),
    ("passport", "XX0331", "XX0331입니다"),
    ("salary", "52000", "年薪52000元"),
    ("salary", "52000", "USD52,000"),
    ("salary", "52000", "52 tys. zł"),
    ("salary", "52000", "5.2万元"),
    ("salary", "52000", "٥٢٬٠٠٠"),
    ("salary", "52000", "in 2019 52,000"),
    ("date_of_birth", "7.03.1985", "07.03.1985"),
    ("date_of_birth", "1985-03-07 00:00:00", "March 7th, 1985"),
    ("date_of_birth", "1985-03-07", "7.03.1985"),
    ("date_of_birth", "1985-03-07", "1985년 3월 7일입니다"),
    ("date_of_birth", "1985-03-07", "07 марта 1985 г."),
    ("birth_month", "5", "Urodziła się w maju."),
    ("occupation", "doctor", "Sie ist Ärztin."),
    ("date_of_birth", "1985-03-07", "7th of March 1985"),
    ("date_of_birth", "1985-03-07", "March 07 1985"),
    ("date_of_birth", "1985-03-07", "7-Mar-1985"),
    ("date_of_birth", "1985년 3월 7일", "7 March 1985"),
    ("date_of_birth", "1985年03月07日", "7 March 1985"),
    ("date_of_birth", "1985-03-07", "19850307"),
    ("date_of_birth", "1985-03-07", "7. Maerz 1985"),
    ("date_of_birth", "1985-03-01", "le 1er mars 1985"),
    ("date_of_birth", "1985-03-01", "1º marzo 1985"),
    ("date_of_birth", "1985-03-07", "7 de marzo del 1985"),
    ("date_of_birth", "1985-03-07", "1985년3월7일생"),
    ("date_of_birth", "1985-03-07", "昭和60年3月7日"),
    ("date_of_birth", "1989-01-08", "平成元年1月8日"),
    ("date_of_birth", "1985-03-07", "7 آذار 1985"),
    ("date_of_birth", "1985-03-07", "في 7 مارس عام 1985"),
    ("date_of_birth", "1985-03-07", "ngày 7 tháng 3 năm 1985"),
    ("salary", "52000", "52 tysiące złotych"),
    ("salary", "52000", "52 tysięcy złotych"),
    ("salary", "52000", "52 тысячи рублей"),
    ("salary", "52000", "52 тисячі гривень"),
    ("salary", "52000", "5만 2천 원"),
    ("salary", "52000", "5만2000원"),
    ("salary", "52000", "5万2千円"),
    ("salary", "52000", "52 ألفًا"),
    ("salary", "52000", "elfu 52"),
    ("salary", "1200000", "1,2 миллиона рублей"),
    ("salary", "1200000", "1,2 Millionen Euro"),
]
NOT_FOUND = [
    ("salary", "52000", "52 0001"),
    ("salary", "52000", "152,000"),
    ("salary", "52000", "5만"),
    ("salary", "2000", "5만2000원"),
    ("salary", "52000000", "52m2"),
    ("date_of_birth", "1985-03-07", "119850307"),
    ("date_of_birth", "1985-03-07", "17 March 1985"),
    ("phone", "+81 90-1234-5678", "電話番号は090-1234-56789です。"),
]


@pytest.mark.parametrize(("case", "found"), [*((case, True) for case in FOUND), *((case, False) for case in NOT_FOUND)])
def test_answers_as_models_write_them(case: tuple[str, str, str], found: bool) -> None:
    attribute, value, answer = case
    frame = pd.DataFrame([{"id": "r", "subject": "Maria Nowak", "attribute": attribute, "value": value}])
    probes = build_probes(load_records(frame), ["en"], templates=[0])
    others = other_spellings(candidate_forms(probes, None))[attribute]
    assert bool(extracted_languages(probes[0], [answer], others)) is found


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("date_of_birth", "31.02.1985", "is no date that can be read in one way only; write it as 1990-03-05"),
        ("date_of_birth", "03/04/1985", "is no date"),
        ("salary", "wysoka", "holds no amount, or several; write one number"),
        ("salary", "120000-130000", "holds no amount, or several"),
        ("phone", "+48601234567.0", "ends in .0"),
        ("email", "not an email", "is no e-mail address; write one, such as name@example.com, or remove the row"),
        ("phone", "see HR", "is no phone number, since it has no digit; write one, or remove the row"),
        ("passport", "lost", "is no number, since it has no digit"),
        ("spouse", "[REDACTED]", "has words in brackets that stand for a value; remove the row"),
        ("employer", "<ORG_1>", "has words in brackets"),
        ("spouse", "(left out)", "has words in brackets"),
        ("phone", "+49 *** 100", "is masked, so that no answer can be compared with it; write the value"),
        ("email", "j•••@example.com", "is masked"),
        ("spouse", "Brak danych", "has a mark for no value"),
        ("employer", "___", "has a mark for no value"),
    ],
)
def test_values_that_no_answer_could_match_are_refused(attribute: str, value: str, message: str) -> None:
    frame = pd.DataFrame([{"id": "r", "subject": "Maria Nowak", "attribute": attribute, "value": value}])
    with pytest.raises(ValueError, match=message) as caught:
        load_records(frame)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("phone", "(020) 7946 0000"),
        ("email", "<z@example.com>"),
        ("employer", "X-Fab"),
        ("iban", "xx12"),
        ("spouse", "Xu"),
    ],
)
def test_values_that_only_look_like_marks_are_read(attribute: str, value: str) -> None:
    frame = pd.DataFrame([{"id": "r", "subject": "Maria Nowak", "attribute": attribute, "value": value}])
    assert load_records(frame)[0].value == value


def test_a_table_without_a_header_shows_nothing_of_itself(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,Maria Secret,phone,+44 7700 900123\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the first row is no header") as caught:
        load_records(tmp_path / "a.csv")
    assert "Maria" not in str(caught.value)


@pytest.mark.parametrize("languages", [["EN"], ["../languages/en"], ["en", "en"]])
def test_strange_languages_are_refused(languages: list[str]) -> None:
    record = Record(id="r", subject="A", attribute="phone", value="0171 5550100")
    with pytest.raises(ValueError, match="no language pack for|is listed twice"):
        build_probes([record], languages)
