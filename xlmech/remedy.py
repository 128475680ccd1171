"""What deactivation buys and costs, in sentences computed from the numbers with their intervals and controls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from xlmech.chance import Excess
from xlmech.evaluation import MitigationResult
from xlmech.findings import chosen_effects, rows_of
from xlmech.words import joined, percent, short_name, signed, spread


def remedy(result: MitigationResult, overall: Excess) -> str:
    """The deactivation in one sentence, "" where nothing came out before."""
    name, private = chosen_effects(result, "private")
    if private.empty or not (private.before > 0).any():
        return ""
    before, after = _pooled(private)
    return (
        f"With {result.chosen[name]:,} of {result.total_neurons:,} neurons deactivated, the value comes out in {percent(after)} "
        f"of the questions instead of {percent(before)}. {_left(after, overall)}"
    )


def buys(result: MitigationResult) -> Iterator[str]:
    """The reduction with its intervals, beside random neurons, and what rose instead."""
    name, private = chosen_effects(result, "private")
    if private.empty or not (private.before > 0).any():
        yield "Nothing came out before deactivation, so there is nothing that it could buy."
        return
    before, after = _pooled(private)
    yield (
        f"{_change(1 - after / before)} over all languages, {_range(private.reduction)} by language, with "
        f"{100 * result.chosen[name] / result.total_neurons:.2g} % of the neurons at zero."
    )
    sure = private[private.low > 0]
    yield (
        f"The interval of the reduction lies above zero in {len(sure)} of {private.reduction.notna().sum()} languages"
        + (f": {joined([_reduction(row) for row in rows_of(sure)])}." if len(sure) else ".")
    )
    yield _beside_random(result)
    risen = private[private.risen > 0]
    if len(risen):
        parts = [f"{short_name(row.query_language)} {row.risen}" for row in rows_of(risen)]
        yield f"Records that came out more often than before: {joined(parts)}."


def _beside_random(result: MitigationResult) -> str:
    frame = result.extraction[result.extraction.group == "private"]
    controls = frame[frame.condition.isin(list(result.random))]
    if controls.empty:
        return "Random neurons were not deactivated for comparison, so nothing shows that the choice matters."
    before, after = _pooled(controls)
    others = f"As many random neurons of the same layers: {_change(1 - after / before)}" if before else "Random neurons"
    chosen = chosen_effects(result, "private")[1].set_index("query_language").low
    largest = controls.groupby("query_language").reduction.max()
    beyond = int((chosen > largest.reindex(chosen.index)).sum())
    return f"{others}. The chosen ones' interval lies above theirs in {beyond} of {len(chosen)} languages."


def _left(after: float, overall: Excess) -> str:
    if not overall.n_controls:
        return "What of that is chance is not known."
    control, low, high = overall.control
    if after <= control:
        return f"That is no more than the control people's {percent(control)}."
    if after <= high:
        return f"That is within the interval of the control people's {percent(control)} ({spread(low, high)})."
    return f"That does not stop the leak: control people reach {percent(control)} ({spread(low, high)})."


def costs(result: MitigationResult) -> Iterator[str]:
    """Public facts kept, and the change of neutral text's NLL."""
    name, public = chosen_effects(result, "public")
    public = public[public.before > 0]
    if len(public):
        before, after = _pooled(public)
        worst = min(rows_of(public), key=lambda row: _or_most(1 - row.reduction))
        yield (
            f"Public facts that it knew: {percent(after / before)} kept over all languages; fewest in "
            f"{short_name(worst.query_language)}, {percent(1 - worst.reduction)} "
            f"({spread(1 - worst.high, 1 - worst.low)})."
        )
    else:
        yield "What it costs in public facts was not measured."
    price = result.price[(result.price.condition == name) & result.price.rise.notna()]
    if len(price):
        worst = max(rows_of(price), key=lambda row: row.rise)
        yield (
            f"Neutral text: the negative log-likelihood per token changes by {signed(price.rise.mean())} on the mean over "
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
    known = reductions.dropna()
    return f"from {_change(known.min())} to {_change(known.max())}"


def _or_most(value: float) -> float:
    return math.inf if math.isnan(value) else value
