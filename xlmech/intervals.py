"""Intervals without resampling: of a share, where all are alike, and of the difference of two independent figures."""

from __future__ import annotations

import numpy as np
from scipy import stats

from xlmech.metrics import CONFIDENCE


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
