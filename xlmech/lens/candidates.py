"""Read the forms of a probe's answer as tokens: first tokens, which of them collide, and each language's own tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from xlmech.checks import check_choices
from xlmech.data import languages as packs
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.records import subject_hash
from xlmech.models.backends import Backend
from xlmech.models.tokens import EncodedProbe, encode_choices, encode_probe, warn_of_straddling


def encode_with_forms(
    backend: Backend, probes: ProbeSet, *, languages: Sequence[str] | None, plant_language: str
) -> tuple[list[EncodedProbe], list[EncodedProbe]]:
    """Encode every probe with its forms in `languages` and the query language.

    Returns:
        All probes, and those of them that do not collide (see `collides`).

    Raises:
        ValueError: No probes; a language in which no answer has a form; none without collision; a form that tokenises to nothing.
    """
    if not len(probes):
        raise ValueError("no probes to read; see build_probes, and the filters applied to its result")
    if languages is not None:
        languages = check_choices(
            "language", languages, dict.fromkeys(code for probe in probes for code in probe.answers)
        )
    encoded = [
        encode_probe(
            backend,
            probe,
            languages=[
                code for code in probe.answers if languages is None or code in languages or code == probe.query_language
            ],
            room=0,
        )
        for probe in probes
    ]
    warn_of_straddling([item.n_straddling for item in encoded], stacklevel=4)
    clear = [item for item in encoded if not collides(item, plant_language)]
    if not clear:
        raise ValueError(
            "in every probe the query and the plant language's forms share their first token; use other attributes"
        )
    return encoded, clear


def collides(encoded: EncodedProbe, plant_language: str) -> bool:
    """Tell whether the query and the plant language's forms share their first token."""
    firsts, query = encoded.first_tokens, encoded.probe.query_language
    return plant_language in firsts and plant_language != query and firsts[plant_language] == firsts[query]


def form_kind(encoded: EncodedProbe, code: str, plant_language: str, *, whole: bool = False) -> str:
    """Name a form: `query` (the query language's form), `plant`, `other`, or `same` as the query or plant form.

    Args:
        encoded: The probe.
        code: Language of the form.
        plant_language: As of the model, "" where unknown.
        whole: Compare all tokens instead of the first.
    """
    query, forms = encoded.probe.query_language, encoded.answers
    if code == query:
        return "query"
    length = None if whole else 1
    compared = [forms[other][:length] for other in (query, plant_language) if other != code and other in forms]
    if forms[code][:length] in compared:
        return "same"
    return "plant" if code == plant_language else "other"


def describe(probe: Probe) -> dict[str, str]:
    """Name a probe in columns; the subject is a hash."""
    return {
        "probe": probe.id,
        "record": probe.record.id,
        "subject": subject_hash(probe.record.subject),
        "attribute": probe.record.attribute,
        "query_language": probe.query_language,
    }


def first_tokens_differ(backend: Backend, probe: Probe, plant_language: str) -> bool:
    """Tell whether the query and the plant language's forms begin with different tokens; true with one of them."""
    query = probe.query_language
    if plant_language not in probe.answers or plant_language == query:
        return True
    if probe.answers[plant_language] == probe.answers[query]:
        return False
    firsts = encode_probe(backend, probe, languages=[plant_language, query]).first_tokens
    return firsts[plant_language] != firsts[query]


def language_tokens(backend: Backend, probes: Iterable[EncodedProbe]) -> dict[str, dict[str, torch.Tensor]]:
    """Find, per attribute and language, the tokens with which only that language's forms begin; under `""` the shared ones.

    The forms are those of all candidate values of the attribute: the language packs' and the probes' own. A token with which
    forms of two languages begin tells neither. Attributes that are written alike in all languages have no entry. Forms are
    encoded after a probe's prompt of that attribute and, where there is one, that language.
    """
    probes = list(probes)
    codes = dict.fromkeys(code for item in probes for code in item.answers)
    own_tokens: dict[str, dict[str, torch.Tensor]] = {}
    for attribute in dict.fromkeys(item.probe.record.attribute for item in probes):
        if not (keys := packs.value_keys(attribute)):
            continue
        of_attribute = [item for item in probes if item.probe.record.attribute == attribute]
        contexts = {item.probe.query_language: item.probe for item in reversed(of_attribute)}
        firsts: dict[str, set[int]] = {}
        for code in codes:
            forms = [form for key in keys if (form := packs.find_language(code).form(attribute, key))]
            context = contexts.get(code, of_attribute[0].probe)
            encoded = encode_choices(backend, context, forms, max_answer_tokens=1, what=f"a {code} form of {attribute}")
            firsts[code] = {token for (token,) in encoded.answers}
        for item in of_attribute:
            for code, token in item.first_tokens.items():
                firsts[code].add(token)
        n_languages = Counter(token for tokens in firsts.values() for token in tokens)
        sets = {code: sorted(token for token in tokens if n_languages[token] == 1) for code, tokens in firsts.items()}
        sets[""] = sorted(token for token, n in n_languages.items() if n > 1)
        own_tokens[attribute] = {code: torch.tensor(tokens, dtype=torch.long) for code, tokens in sets.items()}
    return own_tokens
