"""Formulas around an attribution: the metric that is attributed, its completeness, its scale."""

from __future__ import annotations

import torch
from jaxtyping import Float


def of_log_prob(log_prob: Float[torch.Tensor, "*row"], metric: str) -> Float[torch.Tensor, "*row"]:
    """Turn `log_prob` (nats) into a metric of the same shape.

    `log_prob` leaves it, `prob` is its exponential, `log_odds` is log p - log(1 - p) in nats, which does not saturate near p = 1.

    Raises:
        ValueError: Another metric.
    """
    if metric == "log_prob":
        return log_prob
    if metric == "prob":
        return log_prob.exp()
    if metric == "log_odds":
        below_zero = log_prob.clamp_max(-torch.finfo(log_prob.dtype).eps)
        return log_prob - torch.log(-torch.expm1(below_zero))
    raise ValueError(f"unknown metric {metric!r}; use 'log_prob', 'prob', 'logit' or 'log_odds'")


def completeness_error(
    attributed: Float[torch.Tensor, " layer"], difference: Float[torch.Tensor, " layer"]
) -> Float[torch.Tensor, " layer"]:
    """|sum of attributions - (F(a) - F(b))| / |F(a) - F(b)| per layer (Sundararajan et al. 2017, arXiv:1703.01365)."""
    return (attributed - difference).abs() / difference.abs().clamp_min(torch.finfo(difference.dtype).tiny)


def normalised_attribution(
    scores: Float[torch.Tensor, "*probe layer neuron"],
) -> Float[torch.Tensor, "*probe layer neuron"]:
    """Return (..., layer, neuron) attribution divided by each probe's maximum; 0 for a probe without a positive score."""
    highest = scores.flatten(-2).amax(-1)[..., None, None]
    return torch.where(
        highest > 0, scores / highest.clamp_min(torch.finfo(scores.dtype).tiny), torch.zeros_like(scores)
    )
