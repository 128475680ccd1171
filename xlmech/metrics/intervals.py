"""Intervals over people: of a rate, a difference, a reduction, a mean. All are 95 % unless told otherwise.

They count people, because questions about one person are not independent. `analyses/benchmarks/coverage.py` measures how
often each interval holds the truth; docs/explanation/intervals.md has the tables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

CONFIDENCE = 0.95
NOTHING_BEFORE = "nothing was extracted before"
NOT_ABOVE_CONTROLS = "before is not above the control people's rate"
TOO_LITTLE = "too few people, hits or draws to tell"
ONE_PERSON = "fewer than two people"
ALL_ALIKE = "all people are alike, so their spread is not known"
NOT_MEASURED = "a measurement is missing"
_MAX_STEPS = 1024
"""Most numbers of hits, from none to all, among which the highest upper end of a rate is sought."""
_NAN = float("nan")


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float


class Intervals(NamedTuple):
    """(column,) estimates and the ends of their intervals."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Reduction(NamedTuple):
    """A reduction 1 - after / before with its interval.

    Attributes:
        value: Estimate; negative for a rise, NaN if there is nothing to reduce.
        low: Lower end of the interval.
        high: Upper end of the interval.
        reason: Why the value or the ends are NaN; "" if they are known.
    """

    value: float
    low: float
    high: float
    reason: str = ""


