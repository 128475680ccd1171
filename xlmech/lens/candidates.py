"""The surface forms of a probe's answer as tokens: first tokens, which of them collide, and each language's own tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from xlmech.checks import check_choices
from xlmech.data import languages as packs
from xlmech.data.probes import Probe, ProbeSet
from xlmech.leakage.measure import subject_hash
from xlmech.models.backends import Backend
from xlmech.models.tokens import encode_answer


@dataclass(frozen=True, kw_only=True, repr=False)
class Asked:
    """A probe with its answer's forms as tokens.

    Attributes:
        probe: What is asked.
        forms: (answer token,) per language.
        plant_language: As of the model, "" where unknown.
    """

    probe: Probe
    forms: dict[str, tuple[int, ...]]
    plant_language: str

    @property
    def firsts(self) -> dict[str, int]:
        """First token per language."""
        return {code: tokens[0] for code, tokens in self.forms.items()}

    @property
    def collides(self) -> bool:
        """Whether the query and the plant language's forms share their first token."""
        planted, query = self.plant_language, self.probe.query_language
        return planted in self.forms and planted != query and self.forms[planted][0] == self.forms[query][0]

    def kind(self, code: str, *, whole: bool = False) -> str:
        """`query` (the query language's form), `plant`, `other`, or `same` as the query or plant form.

        Args:
            code: Language of the form.
            whole: Compare all tokens instead of the first.
        """
        if code == self.probe.query_language:
            return "query"
        taken = [self.forms.get(other) for other in (self.probe.query_language, self.plant_language) if other != code]
        length = None if whole else 1
        if self.forms[code][:length] in [tokens[:length] for tokens in taken if tokens]:
            return "same"
        return "plant" if code == self.plant_language else "other"

    def describe(self) -> dict[str, str]:
        """Columns that name the probe in a frame; the subject is a hash."""
        return {
            "probe": self.probe.id,
            "record": self.probe.record.id,
            "subject": subject_hash(self.probe.record.subject),
            "attribute": self.probe.record.attribute,
            "query_language": self.probe.query_language,
        }


def ask(
    backend: Backend, probes: ProbeSet, *, languages: Sequence[str] | None, plant_language: str
) -> tuple[list[Asked], list[Asked]]:
    """Every probe with its forms in `languages` (and the query language's), and those of them that do not collide.

    Raises:
        ValueError: No probes; a language in which no answer has a form; none without collision; a form that tokenises to nothing.
    """
    if not len(probes):
        raise ValueError("no probes to read; see build_probes, and the filters applied to its result")
    if languages is not None:
        languages = check_choices(
            "language", languages, dict.fromkeys(code for probe in probes for code in probe.answers)
        )
    asked = [
        Asked(probe=probe, forms=_encode(backend, probe, languages), plant_language=plant_language) for probe in probes
    ]
    clear = [one for one in asked if not one.collides]
    if not clear:
        raise ValueError(
            "in every probe the query and the plant language's forms share their first token; use other attributes"
        )
    return asked, clear


def can_be_followed(backend: Backend, probe: Probe, plant_language: str) -> bool:
    """Whether the query and the plant language's forms begin with different tokens (see `Asked.collides`)."""
    planted, own = probe.answers.get(plant_language), probe.answers[probe.query_language]
    if planted is None or plant_language == probe.query_language:
        return True
    what = f"a form of {probe.record.id}"
    return planted != own and len({encode_answer(backend, form, what=what)[0] for form in (planted, own)}) == 2


def _encode(backend: Backend, probe: Probe, languages: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    return {
        code: tuple(encode_answer(backend, form, what=f"the {code} form of {probe.record.id}"))
        for code, form in probe.answers.items()
        if languages is None or code in languages or code == probe.query_language
    }


def language_tokens(backend: Backend, asked: Iterable[Asked]) -> dict[str, dict[str, torch.Tensor]]:
    """Per attribute and language, the tokens with which only that language's forms begin; under `""` the shared ones.

    The forms are those of all candidate values of the attribute: the language packs' and the asked records' own. A token
    with which forms of two languages begin tells neither. Attributes that are written alike in all languages have no entry.
    """
    asked = list(asked)
    codes = dict.fromkeys(code for one in asked for code in one.forms)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for attribute in dict.fromkeys(one.probe.record.attribute for one in asked):
        if not (keys := packs.value_keys(attribute)):
            continue
        firsts = {
            code: {
                encode_answer(backend, form, what=f"the {code} form of {attribute} {key}")[0]
                for key in keys
                if (form := packs.load_language(code).form(attribute, key))
            }
            for code in codes
        }
        for one in asked:
            if one.probe.record.attribute == attribute:
                for code, token in one.firsts.items():
                    firsts[code].add(token)
        seen = Counter(token for tokens in firsts.values() for token in tokens)
        sets = {code: sorted(token for token in tokens if seen[token] == 1) for code, tokens in firsts.items()}
        sets[""] = sorted(token for token, times in seen.items() if times > 1)
        found[attribute] = {code: torch.tensor(tokens, dtype=torch.long) for code, tokens in sets.items()}
    return found
