"""Rules that approximate the integral of integrated gradients along the path from the baseline to the activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import roots_jacobi

Quadrature = Literal["gauss_lobatto", "left", "inclusive"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Where on the path from the baseline (0) to the activation (1) gradients are taken, and what each counts.

    Attributes:
        places: (node,) in [0, 1); the first is 0.
        weights: (node,) of these.
        at_end: Weight at 1.
    """

    places: torch.Tensor
    weights: torch.Tensor
    at_end: float


def quadrature(rule: Quadrature, nodes: int, like: torch.Tensor) -> Rule:
    """The rule of that name.

    Args:
        rule: See `xlmech.neurons.attribution.effects.integrated_gradients`.
        nodes: How many.
        like: A tensor whose dtype and device it takes.

    Raises:
        ValueError: No such rule, or too few nodes for it.
    """
    if rule == "gauss_lobatto":
        return _gauss_lobatto(nodes, like)
    if rule == "left" and nodes >= 1:
        steps, at_end = nodes, 0.0
    elif rule == "inclusive" and nodes >= 2:
        steps, at_end = nodes - 1, 1 / nodes
    else:
        raise ValueError(
            f"no rule {rule!r} of {nodes} nodes; use 'gauss_lobatto', 'left' (1 or more) or 'inclusive' (2 or more)"
        )
    places = torch.arange(steps, dtype=like.dtype, device=like.device) / steps
    return Rule(places=places, weights=torch.full_like(places, 1 / nodes), at_end=at_end)


def _gauss_lobatto(nodes: int, like: torch.Tensor) -> Rule:
    """Places 0 and `nodes` inner ones, and the end.

    Quadrature with both ends among its nodes, exact for polynomials of degree 2 * nodes + 1 (Abramowitz and Stegun 25.4.32).
    Gauss-Legendre nodes would give degree 2 * nodes - 1 for the same rows: the ends are run in any case.
    """
    inner, weights = roots_jacobi(nodes, 1, 1)
    at_end = 1 / ((nodes + 2) * (nodes + 1))
    return Rule(
        places=torch.tensor([0.0, *((inner + 1) / 2)], dtype=like.dtype, device=like.device),
        weights=torch.tensor([at_end, *(weights / (1 - inner**2) / 2)], dtype=like.dtype, device=like.device),
        at_end=at_end,
    )
