"""P-values: a permutation test over people, and Holm's correction for several tests."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RELABELLINGS = 20_000
"""Most relabellings that are all tried; of more, a sample of `N_SAMPLED` is."""
N_SAMPLED = 9_999
_MAX_CELLS = 20_000_000
"""Most cells of the table of relabellings, which has fewer rows for very many people."""


def permutation_p_values(scores: NDArray[np.float64], private: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Test whether private people score higher than control people, one column of scores at a time.

    A p-value is the share of all ways to call so many of these people private whose mean score is at least as high. It is exact
    if both groups' people are exchangeable without leakage. A higher score of a private person never raises it.

    Args:
        scores: (person, column) scores, any unit.
        private: (person,) whether the person is private; the others are control people.

    Returns:
        (column,) one-sided p-values; NaN if one of the groups is empty.

    Source:
        Fisher 1935, The Design of Experiments; sampled relabellings as in Phipson and Smyth 2010, arXiv:1603.05766. Equal to
        `scipy.stats.permutation_test` where all relabellings are tried; sampled ones are the same in every call here.
    """
    n_private, n_control = int(private.sum()), int((~private).sum())
    if not n_private or not n_control:
        return np.full(scores.shape[1], np.nan)
    labels = _relabellings(n_private, n_control)
    reached = scores[private].sum(0) - 1e-9
    n_as_high = ((labels.astype(float) @ scores) >= reached).sum(0)
    is_sampled = math.comb(len(private), n_private) > N_RELABELLINGS
    return np.asarray((n_as_high + is_sampled) / (len(labels) + is_sampled))


def adjusted_p_values(p_values: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Correct p-values for their number, by Holm's method with weights (statsmodels has it without weights).

    If every test with an adjusted p-value of at most 5 % is called an effect, the chance of any wrong call is at most 5 %,
    however the tests depend on each other. A lower p-value never raises another test's adjusted one.

    Args:
        p_values: (test,) p-values; NaN for what was not tested, which is ignored.
        weights: (test,) positive; a test's share of the permitted error is in proportion to it.

    Returns:
        (test,) adjusted p-values, at most 1; NaN stays NaN.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6, 65-70, section 5 for the weights.
    """
    values, shares = np.asarray(p_values, dtype=float), np.asarray(weights, dtype=float)
    adjusted, highest = np.full(values.shape, np.nan), 0.0
    remaining = shares[~np.isnan(values)].sum()
    for test in np.argsort(values / shares)[: (~np.isnan(values)).sum()]:  # NaN is sorted last
        highest = max(highest, min(1.0, values[test] / shares[test] * remaining))
        adjusted[test], remaining = highest, remaining - shares[test]
    return adjusted


@lru_cache(maxsize=4)
def _relabellings(n_private: int, n_control: int) -> NDArray[np.bool_]:
    """(relabelling, person) ways to call `n_private` of the people private: all, or a random sample that is always the same."""
    n = n_private + n_control
    if math.comb(n, n_private) <= N_RELABELLINGS:
        chosen = np.array(list(itertools.combinations(range(n), n_private)))
        labels = np.zeros((len(chosen), n), dtype=bool)
        np.put_along_axis(labels, chosen, True, axis=1)
        return labels
    n_rows = max(999, min(N_SAMPLED, _MAX_CELLS // n))
    keys = np.random.default_rng(0).random((n_rows, n))
    return np.asarray(keys <= np.partition(keys, n_private - 1, axis=1)[:, n_private - 1 : n_private])
