"""What stands for a neuron's absence: baselines of attribution, and the warning where the path from one does not converge.

Models with a norm after the MLP (Gemma 2 and 3, OLMo 2) hide any scaling of its activations: from a zero baseline nothing
changes until the end of the path, where everything does. The completeness error shows it.
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
    """(layer, neuron) zeros, in the model's dtype but at least float32."""
    exact = torch.promote_types(backend.unembed.dtype, torch.float32)
    return torch.zeros(backend.n_layers, backend.d_mlp, dtype=exact, device=backend.device)


def warn_if_incomplete(errors: Sequence[float], baseline: str, *, remedy: str, stacklevel: int) -> None:
    """Warn where the median of completeness errors, one per probe and layer, is above `INCOMPLETE`.

    Args:
        errors: As of `integrated_gradients`; there may be none.
        baseline: What the path starts from, by name.
        remedy: The message's last sentence.
        stacklevel: Of the warning; 2 is the caller's caller.
    """
    median = float(np.median(errors)) if len(errors) else 0.0
    if median > INCOMPLETE:
        warnings.warn(
            f"integrated gradients are incomplete: the median completeness error is {median:.2f}. With baseline {baseline!r} "
            "this is what a norm after the MLP does (Gemma 2 and 3, OLMo 2): it hides any scaling of the activations, so the "
            f"path from zero does not converge. {remedy}",
            stacklevel=stacklevel + 1,
        )
