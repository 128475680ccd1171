"""Check a file of records before anything is run: all its faults, its people, and what so many people can show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.attributes import Attribute, all_attributes, kind_list
from xlmech.data.languages import TRANSLATED
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.readers import read_records
from xlmech.data.records import Record
from xlmech.leakage.above_controls import ERROR, TOLERANCE, people_needed
from xlmech.metrics.intervals import rate_interval
from xlmech.metrics.text import normalise
from xlmech.neurons.privacy_neurons import one_language_note

_SHARED = 3
"""From how many people with one value that cannot be guessed this is said; two may live together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordCheck:
    """What a file of records holds.

    Attributes:
        faults: A sentence per fault, which names row and column and no value.
        people: One row per `group` and `attribute`: `people`, and per query language whether it can be asked (a column each).
        own_values: Ids of records whose value no language pack knows: it is searched as it is written, in every language.
        statements: What the number of people can show, and what it cannot.
    """

    faults: tuple[str, ...]
    people: pd.DataFrame
    own_values: tuple[str, ...]
    statements: tuple[str, ...]


def check_records(
    source: Any, languages: Sequence[str] | None = None, *, kinds: Iterable[Attribute] = (), held_out: float = 0.5
) -> RecordCheck:
    """Check a file of records.

    Args:
        source: As of `load_records`.
        languages: Query languages; all that have a pack by default.
        kinds: Kinds of data beside those that xlmech knows.
        held_out: Share of people who are measured and do not choose neurons, as of an audit.

    Raises:
        ValueError: The table as a whole cannot be read (see `load_records`), or a language has no pack, no names in CLDR and no
            questions in the table.
    """
    codes = check_list("language", languages or packs.available_languages())
    kinds = kind_list(kinds)
    records, faults, _ = read_records(Path(source) if isinstance(source, str) else source, kinds=kinds)
    for code in codes:
        if not (packs.cldr.knows(code) or any(code in record.questions for record in records)):
            packs.load_language(code)
    unasked = {code: _unasked(records, code, kinds) for code in codes}
    return RecordCheck(
        faults=(*faults, *(f"{code}: {fault}" for code in codes for fault in dict.fromkeys(unasked[code].values()))),
        people=_people(records, unasked),
        own_values=tuple(record.id for record in records if record.is_own_value),
        statements=tuple(_statements(records, codes, kinds, held_out)),
    )


def _unasked(records: Iterable[Record], code: str, kinds: tuple[Attribute, ...]) -> dict[str, str]:
    """Say of each record that cannot be asked in a language why, by the record's id; alike records are tried once."""
    faults: dict[str, str] = {}
    tried: dict[tuple[Any, ...], str] = {}
    for record in records:
        value = record.value if record.attribute in TRANSLATED else ""
        key = (record.attribute, value, *(code in texts for texts in (record.forms, record.questions, record.prompts)))
        if key not in tried:
            tried[key] = _fault(record, code, kinds)
        if tried[key]:
            faults[record.id] = tried[key]
    return faults


def _fault(record: Record, code: str, kinds: tuple[Attribute, ...]) -> str:
    try:
        build_probes([record], [code], kinds=kinds)
    except ValueError as error:
        return str(error)
    return ""


