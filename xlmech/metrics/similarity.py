"""How alike two sets are: shared members of sets, cosine and kernel alignment of representations.

Representations are compared through inner products only, so that resampling and permuting examples costs no pass over them. Any
offset subtracted beforehand leaves the result, and makes rounding smaller.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def jaccard(first: Collection[object], second: Collection[object]) -> float:
    """Divide the number of shared members of two sets by the number of all: 1 the same, 0 disjoint, NaN if both are empty."""
    n_shared = len(set(first) & set(second))
    n_all = len(set(first) | set(second))
    return n_shared / n_all if n_all else float("nan")


def centred_cosine(
    cross: NDArray[np.float64],
    within_first: NDArray[np.float64],
    within_second: NDArray[np.float64],
    counts: NDArray[np.float64],
    partner: NDArray[np.intp] | None = None,
) -> NDArray[np.float64]:
    """Return (draw,) mean cosine of each example of one set with its partner in another, after each set's mean is removed.

    Args:
        cross: (example, example) inner products between the two sets.
        within_first: (example, example) inner products within the first set.
        within_second: (example, example) inner products within the second set.
        counts: (draw, example) how often each example is drawn.
        partner: (draw, example) example of the second set that each is compared with; itself by default.
    """
    total = counts.sum(1, keepdims=True)
    index = np.arange(counts.shape[1])[None]
    partner = index if partner is None else partner

    def centred(
        products: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        of_row, of_column = counts @ products.T / total, counts @ products / total
        mean = (of_column * counts).sum(1, keepdims=True) / total
        left = np.take_along_axis(of_row, np.broadcast_to(rows, counts.shape), 1)
        right = np.take_along_axis(of_column, np.broadcast_to(columns, counts.shape), 1)
        return np.asarray(products[rows, columns] - left - right + mean)

    norms = centred(within_first, index, index).clip(0) * centred(within_second, partner, partner).clip(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = centred(cross, index, partner) / np.sqrt(norms)
    return np.asarray((np.where(counts > 0, cosine, 0) * counts).sum(1) / total[:, 0])


def linear_cka(
    first: NDArray[np.float64], second: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (draw,) linear centred kernel alignment of two sets of representations of the same examples.

    Args:
        first: (example, example) inner products within the first set.
        second: (example, example) inner products within the second set.
        counts: (draw, example) how often each example is drawn.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). With few examples of many
        dimensions it is far above 0 for unrelated sets too; compare it with a null.
    """
    first, second = _centred(first), _centred(second)  # changes nothing but the rounding
    norms = _hsic(first, first, counts) * _hsic(second, second, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_hsic(first, second, counts) / np.sqrt(norms.clip(0)))


def permuted_cka(
    first: NDArray[np.float64], second: NDArray[np.float64], partners: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return (draw,) `linear_cka` with example i of the first set aligned with example partners[draw, i] of the second."""
    first, second = _centred(first), _centred(second)
    products = [(first * second[np.ix_(order, order)]).sum() for order in partners]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.array(products) / (np.linalg.norm(first) * np.linalg.norm(second)))


def _centred(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean())


def _hsic(first: NDArray[np.float64], second: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (draw,) HSIC up to a factor that only the counts decide: the inner product of the two centred Gram matrices."""
    total = counts.sum(1)
    drawn_first, drawn_second = counts @ first, counts @ second
    joint = ((counts @ (first * second)) * counts).sum(1) - 2 * (counts * drawn_first * drawn_second).sum(1) / total
    return np.asarray(joint + (counts * drawn_first).sum(1) * (counts * drawn_second).sum(1) / total**2)
