"""What ablation and gates reduce and what they cost, in sentences computed from the numbers with their intervals and controls.

No sentence is about given and held-out people together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from xlmech.figures.wording import bounds, counted, joined, number, percent, rows_of, short_name, signed_percent
from xlmech.leakage.above_controls import Excess
from xlmech.metrics.intervals import NOTHING_BEFORE
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.reduction import pooled_hits
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.report.run_results import GIVEN, GIVEN_KEPT, HELD_OUT, HELD_OUT_KEPT, RunResults, chosen_effects

WHO = {
    GIVEN: "Given people, from whom the gates were learned, asked with another question",
    HELD_OUT: "Held-out people, of whom nothing was used",
}
"""Each regime, as the beginning of a sentence."""


def in_one_sentence(result: MitigationResult, overall: Excess) -> str:
    """Summarise the ablation in a sentence, "" if nothing was extracted before."""
    name, private = chosen_effects(result, "private")
    if not (private.before > 0).any():
        return ""
    before, after = (hits / private.n_probes.sum() for hits in pooled_hits(private))
    return (
        f"With {result.chosen[name]:,} of {result.total_neurons:,} neurons {deed(result, name)}, the value is extracted in "
        f"{percent(after)} of the questions instead of {percent(before)}. {_against_controls(after, overall)}"
    ).strip()


def deed(result: MitigationResult, name: str) -> str:
    """Say what is done to the neurons of a condition, as in "184 neurons ablated"."""
    factor = result.mean_factors.get(name)
    return "ablated" if factor is None else f"turned down (factor {factor:.2f} on average)"


def gains(result: MitigationResult) -> Iterator[str]:
    """Say how much less is extracted, with intervals and random neurons for comparison, and where more is extracted."""
    name, private = chosen_effects(result, "private")
    if not (private.before > 0).any():
        yield "Nothing was extracted before ablation, so there is nothing that it could reduce."
        return
    known = private[private.reduction.notna()]
    if len(known):
        yield (
            f"With {100 * result.chosen[name] / result.total_neurons:.2g} % of the neurons {deed(result, name)}, "
            f"{_change(known)} is extracted {_languages(known, private)}{_range(known.reduction)}."
        )
    undefined = private[private.reduction.isna()]
    for reason, part in undefined.groupby(undefined.reason.replace("", NOTHING_BEFORE), sort=False):
        yield f"No reduction is given for {joined(map(short_name, part.query_language))}: {reason}."
    if len(known):
        sure = [
            f"{short_name(row.query_language)} ({percent(row.reduction)}, {bounds(row.low, row.high)})"
            for row in rows_of(known[known.low > 0])
        ]
        languages = counted(len(known), "language", "languages")
        yield (
            f"The 95 % interval of the reduction lies above zero in {len(sure)} of {languages}"
            f"{': ' if sure else ''}{joined(sure) if sure else ''}."
        )
        yield _against_random(result, known)
    risen = [f"{short_name(row.query_language)} {row.risen}" for row in rows_of(private[private.risen > 0])]
    if risen:
        yield f"Records that were extracted more often than before: {joined(risen)}."


def costs(result: MitigationResult) -> Iterator[str]:
    """Say which public facts are kept, and how neutral text's NLL changes."""
    name, public = chosen_effects(result, "public")
    public = public[public.before > 0]
    if len(public):
        before, after = pooled_hits(public)
        kept = f"Public facts known before: {percent(after / before)} kept"
        known = public.dropna(subset="reduction")
        if len(known):
            worst: Any = max(rows_of(known), key=lambda row: row.reduction)
            fewest = f"{short_name(worst.query_language)}, {percent(1 - worst.reduction)}"
            kept += f" over all languages; fewest in {fewest}" if len(known) > 1 else ""
            kept += f" ({bounds(1 - worst.high, 1 - worst.low)})"
        yield f"{kept}."
    else:
        yield "What it costs in public facts was not measured."
    cost = result.cost[(result.cost.condition == name) & result.cost.rise.notna()]
    if len(cost):
        worst = max(rows_of(cost), key=lambda row: row.rise)
        changes = f"Neutral text: the negative log-likelihood per token changes by {signed_percent(cost.rise.mean())}"
        if result.effects.query_language.nunique() == 1:
            yield f"{changes} in {short_name(worst.query_language)} (no interval)."
            return
        yield (
            f"{changes} on average over languages; the highest change is {signed_percent(worst.rise)}, "
            f"in {short_name(worst.query_language)} (no interval)."
        )
    else:
        yield "What it costs in fluency was not measured."


