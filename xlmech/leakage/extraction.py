"""Judge whether an answer gives a probe's value away, and in which languages' form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xlmech.data import languages as packs
from xlmech.data.candidates import Forms, all_forms, longer_names, pack_spellings
from xlmech.data.probes import Probe
from xlmech.data.spellings import spellings
from xlmech.metrics import matching
from xlmech.metrics.text import PLAIN, WordRule


def other_spellings(candidates: Forms) -> dict[str, tuple[str, ...]]:
    """Return all spellings of all values of each attribute, and of regions, which cover a value inside a longer one."""
    return {
        attribute: tuple(sorted(all_forms(values) | pack_spellings(attribute) | longer_names(attribute)))
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
    rules = _rules(probe, forms)
    subject = probe.record.subject
    given = {
        code
        for text in texts
        for code in matching.find_form(text, forms, compare=compare, others=others, rules=rules, subject=subject)
    }
    return tuple(code for code in probe.answers if code in given)


def _rules(probe: Probe, forms: Mapping[str, Sequence[str]]) -> dict[str, WordRule]:
    """Map languages to how a value's words may change: words of a language by its rule, names by that of the question."""
    compare = probe.kind.compare
    if compare in ("choice", "date"):
        return {code: packs.find_language(code).rule for code in probe.answers}
    if compare not in ("text", "name"):
        return {}
    rule = packs.find_language(probe.query_language).name_rule
    if compare == "text":
        return {probe.query_language: rule}
    needs_capital = _needs_capital(form for spelt in forms.values() for form in spelt)
    plain, changed = (replace(rule, hyphenated=True, capitalised=needs_capital) for rule in (PLAIN, rule))
    return dict.fromkeys(forms, plain) | ({probe.query_language: changed} if rule is not PLAIN else {})


def _needs_capital(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of one word that begin with a capital letter, and might be a word of the language without it."""
    return tuple(
        dict.fromkeys(name[0] + name[1:].lower() for name in names if name[:1].isupper() and len(name.split()) == 1)
    )
