"""Probes: a record asked in one language with one template, and immutable sets of them.

A `ProbeSet` is filtered, split and paired into new ones; personal values are masked wherever it is shown.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, overload

import numpy as np
import pandas as pd

from xlmech.checks import check_choice, check_choices, check_list
from xlmech.data.attributes import Attribute
from xlmech.data.pairs import ProbePair, make_pairs
from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.data.records import MASK, Group, Record


@dataclass(frozen=True, kw_only=True, repr=False, slots=True)
class Probe:
    """A record asked in one language.

    Attributes:
        record: The fact asked for.
        query_language: Language of the question.
        template: Number of the question template.
        prompt: Text up to the first token of the answer.
        subject_span: Start and end of the subject in `prompt`, in characters.
        answers: The value's surface form per language.
        kind: The record's kind of data: how its value is compared.
        format: What stands around the question in `prompt`, and what ends an answer.
    """

    record: Record
    query_language: str
    template: int
    prompt: str
    subject_span: tuple[int, int]
    answers: dict[str, str]
    kind: Attribute
    format: PromptFormat = PLAIN

    @property
    def id(self) -> str:
        """Record, language and template; unique within a set."""
        return f"{self.record.id}/{self.query_language}/{self.template}"

    def __repr__(self) -> str:
        return f"Probe({self.id}, {self.record.group})"


@dataclass(frozen=True, repr=False)
class ProbeSet:
    """An immutable sequence of probes, with the ids of the probes as keys too."""

    probes: tuple[Probe, ...]
    _by_id: dict[str, Probe] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {probe.id: probe for probe in self.probes}
        if n_repeated := len(self.probes) - len(by_id):
            raise ValueError(f"{n_repeated} probes have the id of another; record ids must be unique")
        object.__setattr__(self, "_by_id", by_id)

    def __len__(self) -> int:
        return len(self.probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.probes)

    @overload
    def __getitem__(self, key: int | str) -> Probe: ...
    @overload
    def __getitem__(self, key: slice) -> ProbeSet: ...
    def __getitem__(self, key: int | str | slice) -> Probe | ProbeSet:
        if isinstance(key, slice):
            return ProbeSet(self.probes[key])
        return self._by_id[key] if isinstance(key, str) else self.probes[key]

    def __add__(self, other: ProbeSet) -> ProbeSet:
        return ProbeSet(self.probes + other.probes)

    def __repr__(self) -> str:
        return (
            f"ProbeSet({len(self)} probes: {len(self.subjects)} subjects, {', '.join(self.attributes)}; "
            f"asked in {', '.join(self.languages)})"
        )

    @property
    def records(self) -> tuple[Record, ...]:
        """The distinct records, in order of first appearance."""
        return tuple({probe.record.id: probe.record for probe in self.probes}.values())

    @property
    def languages(self) -> tuple[str, ...]:
        """The query languages, in order of first appearance."""
        return tuple(dict.fromkeys(probe.query_language for probe in self.probes))

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes asked for, in order of first appearance."""
        return tuple(dict.fromkeys(probe.record.attribute for probe in self.probes))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects asked about, in order of first appearance."""
        return tuple(dict.fromkeys(probe.record.subject for probe in self.probes))

    def filter(
        self,
        *,
        group: Group | None = None,
        languages: Iterable[str] | None = None,
        attributes: Iterable[str] | None = None,
        templates: Iterable[int] | None = None,
        subjects: Iterable[str] | None = None,
    ) -> ProbeSet:
        """Keep the probes that meet every condition given; subjects are given by full name. The result may be empty.

        Raises:
            ValueError: An unknown group, something else than a list, or a language, attribute, template or subject that no
                probe of this set has (subjects are not shown).
        """
        if group is not None:
            check_choice("group", group, Group)
        kept = [probe for probe in self.probes if group in (None, probe.record.group)]
        conditions: list[tuple[str, Iterable[Any] | None, Callable[[Probe], Any]]] = [
            ("language", languages, lambda probe: probe.query_language),
            ("attribute", attributes, lambda probe: probe.record.attribute),
            ("template", templates, lambda probe: probe.template),
        ]
        for what, wanted, key in conditions:
            if wanted is not None:
                chosen = check_choices(what, wanted, dict.fromkeys(map(key, self.probes))) if self.probes else ()
                kept = [probe for probe in kept if key(probe) in chosen]
        if subjects is not None:
            names = frozenset(check_list("subject", subjects))
            if self.probes and (n_unknown := len(names.difference(self.subjects))):
                raise ValueError(f"{n_unknown} of the {len(names)} subjects asked for are in no probe of this set")
            kept = [probe for probe in kept if probe.record.subject in names]
        return ProbeSet(tuple(kept))

    def of_template(self, template: int) -> ProbeSet:
        """Keep the probes of one question template; negative numbers count from each attribute's last.

        Raises:
            ValueError: No attribute has so many templates.
        """
        counts: dict[tuple[str, str], int] = {}
        for probe in self.probes:
            key = probe.record.attribute, probe.query_language
            counts[key] = max(counts.get(key, 0), probe.template + 1)
        if counts and not -min(counts.values()) <= template < max(counts.values()):
            raise ValueError(
                f"no question template {template}: there are 0 to {max(counts.values()) - 1}, or -1 for the last"
            )
        wanted = {key: template if template >= 0 else count + template for key, count in counts.items()}
        return ProbeSet(tuple(p for p in self.probes if p.template == wanted[p.record.attribute, p.query_language]))

    def spread_facts(self, limits: Mapping[Group, int]) -> ProbeSet:
        """Keep at most so many facts of each group, in every language, spread evenly over people and attributes."""
        chosen: list[Probe] = []
        for group, limit in limits.items():
            of_group = self.filter(group=group)
            facts = _spread(of_group.records, limit)
            chosen += [probe for probe in of_group if probe.record.id in facts]
        return ProbeSet(tuple(chosen))

    def split(self, *, fraction: float = 0.5, seed: int = 0) -> tuple[ProbeSet, ProbeSet]:
        """Split into two sets without a common subject; the first has `fraction` of each group's subjects.

        Raises:
            ValueError: `fraction` is not between 0 and 1, or leaves one side without subjects.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
        first = self._draw_subjects(lambda n: round(fraction * n), seed)
        if not first or len(first) == len(self.subjects):
            raise ValueError(f"{len(self.subjects)} subjects cannot be split at {fraction}: one side would be empty")
        return self.filter(subjects=first), self.filter(subjects=set(self.subjects) - first)

    def sample(self, n_subjects: int, *, seed: int = 0) -> ProbeSet:
        """Keep the probes of `n_subjects` random subjects of each group (all of a group that has no more)."""
        return self.filter(subjects=self._draw_subjects(lambda _: n_subjects, seed))

    def _draw_subjects(self, n_of: Callable[[int], int], seed: int) -> set[str]:
        """Draw `n_of(n)` of the n subjects of each group; one with private and public facts is drawn as private, once."""
        rng = np.random.default_rng(seed)
        drawn: set[str] = set()
        grouped: set[str] = set()
        for group in get_args(Group):
            subjects = [subject for subject in self.filter(group=group).subjects if subject not in grouped]
            grouped.update(subjects)
            drawn.update(subjects[index] for index in rng.permutation(len(subjects))[: n_of(len(subjects))])
        return drawn

    def pairs(self, *, source: str | Sequence[str], target: str, controls: bool = False) -> tuple[ProbePair, ...]:
        """Pair source and target probes for patching: same attribute, group and template; other subject, other value.

        Each target probe gets the next record in order whose value differs in every form.

        Args:
            source: Language of the source prompts; several for the mean of one record's prompts in all of them.
            target: Language of the target prompts; the source language itself for a same-language control.
            controls: Whether to add two control pairs to each: its source asked in the target language, and a third person
                asked for another attribute as the source (nothing in it tells the followed value).

        Raises:
            ValueError: A language has no probes, or no pair or control exists.
        """
        sources = (source,) if isinstance(source, str) else tuple(source)
        return make_pairs(self.probes, sources, target, controls=controls)

    def to_frame(self, *, reveal: bool = False) -> pd.DataFrame:
        """Make a frame of one row per probe; prompts and answers are masked unless `reveal`."""
        return pd.DataFrame(
            {
                "probe": probe.id,
                "record": probe.record.id,
                "group": probe.record.group,
                "attribute": probe.record.attribute,
                "query_language": probe.query_language,
                "template": probe.template,
                "prompt": probe.prompt if reveal else probe.prompt.replace(probe.record.subject, MASK),
                "answer": probe.answers[probe.query_language] if reveal else MASK,
            }
            for probe in self.probes
        )


