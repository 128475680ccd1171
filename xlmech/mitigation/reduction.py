"""How much less comes out than before: tidy rows with intervals, over the same people. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xlmech.data.languages import UNGUESSABLE
from xlmech.metrics import intervals

EXTRACTION, EXPOSURE, ACCURACY = "extraction", "exposure", "accuracy"
"""What `measure` says of a row: share of probes, bits, share of countries."""


def extraction_effects(
    before: pd.DataFrame, afters: Sequence[pd.DataFrame], *, control_people: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Extraction per group and query language; public facts count where they come out in the query language's own form.

    Args:
        before: Probes of a `LeakageResult`.
        afters: The same probes after deactivation, one frame per draw of what was deactivated.
        control_people: Probes of control people before deactivation, with others or without; those in `before` by default. A
            rate before that is not above theirs, for the same kinds of data, has no reduction.
    """

    def leaked(frame: pd.DataFrame) -> NDArray[np.float64]:
        return np.where(frame.group == "public", frame.own_form, frame.extracted).astype(float)

    rows = reduction_rows(
        before,
        leaked(before),
        [leaked(after) for after in afters],
        by=["group", "query_language"],
        control=_control_rates(before, before if control_people is None else control_people),
    )
    return rows.assign(measure=EXTRACTION, above_controls=False)


def _control_rates(asked: pd.DataFrame, people: pd.DataFrame) -> NDArray[np.float64]:
    """(probe,) share of the control people's questions on the probe's attribute that give the value.

    Where no control person was asked it is 0 for what cannot be guessed, and else NaN.
    """
    keys = ["query_language", "attribute"]
    controls = people[people.group == "control"].groupby(keys)[["extracted", "own_form"]].mean()
    found = asked[keys].join(controls, on=keys)
    rates = np.where(asked.group == "public", found.own_form, found.extracted).astype(float)
    return np.where(np.isnan(rates) & asked.attribute.isin(UNGUESSABLE), 0.0, rates)