def _people(records: Sequence[Record], unasked: dict[str, dict[str, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(
        [(record.id, record.subject, record.group, record.attribute) for record in records],
        columns=["id", "subject", "group", "attribute"],
    )
    rows = []
    for (group, attribute), part in frame.groupby(["group", "attribute"], sort=False):
        can_ask = {code: not part.id.isin(faults).any() for code, faults in unasked.items()}
        rows.append({"group": group, "attribute": attribute, "people": part.subject.nunique()} | can_ask)
    return pd.DataFrame(rows, columns=["group", "attribute", "people", *unasked])


def _statements(
    records: Sequence[Record], codes: Sequence[str], kinds: Iterable[Attribute], held_out: float
) -> Iterator[str]:
    """Say what so many people can show."""
    people = {group: {r.subject for r in records if r.group == group} for group in ("private", "public", "control")}
    n_private, n_control = len(people["private"]), len(people["control"])
    measured = round(held_out * n_private)
    if not n_private:
        yield "No private people, so nothing can be said about leakage: the column group says who is private."
        return
    if measured in (0, n_private):
        yield f"{n_private} private people are too few for an audit, which measures some of them and lets others choose neurons."
        return
    yield f"{n_private} private people, of whom an audit measures {measured} and lets the others choose neurons."
    yield _if_nothing(measured)
    known = all_attributes(kinds)
    guessable = sorted({r.attribute for r in records if r.group == "private" and _is_guessable(r.attribute, known)})
    if guessable:
        yield _about_controls(measured, round(held_out * n_control), guessable)
    yield from _shared_values(records, known)
    if not people["public"]:
        yield "No public people: what ablation costs in facts that should stay is not measured."
    if note := one_language_note(codes):
        yield note


def _shared_values(records: Sequence[Record], known: Mapping[str, Attribute]) -> Iterator[str]:
    """Say where several people have one value that cannot be guessed: it may be a mark for no value in any language."""
    sharing: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        if not _is_guessable(record.attribute, known):
            sharing.setdefault((record.attribute, normalise(record.value)), {})[record.subject] = record.id
    for (attribute, _), ids in sharing.items():
        if len(ids) >= _SHARED:
            names = ", ".join([*list(ids.values())[:_SHARED], *(["..."] if len(ids) > _SHARED else [])])
            yield (
                f"{len(ids)} people have the same {attribute.replace('_', ' ')} (records {names}): "
                "if it stands for no value, remove those rows; an extraction of it says nothing about one person."
            )


def _is_guessable(attribute: str, known: Mapping[str, Attribute]) -> bool:
    return attribute not in known or known[attribute].guessable


def too_few_people(measured: ProbeSet) -> Iterator[str]:
    """Say what the people whom an audit measures are too few to show, a sentence each; nothing where they are enough.

    Args:
        measured: Probes of held-out people.
    """
    private, control = (measured.filter(group=group) for group in ("private", "control"))
    n_private, n_control = len(private.subjects), len(control.subjects)
    if 0 < n_private < people_needed():
        yield _if_nothing(n_private)
    guessable = sorted({probe.record.attribute for probe in private if probe.kind.guessable})
    if guessable and n_private and n_control < _controls_needed(n_private):
        yield _about_controls(n_private, n_control, guessable)


def _if_nothing(n_people: int) -> str:
    """Say how low a rate so many people can show."""
    end = rate_interval(np.zeros(n_people), np.ones(n_people)).high
    whom = "1 person" if n_people == 1 else f"{n_people} people"
    return (
        f"If nothing is extracted from {whom}, the rate's 95 % interval ends at {end:.0%}; that nothing leaks is said "
        f"where it ends at {TOLERANCE:.0%}, from {people_needed()} measured people on."
    )


def _controls_needed(n_private: int) -> int:
    """Return the fewest control people with whom a permutation test can find a difference."""
    return next(n for n in range(1, 1000) if 1 / math.comb(n_private + n, n) <= ERROR)


def _about_controls(n_private: int, n_control: int, guessable: Sequence[str]) -> str:
    """Say whether a permutation test of so many people can find a difference."""
    needed = _controls_needed(n_private)
    values = ", ".join(attribute.replace("_", " ") for attribute in guessable)
    if n_control < needed:
        people = "1 measured control person" if n_control == 1 else f"{n_control} measured control people"
        return (
            f"{people}: a leak of what can be guessed ({values}) cannot be told from chance; at least "
            f"{needed} are needed, and more in several languages (data.add_controls invents some)."
        )
    return f"{n_control} measured control people tell a leak of what can be guessed ({values}) from chance."
