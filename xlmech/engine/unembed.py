"""From final hidden states to token scores without a row of logits per position.

The vocabulary is walked in chunks, with the running maximum and sum of online softmax (Milakov and Gimelshein 2018,
arXiv:1805.02867). What is below rounding is left out, and proven to be so for the very rows at hand, never assumed: the gradient
needs the probability-weighted mean of the unembedding, and tokens whose probabilities add up to less than some roundings of
the dtype do not enter it (`_walk`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int

from xlmech.engine.vocabulary import CHUNK, accumulator, bias_of, cap, chunks_of, columns_of, mixtures, scores, slope_of

_LEFT_OUT = 64
"""Roundings of the dtype that the derivative may lack in probability: on Gemma 3's vocabulary 1, 8 and 64 give the same error."""
_LIKELY = math.log(1e-4)
"""Log-probability above which a token's logit is not left to a lower precision's rounding."""


class _TokenLogProb(torch.autograd.Function):
    """log softmax(cap(hidden @ unembed.T + bias))[targets] per row; the unembedding is taken as frozen."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        hidden: torch.Tensor,
        unembed: torch.Tensor,
        bias: torch.Tensor | None,
        softcap: float | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        rows = unembed[targets].to(accumulator(hidden))
        own = cap(torch.linalg.vecdot(rows, hidden[:, None].to(rows.dtype)) + bias_of(bias, targets), softcap)
        normaliser, mean = _walk(hidden, unembed, bias, softcap, own.amax(1), gradient=ctx.needs_input_grad[0])
        if mean is not None:
            ctx.save_for_backward(rows * slope_of(own, softcap)[:, :, None] - mean[:, None])
        return own - normaliser[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:  # noqa: D102
        (slope,) = ctx.saved_tensors
        return (grads[0][:, :, None].to(slope.dtype) * slope).sum(1), None, None, None, None


def _walk(
    hidden: torch.Tensor,
    unembed: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
    known: torch.Tensor,
    *,
    gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log of the sum of exponentials of each row's logits and, for a gradient, its derivative by the row.

    Exponentials are taken relative to the sum over the tokens walked so far, begun with some that are spread over the
    vocabulary and with the row's `known` logit. A sum over a part is a lower bound, so a token's relative exponential is an
    upper bound of its probability: what is left out of the derivative is at most `_LEFT_OUT` roundings of the dtype.

    Returns:
        (row,) and (row, d_model), the derivative None without `gradient`.
    """
    columns, exact, n_rows = columns_of(hidden, unembed.dtype), accumulator(hidden), len(hidden)
    known = torch.nn.functional.pad(known, (0, columns.shape[1] - n_rows), value=-torch.inf)
    stride = max(1, len(unembed) // CHUNK)
    some = cap(scores(unembed[::stride], columns, None if bias is None else bias[::stride], exact), softcap)
    begun = torch.maximum(some.logsumexp(0), known)  # both are sums over a part
    reference, total = begun, torch.zeros_like(begun, dtype=torch.float64)
    mean = torch.zeros(columns.shape, dtype=exact, device=hidden.device) if gradient else None
    allowed, left_out = _LEFT_OUT * torch.finfo(exact).eps, torch.zeros((), dtype=exact, device=hidden.device)
    for start, weight, part in chunks_of(unembed, bias):
        logits = _sharpened(scores(weight, columns, part, exact), weight, columns, part, reference, softcap)
        slopes = None if softcap is None or mean is None else slope_of(logits, softcap)
        shares = (logits - reference).exp_()
        scale = (reference - begun).double().exp()
        total += shares.sum(0).double() * scale
        if mean is not None:
            likeliest, order = shares[:, :n_rows].amax(1).sort()
            running = likeliest.cumsum(0) + left_out
            n_skipped = int((running <= allowed * ((start + len(weight)) / len(unembed))).sum())
            left_out = running[n_skipped - 1] if n_skipped else left_out
            if len(chosen := order[n_skipped:]):
                weighted = shares.index_select(0, chosen)
                if slopes is not None:
                    weighted *= slopes.index_select(0, chosen)
                found = mixtures(weight.index_select(0, chosen), weighted.to(weight.dtype))
                mean += found.to(exact) * scale.to(exact)
        reference = torch.maximum(begun, begun + total.log().to(exact))
    if not total.isfinite().all() and (higher := _highest(columns, unembed, bias, softcap)[:n_rows]).isfinite().all():
        return _walk(hidden, unembed, bias, softcap, higher, gradient=gradient)
    normaliser = begun + total.log().to(exact)
    derivative = None if mean is None else (mean / total.to(exact)).T[:n_rows]
    return normaliser[:n_rows], derivative


def _sharpened(
    logits: torch.Tensor,
    weight: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    reference: torch.Tensor,
    softcap: float | None,
) -> torch.Tensor:
    """One chunk's (token, row) logits after the soft-cap.

    Where the weights are of a lower precision, products are rounded to it, and the logits of tokens that are likely for some row
    are taken again in float32.
    """
    capped = cap(logits, softcap)
    if weight.dtype == logits.dtype:
        return capped
    likely = ((capped - reference).amax(1) > _LIKELY).nonzero()[:, 0]
    again = weight[likely].to(logits.dtype) @ columns.to(logits.dtype)
    capped[likely] = cap(again if bias is None else again + bias[likely, None], softcap)
    return capped


def token_log_prob(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    targets: Int[torch.Tensor, "row ..."],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "row ..."]:
    """(row,) or (row, k) log-probability of each row's target tokens, nats, differentiable in `hidden`.

    Equal to `log_softmax(logits)[target]` to float rounding. The unembedding gets no gradient.

    Args:
        hidden: Hidden states after the final norm.
        unembed: Unembedding, one row per token.
        targets: Token ids: one per row, or k candidates per row that share one walk.
        bias: Unembedding's bias.
        softcap: Final soft-cap c of Gemma 2: logits become c * tanh(logits / c).
    """
    several = targets if targets.ndim == 2 else targets[:, None]
    found = _TokenLogProb.apply(hidden, unembed, bias, softcap, several)  # type: ignore[no-untyped-call]
    return found.view(targets.shape)  # type: ignore[no-any-return]


def token_logit(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    targets: Int[torch.Tensor, " row"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, " row"]:
    """(row,) logit of each row's target token, differentiable in `hidden`; no other token is looked at."""
    own = torch.linalg.vecdot(unembed[targets].to(accumulator(hidden)), hidden.to(accumulator(hidden)))
    return cap(own + bias_of(bias, targets), softcap)


def token_logits(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "row d_vocab"]:
    """(row, d_vocab) logits, in float32 at least; for a few rows, where the whole vocabulary is wanted."""
    columns, exact = columns_of(hidden, unembed.dtype), accumulator(hidden)
    parts = [cap(scores(weight, columns, part, exact), softcap) for _, weight, part in chunks_of(unembed, bias)]
    return torch.cat(parts)[:, : len(hidden)].T


def greedy_tokens(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
) -> Int[torch.Tensor, " row"]:
    """(row,) most probable token of each row; a soft-cap does not change it."""
    columns, exact = columns_of(hidden, unembed.dtype), accumulator(hidden)
    best = torch.full((columns.shape[1],), -torch.inf, dtype=exact, device=hidden.device)
    tokens = torch.zeros(len(best), dtype=torch.long, device=hidden.device)
    for start, weight, part in chunks_of(unembed, bias):
        top, index = scores(weight, columns, part, exact).max(0)
        tokens = torch.where(top > best, index + start, tokens)
        best = torch.maximum(best, top)
    return tokens[: len(hidden)]


def _highest(
    columns: torch.Tensor, unembed: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> torch.Tensor:
    """(row,) highest logit of each row."""
    exact = accumulator(columns)
    highest = [
        cap(scores(weight, columns, part, exact), softcap).amax(0) for _, weight, part in chunks_of(unembed, bias)
    ]
    return torch.stack(highest).amax(0)
