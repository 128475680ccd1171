"""How alike two sets of representations of the same examples are: formulas over Gram matrices.

Everything is computed from inner products, so that resampling and permuting examples costs no pass over the
representations. Give features centred beforehand (any offset will do): the result is the same, and rounding smaller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def centred_cosine(
    cross: NDArray[np.float64],
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    counts: NDArray[np.float64],
    partner: NDArray[np.intp] | None = None,
) -> NDArray[np.float64]:
    """(draw,) mean cosine of example i of one set with its partner in another, each set's mean removed.

    Args:
        cross: (example, example) inner products between the two sets.
        own: (example, example) inner products within the first set.
        other: (example, example) inner products within the second set.
        counts: (draw, example) how often each example is there.
        partner: (draw, example) example of the second set that each is compared with; itself by default.
    """
    total = counts.sum(1, keepdims=True)
    here = np.arange(counts.shape[1])
    there = here[None] if partner is None else partner

    def centred(
        products: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        of_row, of_column = counts @ products.T / total, counts @ products / total
        mean = (of_column * counts).sum(1, keepdims=True) / total
        left = np.take_along_axis(of_row, np.broadcast_to(rows, counts.shape), 1)
        right = np.take_along_axis(of_column, np.broadcast_to(columns, counts.shape), 1)
        return np.asarray(products[rows, columns] - left - right + mean)

    norms = centred(own, here[None], here[None]).clip(0) * centred(other, there, there).clip(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = centred(cross, here[None], there) / np.sqrt(norms)
    return np.asarray((np.where(counts > 0, cosine, 0) * counts).sum(1) / total[:, 0])


def linear_cka(
    gram: NDArray[np.float64], other: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(draw,) linear centred kernel alignment of two sets of representations of the same examples.

    Args:
        gram: (example, example) inner products within the first set.
        other: (example, example) inner products within the second set.
        counts: (draw, example) how often each example is there.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). With few examples of many
        dimensions it is far above 0 for unrelated sets too; compare it with a null.
    """
    gram, other = _centred(gram), _centred(other)  # changes nothing but the rounding
    own = _hsic(gram, gram, counts) * _hsic(other, other, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_hsic(gram, other, counts) / np.sqrt(own.clip(0)))


def permuted_cka(
    gram: NDArray[np.float64], other: NDArray[np.float64], partners: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(draw,) `linear_cka` with example i of the first set aligned with example partners[draw, i] of the second."""
    one, two = _centred(gram), _centred(other)
    size = np.linalg.norm(one) * np.linalg.norm(two)
    products = [(one * two[np.ix_(order, order)]).sum() for order in partners]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.array(products) / size)


def _centred(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean())


def _hsic(gram: NDArray[np.float64], other: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draw,) HSIC up to a factor that only the counts decide: the inner product of the two centred Gram matrices."""
    total = counts.sum(1)
    one, two = counts @ gram, counts @ other
    joint = ((counts @ (gram * other)) * counts).sum(1) - 2 * (counts * one * two).sum(1) / total
    return np.asarray(joint + (counts * one).sum(1) * (counts * two).sum(1) / total**2)
