"""Pairs of probes for activation patching: a source whose activations are patched into a target's run.

The source asks for record A in language S, the target for record B in language T, with the same attribute. Four outcomes are
followed: the source's value or the target's, in the target language's form or the source language's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xlmech.checks import check_choice

if TYPE_CHECKING:
    from xlmech.data.probes import Probe

PairKind = Literal["cross_language", "same_language", "other_attribute"]
OUTCOMES = ("source_in_target", "source_in_source", "target_in_target", "target_in_source")
"""Record whose value it is, and language of the form."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ProbePair:
    """A source, asked in one or several languages, and a target.

    Attributes:
        sources: One record's probes, a language each; their activations are averaged.
        target: The probe whose run is patched.
        tracked: Probe whose value is followed as the source's, if the sources have another attribute than the target; the
            first source by default.

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
                f"a pair takes one source record, got {', '.join(sorted(ids)) or 'none'}; make several pairs"
            )
        source, target = self.answer.record, self.target.record
        if source.attribute != target.attribute:
            raise ValueError(
                f"records {source.id!r} and {target.id!r} have different attributes ({source.attribute}, {target.attribute}); "
                "pair probes of one attribute, or for a control give `tracked`, a probe of the target's attribute"
            )
        if _share_a_form(self.answer, self.target):
            raise ValueError(
                f"the values of records {source.id!r} and {target.id!r} share a form, so that their answers look the "
                "same; pair records whose values differ in every language (ProbeSet.pairs does)"
            )
        for probe in (self.answer, self.target):
            if missing := ", ".join(code for code in self.languages if code not in probe.answers):
                raise ValueError(f"record {probe.record.id!r} has no form in {missing}; add it to the record's forms")

    @property
    def answer(self) -> Probe:
        """The probe whose value is followed as the source's."""
        return self.tracked or self.sources[0]

    @property
    def languages(self) -> tuple[str, ...]:
        """The target language, and the source languages other than it."""
        return tuple(dict.fromkeys(probe.query_language for probe in (self.target, *self.sources)))

    @property
    def kind(self) -> PairKind:
        """`cross_language`, or which control condition it is."""
        if self.sources[0].record.attribute != self.target.record.attribute:
            return "other_attribute"
        return "cross_language" if len(self.languages) > 1 else "same_language"

    @property
    def source_language(self) -> str:
        """The source languages, joined by `+`."""
        return "+".join(source.query_language for source in self.sources)

    @property
    def id(self) -> str:
        """Source record and languages, and the target probe."""
        return f"{self.sources[0].record.id}/{self.source_language} -> {self.target.id}"

    def outcomes(self) -> dict[str, tuple[str, ...]]:
        """Surface forms of each of `OUTCOMES`; those in a source language only if they can differ from the target's."""
        target, *sources = self.languages
        codes = {"target": [target], "source": sources if len(set(self.target.answers.values())) > 1 else []}
        probes = {"source": self.answer, "target": self.target}
        forms = {}
        for outcome in OUTCOMES:
            owner, language = outcome.split("_in_")
            if codes[language]:
                forms[outcome] = tuple(dict.fromkeys(probes[owner].answers[code] for code in codes[language]))
        return forms

    def __repr__(self) -> str:
        return f"ProbePair({self.id}, {self.kind})"


def make_pairs(
    probes: Sequence[Probe], source: tuple[str, ...], target: str, *, controls: bool
) -> tuple[ProbePair, ...]:
    """Make the pairs of `ProbeSet.pairs`."""
    for language in (*source, target):
        check_choice("language", language, dict.fromkeys(probe.query_language for probe in probes))
    groups = _source_groups(probes, source)
    targets = [probe for probe in probes if probe.query_language == target]
    pairs = []
    for number, probe in enumerate(targets):
        partner = next(
            (group for group in groups[number + 1 :] + groups[: number + 1] if _can_pair(group[0], probe)), None
        )
        if partner:
            pairs.append(ProbePair(sources=partner, target=probe))
    if not pairs:
        raise ValueError(
            f"no {'+'.join(source)} -> {target} pair: no two records share attribute and template and differ in value"
        )
    return (*pairs, *_control_pairs(pairs, groups, targets)) if controls else tuple(pairs)


def _source_groups(probes: Sequence[Probe], languages: tuple[str, ...]) -> list[tuple[Probe, ...]]:
    """Collect each record's probes with one template in all the languages, in order of first appearance."""
    groups: dict[tuple[str, int], dict[str, Probe]] = {}
    for probe in probes:
        groups.setdefault((probe.record.id, probe.template), {})[probe.query_language] = probe
    return [tuple(group[code] for code in languages) for group in groups.values() if group.keys() >= set(languages)]


def _share_a_form(source: Probe, target: Probe) -> bool:
    return not set(source.answers.values()).isdisjoint(target.answers.values())


def _can_pair(source: Probe, target: Probe) -> bool:
    first, second = ((probe.record.attribute, probe.record.group, probe.template) for probe in (source, target))
    return first == second and source.record.subject != target.record.subject and not _share_a_form(source, target)


def _control_pairs(
    pairs: list[ProbePair], groups: list[tuple[Probe, ...]], targets: list[Probe]
) -> Iterator[ProbePair]:
    """Make the same-language and the other-attribute control of each pair."""
    by_record = {(probe.record.id, probe.template): probe for probe in targets}
    for pair in pairs:
        if pair.kind == "same_language":
            continue
        same = by_record.get((pair.sources[0].record.id, pair.sources[0].template))
        if same is None:
            raise ValueError(f"no same-language control for {pair.id}: its source is not asked in the target language")
        yield ProbePair(sources=(same,), target=pair.target)
    for number, pair in enumerate(pairs):
        target = pair.target.record
        people = {pair.sources[0].record.subject, target.subject}
        for group in groups[number:] + groups[:number]:
            other = group[0].record
            if other.attribute != target.attribute and other.group == target.group and other.subject not in people:
                yield ProbePair(sources=group, target=pair.target, tracked=pair.sources[0])
                break
        else:
            raise ValueError(
                f"no other-attribute control for {pair.id}: no third {target.group} person is asked for another attribute; "
                "build the probes of a second attribute too, and filter the pairs"
            )
