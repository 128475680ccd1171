"""The verdict of a report: does it leak, where, how sure is that, what does ablation reduce and cost. In plain words.

Every sentence is computed from the numbers with their intervals; none says more than they allow. Whether anything leaks is
judged by `xlmech.leakage.above_controls`: beyond chance, and corrected for the number of languages and kinds of data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from xlmech.figures.wording import bounds, counted, joined, number, percent, plain, points, short_name, span
from xlmech.leakage.above_controls import ERROR, TOLERANCE, Comparison, Excess, Judgement, compare, people_needed
from xlmech.report import mitigation_text
from xlmech.report.mitigation_text import regime_lines
from xlmech.report.run_results import GIVEN, HELD_OUT, RunResults

HEADLINES: dict[Judgement, str] = {
    "leaks": "The model leaks private data.",
    "silent": "No leak was found.",
    "unclear": "These data cannot tell whether the model leaks.",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reader should know first.

    Attributes:
        judgement: Of the whole.
        found: What is extracted beyond chance: overall, per query language and per kind of data.
        languages: What is extracted beyond chance, per query language.
        headline: One sentence.
        summary: The numbers it rests on.
        mitigation: What ablation achieves, "" if it was not measured.
        where: Languages, kinds of data, layers.
        certainty: How far the numbers can be trusted.
        gains: What ablation reduces; empty if it was not measured.
        costs: What it costs.
        gates_given: What gates do to the people from whom they were learned; empty if there are none.
        gates_held_out: What they do to held-out people.
    """

    judgement: Judgement
    found: Comparison
    languages: Mapping[str, Excess]
    headline: str
    summary: str
    mitigation: str
    where: tuple[str, ...]
    certainty: tuple[str, ...]
    gains: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    gates_given: tuple[str, ...] = ()
    gates_held_out: tuple[str, ...] = ()


def verdict(results: RunResults) -> Verdict:
    """Judge a run.

    Raises:
        ValueError: No leakage result, or one without private people or without extraction.
    """
    found, mitigation = compare(results.leakage), results.mitigation
    n_wordings = int(results.leakage.probes.groupby("attribute").template.nunique().max())
    return Verdict(
        judgement=found.judgement,
        found=found,
        languages=found.languages,
        headline=HEADLINES[found.judgement],
        summary=_summary(found.overall),
        mitigation=mitigation_text.in_one_sentence(mitigation, found.overall) if mitigation is not None else "",
        where=tuple(_where(results, found)),
        certainty=tuple(_certainty(found, n_wordings, results.wordings is not None)),
        gains=tuple(mitigation_text.gains(mitigation)) if mitigation is not None else (),
        costs=tuple(mitigation_text.costs(mitigation)) if mitigation is not None else (),
        gates_given=tuple(regime_lines(results, GIVEN)),
        gates_held_out=tuple(regime_lines(results, HELD_OUT)),
    )


def _summary(found: Excess) -> str:
    value, low, high = found.private
    text = (
        f"Of {counted(found.n_subjects, 'private person', 'private people')} asked about in "
        f"{counted(found.n_probes, 'question', 'questions')}, the value was extracted in {percent(value)} of the questions "
        f"(95 % interval {bounds(low, high)} %)"
    )
    if math.isnan(found.excess.value) or (found.left_out and not found.n_controls):
        return f"{text}. How much of that is chance is not known: no control person was asked the same questions."
    if not found.n_controls:
        return f"{text}. None of that can be guessed, so none of it is chance."
    control, control_low, control_high = found.control
    excess, excess_low, excess_high = found.excess
    without = f", without {_kinds(found.left_out)}" if found.left_out else ""
    return (
        f"{text}; for {counted(found.n_controls, 'control person', 'control people')}, whom the model never saw, in "
        f"{percent(control)} ({bounds(control_low, control_high)} %) of the same mix of questions{without}. Beyond chance: "
        f"{points(excess)} ({bounds(excess_low, excess_high)})."
    )


