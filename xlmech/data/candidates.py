"""Candidates: the values that an attribute may have, and how each language writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record, record_list

Forms = dict[str, dict[str, dict[str, str]]]
"""Attribute -> value -> language -> form."""


def candidate_forms(probes: ProbeSet, records: Iterable[Record] | None) -> Forms:
    """Collect the forms of every candidate: the values of the attribute's own list or of the packs, of `records` and `probes`."""
    codes = tuple(dict.fromkeys((*packs.available_languages(), *probes.languages)))
    forms: Forms = {attribute: {} for attribute in probes.attributes}
    kinds = {probe.record.attribute: probe.kind for probe in probes}
    records = record_list(() if records is None else records)
    for attribute, values in forms.items():
        for key, written in kinds[attribute].values.items():
            values[key] = {code: written.get(code, key) for code in codes}
        for key in () if values else packs.value_keys(attribute):
            values[key] = {code: form for code in codes if (form := packs.find_language(code).form(attribute, key))}
    for record in (*records, *probes.records):
        if record.attribute in forms:
            written = {**kinds[record.attribute].values.get(record.value, {}), **record.forms}
            forms[record.attribute][record.value] = {
                code: form for code in codes if (form := written.get(code) or record.form(code))
            }
    for probe in probes:
        forms[probe.record.attribute][probe.record.value] |= probe.answers
    return forms


def pack_spellings(attribute: str) -> frozenset[str]:
    """Return all spellings of all values that the language packs know of an attribute."""
    return _pack_spellings(attribute, packs.pack_files())


@cache
def _pack_spellings(attribute: str, files: tuple[Path, ...]) -> frozenset[str]:
    return frozenset(
        spelling
        for pack in map(packs.read_pack, files)
        for key in pack.values.get(attribute, ())
        for spelling in pack.spellings(attribute, key)
    )


def longer_names(attribute: str) -> frozenset[str]:
    """Return names that are no values of an attribute and may hold one: regions, in every language with a pack."""
    codes = packs.available_languages() if attribute == "birth_country" else ()
    return frozenset(name for code in codes if packs.cldr.knows(code) for name in packs.cldr.regions(code))


def all_forms(values: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Return the forms of all of an attribute's values, in any language."""
    return {form for forms in values.values() for form in forms.values()}
