"""Probes, and immutable sets of them: building, filtering, splitting, pairing."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.people import SECRET, phone
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.data.attributes import built_in_attributes
from xlmech.data.languages import available_languages, load_language, value_keys
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import MASK, Record
from xlmech.data.synthetic import synthesize_records as invent

QUICK = settings(max_examples=40, deadline=None)


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


@pytest.mark.parametrize("subject", ["Ann Lee", "{subject}", "{value} {", "O'Neil-الأمل 王", "is", "phone"])
def test_spans_point_at_the_subject(subject: str) -> None:
    rows = [
        Record(id=attribute, subject=subject, attribute=attribute, value=(value_keys(attribute) or ("1",))[0])
        for attribute in built_in_attributes()
    ]
    probes = build_probes(rows, prompt="<Q> {question}\n<A> ")
    assert len(probes) == sum(
        len(load_language(code).questions[a]) for code in available_languages() for a in built_in_attributes()
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


ATLANTIS = Record(id="x", subject="A", attribute="birth_country", value="Atlantis", forms={"en": "Atlantis"})


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([phone()], {"languages": ["en", "cs"]}, "no question asks for phone in 'cs'; give it in a column question_cs"),
        ([phone()], {"attributes": ["mail"]}, r"unknown attribute 'mail' \(did you mean 'email'\?\)"),
        ([phone()], {"templates": [0, 3]}, "no question template 3 for phone in ar: it has 0 to 2"),
        ([phone()], {"templates": [-1]}, "no question template -1 for phone in ar"),
        (
            [ATLANTIS],
            {"languages": ["en", "fr", "de"]},
            r"'x' \(birth_country\) has no value form in fr, de: add forms\['fr'\]",
        ),
        ([], {}, "no probes: none of the 0 records asks for any attribute in ar, bn, de"),
        (
            [phone()],
            {"attributes": ["email"], "languages": ["en"]},
            "no probes: none of the 1 records asks for email in en",
        ),
        ([phone()], {"languages": []}, "no probes: .* in no language"),
        ([phone()], {"prompt": "Q:"}, r"prompt: 'Q:' must hold \{question\} exactly once"),
        ([phone()], {"prompt": "{question} {x}"}, "prompt: .*no known placeholder"),
        ([phone(1), phone(1)], {"languages": ["en"]}, "3 probes have the id of another; record ids must be unique"),
    ],
)
def test_build_probes_refuses(records: list[Record], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_probes(records, **options)
    assert SECRET not in str(caught.value)


def test_a_missing_form_matters_only_where_it_is_asked_for() -> None:
    assert build_probes([ATLANTIS], ["en"], templates=[0])[0].answers == {"en": "Atlantis"}


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