def masked_prompt(probe: Probe) -> str:
    """Return the prompt without the subject and the answer, also where only a part of the name stands in it."""
    text = probe.prompt
    for hidden in (probe.record.subject, *probe.answers.values(), *probe.record.subject.split()):
        text = text.replace(hidden, MASK)
    return text


def answer_gap(prompt: str) -> str:
    """Return what stands between a prompt and its answer: a space after words ("Answer:"), nothing after anything else.

    Nothing after a space or line break, opening brackets and quotes, other signs ("@", "$", the ">" of a chat's markup), and
    scripts written without spaces.
    """
    last = prompt[-1:] or "\n"
    category, script = unicodedata.category(last), unicodedata.name(last, "").partition(" ")[0]
    ends_a_word = category[0] in "LMN" or category in ("Pe", "Pf") or (category == "Po" and last not in _PREFIXES)
    is_wide = unicodedata.east_asian_width(last) in "WF" and script != "HANGUL"
    return " " if ends_a_word and not is_wide and script not in _WITHOUT_SPACES else ""


_PREFIXES = "\"'/\\@#&*¿¡"
_WITHOUT_SPACES = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def _spread(records: Sequence[Record], n: int) -> set[str]:
    """Return ids of at most `n` records: round by round, each person's next attribute in turn."""
    subjects = {subject: number for number, subject in enumerate(dict.fromkeys(record.subject for record in records))}
    attributes = {name: number for number, name in enumerate(dict.fromkeys(record.attribute for record in records))}

    def turn(record: Record) -> tuple[int, int]:
        number = subjects[record.subject]
        return (attributes[record.attribute] - number) % len(attributes), number

    return {record.id for record in sorted(records, key=turn)[:n]}
