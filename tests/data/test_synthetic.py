"""Invented people, and invented control people."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from xlmech.data.languages import TRANSLATED, value_keys
from xlmech.data.readers import demo_records
from xlmech.data.records import Record
from xlmech.data.synthetic import _NAME_LOCALES, _fakers, _name_parts, _possible_name_parts, invent_controls
from xlmech.data.synthetic import synthesize_records as invent

INVENTED = invent(seed=5)
EIGHT = (
    *("occupation", "birth_country", "birth_month", "native_language"),
    *("phone", "email", "street_address", "id_number"),
)


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
    assert all(tuple(row.attribute for row in INVENTED[n : n + 8]) == EIGHT for n in range(0, len(INVENTED), 8))


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


@pytest.mark.parametrize("attribute", EIGHT[:4])
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
