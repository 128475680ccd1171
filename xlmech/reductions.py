"""How much less comes out than before: tidy rows with intervals from paired measurements. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xlmech import metrics

EXTRACTION, EXPOSURE, ACCURACY = "extraction", "exposure_bits", "accuracy"
"""What `measure` says of a row: share of probes, bits, share of countries."""


def extraction_effects(before: pd.DataFrame, afters: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Extraction per group and query language; public facts count where they come out in the query language's own form.

    Args:
        before: Probes of a `LeakageResult`.
        afters: The same probes after deactivation, one frame per draw of what was deactivated.
    """

    def leaked(frame: pd.DataFrame) -> NDArray[np.float64]:
        return np.where(frame.group == "public", frame.own_form, frame.extracted).astype(float)

    rows = reduction_rows(before, leaked(before), [leaked(after) for after in afters], by=["group", "query_language"])
    return rows.assign(measure=EXTRACTION, above_controls=False)


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

    rows = reduction_rows(asked, bits(before), [bits(after) for after in afters], by=["group", "query_language"])
    known = dict(zip(asked.query_language, above, strict=True))
    return rows.assign(measure=EXPOSURE, above_controls=[known[code] for code in rows.query_language])


def accuracy_effects(before: pd.DataFrame, afters: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Base knowledge per query language as group `base`: countries are resampled as subjects are elsewhere.

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
) -> pd.DataFrame:
    """One row per value of the columns `by`: `before`, `after`, `reduction` with `low` and `high`, `risen`, and counts.

    Args:
        asked: Has `subject`, `record` and the columns `by`, in the order of the measurements.
        was: (probe,) before.
        now: Per draw, (probe,) after.
        by: Columns that make the rows, in order of first appearance.
    """
    asked = asked.reset_index(drop=True)
    table = np.stack([was, *now], axis=1)
    rows = []
    for key, part in asked.groupby(list(by), sort=False):
        rows.append(dict(zip(by, key, strict=True)) | _effect(part, table[part.index]))
    return pd.DataFrame(rows)


def _effect(asked: pd.DataFrame, table: NDArray[np.float64]) -> dict[str, Any]:
    """Of the (probe, state) table's states the first is before, the others are draws of what comes after."""
    frame = pd.DataFrame(table)
    by_subject = frame.groupby(asked.subject.to_numpy()).sum().to_numpy()
    by_record = frame.groupby(asked.record.to_numpy()).mean().to_numpy()
    reduction = (float("nan"),) * 3
    if by_subject[:, 0].sum() > 0 and not np.isnan(table).any():
        reduction = reduction_of_draws(by_subject[:, 0], by_subject[:, 1:].T)
    return {
        "before": table[:, 0].mean(),
        "after": table[:, 1:].mean(),
        "reduction": reduction[0],
        "low": reduction[1],
        "high": reduction[2],
        "risen": int((by_record[:, 1:].mean(1) > by_record[:, 0]).sum()),
        "n_subjects": len(by_subject),
        "n_probes": len(table),
        "n_draws": table.shape[1] - 1,
    }


def reduction_of_draws(
    before: NDArray[np.float64], after: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float, float]:
    """Reduction 1 - after/before of several draws of a control together, and its 95 % interval.

    Draws and subjects are resampled independently of each other (a crossed bootstrap), so the interval holds what another
    draw would have changed. One draw is `metrics.bootstrap_reduction`.

    Args:
        before: (subject,) sums.
        after: (draw, subject) sums.
        seed: Of the resampling.

    Returns:
        Value, low, high; NaN where nothing leaked before, bounds NaN for fewer than two subjects.
    """
    if len(after) == 1:
        return metrics.bootstrap_reduction(before, after[0], seed=seed)
    total = before.sum()
    value = float(1 - after.sum() / len(after) / total) if total else float("nan")
    if np.isnan(value) or len(before) < 2:
        return value, float("nan"), float("nan")
    subjects, draws = (
        metrics.resample_counts(len(before), seed=seed),
        metrics.resample_counts(len(after), seed=seed + 1),
    )
    kept, known = ((draws @ after) * subjects).sum(1) / len(after), subjects @ before
    low, high = metrics.percentile_interval(1 - kept[known > 0] / known[known > 0])
    return value, float(low), float(high)


def reduction_beyond(
    before: NDArray[np.float64], after: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float, float]:
    """The first column's reduction minus the largest of the other columns', and its 95 % interval.

    Subjects are resampled with all their columns (a paired bootstrap); the largest is found anew in every resample, among the
    columns that have anything in it.

    Args:
        before: (subject, column) sums; a column where nothing leaked has no reduction and is no other.
        after: (subject, column) sums.
        seed: Of the resampling.

    Returns:
        Value, low, high; NaN where nothing leaked in the first column or in no other, bounds NaN for fewer than two subjects.
    """

    def gap(was: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
        reduced = 1 - np.divide(now, was, out=np.full_like(was, np.nan), where=was > 0)
        largest = np.where(np.isnan(reduced[..., 1:]), -np.inf, reduced[..., 1:]).max(-1, initial=-np.inf)
        return np.where(np.isinf(largest), np.nan, reduced[..., 0] - largest)

    value = float(gap(before.sum(0), after.sum(0)))
    if np.isnan(value) or len(before) < 2:
        return value, float("nan"), float("nan")
    drawn = metrics.resample_counts(len(before), seed=seed)
    gaps = gap(drawn @ before, drawn @ after)
    low, high = metrics.percentile_interval(gaps[~np.isnan(gaps)])
    return value, float(low), float(high)


def pareto_front(gain: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """(point,) whether no other point gains as much at no greater loss, and does better in one of the two; NaN never is."""
    gains, losses = np.asarray(gain, dtype=float), np.asarray(loss, dtype=float)
    no_worse = (gains >= gains[:, None]) & (losses <= losses[:, None])
    better = (gains > gains[:, None]) | (losses < losses[:, None])
    return np.asarray(~(no_worse & better).any(1) & ~np.isnan(gains + losses))