def _where(results: RunResults, found: Comparison) -> Iterator[str]:
    ranked = _by_excess(found.languages)
    for judgement, sentence in (
        ("leaks", "Leaks (points beyond chance) when asked in"),
        ("unclear", "Cannot be told in"),
        ("silent", f"At most {100 * TOLERANCE:.0f} points beyond chance in"),
    ):
        names = [_language(code, each) for code, each in ranked if each.judgement == judgement]
        if names:
            of_all = f"{len(names)} of {len(ranked)} languages: " if len(ranked) > 1 else ""
            yield f"{sentence} {of_all}{joined(names)}."
    yield from _training_language(results.leakage.plant_language, found.languages)
    yield from _attributes(found)
    yield from _layers(results)


def _language(code: str, found: Excess) -> str:
    only_unguessable = found.judgement == "leaks" and found.excess.value <= 0
    if math.isnan(found.excess.value) or found.left_out or only_unguessable:
        return f"{short_name(code)} ({percent(found.private.value)} extracted)"
    return f"{short_name(code)} ({number(found.excess.value)})" if found.judgement == "leaks" else short_name(code)


def _training_language(training: str, languages: Mapping[str, Excess]) -> Iterator[str]:
    if any(each.left_out for each in languages.values()):
        return  # what is beyond chance is then not of all questions
    known = {code: each.excess.value for code, each in languages.items() if not math.isnan(each.excess.value)}
    others = [value for code, value in known.items() if code != training]
    if training in known and others:
        yield (
            f"The training text was in {short_name(training)}; asked in it, extraction is {points(known[training])} beyond "
            f"chance, in other languages {span(min(others), max(others))}."
        )


def _attributes(found: Comparison) -> Iterator[str]:
    if found.overall.unguessable:
        kinds = sorted(found.overall.unguessable.items())
        names = [f"{plain(kind)} (of {counted(n, 'person', 'people')})" for kind, n in kinds]
        yield f"Extracted, though it cannot be guessed, so that one extraction is a leak: {joined(names)}."
    ranked = [(kind, each) for kind, each in _by_excess(found.kinds) if not each.unguessable]
    leaking = [f"{plain(kind)} ({number(each.excess.value)})" for kind, each in ranked if each.judgement == "leaks"]
    if leaking:
        over = " over all languages" if len(found.languages) > 1 else ""
        yield f"Kinds of data that leak by comparison, in points beyond chance{over}: {joined(leaking)}."
    unclear = [(kind, each) for kind, each in ranked if each.judgement == "unclear" and each.private.value > 0]
    if unclear:
        names = [
            f"{plain(kind)} ({percent(each.private.value)} of the questions, {counted(each.n_subjects, 'person', 'people')})"
            for kind, each in sorted(unclear, key=lambda item: -item[1].private.value)
        ]
        yield f"Extracted, but not shown to be beyond chance: {joined(names)}."


def _layers(results: RunResults) -> Iterator[str]:
    if results.lens is not None:
        curves = results.lens.summary()
        sums = curves[curves.form.isin(["query", "plant"])].groupby(["layer", "query_language"]).prob.sum()
        by_layer = sums.groupby("layer").mean()
        layers = [int(layer) for layer in by_layer.index]
        over = counted(curves.query_language.nunique(), "language", "languages")
        peak = layers[int(by_layer.to_numpy().argmax())]
        yield (
            f"Read layer by layer, the answer is likeliest after layer {peak} of 0 to {max(layers)} (mean probability of its "
            f"first token {by_layer.max():.2f}, over {over}, without interval)."
        )
    if results.neurons is not None:
        chosen = results.neurons.main.to_frame().layer.value_counts()
        if len(chosen):
            most = chosen.head(3)
            codes = results.neurons.languages
            asked = "all languages" if len(codes) > 1 else short_name(codes[0])
            layers_with_most = joined([str(layer) for layer in sorted(most.index)])
            yield (
                f"Of {chosen.sum():,} neurons that attribution chose for {asked}, {percent(most.sum() / chosen.sum())} lie "
                f"in layer{'s' if len(most) > 1 else ''} {layers_with_most}; that is a hypothesis, which ablation tests."
            )


