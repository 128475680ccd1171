"""Quadrature along the path from a baseline to an activation: where the gradient is taken, and with what weights."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.special import roots_jacobi

Quadrature = Literal["gauss_lobatto", "left", "inclusive"]


def quadrature(rule: Quadrature, nodes: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Places in [0, 1), of which the first is 0, their weights, and the weight at 1.

    Raises:
        ValueError: An unknown rule, or too few nodes for it.
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
    return places, torch.full_like(places, 1 / nodes), at_end


def _gauss_lobatto(nodes: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Places in [0, 1], a 0 and `nodes` inner ones, their weights, and the weight at 1.

    Quadrature with both ends among its nodes, exact for polynomials of degree 2 * nodes + 1 (Abramowitz and Stegun 25.4.32).
    Gauss-Legendre nodes would give degree 2 * nodes - 1 for the same rows: the ends are run in any case.
    """
    inner, weights = roots_jacobi(nodes, 1, 1)
    at_end = 1 / ((nodes + 2) * (nodes + 1))
    return (
        torch.tensor([0.0, *((inner + 1) / 2)], dtype=like.dtype, device=like.device),
        torch.tensor([at_end, *(weights / (1 - inner**2) / 2)], dtype=like.dtype, device=like.device),
        at_end,
    )
