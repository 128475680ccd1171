"""Pairs of probes for activation patching: whose activations go into whose run, and which answers are followed.

The source asks for record A in language S, the target for record B in language T, with the same attribute. What comes out
is told apart by four outcomes: the source's value or the target's, in the target language's form or the source's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xlmech.checks import check_choice
from xlmech.data.languages import TRANSLATED

if TYPE_CHECKING:
    from xlmech.data.probes import Probe

PairKind = Literal["cross_language", "same_language", "other_attribute"]
OUTCOMES = ("source_in_target", "source_in_source", "target_in_target", "target_in_source")
"""Whose value, in which language's form."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ProbePair:
    """A source, asked in one or several languages, and a target.

    Attributes:
        sources: One record's probes, a language each; their activations are averaged.
        target: The probe whose run is patched.
        tracked: A probe of the record whose value is followed as the source's; the source itself where None. Sources of
            another attribute need one.

    Raises:
        ValueError: No sources, or of several records; different attributes without `tracked`; values that share a form;
            a value without a form in a language that is followed (each names the record ids).
    """

    sources: tuple[Probe, ...]
    target: Probe
    tracked: Probe | None = None

    def __post_init__(self) -> None:
        ids = {source.record.id for source in self.sources}
        if len(ids) != 1:
            raise ValueError(
                f"a pair takes one source record, got {', '.join(sorted(ids)) or 'none'}; make one pair for each"
            )
        one, two = self.answer.record, self.target.record
        if one.attribute != two.attribute:
            raise ValueError(
                f"records {one.id!r} and {two.id!r} have different attributes ({one.attribute}, {two.attribute}); pair "
                "probes of one attribute, or for a control give `tracked`, a probe of the target's attribute"
            )
        if set(self.answer.answers.values()) & set(self.target.answers.values()):
            raise ValueError(
                f"the values of records {one.id!r} and {two.id!r} share a form, so that their answers cannot be told "
                "apart; pair records whose values differ in every language (ProbeSet.pairs does)"
            )
        for probe in (self.answer, self.target):
            missing = [code for code in self.languages if code not in probe.answers]
            if missing:
                raise ValueError(
                    f"record {probe.record.id!r} has no form in {', '.join(missing)}; add it to the record's forms"
                )

    @property
    def answer(self) -> Probe:
        """The probe whose value is followed as the source's."""
        return self.tracked or self.sources[0]

    @property
    def languages(self) -> tuple[str, ...]:
        """The target language, and the source languages other than it."""
        return tuple(dict.fromkeys([self.target.query_language, *(one.query_language for one in self.sources)]))

    @property
    def kind(self) -> PairKind:
        """`cross_language`, or which control it is."""
        if self.sources[0].record.attribute != self.target.record.attribute:
            return "other_attribute"
        return "cross_language" if len(self.languages) > 1 else "same_language"

    @property
    def source_language(self) -> str:
        """Of the sources, joined by `+` where they are several."""
        return "+".join(source.query_language for source in self.sources)

    @property
    def id(self) -> str:
        """Source record and languages, and the target probe."""
        return f"{self.sources[0].record.id}/{self.source_language} -> {self.target.id}"

    def outcomes(self) -> dict[str, tuple[str, ...]]:
        """Surface forms of each of `OUTCOMES`; those in the source's form only where it can differ from the target's."""
        target, *others = self.languages
        wordings = {"target": [target], "source": others if self.target.record.attribute in TRANSLATED else []}
        people = {"source": self.answer, "target": self.target}
        found = {}
        for outcome in OUTCOMES:
            who, wording = outcome.split("_in_")
            if wordings[wording]:
                found[outcome] = tuple(dict.fromkeys(people[who].answers[code] for code in wordings[wording]))
        return found

    def __repr__(self) -> str:
        return f"ProbePair({self.id}, {self.kind})"


def make_pairs(
    probes: Sequence[Probe], source: tuple[str, ...], target: str, *, controls: bool
) -> tuple[ProbePair, ...]:
    """See `ProbeSet.pairs`."""
    asked = dict.fromkeys(probe.query_language for probe in probes)
    for language in (*source, target):
        check_choice("language", language, asked)
    groups, targets = _groups(probes, source), [probe for probe in probes if probe.query_language == target]
    pairs = []
    for number, probe in enumerate(targets):
        for group in _rotated(groups, number + 1):
            if _can_pair(group[0], probe):
                pairs.append(ProbePair(sources=group, target=probe))
                break
    if not pairs:
        raise ValueError(
            f"no {'+'.join(source)} -> {target} pair: no two records share attribute and template and differ in value"
        )
    return (*pairs, *_controls(pairs, groups, targets)) if controls else tuple(pairs)


def _groups(probes: Sequence[Probe], languages: tuple[str, ...]) -> list[tuple[Probe, ...]]:
    """One record's probes with one template in all the languages, in order of first appearance."""
    found: dict[tuple[str, int], dict[str, Probe]] = {}
    for probe in probes:
        found.setdefault((probe.record.id, probe.template), {})[probe.query_language] = probe
    return [tuple(of[code] for code in languages) for of in found.values() if set(languages) <= set(of)]


def _rotated(groups: list[tuple[Probe, ...]], start: int) -> list[tuple[Probe, ...]]:
    return groups[start:] + groups[:start]


def _can_pair(source: Probe, target: Probe) -> bool:
    one, two = source.record, target.record
    same = (one.attribute, one.group, source.template) == (two.attribute, two.group, target.template)
    return same and one.subject != two.subject and not set(source.answers.values()) & set(target.answers.values())


def _controls(pairs: list[ProbePair], groups: list[tuple[Probe, ...]], targets: list[Probe]) -> Iterator[ProbePair]:
    asked = {(probe.record.id, probe.template): probe for probe in targets}
    for pair in pairs:
        if pair.kind == "same_language":
            continue
        same = asked.get((pair.sources[0].record.id, pair.sources[0].template))
        if same is None:
            raise ValueError(
                f"no same-language control for {pair.id}: its source record is not asked in the target language"
            )
        yield ProbePair(sources=(same,), target=pair.target)
    for number, pair in enumerate(pairs):
        people = {pair.sources[0].record.subject, pair.target.record.subject}
        other = next(
            (
                group
                for group in _rotated(groups, number)
                if group[0].record.attribute != pair.target.record.attribute
                and group[0].record.group == pair.target.record.group
                and group[0].record.subject not in people
            ),
            None,
        )
        if other is None:
            raise ValueError(
                f"no other-attribute control for {pair.id}: no third {pair.target.record.group} person is asked for another "
                "attribute; build the probes of a second attribute too, and filter the pairs"
            )
        yield ProbePair(sources=other, target=pair.target, tracked=pair.sources[0])
