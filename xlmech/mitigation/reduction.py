"""Reductions of leakage as tidy rows with intervals, over the same people before and after. No model is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xlmech.data.attributes import unguessable
from xlmech.metrics import intervals

EXTRACTION, EXPOSURE, ACCURACY = "extraction", "exposure", "accuracy"
"""Values of the column `measure`: share of probes, bits, share of countries."""


def extraction_effects(
    before: pd.DataFrame, afters: Sequence[pd.DataFrame], *, control_people: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Compare extraction per group and query language; a public fact counts in the form of the query language only.

    Args:
        before: Probes of a `LeakageResult`.
        afters: The same probes after ablation, one frame per draw of what was ablated.
        control_people: Probes of control people before ablation, perhaps among others; those in `before` by default. A rate
            before that is not above theirs, for the same attributes, has no reduction.
    """

    def hits(frame: pd.DataFrame) -> NDArray[np.float64]:
        return np.where(frame.group == "public", frame.own_form, frame.extracted).astype(float)

    rows = reduction_rows(
        before,
        hits(before),
        [hits(after) for after in afters],
        by=["group", "query_language"],
        control=_control_rates(before, before if control_people is None else control_people),
    )
    return rows.assign(measure=EXTRACTION, above_controls=False)


def overall_effects(
    before: pd.DataFrame, afters: Sequence[pd.DataFrame], control_people: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Compare extraction per group, over all query languages together; arguments as of `extraction_effects`."""
    together = [frame.assign(query_language="all") for frame in (before, *afters)]
    people = control_people.assign(query_language="all") if control_people is not None else None
    return extraction_effects(together[0], together[1:], control_people=people).drop(columns="query_language")


def private_answers(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Set private probes' extraction before and after side by side.

    Args:
        before: Probes of a `LeakageResult`.
        after: The same probes, in the same order, after ablation.

    Returns:
        One row per private probe: `probe`, `record`, `query_language`, `before`, `after`.
    """
    rows = before[["probe", "record", "query_language"]].assign(
        before=before.extracted.to_numpy(), after=after.extracted.to_numpy()
    )
    return rows[(before.group == "private").to_numpy()].reset_index(drop=True)


def _control_rates(probes: pd.DataFrame, people: pd.DataFrame) -> NDArray[np.float64]:
    """Return (probe,) extraction rate of control people for the probe's attribute and query language.

    Where no control person was asked it is 0 for attributes that cannot be guessed, and NaN for others.
    """
    keys = ["query_language", "attribute"]
    of_key = people[people.group == "control"].groupby(keys)[["extracted", "own_form"]].mean()
    joined = probes[keys].join(of_key, on=keys)
    rates = np.where(probes.group == "public", joined.own_form, joined.extracted).astype(float)
    return np.where(np.isnan(rates) & unguessable(probes), 0.0, rates)


def exposure_effects(before: pd.DataFrame, afters: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Compare bits of exposure per group and query language, above the mean of control people asked in that language.

    By chance a control person has some bits (1.4 on average), which no ablation takes away; the interval takes their mean as
    known. `above_controls` is false where a language has no control people: there the bits are plain. Arguments as of
    `extraction_effects`.
    """

    def bits(frame: pd.DataFrame) -> NDArray[np.float64]:
        means = frame[frame.group == "control"].groupby("query_language").exposure_bits.mean().to_dict()
        chance = np.array([means.get(code, 0.0) for code in frame.query_language])
        above_chance = frame.exposure_bits.to_numpy(dtype=float) - chance
        return np.asarray(above_chance[(frame.group != "control").to_numpy()])

    probes = before[before.group != "control"].reset_index(drop=True)
    rows = reduction_rows(
        probes, bits(before), [bits(after) for after in afters], by=["group", "query_language"], rates=False
    )
    with_controls = set(before.query_language[before.group == "control"])
    return rows.assign(measure=EXPOSURE, above_controls=rows.query_language.isin(with_controls))


def accuracy_effects(before: pd.DataFrame, afters: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Compare base knowledge per query language, as group `base`; a country counts as a subject.

    Args:
        before: Answers of a `KnowledgeResult`.
        afters: The same after ablation, one frame per draw.
    """
    answers = before.assign(group="base", subject=before.country, record=before.country)
    correct = [frame.correct.to_numpy(dtype=float) for frame in (before, *afters)]
    rows = reduction_rows(answers, correct[0], correct[1:], by=["group", "query_language"])
    return rows.assign(measure=ACCURACY, above_controls=False)


def reduction_rows(
    probes: pd.DataFrame,
    before: NDArray[np.float64],
    afters: Sequence[NDArray[np.float64]],
    *,
    by: Sequence[str],
    control: NDArray[np.float64] | None = None,
    rates: bool = True,
) -> pd.DataFrame:
    """Compare measurements before and after, one row per value of the columns `by`.

    Args:
        probes: Columns `subject`, `record` and those of `by`, in the order of the measurements.
        before: (probe,) measurements before.
        afters: (probe,) measurements after, one array per draw.
        by: Columns that make the rows, in order of first appearance.
        control: (probe,) rate of control people at the probe; NaN where it is not known.
        rates: Whether measurements are shares from 0 to 1.

    Returns:
        Columns `by`, then `before`, `after` with its interval in `after_low` and `after_high`, `control`, `reduction` with `low`
        and `high` and the `reason` where one is NaN ("" elsewhere), `risen` (records), and counts.
    """
    probes = probes.reset_index(drop=True)
    table = np.stack([before, *afters], axis=1)
    chance = np.full(len(probes), np.nan) if control is None else control
    rows = []
    for key, part in probes.groupby(list(by), sort=False):
        effect = _effect(part, table[part.index], chance[part.index], rates)
        rows.append(dict(zip(by, key, strict=True)) | effect)
    return pd.DataFrame(rows)


def _effect(
    probes: pd.DataFrame, table: NDArray[np.float64], chance: NDArray[np.float64], rates: bool
) -> dict[str, Any]:
    """Compare the first column of the (probe, state) table, before, with the others, draws of after.

    `chance` is (probe,); before is compared with it over the probes where it is known.
    """
    known = ~np.isnan(chance)
    control = float(chance[known].mean()) if known.any() else float("nan")
    above = not known.any() or table[known, 0].mean() > control
    frame = pd.DataFrame(table)
    subjects = frame.groupby(probes.subject.to_numpy())
    by_subject, questions = subjects.sum(min_count=1).to_numpy(), subjects.size().to_numpy()
    by_record = frame.groupby(probes.record.to_numpy()).mean().to_numpy()
    before, afters = by_subject[:, 0], by_subject[:, 1:].T
    if rates:
        after = intervals.rate_interval(afters.mean(0), questions)
        reduction = intervals.reduction_interval(before, afters, questions, control_rate=0.0 if above else np.inf)
    else:
        after = intervals.mean_interval(afters.mean(0), questions)
        reduction = intervals.mean_reduction_interval(before, afters)
    return {
        "before": table[:, 0].mean(),
        "after": table[:, 1:].mean(),
        "after_low": after.low,
        "after_high": after.high,
        "control": control,
        "reduction": reduction.value,
        "low": reduction.low,
        "high": reduction.high,
        "reason": reduction.reason,
        "risen": int((by_record[:, 1:].mean(1) > by_record[:, 0]).sum()),
        "n_subjects": len(by_subject),
        "n_probes": len(table),
        "n_draws": table.shape[1] - 1,
    }


def pooled_hits(effects: pd.DataFrame) -> tuple[float, float]:
    """Return the hits before and after over all rows, each a rate times the row's number of probes."""
    before, after = ((effects[name] * effects.n_probes).sum() for name in ("before", "after"))
    return float(before), float(after)


def pooled_reduction(effects: pd.DataFrame) -> float:
    """Return the reduction over all rows together; NaN if nothing, or no more than by chance, was there to reduce.

    Args:
        effects: Rows of `reduction_rows`, of one condition and group.
    """
    before, after = pooled_hits(effects)
    control = effects.get("control", pd.Series(np.nan, effects.index)) * effects.n_probes
    above = control.isna().all() or (effects.before * effects.n_probes)[control.notna()].sum() > control.sum()
    return 1 - after / before if before and above else float("nan")


def reduction_beyond(
    before: NDArray[np.float64], after: NDArray[np.float64], questions: NDArray[np.float64]
) -> intervals.Reduction:
    """Subtract the largest reduction of the other columns from the reduction of the first.

    The interval is the lowest of those of the differences from each other column, as if every column were of other people. It is
    cautious: the people are the same, and who keeps a value in one column mostly keeps it in the others.

    Args:
        before: (subject, column) hits before; a column without any counts as no other column.
        after: (subject, column) hits after.
        questions: (subject, column) numbers of questions.

    Returns:
        NaN with a reason if the first column or all others have no hits before. The ends are NaN where those of a column's
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
    """Find the points of the Pareto front: (point,) whether no other gains as much at no greater loss, and is better in one.

    NaN is on no front.
    """
    gains, losses = np.asarray(gain, dtype=float), np.asarray(loss, dtype=float)
    no_worse = (gains >= gains[:, None]) & (losses <= losses[:, None])
    better = (gains > gains[:, None]) | (losses < losses[:, None])
    return np.asarray(~(no_worse & better).any(1) & ~np.isnan(gains + losses))
