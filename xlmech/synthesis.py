"""Invented people: names from Faker, values that belong to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xlmech import languages as packs
from xlmech.languages import ATTRIBUTES, TRANSLATED
from xlmech.records import Group, Record

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
        ValueError: Not a positive number of people.
    """
    try:
        from faker import Faker
    except ImportError as error:
        raise ImportError('inventing people needs Faker: pip install "xlmech[plant]"') from error
    default: dict[Group, int] = PEOPLE if n is None else {"private": n}
    counts = groups if groups is not None else default
    if not counts or any(count < 1 for count in counts.values()):
        raise ValueError(f"each group needs at least one person, got {dict(counts)}")
    rng = np.random.default_rng(seed)
    fakers = []
    for locale in _NAME_LOCALES:
        faker = Faker(locale)
        faker.seed_instance(seed)
        fakers.append(faker)
    names, records = _names(fakers, sum(counts.values())), []
    people: list[tuple[Group, int]] = [(group, index) for group, count in counts.items() for index in range(count)]
    dealt = {
        attribute: [value for count in counts.values() for value in _deal(packs.value_keys(attribute), count, rng)]
        for attribute in TRANSLATED
    }
    for number, ((group, index), name) in enumerate(zip(people, names, strict=True)):
        values = {attribute: dealt[attribute][number] for attribute in TRANSLATED} | _contact(fakers[0], rng)
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


def _names(fakers: list[Any], n: int) -> list[str]:
    names: list[str] = []
    used: set[str] = set()
    for attempt in range(100 * n):
        faker = fakers[attempt % len(fakers)]
        first, last = faker.first_name().split()[0], faker.last_name().split()[-1]
        if len(last) > 3 and last[0].isupper() and not {first, last} & used:
            used |= {first, last}
            names.append(f"{first} {last}")
        if len(names) == n:
            return names
    raise ValueError(f"cannot invent {n} people without repeating a name; got {len(names)}")


def _deal(keys: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    hands = [keys[index] for _ in range(-(-n // len(keys))) for index in rng.permutation(len(keys))]
    return hands[:n]


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
