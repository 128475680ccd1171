"""Quadrature rules for the integral of integrated gradients along the path from the baseline (0) to the activation (1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from scipy.special import roots_jacobi

Quadrature = Literal["gauss_lobatto", "left", "inclusive"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Nodes on the path at which gradients are taken, and their weights.

    Attributes:
        nodes: (node,) in [0, 1); the first is 0.
        weights: (node,) weights of these nodes.
        at_end: Weight of the end of the path, 1.
    """

    nodes: Float[torch.Tensor, " node"]
    weights: Float[torch.Tensor, " node"]
    at_end: float


def quadrature(rule: Quadrature, n_nodes: int, like: Float[torch.Tensor, ...]) -> Rule:
    """Make the rule of that name (see `xlmech.neurons.attribution.effects`), with the dtype and device of `like`.

    `gauss_lobatto` has 0, `n_nodes` inner nodes and the end, and is exact for polynomials of degree 2 * n_nodes + 1 (Abramowitz
    and Stegun 25.4.32). Gauss-Legendre nodes would give degree 2 * n_nodes - 1, because the ends are run in any case.

    Raises:
        ValueError: No such rule, or too few nodes for it.
    """
    if rule == "gauss_lobatto":
        inner, weights = roots_jacobi(n_nodes, 1, 1)
        at_end = 1 / ((n_nodes + 2) * (n_nodes + 1))
        return Rule(
            nodes=torch.tensor([0.0, *((inner + 1) / 2)], dtype=like.dtype, device=like.device),
            weights=torch.tensor([at_end, *(weights / (1 - inner**2) / 2)], dtype=like.dtype, device=like.device),
            at_end=at_end,
        )
    if rule == "left" and n_nodes >= 1:
        steps, at_end = n_nodes, 0.0
    elif rule == "inclusive" and n_nodes >= 2:
        steps, at_end = n_nodes - 1, 1 / n_nodes
    else:
        raise ValueError(
            f"no rule {rule!r} of {n_nodes} nodes; use 'gauss_lobatto', 'left' (1 or more) or 'inclusive' (2 or more)"
        )
    nodes = torch.arange(steps, dtype=like.dtype, device=like.device) / steps
    return Rule(nodes=nodes, weights=torch.full_like(nodes, 1 / n_nodes), at_end=at_end)
