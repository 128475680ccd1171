"""From final hidden states to token scores without a row of logits per position.

A vocabulary of 262,144 makes logits the dearest tensor of a small model: 1 MB per position in float32, written,
exponentiated and read again. Here the vocabulary is walked in chunks that stay in cache, with the running maximum and
sum of online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867); where a gradient is wanted, the probability-weighted
mean of the unembedding is accumulated in the same walk, so that forward and backward together cost two matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int

CHUNK = 8192


class _TokenLogProb(torch.autograd.Function):
    """log softmax(cap(hidden @ unembed.T + bias))[target] per row; the unembedding is taken as frozen."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        hidden: torch.Tensor,
        unembed: torch.Tensor,
        bias: torch.Tensor | None,
        softcap: float | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        exact = _accumulator(hidden)
        columns = hidden.T.contiguous().to(unembed.dtype)
        highest = torch.full((len(hidden),), -torch.inf, dtype=exact, device=hidden.device)
        total = torch.zeros_like(highest)
        mean = torch.zeros(columns.shape, dtype=exact, device=hidden.device)
        for start in range(0, len(unembed), CHUNK):
            weight = unembed[start : start + CHUNK]
            logits, slope = _cap(_scores(weight, columns, _part(bias, start), exact), softcap)
            new_highest = torch.maximum(highest, logits.amax(0))
            shrink = torch.exp(highest - new_highest)
            shares = logits.sub_(new_highest).exp_()
            total = total * shrink + shares.sum(0)
            if ctx.needs_input_grad[0]:
                shares = shares if slope is None else shares * slope
                mean = mean.mul_(shrink).add_(weight.T @ shares.to(weight.dtype))
            highest = new_highest
        rows = unembed[targets].to(exact)
        own, own_slope = _cap((hidden * rows).sum(1) + (0 if bias is None else bias[targets]), softcap)
        if ctx.needs_input_grad[0]:
            own_rows = rows if own_slope is None else rows * own_slope[:, None]
            ctx.save_for_backward((own_rows - (mean / total).T).to(hidden.dtype))
        return own - highest - total.log()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:  # noqa: D102
        (slope,) = ctx.saved_tensors
        return grads[0][:, None].to(slope.dtype) * slope, None, None, None, None


def token_log_prob(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    targets: Int[torch.Tensor, " row"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, " row"]:
    """(row,) log-probability of each row's target token, nats, differentiable in `hidden`.

    Equal to `log_softmax(logits)[target]` to float rounding. The unembedding gets no gradient.

    Args:
        hidden: Hidden states after the final norm.
        unembed: Unembedding, one row per token.
        targets: Token ids.
        bias: Unembedding's bias.
        softcap: Final soft-cap c of Gemma 2: logits become c * tanh(logits / c).
    """
    return _TokenLogProb.apply(hidden, unembed, bias, softcap, targets)  # type: ignore[no-any-return, no-untyped-call]


def token_logits(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "row d_vocab"]:
    """(row, d_vocab) logits in float32; for a few rows, where the whole vocabulary is wanted."""
    columns, exact = hidden.T.contiguous().to(unembed.dtype), _accumulator(hidden)
    parts = [
        _cap(_scores(unembed[start : start + CHUNK], columns, _part(bias, start), exact), softcap)[0]
        for start in range(0, len(unembed), CHUNK)
    ]
    return torch.cat(parts).T


def greedy_tokens(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
) -> Int[torch.Tensor, " row"]:
    """(row,) most probable token of each row; a soft-cap does not change it."""
    columns, exact = hidden.T.contiguous().to(unembed.dtype), _accumulator(hidden)
    best = torch.full((len(hidden),), -torch.inf, dtype=exact, device=hidden.device)
    tokens = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    for start in range(0, len(unembed), CHUNK):
        top, index = _scores(unembed[start : start + CHUNK], columns, _part(bias, start), exact).max(0)
        tokens = torch.where(top > best, index + start, tokens)
        best = torch.maximum(best, top)
    return tokens


def _accumulator(hidden: torch.Tensor) -> torch.dtype:
    """At least float32, whatever the weights' dtype."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _part(bias: torch.Tensor | None, start: int) -> torch.Tensor | None:
    return None if bias is None else bias[start : start + CHUNK]


def _scores(weight: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """(token, row) scores of one chunk; this orientation is the fast one for tall chunks."""
    scores = (weight @ columns).to(dtype)
    return scores if bias is None else scores + bias[:, None]


def _cap(logits: torch.Tensor, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Soft-capped logits and their derivative, None where it is one."""
    if softcap is None:
        return logits, None
    tanh = torch.tanh(logits / softcap)
    return softcap * tanh, 1 - tanh**2