def _certainty(found: Comparison, n_wordings: int, asks_more: bool) -> Iterator[str]:
    overall = found.overall
    yield (
        f"{overall.n_subjects:,} private and {overall.n_controls:,} control people. Intervals are over people, not questions: "
        "questions about one person are not independent."
    )
    unclear = [short_name(code) for code, each in found.languages.items() if each.judgement == "unclear"]
    if unclear and overall.n_controls and overall.n_subjects < people_needed():
        yield (
            f"Too few people to tell in {joined(unclear)}: to put a leak below {100 * TOLERANCE:.0f} %, nothing must be "
            f"extracted from {people_needed()} people."
        )
    yield from _not_comparable(found)
    if not math.isnan(overall.p_value):
        yield from _test(found)
    yield (
        f"Asked with {'one wording' if n_wordings == 1 else f'{n_wordings} wordings'} of each question"
        f"{', beside those of the table by wording' if asks_more else ''}. Sampling, other wordings and fine-tuning can extract "
        "more, so every rate here is a lower bound on what an attacker gets."
    )


def _not_comparable(found: Comparison) -> Iterator[str]:
    """What cannot be compared with control people, and why."""
    left_out = found.overall.left_out
    if left_out and not found.overall.n_controls:
        yield (
            f"Without control people {_kinds(left_out)} cannot be called a leak: a value may be a lucky guess. Add some and run "
            "again."
        )
    elif left_out:
        yield (
            f"In some language no control person was asked for {_kinds(left_out)}, so that is left out of the comparison, and no "
            "leak of it can be ruled out."
        )
    if found.not_private:
        yield (
            f"Control people's {_kinds(found.not_private)} was extracted, too, which the model cannot know: either the questions "
            "reveal it, or the matching is wrong. So it is compared as if it could be guessed."
        )


def _test(found: Comparison) -> Iterator[str]:
    """What the test corrects for, and where it differs from what the intervals suggest."""
    several = [
        counted(len(parts), singular, plural)
        for parts, singular, plural in (
            (found.languages, "language", "languages"),
            (found.kinds, "kind of data", "kinds of data"),
        )
        if len(parts) > 1
    ]
    corrected = f", corrected for {joined(several)} (Holm 1979)" if several else ""
    yield (
        f"Whether private people exceed control people is tested over people{corrected}: if nothing leaks, at most "
        f"{100 * ERROR:.0f} % of such reports say that anything does."
    )
    parts = [each for named in (found.languages, found.kinds) if len(named) > 1 for each in named.values()]
    if any(each.p_value <= ERROR and each.excess.low <= 0 for each in (found.overall, *parts)):
        yield (
            "The interval of a leak may reach 0: it treats the answers to one person's questions as alike, and the test does not."
        )
    any_alone = any(each.p_value <= ERROR for each in parts)
    if found.overall.p_value <= ERROR and not any_alone:
        beside = (
            "Beside what cannot be guessed: compared with control people, all" if found.overall.unguessable else "All"
        )
        yield f"{beside} questions together show a leak; no language or kind of data alone does."
    if found.overall.p_value > ERROR and any_alone:
        yield "All questions together do not show a leak by comparison; a language or kind of data alone does."


def _kinds(kinds: Iterable[str]) -> str:
    return joined(map(plain, kinds))


def _by_excess(found: Mapping[str, Excess]) -> list[tuple[str, Excess]]:
    return sorted(found.items(), key=lambda item: (math.isnan(item[1].excess.value), -item[1].excess.value))
