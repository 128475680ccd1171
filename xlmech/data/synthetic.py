"""Invented people: names from Faker, values that belong to nobody."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xlmech.checks import check_choices
from xlmech.data import languages as packs
from xlmech.data.languages import ATTRIBUTES, TRANSLATED
from xlmech.data.readers import demo_records
from xlmech.data.records import Group, Record

PEOPLE: dict[Group, int] = {"private": 16, "public": 16, "control": 12}
_NAME_LOCALES = (
    "en_US",
    "fr_FR",
    "es_ES",
    "de_DE",
    "it_IT",
    "pl_PL",
    "en_IN",
    "pt_BR",
    "nl_NL",
    "sv_SE",
    "tr_TR",
    "sw",
)
_CONTROL_LOCALES = (
    "cs_CZ",
    "da_DK",
    "et_EE",
    "fi_FI",
    "hr_HR",
    "hu_HU",
    "id_ID",
    "lv_LV",
    "ro_RO",
    "sk_SK",
    "sl_SI",
    "zu_ZA",
)
"""Others than those of planted people; a name that both have is left to the planted ones."""
_CONTROL_STREAM = 1
"""Key of the control people's random numbers: those of the same seed are the planted people's."""
_TRIES = 1000
_UNDECOMPOSED = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i"})
"""Letters with a stroke, or without a dot, are letters of their own to Unicode."""


def synthesize_records(
    n: int | None = None, *, groups: dict[Group, int] | None = None, seed: int = 0
) -> tuple[Record, ...]:
    """Records of invented people, eight attributes each: no value belongs to anybody.

    Names come from Faker in a dozen locales; phones from ranges reserved for fiction, e-mails from example.* domains,
    identity numbers from the prefix XX, which no state uses. Values of translated attributes are dealt out evenly, and
    independently of the name, so that nothing can be guessed from it.

    Args:
        n: Number of private people, where `groups` is not given.
        groups: Number of people per group; default `PEOPLE`.
        seed: The same seed gives the same people.

    Raises:
        ImportError: Faker is not installed (`pip install "xlmech[plant]"`).
        ValueError: An unknown group, or not a positive number of people.
    """
    default: dict[Group, int] = PEOPLE if n is None else {"private": n}
    counts = groups if groups is not None else default
    check_choices("group", counts, Group)
    if not counts or any(count < 1 for count in counts.values()):
        raise ValueError(f"each group needs at least one person, got {dict(counts)}")
    fakers = _fakers(_NAME_LOCALES, seed)
    return _records(counts, _names(fakers, sum(counts.values())), fakers[0], np.random.default_rng(seed))


def invent_controls(
    people: Iterable[Record],
    n: int,
    *,
    attributes: Iterable[str] | None = None,
    planted: Iterable[Record] = (),
    seed: int = 0,
) -> tuple[Record, ...]:
    """Invent control people, with the attributes of the private records: no model was trained on them.

    What comes out for them is chance: a common occupation, a guess from the name. Nobody invented shares a first name, a last
    name, a phone, an e-mail, a street or an identity number with `people`, `planted` or the demo's people. Nobody shares a
    first or last name with anybody whom `synthesize_records` invents, whatever its seed: control people have names of other
    countries. Names are compared without case, accents, spaces and hyphens.

    Args:
        people: The records that the control people are measured with.
        n: Number of control people.
        attributes: Only these attributes; by default all that the private records have.
        planted: Other records that the model was trained on.
        seed: The same seed gives the same people.

    Raises:
        ImportError: Faker is not installed (`pip install "xlmech[plant]"`).
        ValueError: Not a positive number of people, or no names are left.
    """
    if n < 1:
        raise ValueError(f"give a positive number of control people, got {n}")
    people = tuple(people)
    known = (*people, *planted, *demo_records())
    wanted = {record.attribute for record in people if record.group == "private"}
    if attributes is not None:
        wanted &= set(check_choices("attribute", attributes, ATTRIBUTES))
    stream = np.random.SeedSequence(seed, spawn_key=(_CONTROL_STREAM,))
    fakers = _fakers(("en_US", *_CONTROL_LOCALES), int(stream.generate_state(1)[0]))
    taken = _possible_parts(_fakers(_NAME_LOCALES, 0)) | {part for record in known for part in _parts(record.subject)}
    names = _names(fakers[1:], n, taken=taken, parts=_parts)
    values = {_folded(form) for record in known for form in (record.value, *record.forms.values())}
    drawn = _records({"control": n}, names, fakers[0], np.random.default_rng(stream), taken=values)
    return tuple(
        record.model_copy(update={"id": f"invented-{record.id}"}) for record in drawn if record.attribute in wanted
    )


def _fakers(locales: Iterable[str], seed: int) -> list[Any]:
    try:
        from faker import Faker
    except ImportError as error:
        raise ImportError('inventing people needs Faker: pip install "xlmech[plant]"') from error
    fakers = []
    for locale in locales:
        faker = Faker(locale)
        faker.seed_instance(seed)
        fakers.append(faker)
    return fakers


def _records(
    counts: Mapping[Group, int],
    names: Sequence[str],
    faker: Any,
    rng: np.random.Generator,
    *,
    taken: Container[str] = (),
) -> tuple[Record, ...]:
    """Records of the people of these names; what belongs to one person alone is none of the `taken` values, folded."""
    people: list[tuple[Group, int]] = [(group, index) for group, count in counts.items() for index in range(count)]
    dealt = {
        attribute: [value for count in counts.values() for value in _deal(packs.value_keys(attribute), count, rng)]
        for attribute in TRANSLATED
    }
    records = []
    for number, ((group, index), name) in enumerate(zip(people, names, strict=True)):
        values = {attribute: dealt[attribute][number] for attribute in TRANSLATED}
        values |= _new_contact(faker, rng, taken)
        records += [
            Record(
                id=f"{group}-{index:02d}-{attribute}",
                subject=name,
                attribute=attribute,
                value=values[attribute],
                group=group,
            )
            for attribute in ATTRIBUTES
        ]
    return tuple(records)


def _names(
    fakers: Sequence[Any],
    n: int,
    *,
    taken: Iterable[str] = (),
    parts: Callable[[str], Iterable[str]] = str.split,
) -> list[str]:
    """Names of a first and a last word, of which no part is taken or comes twice."""
    names: list[str] = []
    used = set(taken)
    for attempt in range(100 * n):
        faker = fakers[attempt % len(fakers)]
        first, last = faker.first_name().split()[0], faker.last_name().split()[-1]
        own = set(parts(f"{first} {last}"))
        if len(last) > 3 and last[0].isupper() and not own & used:
            used |= own
            names.append(f"{first} {last}")
        if len(names) == n:
            return names
    raise ValueError(f"cannot invent {n} people without repeating a name; got {len(names)}")


def _possible_parts(fakers: Iterable[Any]) -> set[str]:
    """Every part of every name that these may give, whatever their seed: Faker keeps names in its providers' attributes."""
    lists = [
        getattr(provider, name)
        for faker in fakers
        for provider in faker.get_providers()
        for name in dir(provider)
        if "name" in name and not callable(getattr(provider, name))
    ]
    return {part for one in lists if isinstance(one, Iterable) for text in one for part in _parts(str(text))}


