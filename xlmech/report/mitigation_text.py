"""What deactivation buys and costs, in sentences computed from the numbers with their intervals and controls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from xlmech.leakage.above_controls import Excess
from xlmech.metrics.intervals import NOTHING_BEFORE
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.report.phrasing import counted, joined, percent, short_name, signed, spread
from xlmech.report.run_results import chosen_effects, rows_of


def remedy(result: MitigationResult, overall: Excess) -> str:
    """The deactivation in one sentence, "" where nothing was extracted before."""
    name, private = chosen_effects(result, "private")
    if private.empty or not (private.before > 0).any():
        return ""
    before, after = _pooled(private)
    return (
        f"With {result.chosen[name]:,} of {result.total_neurons:,} neurons deactivated, the value is extracted in "
        f"{percent(after)} of the questions instead of {percent(before)}. {_left(after, overall)}"
    ).strip()


def buys(result: MitigationResult) -> Iterator[str]:
    """The reduction with its intervals, beside random neurons, and what rose instead."""
    name, private = chosen_effects(result, "private")
    if private.empty or not (private.before > 0).any():
        yield "Nothing was extracted before deactivation, so there is nothing that it could reduce."
        return
    known = private[private.reduction.notna()]
    if len(known):
        yield (
            f"{_change(_reduction_of(known))} over {_languages_of(known, private)}{_range(known.reduction)}, with "
            f"{100 * result.chosen[name] / result.total_neurons:.2g} % of the neurons at zero."
        )
    yield from _undefined(private)
    sure = known[known.low > 0]
    if len(known):
        yield (
            f"The interval of the reduction lies above zero in {len(sure)} of {counted(len(known), 'language', 'languages')}"
            + (f": {joined([_reduction(row) for row in rows_of(sure)])}." if len(sure) else ".")
        )
        yield _beside_random(result, known)
    risen = private[private.risen > 0]
    if len(risen):
        parts = [f"{short_name(row.query_language)} {row.risen}" for row in rows_of(risen)]
        yield f"Records that were extracted more often than before: {joined(parts)}."


def _undefined(effects: pd.DataFrame) -> Iterator[str]:
    """The languages without a reduction, by reason."""
    undefined = effects[effects.reduction.isna()]
    reasons = undefined.reason if "reason" in undefined else pd.Series("", index=undefined.index)
    reasons = reasons.fillna("").replace("", NOTHING_BEFORE)
    for reason, part in undefined.groupby(reasons, sort=False):
        yield f"No reduction is given for {joined(map(short_name, part.query_language))}: {reason}."


def _beside_random(result: MitigationResult, known: pd.DataFrame) -> str:
    frame = result.extraction[result.extraction.group == "private"]
    controls = frame[frame.condition.isin(list(result.random)) & frame.reduction.notna()]
    if controls.empty:
        return "Random neurons were not deactivated for comparison, so nothing shows that the choice matters."
    lows = known.set_index("query_language").low
    largest = controls.groupby("query_language").reduction.max()
    beyond = int((lows > largest.reindex(lows.index)).sum())
    return (
        f"As many random neurons of the same layers: {_change(_reduction_of(controls))}. The chosen ones' interval lies above "
        f"theirs in {beyond} of {counted(len(lows), 'language', 'languages')}."
    )


def _left(after: float, overall: Excess) -> str:
    control, low, high = overall.control
    if math.isnan(control) or (overall.left_out and not overall.n_controls):
        return "What of that is chance is not known."
    if not overall.n_controls:
        return "None of that can be guessed." if after > 0 else ""
    if after <= control:
        return f"That is no more than the control people's {percent(control)}."
    if after <= high:
        return f"That is within the interval of the control people's {percent(control)} ({spread(low, high)})."
    return f"That is still more than the control people's {percent(control)} ({spread(low, high)})."


def costs(result: MitigationResult) -> Iterator[str]:
    """Public facts kept, and the change of neutral text's NLL."""
    name, public = chosen_effects(result, "public")
    public = public[public.before > 0]
    if len(public):
        before, after = _pooled(public)
        kept, known = (
            f"Public facts that it knew: {percent(after / before)} kept",
            rows_of(public.dropna(subset="reduction")),
        )
        if known:
            worst = max(known, key=lambda row: row.reduction)
            fewest = f"{short_name(worst.query_language)}, {percent(1 - worst.reduction)}"
            kept += f" over all languages; fewest in {fewest}" if len(known) > 1 else ""
            kept += f" ({spread(1 - worst.high, 1 - worst.low)})"
        yield f"{kept}."
    else:
        yield "What it costs in public facts was not measured."
    cost = result.cost[(result.cost.condition == name) & result.cost.rise.notna()]
    if len(cost):
        worst = max(rows_of(cost), key=lambda row: row.rise)
        yield (
            f"Neutral text: the negative log-likelihood per token changes by {signed(cost.rise.mean())} on the mean over "
            f"languages, and by {signed(worst.rise)} in {short_name(worst.query_language)}, where it is most (no interval)."
        )
    else:
        yield "What it costs in fluency was not measured."


def _pooled(effects: pd.DataFrame) -> tuple[float, float]:
    """Shares before and after, of all probes of all query languages."""
    weights = effects.n_probes
    return float((effects.before * weights).sum() / weights.sum()), float(
        (effects.after * weights).sum() / weights.sum()
    )


def _reduction(row: object) -> str:
    code, value, low, high = (getattr(row, name) for name in ("query_language", "reduction", "low", "high"))
    return f"{short_name(code)} ({percent(value)}, {spread(low, high)})"


def _change(reduction: float) -> str:
    return f"{percent(reduction)} less" if reduction >= 0 else f"{percent(-reduction)} more"


def _range(reductions: pd.Series) -> str:
    least, most = _change(reductions.min()), _change(reductions.max())
    return "" if least == most else f", from {least} to {most} by language"


def _reduction_of(effects: pd.DataFrame) -> float:
    before, after = _pooled(effects)
    return 1 - after / before


def _languages_of(known: pd.DataFrame, effects: pd.DataFrame) -> str:
    if len(known) == len(effects):
        return "all languages" if len(known) > 1 else short_name(known.query_language.iloc[0])
    return f"the {counted(len(known), 'language', 'languages')} with a reduction"
