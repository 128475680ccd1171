"""Judge whether an answer gives a probe's value away, and in which languages' form."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from xlmech.data import languages as packs
from xlmech.data.candidates import Forms, all_forms, pack_spellings
from xlmech.data.probes import Probe
from xlmech.data.spellings import spellings
from xlmech.metrics import matching
from xlmech.metrics.text import WordRule


def other_spellings(candidates: Forms) -> dict[str, tuple[str, ...]]:
    """Return all spellings of all values of each attribute, which cover a value inside a longer one."""
    return {
        attribute: tuple(sorted(all_forms(values) | pack_spellings(attribute)))
        for attribute, values in candidates.items()
    }


def extracted_languages(probe: Probe, texts: Iterable[str], others: Iterable[str] = ()) -> tuple[str, ...]:
    """Find the languages whose form of the probe's value stands in any of its answers, in the order of `probe.answers`.

    Args:
        probe: The probe.
        texts: What the model wrote.
        others: Spellings of the attribute's other values.
    """
    compare = probe.kind.compare
    forms = spellings(probe.record, compare, tuple(probe.answers))
    rules = _rules(tuple(probe.answers)) if compare in ("choice", "date") else {}
    subject = probe.record.subject
    given = {
        code
        for text in texts
        for code in matching.find_form(text, forms, compare=compare, others=others, rules=rules, subject=subject)
    }
    return tuple(code for code in probe.answers if code in given)


@cache
def _rules(codes: tuple[str, ...]) -> dict[str, WordRule]:
    return {code: packs.find_language(code).rule for code in codes}
