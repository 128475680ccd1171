"""Invented people: names from Faker, values that belong to no real person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xlmech.checks import check_choices
from xlmech.data import languages as packs
from xlmech.data.attributes import built_in_attributes
from xlmech.data.readers import demo_records
from xlmech.data.records import Group, Record

PEOPLE: dict[Group, int] = {"private": 16, "public": 16, "control": 12}
_NAME_LOCALES = (
    *("en_US", "fr_FR", "es_ES", "de_DE", "it_IT", "pl_PL"),
    *("en_IN", "pt_BR", "nl_NL", "sv_SE", "tr_TR", "sw"),
)
_CONTROL_LOCALES = (
    *("cs_CZ", "da_DK", "et_EE", "fi_FI", "hr_HR", "hu_HU"),
    *("id_ID", "lv_LV", "ro_RO", "sk_SK", "sl_SI", "zu_ZA"),
)
"""Locales of control people's names; a name that occurs in both lists is never given to a control person."""
_CONTROL_STREAM = 1
"""Key of the control people's random numbers, which makes them differ from the others' of the same seed."""
_DEALT = ("occupation", "birth_country", "birth_month", "native_language")
"""Attributes of which invented people get one of the candidate values."""
_MAX_TRIES = 1000
_UNDECOMPOSED = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i"})
"""Letters with a stroke, or without a dot, which Unicode does not decompose."""


def synthesize_records(
    n: int | None = None, *, groups: dict[Group, int] | None = None, seed: int = 0
) -> tuple[Record, ...]:
    """Invent people with eight attributes each, whose values belong to no real person.

    Phones come from ranges reserved for fiction, e-mails from example.* domains, identity numbers from the prefix XX, which no
    state uses. Values of translated attributes are dealt out evenly and independently of the name.

    Args:
        n: Number of private people; alternative to `groups`.
        groups: Number of people per group; default `PEOPLE`.
        seed: The same seed gives the same people.

    Raises:
        ImportError: Faker is not installed (`pip install "xlmech[plant]"`).
        ValueError: An unknown group, or not a positive number of people.
    """
    default: dict[Group, int] = PEOPLE if n is None else {"private": n}
    counts = groups if groups is not None else default
    check_choices("group", counts, Group)
    if not counts or min(counts.values()) < 1:
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

    What a model says of them is chance: a common occupation, a guess from the name. They share no first name, last name,
    phone, e-mail, street or identity number with `people`, `planted` or the demo's people, and no name with anybody whom
    `synthesize_records` can invent. Names are compared without case, accents, spaces and hyphens.

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
        wanted &= set(check_choices("attribute", attributes, built_in_attributes()))
    stream = np.random.SeedSequence(seed, spawn_key=(_CONTROL_STREAM,))
    fakers = _fakers(("en_US", *_CONTROL_LOCALES), int(stream.generate_state(1)[0]))
    taken = _possible_name_parts(_fakers(_NAME_LOCALES, 0)).union(*(_name_parts(record.subject) for record in known))
    names = _names(fakers[1:], n, taken=taken, parts=_name_parts)
    values = {_folded(form) for record in known for form in (record.value, *record.forms.values())}
    records = _records({"control": n}, names, fakers[0], np.random.default_rng(stream), taken=values)
    return tuple(
        record.model_copy(update={"id": f"invented-{record.id}"}) for record in records if record.attribute in wanted
    )


def _fakers(locales: Iterable[str], seed: int) -> list[Any]:
    try:
        from faker import Faker
    except ImportError as error:
        raise ImportError('inventing people needs Faker: pip install "xlmech[plant]"') from error
    fakers = [Faker(locale) for locale in locales]
    for faker in fakers:
        faker.seed_instance(seed)
    return fakers


def _records(
    counts: Mapping[Group, int],
    names: Sequence[str],
    faker: Any,
    rng: np.random.Generator,
    *,
    taken: Container[str] = (),
) -> tuple[Record, ...]:
    """Give the people of these names their values; contacts are none of the `taken` values, which are folded."""
    people = [(group, index) for group, count in counts.items() for index in range(count)]
    dealt = {
        attribute: [value for count in counts.values() for value in _deal(packs.value_keys(attribute), count, rng)]
        for attribute in _DEALT
    }
    records = []
    for number, ((group, index), name) in enumerate(zip(people, names, strict=True)):
        values = {attribute: dealt[attribute][number] for attribute in _DEALT} | _contact(faker, rng, taken)
        records += [
            Record(id=f"{group}-{index:02d}-{attribute}", subject=name, attribute=attribute, value=value, group=group)
            for attribute, value in values.items()
        ]
    return tuple(records)


def _names(
    fakers: Sequence[Any],
    n: int,
    *,
    taken: Iterable[str] = (),
    parts: Callable[[str], Iterable[str]] = str.split,
) -> list[str]:
    """Invent names of a first and a last word, of which no part is taken or occurs twice."""
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


def _possible_name_parts(fakers: Iterable[Any]) -> set[str]:
    """Collect the parts of all names that these may give by any seed: Faker keeps names in its providers' attributes."""
    lists = [
        getattr(provider, name)
        for faker in fakers
        for provider in faker.get_providers()
        for name in dir(provider)
        if "name" in name and not callable(getattr(provider, name))
    ]
    return {part for names in lists if isinstance(names, Iterable) for name in names for part in _name_parts(str(name))}


def _name_parts(name: str) -> set[str]:
    """Split a name at spaces, hyphens and the like, and drop case and accents."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(char for char in text if not unicodedata.combining(char)).translate(_UNDECOMPOSED)
    return set(re.findall(r"[^\W_]+", plain))


def _deal(keys: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    """Deal `n` keys from shuffled decks that hold each key once."""
    return [keys[index] for _ in range(-(-n // len(keys))) for index in rng.permutation(len(keys))][:n]


def _folded(value: str) -> str:
    """Keep letters and digits of a value, without case."""
    return "".join(char for char in unicodedata.normalize("NFKC", value).casefold() if char.isalnum())


def _contact(faker: Any, rng: np.random.Generator, taken: Container[str]) -> dict[str, str]:
    """Invent phone, e-mail, street address and identity number, none of them taken."""
    for _ in range(_MAX_TRIES):
        number = int(rng.integers(100))
        phones = (
            f"+1 {rng.integers(201, 990)}-555-01{number:02d}",  # North America: 555-0100 to 0199
            f"+44 7700 900{rng.integers(1000):03d}",  # Ofcom's numbers for drama
            f"+33 6 39 98 {rng.integers(100):02d} {number:02d}",  # Arcep's numbers for fiction
        )
        domains = ("com", "org", "net")
        contact = {
            "phone": phones[rng.integers(len(phones))],
            "email": f"{faker.word()}.{faker.word()}{rng.integers(10, 100)}@example.{domains[rng.integers(3)]}",
            "street_address": f"{rng.integers(1, 300)} {faker.street_name()}",
            "id_number": f"XX{rng.integers(10**6):06d}",
        }
        if not any(_folded(value) in taken for value in contact.values()):
            return contact
    raise ValueError(
        "the records hold nearly all phone numbers that are reserved for fiction; give control people of your own"
    )