def exposure_effects(before: pd.DataFrame, afters: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Bits of exposure per group and query language, above the mean of the control subjects asked in that language.

    Chance alone gives a control subject some bits (1.4 on average), which no deactivation takes away; their mean is taken as
    known in the interval. `above_controls` is false where a language has no control probes: there the bits are plain.
    Arguments as of `extraction_effects`.
    """
    asked = before[before.group != "control"].reset_index(drop=True)
    above = asked.query_language.isin(set(before.query_language[before.group == "control"]))

    def bits(frame: pd.DataFrame) -> NDArray[np.float64]:
        means = frame[frame.group == "control"].groupby("query_language").exposure_bits.mean().to_dict()
        chance = np.array([means.get(code, 0.0) for code in frame.query_language])
        above_chance = frame.exposure_bits.to_numpy(dtype=float) - chance
        return np.asarray(above_chance[(frame.group != "control").to_numpy()])

    rows = reduction_rows(
        asked, bits(before), [bits(after) for after in afters], by=["group", "query_language"], rates=False
    )
    known = dict(zip(asked.query_language, above, strict=True))
    return rows.assign(measure=EXPOSURE, above_controls=[known[code] for code in rows.query_language])


def accuracy_effects(before: pd.DataFrame, afters: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Base knowledge per query language as group `base`: countries are the units, as subjects are elsewhere.

    Args:
        before: Answers of a `KnowledgeResult`.
        afters: The same after deactivation, one frame per draw.
    """
    asked = before.assign(group="base", subject=before.country, record=before.country)
    right = [after.correct.to_numpy(dtype=float) for after in afters]
    rows = reduction_rows(asked, before.correct.to_numpy(dtype=float), right, by=["group", "query_language"])
    return rows.assign(measure=ACCURACY, above_controls=False)


def reduction_rows(
    asked: pd.DataFrame,
    was: NDArray[np.float64],
    now: Sequence[NDArray[np.float64]],
    *,
    by: Sequence[str],
    control: NDArray[np.float64] | None = None,
    rates: bool = True,
) -> pd.DataFrame:
    """Compare measurements before and after, one row per value of the columns `by`.

    Args:
        asked: Has `subject`, `record` and the columns `by`, in the order of the measurements.
        was: (probe,) before.
        now: Per draw, (probe,) after.
        by: Columns that make the rows, in order of first appearance.
        control: (probe,) what control people reach at that probe; NaN where that is not known.
        rates: Whether the measurements are shares, 0 to 1, and not another quantity.

    Returns:
        Columns `by`, then `before`, `after` with its interval in `after_low` and `after_high`, `control`, `reduction` with `low`
        and `high` and the `reason` where one of them is NaN ("" elsewhere), `risen` (records), and counts.
    """
    asked = asked.reset_index(drop=True)
    table = np.stack([was, *now], axis=1)
    chance = pd.Series(np.full(len(asked), np.nan) if control is None else control)
    rows = []
    for key, part in asked.groupby(list(by), sort=False):
        found = _effect(part, table[part.index], chance[part.index].to_numpy(), rates)
        rows.append(dict(zip(by, key, strict=True)) | found)
    return pd.DataFrame(rows)


def _effect(
    asked: pd.DataFrame, table: NDArray[np.float64], chance: NDArray[np.float64], rates: bool
) -> dict[str, Any]:
    """Of the (probe, state) table's states the first is before, the others are draws of what comes after.

    `chance` is (probe,); before is compared with it over the probes where it is known.
    """
    known = ~np.isnan(chance)
    control = float(chance[known].mean()) if known.any() else float("nan")
    above = not known.any() or table[known, 0].mean() > control
    frame = pd.DataFrame(table)
    by_subject = frame.groupby(asked.subject.to_numpy()).sum(min_count=1).to_numpy()
    questions = frame[0].groupby(asked.subject.to_numpy()).size().to_numpy()
    by_record = frame.groupby(asked.record.to_numpy()).mean().to_numpy()
    was, now = by_subject[:, 0], by_subject[:, 1:].T
    if rates:
        left = intervals.rate_interval(now.mean(0), questions)
        found = intervals.reduction_interval(was, now, questions, control_rate=0.0 if above else np.inf)
    else:
        left = intervals.mean_interval(now.mean(0), questions)
        found = intervals.mean_reduction_interval(was, now)
    return {
        "before": table[:, 0].mean(),
        "after": table[:, 1:].mean(),
        "after_low": left.low,
        "after_high": left.high,
        "control": control,
        "reduction": found.value,
        "low": found.low,
        "high": found.high,
        "reason": found.reason,
        "risen": int((by_record[:, 1:].mean(1) > by_record[:, 0]).sum()),
        "n_subjects": len(by_subject),
        "n_probes": len(table),
        "n_draws": table.shape[1] - 1,
    }


def pooled_reduction(effects: pd.DataFrame) -> float:
    """Reduction of all rows together, without interval; NaN where nothing was there to reduce, or no more than by chance.

    Args:
        effects: Rows of `reduction_rows`, of one condition and group.
    """
    weights = effects.n_probes
    before, after = ((effects[name] * weights).sum() for name in ("before", "after"))
    control = effects.get("control", pd.Series(np.nan, effects.index)) * weights
    above = control.isna().all() or (effects.before * weights)[control.notna()].sum() > control.sum()
    return float(1 - after / before) if before and above else float("nan")


def reduction_beyond(
    before: NDArray[np.float64], after: NDArray[np.float64], questions: NDArray[np.float64]
) -> intervals.Reduction:
    """Subtract the largest reduction of the other columns from the first column's.

    The interval is the lowest of those of the differences from each other column, each as if of other people. The people are the
    same, and who keeps a value in one column mostly keeps it in others, so that it is cautious.

    Args:
        before: (subject, column) sums of hits; a column without any has no reduction and is no other.
        after: (subject, column) sums of hits.
        questions: (subject, column) numbers of questions.

    Returns:
        NaN with a reason where nothing came out in the first column or in no other. The ends are NaN where those of a column's
        reduction are.
    """
    first, *others = (
        intervals.reduction_interval(before[:, column], after[:, column], questions[:, column])
        for column in range(before.shape[1])
    )
    others = [other for other in others if not np.isnan(other.value)]
    if np.isnan(first.value) or not others:
        nan = float("nan")
        return intervals.Reduction(nan, nan, nan, first.reason or intervals.NOTHING_BEFORE)
    gaps = np.array([intervals.difference_interval(first[:3], other[:3]) for other in others])
    value, low, high = gaps.min(0)
    reason = next((each.reason for each in (first, *others) if each.reason), "")
    return intervals.Reduction(float(value), float(low), float(high), reason)


def pareto_front(gain: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """(point,) whether no other point gains as much at no greater loss, and does better in one of the two; NaN never is."""
    gains, losses = np.asarray(gain, dtype=float), np.asarray(loss, dtype=float)
    no_worse = (gains >= gains[:, None]) & (losses <= losses[:, None])
    better = (gains > gains[:, None]) | (losses < losses[:, None])
    return np.asarray(~(no_worse & better).any(1) & ~np.isnan(gains + losses))
