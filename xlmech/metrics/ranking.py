"""Rank of a value among candidates, and exposure in bits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Real
from scipy.stats import rankdata


def rank(scores: Real[torch.Tensor, " candidate"], index: int) -> float:
    """Rank `scores[index]` from 1 (highest); ties take the mean rank, NaN has the rank NaN."""
    return float(rankdata(-scores.numpy(force=True), nan_policy="omit")[index])


def exposure_bits(rank: float, n_candidates: int) -> float:
    """Compute log2 |C| - log2 rank, in bits (Carlini et al. 2019, arXiv:1802.08232)."""
    return float(np.log2(n_candidates) - np.log2(rank))
