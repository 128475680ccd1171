"""P-values: a permutation test over people, and Holm's correction for several of them. Runs no model."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RELABELLINGS = 20_000
"""So many ways to choose the private people are all tried; of more, a sample of `N_SAMPLED` is."""
N_SAMPLED = 9_999
_MOST_CELLS = 20_000_000
"""Of the table of relabellings, which is made of fewer rows where there are very many people."""
_AT_ONCE = 2_000_000
"""Cells that are worked on together."""


def permutation_p_values(scores: NDArray[np.float64], private: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Test whether private people score higher than control people, one column of scores at a time.

    A p-value is the share of all ways to call so many of these people private in which their mean score is at least as high as
    it is. It is exact where, without leakage, the two groups' people could change places. People are the units: what one person
    scores in several columns or questions may be correlated. A person's higher score never raises the p-value if the person
    is private.

    Args:
        scores: (person, column) scores, any unit.
        private: (person,) whether the person is private; the others are control people.

    Returns:
        (column,) one-sided p-values; NaN where one of the groups is empty.

    Source:
        Fisher 1935, The Design of Experiments; sampled relabellings as in Phipson and Smyth 2010, arXiv:1603.05766. Equal to
        `scipy.stats.permutation_test`, with many columns at once.
    """
    n_private, n_control = int(private.sum()), int((~private).sum())
    if not n_private or not n_control:
        return np.full(scores.shape[1], np.nan)
    labels = _relabellings(n_private, n_control)
    reached = scores[private].sum(0) - 1e-9
    parts = np.array_split(labels, math.ceil(labels.size / _AT_ONCE))
    as_high = sum(((part.astype(float) @ scores) >= reached).sum(0) for part in parts)
    sampled = math.comb(len(private), n_private) > N_RELABELLINGS
    return np.asarray((as_high + sampled) / (len(labels) + sampled))


def adjusted_p_values(p_values: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Correct p-values for their number, by Holm's method with weights.

    If what is at most 5 % afterwards is called an effect, the chance that any of the calls is wrong is at most 5 %, however
    the tests depend on each other. A lower p-value never raises another's adjusted one.

    Args:
        p_values: (test,) p-values; NaN for what was not tested, which counts for nothing.
        weights: (test,) positive; a test's share of the permitted error is in proportion to it.

    Returns:
        (test,) adjusted p-values, at most 1; NaN stays NaN.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6, 65-70, section 5 for the weights.
    """
    found, shares = np.asarray(p_values, dtype=float), np.asarray(weights, dtype=float)
    adjusted, highest = np.full(found.shape, np.nan), 0.0
    order = np.argsort(found / shares)
    left = shares[~np.isnan(found)].sum()
    for test in order[: (~np.isnan(found)).sum()]:  # NaN is sorted last
        highest = max(highest, min(1.0, found[test] / shares[test] * left))
        adjusted[test], left = highest, left - shares[test]
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
    rng, n_rows = np.random.default_rng(0), max(999, min(N_SAMPLED, _MOST_CELLS // n))
    sizes = [len(rows) for rows in np.array_split(np.arange(n_rows), math.ceil(n_rows * n / _AT_ONCE))]
    keys = (rng.random((size, n)) for size in sizes)
    return np.concatenate(
        [key <= np.partition(key, n_private - 1, axis=1)[:, n_private - 1 : n_private] for key in keys]
    )
