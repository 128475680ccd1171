"""The layer at which a curve peaks, or overtakes another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def peak_layer(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (...) first layer at which each (..., layer) curve is highest; NaN if the curve has a NaN."""
    return np.where(np.isnan(curves).any(-1), np.nan, np.nan_to_num(curves).argmax(-1).astype(float))


def overtaking_layer(late: NDArray[np.float64], early: NDArray[np.float64], *, lead: float) -> NDArray[np.float64]:
    """Return (...) layer from which on `late` stays above `early`, both (..., layer).

    NaN if `early` was never ahead by at least `lead`, if it is still ahead at the last layer, or if a curve has a NaN.
    """
    is_behind = late <= early
    n_layers = late.shape[-1]
    first = n_layers - np.where(is_behind.any(-1), is_behind[..., ::-1].argmax(-1), n_layers)
    was_ahead = np.nanmax(np.where(np.isnan(early - late), -np.inf, early - late), axis=-1) >= lead
    is_complete = ~np.isnan(late + early).any(-1)
    return np.where(is_complete & was_ahead & (first < n_layers), first.astype(float), np.nan)