def rate_interval(hits: ArrayLike, questions: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Estimate a rate, sum of hits / sum of questions, with its interval; NaN without a question, or if a number is NaN.

    The interval is Clopper and Pearson's on an effective number of observations: the questions divided by the design effect
    1 + (questions per person - 1) * correlation of one person's answers. Without hits, or with a single person, the
    correlation is taken as 1, so that people count and not questions: 0 of 8 people is 0 to 37 %. One hit more never lowers an
    end: the upper end is the highest among all data with a part of these hits.

    Args:
        hits: (person,) sum over each person's questions, each 0 to 1; a mean over several draws may be fractional.
        questions: (person,) number of questions; people without any are left out.
        confidence: Confidence level of the two-sided interval.

    Raises:
        ValueError: Arrays of different lengths, or hits outside 0 to the number of questions.

    Source:
        Clopper and Pearson 1934, Biometrika 26, 404-413; effective number of Rao and Scott 1992, Biometrics 48, 577-585;
        correlation as in Ridout, Demetrio and Firth 1999, Biometrics 55, 137-148. Differs: the highest end.
    """
    top, bottom = np.asarray(hits, dtype=float), np.asarray(questions, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"hits and questions need one number per person, got shapes {top.shape} and {bottom.shape}")
    if ((top < 0) | (top > bottom + 1e-9)).any():
        raise ValueError("hits must lie between 0 and the number of questions of each person")
    if not bottom.sum() or np.isnan(top + bottom).any():
        return Interval(_NAN, _NAN, _NAN)
    top, bottom = np.minimum(top, bottom)[bottom > 0], bottom[bottom > 0]
    low = 1 - _upper_end(bottom - top, bottom, confidence)
    return Interval(float(top.sum() / bottom.sum()), low, _upper_end(top, bottom, confidence))


def _upper_end(hits: NDArray[np.float64], questions: NDArray[np.float64], confidence: float) -> float:
    """Find the highest upper end of data with a part of these hits, given to people so that each one's answers are most alike."""
    total, n = questions.sum(), len(questions)
    fewer = np.linspace(0, hits.sum(), int(min(_MAX_STEPS, np.ceil(hits.sum()))) + 1)
    rates = fewer / total
    # Within a person, h hits of m questions vary by h (m - h) / m; a part of the hits by no less than its share of that.
    variation = 1 - hits / questions
    order = np.argsort(variation)
    within = np.interp(fewer, np.append(0, hits[order].cumsum()), np.append(0, (hits * variation)[order].cumsum()))
    independent = rates * (1 - rates) * (questions - 1).sum() * (n / (n - 1) if n > 1 else 0)
    correlation = 1 - np.divide(within, independent, out=np.zeros_like(within), where=independent > 1e-12)
    effective = total / (1 + correlation.clip(0, 1) * ((questions**2).sum() / total - 1))
    count, misses = rates * effective, (1 - rates) * effective
    ends = special.betaincinv(count + 1, np.maximum(misses, 1e-9), (1 + confidence) / 2)  # Clopper and Pearson's
    return float(np.where(misses < 1e-9, 1.0, ends).max())


def difference_interval(first: tuple[float, float, float], second: tuple[float, float, float]) -> Interval:
    """Subtract `second` from `first`, independent numbers given as (value, low, high); NaN if one of them is.

    Source:
        Newcombe 1998, Statistics in Medicine 17, 873-890, method 10, for any two intervals (Zou and Donner 2008, Statistics in
        Medicine 27, 1693-1702).
    """
    (value, low, high), (value_2, low_2, high_2) = first, second
    below, above = np.hypot(value - low, high_2 - value_2), np.hypot(high - value, value_2 - low_2)
    return Interval(value - value_2, value - value_2 - float(below), value - value_2 + float(above))


def paired_difference_interval(
    new: ArrayLike, lost: ArrayLike, questions: ArrayLike, *, confidence: float = CONFIDENCE
) -> Interval:
    """Estimate by how much a rate differs between two measurements of the same people's same questions.

    It is the rate of new hits less the rate of lost ones, each with the interval of `rate_interval`, joined with the correlation
    that two outcomes of one question have. If nothing changes of 8 people, it is 0, from -37 to 37 points.

    Args:
        new: (person,) sum over each person's questions of what the second measurement has more than the first.
        lost: (person,) sum of what it has less.
        questions: (person,) number of questions; people without any are left out.
        confidence: Confidence level of the two-sided interval.

    Returns:
        Second rate less the first; NaN without a question, or if a number is NaN.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27, 1693-1702, with a correlation as Newcombe 1998, Statistics in Medicine 17,
        2635-2650, has it for paired proportions.
    """
    more = rate_interval(new, questions, confidence=confidence)
    less = rate_interval(lost, questions, confidence=confidence)
    odds = (1 - more.value) * (1 - less.value)
    correlation = float(np.sqrt(more.value * less.value / odds)) if odds > 0 else 0.0

    def width(first: float, second: float) -> float:
        return float(np.sqrt(first**2 + second**2 + 2 * correlation * first * second))

    value = more.value - less.value
    low = value - width(more.value - more.low, less.high - less.value)
    high = value + width(more.high - more.value, less.value - less.low)
    return Interval(value, float(np.maximum(-1.0, low)), float(np.minimum(1.0, high)))


def reduction_interval(
    before: ArrayLike, after: ArrayLike, questions: ArrayLike, *, control_rate: float = 0.0
) -> Reduction:
    """Estimate how much a rate falls, 1 - after / before, from the same people's questions before and after.

    After / before = kept + new * (1 - before) / before, where kept is a rate over the hits before and new one over the misses
    before. Their intervals and that of before are `rate_interval`'s, combined as those of independent numbers. Before's error
    is weighted by the new rate with one more person's misses at the kept rate, because few misses do not determine it. The
    spread between draws is added (Student's t). 8 of 8 people before and none after is a reduction of 63 to 100 %.

    Args:
        before: (person,) sum of hits.
        after: (person,) sum of hits on the same questions, or (draw, person).
        questions: (person,) number of questions.
        control_rate: Rate of the control people; NaN if it is not known.

    Returns:
        NaN with a reason if before is not above the control rate. The ends are NaN with a reason for fewer than two people,
        and if the interval would hold both a doubling and a fall.

    Source:
        Zou and Donner 2008, Statistics in Medicine 27, 1693-1702, for sums and differences of numbers with intervals.
    """
    old, new = np.asarray(before, float), np.atleast_2d(np.asarray(after, float))
    n_questions = np.asarray(questions, float)
    if np.isnan(old).any() or np.isnan(new).any():
        return Reduction(_NAN, _NAN, _NAN, NOT_MEASURED)
    total = old.sum()
    if not total:
        return Reduction(_NAN, _NAN, _NAN, NOTHING_BEFORE)
    if total / n_questions.sum() <= control_rate:
        return Reduction(_NAN, _NAN, _NAN, NOT_ABOVE_CONTROLS)
    value = float(1 - new.sum() / len(new) / total)
    if (n_questions > 0).sum() < 2:
        return Reduction(value, _NAN, _NAN, ONE_PERSON)
    rate = rate_interval(old, n_questions)
    kept = rate_interval(np.minimum(new, old).mean(0), old)
    added = Interval(0.0, 0.0, 0.0)
    if not np.array_equal(old, n_questions):
        added = rate_interval(np.maximum(new - old, 0).mean(0), n_questions - old)
    if rate.low <= 0:  # one hit of very many: its end is too small for a float
        return Reduction(value, _NAN, _NAN, TOO_LITTLE)
    odds, odds_low, odds_high = (1 / of - 1 for of in (rate.value, rate.high, rate.low))
    n_new_per_person = (n_questions - old).sum() / n_questions[n_questions > 0].mean()
    added_rate = (added.value * n_new_per_person + kept.value) / (n_new_per_person + 1)
    draws = _half_width_of_draws(1 - new.sum(1) / total)
    above = np.hypot.reduce(
        [kept.high - kept.value, odds * (added.high - added.value), added_rate * (odds_high - odds), draws]
    )
    below = np.hypot.reduce(
        [kept.value - kept.low, odds * (added.value - added.low), added_rate * (odds - odds_low), draws]
    )
    low, high = value - float(above), min(1.0, value + float(below))
    return Reduction(value, low, high) if low >= -1 or high <= 0 else Reduction(value, _NAN, _NAN, TOO_LITTLE)


def mean_reduction_interval(before: ArrayLike, after: ArrayLike) -> Reduction:
    """Estimate how much a mean of any quantity falls, 1 - after / before, from the same people before and after.

    Args:
        before: (person,) sums, above the level of chance.
        after: (person,) sums over the same questions, or (draw, person); the spread between draws is added.

    Returns:
        NaN with a reason if the sum before is not above 0. The ends are NaN with a reason for fewer than two people, if all
        people are alike, and if before is not clearly above 0, so that the ratio has no bounded interval.

    Source:
        Fieller 1954, Journal of the Royal Statistical Society B 16, 175-185, with Student's t over people.
    """
    old, new = np.asarray(before, float), np.atleast_2d(np.asarray(after, float))
    total, n = old.sum(), len(old)
    if np.isnan(old).any() or np.isnan(new).any():
        return Reduction(_NAN, _NAN, _NAN, NOT_MEASURED)
    if total <= 0:
        return Reduction(_NAN, _NAN, _NAN, NOT_ABOVE_CONTROLS)
    ratio = float(new.sum() / len(new) / total)
    if n < 2:
        return Reduction(1 - ratio, _NAN, _NAN, ONE_PERSON)
    (a, both), (_, b) = np.cov(old, new.mean(0)) * n / total**2 * _student_quantile(n) ** 2
    if b - 2 * ratio * both + ratio**2 * a <= 1e-18:
        return Reduction(1 - ratio, _NAN, _NAN, ALL_ALIKE)
    if a >= 1:
        return Reduction(1 - ratio, _NAN, _NAN, TOO_LITTLE)
    middle = (ratio - both) / (1 - a)
    half = np.sqrt(max(0.0, middle**2 - (ratio**2 - b) / (1 - a)))
    draws = _half_width_of_draws(1 - new.sum(1) / total)
    below, above = np.hypot(ratio - middle + half, draws), np.hypot(middle + half - ratio, draws)
    return Reduction(1 - ratio, 1 - ratio - float(above), 1 - ratio + float(below))


def _student_quantile(n: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def _half_width_of_draws(values: NDArray[np.float64]) -> float:
    """Half of the width of the interval of a mean over draws; 0 for a single draw, whose spread is not known."""
    n = len(values)
    return float(_student_quantile(n) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def mean_intervals(sums: ArrayLike, counts: ArrayLike, *, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Intervals:
    """Estimate means of any quantity over people, many columns at once, each with its interval.

    The interval is Student's, corrected for skewness by Hall's transformation, and cut at the quantity's bounds. Use
    `rate_interval` for rates: with few people the sample may hold no rare high value, and then no such interval covers it.

    Args:
        sums: (person, column) sums over each person's measurements.
        counts: (person, column) number of measurements in each sum; people without any are left out of the column.
        bounds: Smallest and largest value that the quantity can have.

    Returns:
        (column,) sum of sums / sum of counts, and the ends: NaN for fewer than two people, and if all people are alike.

    Source:
        Hall 1992, Journal of the Royal Statistical Society B 54, 221-228, with Student's quantile.
    """
    top, bottom = np.asarray(sums, float), np.asarray(counts, float)
    n = (bottom > 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = top.sum(0) / bottom.sum(0)
        rest = np.where(bottom > 0, (top - value * bottom) * n / bottom.sum(0), 0.0)
        spread = np.sqrt((rest**2).sum(0) / (n - 1))
        spread = np.where(spread > 1e-12 * np.abs(top).max(0, initial=0), spread, np.nan)
        skew = (rest**3).sum(0) / n / spread**3
        t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) / np.sqrt(n)
        low, high = (value - spread * _unskewed(at, skew, n) for at in (t, -t))
    return Intervals(value, np.maximum(low, bounds[0]), np.minimum(high, bounds[1]))


def mean_interval(
    sums: ArrayLike, counts: ArrayLike | None = None, *, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Interval:
    """Estimate one mean with `mean_intervals`: (person,) sums and counts, one measurement each by default."""
    top = np.asarray(sums, float)
    bottom = np.ones_like(top) if counts is None else np.asarray(counts, float)
    return Interval(*(float(column[0]) for column in mean_intervals(top[:, None], bottom[:, None], bounds=bounds)))


def _unskewed(at: NDArray[np.float64], skew: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Invert Hall's transformation of (mean - truth) / spread: the x with x + g x^2/3 + g^2 x^3/27 + g/(6 n) = `at`."""
    third = skew / 3
    root = (np.cbrt(1 + 3 * third * (at - skew / (6 * n))) - 1) / third
    return np.asarray(np.where(np.abs(third) < 1e-6, at, root))
