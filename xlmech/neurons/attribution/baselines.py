"""Baselines of attribution, and the warning if integrated gradients from a baseline do not converge.

Models with a norm after the MLP (Gemma 2 and 3, OLMo 2) hide any scaling of its activations. On the path from a zero baseline
almost all of the change then lies next to the baseline, and the completeness error is large.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from xlmech.models.backends import Backend

INCOMPLETE = 0.1
"""Median completeness error above which integrated gradients are said to be incomplete."""


def zero_baseline(backend: Backend) -> Float[torch.Tensor, "layer neuron"]:
    """Return (layer, neuron) zeros, in the model's dtype but at least float32."""
    exact = torch.promote_types(backend.unembed.dtype, torch.float32)
    return torch.zeros(backend.n_layers, backend.d_mlp, dtype=exact, device=backend.device)


def warn_if_incomplete(errors: Sequence[float], baseline: str, *, remedy: str, stacklevel: int) -> None:
    """Warn if the median of the completeness errors, one per probe and layer, is above `INCOMPLETE`.

    Args:
        errors: As of `integrated_gradients`; may be empty.
        baseline: Name of the baseline.
        remedy: Last sentence of the message.
        stacklevel: Stack level of the warning; 2 is the caller's caller.
    """
    median = float(np.median(errors)) if len(errors) else 0.0
    if median > INCOMPLETE:
        warnings.warn(
            f"integrated gradients are incomplete: the median completeness error is {median:.2f}. With baseline {baseline!r} "
            "this is what a norm after the MLP does (Gemma 2 and 3, OLMo 2): it hides any scaling of the activations, so the "
            f"path from zero does not converge. {remedy}",
            stacklevel=stacklevel + 1,
        )
