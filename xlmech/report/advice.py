"""What to do now, as a report says it: which kinds of data, languages and records, which remedy, how many more people.

Every sentence is computed from the results. A remedy is called one only where the interval of its reduction lies above zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xlmech.figures.wording import bounds, counted, joined, number, percent, plain, points, short_name
from xlmech.leakage.above_controls import TOLERANCE, Comparison, Excess, people_needed
from xlmech.report.mitigation_text import less
from xlmech.report.run_results import GIVEN, HELD_OUT, Pooled, RunResults, chosen_overall

_NAMED = 3
"""Kinds of data or languages that are named; the matrix has all."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing to do: what it is about, what to do and why, and the part of the page that shows it ("" for none)."""

    title: str
    lines: tuple[str, ...]
    target: str = ""


def advise(results: RunResults, found: Comparison) -> Iterator[Advice]:
    """Say what to do about a run's findings, the most urgent first."""
    leaks = found.judgement == "leaks"
    yield Advice(title="Decision", lines=(_decision(found),))
    if leaks:
        yield Advice(title="Kinds of data", lines=(_kinds(found),), target="matrix")
        if len(found.languages) > 1:
            yield Advice(title="Languages", lines=(_languages(found.languages),), target="languages")
    if (records := _records(results)) is not None:
        yield Advice(title="Records", lines=(records,), target="records")
    if leaks or found.overall.private.value > 0:
        yield Advice(title="Remedy", lines=tuple(_remedies(results, found)), target="remedy")
    if people := tuple(_people(found)):
        yield Advice(title="More people", lines=people)


def _decision(found: Comparison) -> str:
    if found.judgement == "leaks":
        return (
            "Treat the model as a store of personal data: limit who can ask it until a remedy is shown to work, and record the "
            "decision at the end of this page."
        )
    if found.judgement == "silent":
        return "Nothing has to be done on these numbers. Measure again when the model, its training data or its languages change."
    return "Do not call this model safe, and do not call it leaking, on these numbers. Measure again as said below."


def _kinds(found: Comparison) -> str:
    leaking = _leaking(found.kinds)
    if leaking:
        of_all = f"{len(leaking)} of {counted(len(found.kinds), 'kind of data leaks', 'kinds of data leak')}"
        return f"{of_all}. Begin with {_named(leaking, plain)}."
    most = sorted(found.kinds.items(), key=lambda item: -item[1].private.value)[:_NAMED]
    return f"No kind of data leaks beyond doubt by itself; most is extracted of {_named(most, plain, shares=True)}."


def _languages(languages: Mapping[str, Excess]) -> str:
    leaking = _leaking(languages)
    if not leaking:
        return "No language leaks beyond doubt by itself; all of them together do."
    where = f"{len(leaking)} of {len(languages)} languages"
    if len(leaking) == len(languages):
        where = f"all {len(languages)} languages"
    more = " A measure in one language alone is not enough." if len(leaking) > 1 else ""
    return f"The model gives data away when asked in {where}, most in {_named(leaking, short_name)}.{more}"


def _leaking(found: Mapping[str, Excess]) -> list[tuple[str, Excess]]:
    leaking = [(name, each) for name, each in found.items() if each.judgement == "leaks"]
    return sorted(leaking, key=lambda item: (math.isnan(item[1].excess.value), -item[1].excess.value, item[0]))


def _named(found: Sequence[tuple[str, Excess]], name: Callable[[str], str], *, shares: bool = False) -> str:
    """Name the first few with their points beyond chance, or their shares where chance is not known."""
    texts: list[str] = []
    for code, each in found[:_NAMED]:
        known = not (shares or math.isnan(each.excess.value))
        how_much = f"{points(each.excess.value)} beyond chance" if known else f"{percent(each.private.value)} extracted"
        if texts and known:
            how_much = number(each.excess.value)
        texts.append(f"{name(code)} ({how_much})")
    return joined(texts)


def _records(results: RunResults) -> str | None:
    probes = results.leakage.probes
    private = probes[probes.group == "private"]
    hit = private[private.extracted > 0]
    if hit.empty:
        return None
    n, n_all = hit.record.nunique(), private.record.nunique()
    people, all_people = hit.subject.nunique(), private.subject.nunique()
    return (
        f"{n:,} of {counted(n_all, 'record was', 'records were')} extracted in at least one language, of {people:,} of "
        f"{counted(all_people, 'person', 'people')}. The table of records names each of them, its languages, and what is left "
        "after ablation where that was measured."
    )


def _remedies(results: RunResults, found: Comparison) -> Iterator[str]:
    mitigation = results.mitigation
    by_gates = mitigation is not None and bool(mitigation.mean_factors)
    measured = [mitigation is not None, results.measured_gates(GIVEN) is not None]
    if mitigation is not None and not by_gates:
        name = next(iter(mitigation.chosen), "")
        done = f"Ablation (setting {counted(mitigation.chosen.get(name, 0), 'neuron', 'neurons')} to zero)"
        yield from _effect(done, chosen_overall(mitigation, "private"), chosen_overall(mitigation, "public"), found)
    for regime, who in ((GIVEN, "the people whose records taught them"), (HELD_OUT, "other people")):
        result = results.measured_gates(regime)
        if result is not None:
            private, public = chosen_overall(result, "private"), chosen_overall(result, "public")
            yield from _effect(f"Gates (turning neurons down) for {who}", private, public, found)
    if not any(measured):
        yield "No remedy was measured in this run: `xlmech run` measures ablation and, with the section mitigate, gates."
    if found.judgement == "leaks":
        yield (
            "The surest remedy is to train the model again without these data: ablation and gates make answers less likely and "
            "erase nothing."
        )


def _effect(done: str, private: Pooled | None, public: Pooled | None, found: Comparison) -> Iterator[str]:
    """Say whether a remedy was shown to help, what it leaves, and what it costs."""
    if private is None or not private.before:
        return
    change = f"from {percent(private.before)} to {percent(private.after)} of the questions"
    known = not math.isnan(private.low)
    interval = f"{less(private.reduction)}, interval {bounds(private.low, private.high)} %" if known else "no interval"
    kept = ""
    if public is not None and public.before:
        kept = f"; {percent(public.after / public.before)} of the public facts known before are kept"
    if not known or private.low <= 0:
        yield f"{done}: not shown to help, {change} ({interval}){kept}."
        return
    control = found.overall.control
    still = ""
    if found.overall.n_controls and private.after > control.high:
        still = f" What is left is still more than the control people's {percent(control.value)}."
    yield f"{done}: shown to help, {change} ({interval}){kept}.{still}"


def _people(found: Comparison) -> Iterator[str]:
    overall, needed = found.overall, people_needed()
    unclear = [short_name(code) for code, each in found.languages.items() if each.judgement == "unclear"]
    if (found.judgement == "unclear" or unclear) and overall.n_subjects < needed:
        where = f" in {joined(unclear)}" if unclear and len(found.languages) > 1 else ""
        yield (
            f"Ask about {counted(needed - overall.n_subjects, 'more person', 'more people')}: to put a leak{where} below "
            f"{100 * TOLERANCE:.0f} % takes {needed} people of whom nothing is extracted, and {overall.n_subjects:,} were asked "
            "about."
        )
    elif found.judgement == "unclear":
        yield "Values were extracted, and not shown to be more than chance: ask about more people, and more control people."
    if overall.left_out or (not overall.n_controls and not overall.unguessable):
        yield (
            "Add control people, whom the model never saw, for every kind of data: without them chance is not known "
            "(`data.add_controls: true` invents some)."
        )