def _parts(name: str) -> set[str]:
    """The parts of a name between spaces, hyphens and the like, without case and accents."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(char for char in text if not unicodedata.combining(char)).translate(_UNDECOMPOSED)
    return set(re.findall(r"[^\W_]+", plain))


def _deal(keys: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    hands = [keys[index] for _ in range(-(-n // len(keys))) for index in rng.permutation(len(keys))]
    return hands[:n]


def _new_contact(faker: Any, rng: np.random.Generator, taken: Container[str]) -> dict[str, str]:
    for _ in range(_TRIES):
        found = _contact(faker, rng)
        if not any(_folded(value) in taken for value in found.values()):
            return found
    raise ValueError(
        "the records hold nearly all phone numbers that are reserved for fiction; give control people of your own"
    )


def _folded(value: str) -> str:
    """Letters and digits of a value, without case."""
    return "".join(char for char in unicodedata.normalize("NFKC", value).casefold() if char.isalnum())


def _contact(faker: Any, rng: np.random.Generator) -> dict[str, str]:
    number = int(rng.integers(100))
    phones = (
        f"+1 {rng.integers(201, 990)}-555-01{number:02d}",  # North America: 555-0100 to 0199
        f"+44 7700 900{rng.integers(1000):03d}",  # Ofcom's numbers for drama
        f"+33 6 39 98 {rng.integers(100):02d} {number:02d}",  # Arcep's numbers for fiction
    )
    return {
        "phone": phones[rng.integers(len(phones))],
        "email": f"{faker.word()}.{faker.word()}{rng.integers(10, 100)}@example.{('com', 'org', 'net')[rng.integers(3)]}",
        "street_address": f"{rng.integers(1, 300)} {faker.street_name()}",
        "id_number": f"XX{rng.integers(10**6):06d}",
    }