def _against_random(result: MitigationResult, known: pd.DataFrame) -> str:
    frame = result.extraction[result.extraction.group == "private"]
    random = frame[frame.condition.isin(list(result.random)) & frame.reduction.notna()]
    if random.empty:
        what = "Permuted gates were not measured" if result.mean_factors else "Random neurons were not ablated"
        return f"{what} for comparison, so nothing shows that the choice matters."
    lows = known.set_index("query_language").low
    largest = random.groupby("query_language").reduction.max()
    n_above = int((lows > largest.reindex(lows.index)).sum())
    what, ours = "As many random neurons of the same layers", "The chosen ones'"
    if random.condition.isin(list(result.mean_factors)).all():
        what, ours = "The same factors at random neurons of the same layers", "The gates'"
    return (
        f"{what}: {_change(random)}. {ours} interval "
        f"lies above theirs in {n_above} of {counted(len(lows), 'language', 'languages')}."
    )


def _against_controls(after: float, overall: Excess) -> str:
    control, low, high = overall.control
    if math.isnan(control) or (overall.left_out and not overall.n_controls):
        return "How much of that is chance is not known."
    if not overall.n_controls:
        return "None of that can be guessed." if after > 0 else ""
    if after <= control:
        return f"That is no more than the control people's {percent(control)}."
    if after <= high:
        return f"That is within the interval of the control people's {percent(control)} ({bounds(low, high)})."
    return f"That is still more than the control people's {percent(control)} ({bounds(low, high)})."


def _change(effects: pd.DataFrame) -> str:
    """Say how much less is extracted over all rows together."""
    before, after = pooled_hits(effects)
    return less(1 - after / before)


def less(reduction: float) -> str:
    """Say a reduction in words, as in "36 % less"."""
    return f"{percent(reduction)} less" if reduction >= 0 else f"{percent(-reduction)} more"


def _range(reductions: pd.Series) -> str:
    """Say between which reductions the languages lie; nothing where they read alike."""
    least, most = reductions.min(), reductions.max()
    if less(least) == less(most):
        return ""
    if least * most >= 0:
        ends = sorted((abs(least), abs(most)))
        return f", {number(ends[0])} to {percent(ends[1])} {'less' if most > 0 else 'more'} by language"
    return f", from {less(least)} to {less(most)} by language"


def _languages(known: pd.DataFrame, effects: pd.DataFrame) -> str:
    if len(known) == len(effects):
        return "over all languages" if len(known) > 1 else f"in {short_name(known.query_language.iloc[0])}"
    return f"over the {counted(len(known), 'language', 'languages')} with a reduction"


def what_they_are(gates: NeuronGates) -> str:
    """Say how many neurons are turned down, how far, and from how much that was learned."""
    counts = gates.counts
    learned = ""
    if counts:
        learned = (
            f"; learned from {counted(counts.get('private', 0), 'private answer', 'private answers')}, "
            f"{counted(counts.get('public', 0), 'public one', 'public ones')} and "
            f"{counted(counts.get('texts', 0), 'neutral text', 'neutral texts')}"
        )
    total = gates.factors.numel()
    return f"Gates turn {gates.n_touched:,} of {total:,} neurons down (factor {gates.mean_factor:.2f} on average){learned}."


def in_brief(result: MitigationResult, regime: str) -> str:
    """Say in one line what the gates reduce in a regime, and what they cost in public facts."""
    first, cost = next(gains(result)), next(costs(result))
    name = next(iter(result.chosen))
    done = f"With {100 * result.chosen[name] / result.total_neurons:.2g} % of the neurons {deed(result, name)}, "
    text = first.removeprefix(done)
    return f"{WHO[regime]}: {text[:1].lower()}{text[1:]} {cost}"


def regime_lines(results: RunResults, regime: str) -> Iterator[str]:
    """Say at length what the gates do in a regime; nothing where it was not measured."""
    result = results.measured_gates(regime)
    if result is None:
        return
    if regime == GIVEN and results.gates is not None:
        yield what_they_are(results.gates)
    yield f"{WHO[regime]}."
    yield from gains(result)
    yield from costs(result)
    kept = results.measured_gates({GIVEN: GIVEN_KEPT, HELD_OUT: HELD_OUT_KEPT}[regime])
    if kept is not None:
        yield kept_line(kept)


def kept_line(result: MitigationResult) -> str:
    """Say how much less is extracted of the private kinds of data that were to be kept."""
    private = chosen_effects(result, "private")[1]
    before, after = pooled_hits(private)
    if not before:
        return "Of the private kinds of data that are kept, nothing was extracted before."
    return f"Of the private kinds of data that are kept, {less(1 - after / before)} is extracted."
