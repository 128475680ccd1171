"""Records: checked when made, and masked wherever they are shown."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.people import SECRET, phone

from xlmech.data.questions import build_probes
from xlmech.data.records import MASK, Record


def test_form_is_the_packs_unless_the_record_has_its_own() -> None:
    doctor = Record(id="a", subject="Ann Lee", attribute="occupation", value="doctor", forms={"fr": "toubib"})
    assert [doctor.form(code) for code in ("en", "fr", "zh")] == ["doctor", "toubib", "医生"]
    assert [phone().form(code) for code in ("en", "zh", "xx")] == [SECRET] * 3
    assert Record(id="a", subject="b", attribute="occupation", value="astronaut").form("fr") == "astronaut"
    assert Record(id="a", subject="b", attribute="birth_country", value="Atlantis").form("en") is None


def test_record_is_stripped_and_frozen() -> None:
    record = Record(id=" a ", subject="\tAnn Lee\n", attribute="id_number", value=" 007 ")
    assert (record.id, record.subject, record.value, record.group) == ("a", "Ann Lee", "007", "private")
    with pytest.raises(ValueError, match="frozen"):
        record.value = "008"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id: .*at least 1 character"),
        ({"subject": " \t"}, "subject: .*at least 1 character"),
        ({"value": "\n"}, "value: .*at least 1 character"),
        ({"group": "secret"}, "group: .*'private', 'public' or 'control'"),
        ({"attribute": " "}, "attribute: .*at least 1 character"),
        ({"age": "7"}, "age: .*Extra inputs"),
    ],
)
def test_malformed_record(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Record(**{"id": "a", "subject": "Ann Lee", "attribute": "phone", "value": SECRET} | change)  # type: ignore[arg-type]


def test_an_unknown_attribute_is_refused_where_it_is_asked_for() -> None:
    record = Record(id="a", subject="Ann Lee", attribute="birth_mont", value="3")
    with pytest.raises(
        ValueError, match=r"record 'a': unknown attribute 'birth_mont' \(did you mean 'birth_month'\?\); use"
    ):
        build_probes([record], ["en"])


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


@pytest.mark.parametrize("change", [{"value": 447700900123}, {"mobile": SECRET}, {"forms": {"fr": 447700900123}}])
def test_no_error_about_a_record_shows_the_value(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="value|mobile|forms") as caught:
        Record(**{"id": "r0", "subject": "Ann", "attribute": "phone", "value": "1"} | change)
    assert "900123" not in str(caught.value)
