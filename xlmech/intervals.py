"""Intervals without resampling: of a share, where all are alike, and of the difference of two independent figures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from xlmech.metrics import CONFIDENCE


class Interval(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: Estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


def rate_interval(hits: ArrayLike, questions: ArrayLike) -> Interval:
    """Estimate a rate over people who each answer several questions, with its 95 % interval.

    People are the units: questions about one person are not independent. The interval is Wilson's of the pooled rate on the
    number of people, as if each person's questions all had the same answer.

    Args:
        hits: (person,) sum over that person's questions, each 0 to 1.
        questions: (person,) number of questions; people without any are left out.

    Returns:
        Sum of hits / sum of questions, and its bounds; NaN without a question, or where a number is NaN.

    Raises:
        ValueError: Arrays of different lengths, or hits outside 0 to the number of questions.

    Source:
        Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    top, bottom = np.asarray(hits, dtype=float), np.asarray(questions, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"hits and questions need one number per person, got shapes {top.shape} and {bottom.shape}")
    if ((top < 0) | (top > bottom)).any():
        raise ValueError("hits must lie between 0 and the number of questions of each person")
    n = int((bottom > 0).sum())
    if not n or np.isnan(top).any() or np.isnan(bottom).any():
        return Interval(float("nan"), float("nan"), float("nan"))
    value = float(top.sum() / bottom.sum())
    low, high = proportion_confint(value * n, n, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(value, float(low), float(high))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n` independent things, which has a width where all of them are alike.

    For a rate that every resample of the subjects repeats (nobody, or everybody), where the bootstrap's interval has no width:
    0 of 8 people is [0, 0.32], not [0, 0].

    Source:
        Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    if n < 1 or np.isnan(share):
        return float("nan"), float("nan")
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return max(0.0, middle - half), min(1.0, middle + half)


def difference_interval(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float, float]:
    """`one` minus `other`, two independent figures with their 95 % intervals (value, low, high each), and the difference's.

    NaN where a number is.

    Source:
        Newcombe 1998, Statistics in Medicine 17, 873-890, method 10, for any two intervals.
    """
    (value, low, high), (less, least, most) = one, other
    below, above = np.hypot(value - low, most - less), np.hypot(high - value, less - least)
    return value - less, value - less - float(below), value - less + float(above)
