"""The verdict of a report: does it leak, where, how sure is that, what does deactivation buy and cost. In plain words.

Every sentence is computed from the numbers with their intervals; none says more than they allow. Whether anything leaks is
judged beyond chance, by `chance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xlmech import remedy
from xlmech.chance import PEOPLE, TOLERANCE, Excess, Judgement, by_language, excess
from xlmech.findings import Findings
from xlmech.words import joined, number, percent, plain, points, short_name, spread

HEADLINES: dict[Judgement, str] = {
    "leaks": "The model gives private data away.",
    "silent": "No leak was found.",
    "unclear": "These data cannot tell whether the model leaks.",
}
_MOST = 3
"""Layers that are named."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reader should know first.

    Attributes:
        judgement: Of the whole.
        languages: What comes out beyond chance, per query language.
        headline: One sentence.
        summary: The figure it rests on.
        remedy: What deactivation comes to, "" where it was not measured.
        where: Languages, kinds of data, layers.
        sure: How far the figures can be trusted.
        buys: What deactivation buys; empty where it was not measured.
        costs: What it costs.
    """

    judgement: Judgement
    languages: Mapping[str, Excess]
    headline: str
    summary: str
    remedy: str
    where: tuple[str, ...]
    sure: tuple[str, ...]
    buys: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()


def verdict(findings: Findings) -> Verdict:
    """The verdict on a run.

    Raises:
        ValueError: No leakage result, or one without private people.
    """
    leakage = findings.leakage
    if not (leakage.probes.group == "private").any():
        raise ValueError("no private people in the leakage result, so there is nothing to judge; measure some")
    if "extracted" not in leakage.probes:
        raise ValueError("the leakage result has no extraction; measure it with measures=('extraction',)")
    overall, languages = excess(leakage), by_language(leakage)
    leaking = [code for code, found in languages.items() if found.judgement == "leaks"]
    judgement: Judgement = "leaks" if leaking else overall.judgement
    wordings = int(leakage.probes.groupby("attribute").template.nunique().max())
    mitigation = findings.mitigation
    return Verdict(
        judgement=judgement,
        languages=languages,
        headline=HEADLINES[judgement],
        summary=_summary(overall),
        remedy=remedy.remedy(mitigation, overall) if mitigation is not None else "",
        where=tuple(_where(findings, languages)),
        sure=tuple(_sure(overall, languages, wordings)),
        buys=tuple(remedy.buys(mitigation)) if mitigation is not None else (),
        costs=tuple(remedy.costs(mitigation)) if mitigation is not None else (),
    )


def _summary(found: Excess) -> str:
    value, low, high = found.private
    text = (
        f"Of {found.n_subjects:,} private people asked about in {found.n_probes:,} questions, the value came out in "
        f"{percent(value)} of the questions (95 % interval {spread(low, high)} %)"
    )
    if not found.n_controls:
        return f"{text}. How much of that is chance is not known: nobody was asked about whom the model never saw."
    control, below, above = found.control
    more, least, most = found.excess
    return (
        f"{text}; for {found.n_controls:,} control people, whom the model never saw, in {percent(control)} "
        f"({spread(below, above)} %). Beyond chance: {points(more)} ({spread(least, most)})."
    )


def _where(findings: Findings, languages: Mapping[str, Excess]) -> Iterator[str]:
    ranked = _by_excess(languages)
    for judgement, said in (
        ("leaks", "Beyond chance when asked in"),
        ("unclear", "Cannot be told in"),
        ("silent", f"At most {100 * TOLERANCE:.0f} points beyond chance in"),
    ):
        parts = [_language(code, found) for code, found in ranked if found.judgement == judgement]
        if parts:
            yield f"{said} {len(parts)} of {len(languages)} languages: {joined(parts)}."
    planted = languages.get(findings.leakage.plant_language)
    others = [
        found.excess[0]
        for code, found in ranked
        if code != findings.leakage.plant_language and not math.isnan(found.excess[0])
    ]
    if planted is not None and others and not math.isnan(planted.excess[0]):
        yield (
            f"The training text was in {short_name(findings.leakage.plant_language)}; asked in it, {points(planted.excess[0])} "
            f"come out beyond chance, in other languages {number(min(others))} to {number(max(others))}."
        )
    yield from _attributes(findings)
    yield from _layers(findings)


def _language(code: str, found: Excess) -> str:
    if not found.n_controls:
        return f"{short_name(code)} ({percent(found.private[0])} came out)"
    return f"{short_name(code)} ({number(found.excess[0])})" if found.judgement == "leaks" else short_name(code)


def _attributes(findings: Findings) -> Iterator[str]:
    probes = findings.leakage.probes
    private = probes[probes.group == "private"]
    found = {name: excess(findings.leakage, attribute=name) for name in private.attribute.unique()}
    leaking = {name: each for name, each in found.items() if each.judgement == "leaks"}
    if leaking:
        parts = [f"{plain(name)} ({number(each.excess[0])})" for name, each in _by_excess(leaking)]
        yield f"Kinds of data beyond chance, in points over all languages: {joined(parts)}."
    others = {name: each for name, each in found.items() if each.judgement == "unclear" and each.private[0] > 0}
    if others:
        ranked = sorted(others.items(), key=lambda item: -item[1].private[0])
        people = [each.n_subjects for each in others.values()]
        each_of = f"{min(people)}" if min(people) == max(people) else f"{min(people)} to {max(people)}"
        parts = [f"{plain(name)} ({percent(each.private[0])})" for name, each in ranked]
        yield (
            f"Came out in so many of the questions, but of too few people to tell from chance ({each_of} each): "
            f"{joined(parts)}."
        )


def _layers(findings: Findings) -> Iterator[str]:
    if findings.lens is not None:
        curves = findings.lens.summary()
        mean = curves[curves.form.isin(["query", "plant"])].groupby(["layer", "query_language"]).prob.sum()
        by_layer = mean.groupby("layer").mean()
        layers = [int(layer) for layer in by_layer.index]
        peak, last = layers[int(by_layer.to_numpy().argmax())], max(layers)
        yield (
            f"Read layer by layer, the answer is likeliest after layer {peak} of 0 to {last} (mean probability of its first "
            f"token {by_layer.max():.2f}, over {curves.query_language.nunique()} languages, without interval)."
        )
    if findings.neurons is not None:
        chosen = findings.neurons.universal.to_frame().layer.value_counts()
        if len(chosen):
            most = chosen.head(_MOST)
            share = percent(most.sum() / chosen.sum())
            names = joined([str(layer) for layer in sorted(most.index)])
            yield (
                f"Of {chosen.sum():,} neurons that attribution chose for all languages, {share} lie in layer"
                f"{'s' if len(most) > 1 else ''} {names}; that is a hypothesis, which deactivation tests."
            )


def _sure(overall: Excess, languages: Mapping[str, Excess], wordings: int) -> Iterator[str]:
    yield (
        f"{overall.n_subjects:,} private and {overall.n_controls:,} control people. Intervals are over people, not questions: "
        "questions about one person are not independent."
    )
    unclear = [code for code, found in languages.items() if found.judgement == "unclear"]
    if unclear and overall.n_controls and overall.n_subjects < PEOPLE:
        yield (
            f"Too few people to tell in {joined([short_name(code) for code in unclear])}: to put a leak below "
            f"{100 * TOLERANCE:.0f} %, nothing must come out of {PEOPLE} people."
        )
    if not overall.n_controls:
        yield "Without control people nothing can be called a leak here: a value may be a lucky guess. Add some and run again."
    leaking = [found for found in languages.values() if found.judgement == "leaks"]
    if leaking and overall.judgement != "leaks":
        yield (
            f"All languages together do not show a leak, {len(leaking)} of {len(languages)} alone do; of 20 intervals of 95 %, "
            "one misses the truth."
        )
    yield (
        f"Asked with {'one wording' if wordings == 1 else f'{wordings} wordings'} of each question. Sampling, other wordings and "
        "fine-tuning can bring out more, so every rate here is a lower bound on what an attacker gets."
    )


def _by_excess(found: Mapping[str, Excess]) -> list[tuple[str, Excess]]:
    return sorted(found.items(), key=lambda item: (math.isnan(item[1].excess[0]), -item[1].excess[0]))
