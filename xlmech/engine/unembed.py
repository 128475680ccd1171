"""Token scores from final hidden states, without a row of logits per position.

A vocabulary of 262,144 makes logits the largest tensor of a small model: 1 MB per position in float32, written, exponentiated
and read again. The vocabulary is therefore taken in chunks that stay in cache, with the running maximum and sum of online
softmax (Milakov and Gimelshein 2018, arXiv:1805.02867).

Invariant of the gradient: it needs the probability-weighted mean of the unembedding, and the tokens left out of that mean have,
in every row, a probability of at most 64 roundings of the dtype together. `exact=True` takes all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int

from xlmech.models.onednn import by_onednn, product

CHUNK = 8192
ALIGNED = 16
"""Rows are padded to a multiple of this: matrix products of odd widths run at half the speed."""
_SKIPPED_ROUNDINGS = 64
"""On Gemma 3's vocabulary 1, 8 and 64 give the same error of the gradient."""
_LIKELY = math.log(1e-4)
"""Log-probability above which a token's logit is computed in float32 where the weights have a lower precision."""


def token_log_prob(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    targets: Int[torch.Tensor, "row ..."],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
    exact: bool = False,
) -> Float[torch.Tensor, "row ..."]:
    """Compute the (row,) or (row, k) log-probability of each row's target tokens, in nats, differentiable in `hidden`.

    Equal to `log_softmax(logits)[target]` to float rounding. The unembedding gets no gradient.

    Args:
        hidden: Hidden states after the final norm.
        unembed: Unembedding, one row per token.
        targets: Token ids: one per row, or k candidates per row.
        bias: Bias of the unembedding.
        softcap: Final soft-cap c of Gemma 2: logits become c * tanh(logits / c).
        exact: Whether all tokens enter the gradient, however unlikely.
    """
    columns = targets if targets.ndim == 2 else targets[:, None]
    scores = _TokenLogProb.apply(hidden, unembed, bias, softcap, columns, exact)  # type: ignore[no-untyped-call]
    return scores.view(targets.shape)  # type: ignore[no-any-return]


def token_logit(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    targets: Int[torch.Tensor, "row ..."],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "row ..."]:
    """Compute the (row,) or (row, k) logit of each row's target tokens alone, differentiable in `hidden`."""
    dtype = accumulator(hidden)
    rows = hidden if targets.ndim == 1 else hidden[:, None]
    logits = torch.linalg.vecdot(unembed[targets].to(dtype), rows.to(dtype))
    return _soft_cap(logits if bias is None else logits + bias[targets], softcap)


def token_logits(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "row d_vocab"]:
    """Compute all (row, d_vocab) logits, in float32 at least; for a few rows."""
    columns = padded_columns(hidden, unembed.dtype)
    chunks = _chunks(columns, unembed, bias, softcap, accumulator(hidden))
    return torch.cat([logits for *_, logits in chunks])[:, : len(hidden)].T


def greedy_tokens(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
) -> Int[torch.Tensor, " row"]:
    """Find the (row,) most probable token of each row, which a soft-cap does not change."""
    columns, dtype = padded_columns(hidden, unembed.dtype), accumulator(hidden)
    best = torch.full((columns.shape[1],), -torch.inf, dtype=dtype, device=hidden.device)
    tokens = torch.zeros(len(best), dtype=torch.long, device=hidden.device)
    for start, _, _, logits in _chunks(columns, unembed, bias, None, dtype):
        highest, index = logits.max(0)
        tokens = torch.where(highest > best, index + start, tokens)
        best = torch.maximum(best, highest)
    return tokens[: len(hidden)]


class _TokenLogProb(torch.autograd.Function):
    """log softmax(_soft_cap(hidden @ unembed.T + bias))[targets] per row, for a frozen unembedding."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        hidden: torch.Tensor,
        unembed: torch.Tensor,
        bias: torch.Tensor | None,
        softcap: float | None,
        targets: torch.Tensor,
        exact: bool,
    ) -> torch.Tensor:
        logits = token_logit(hidden, unembed, targets, bias=bias, softcap=softcap)
        gradient = ctx.needs_input_grad[0]
        normaliser, mean = log_normaliser(
            hidden, unembed, bias, softcap, logits.amax(1), gradient=gradient, exact=exact
        )
        if mean is not None:
            slopes = unembed[targets].to(logits.dtype) * _soft_cap_slope(logits, softcap)[:, :, None]
            ctx.save_for_backward(slopes - mean[:, None])
        return logits - normaliser[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:  # noqa: D102
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, :, None].to(slopes.dtype) * slopes).sum(1), None, None, None, None, None


def log_normaliser(
    hidden: torch.Tensor,
    unembed: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
    lower_bound: torch.Tensor,
    *,
    gradient: bool,
    exact: bool,
    excluded: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the log of the sum of exponentials of each row's logits and, for a gradient, its derivative by the row.

    Exponentials are relative to a lower bound of that log: at first `lower_bound` (a logit of the row) or the sum over tokens
    spread over the vocabulary, then the sum over the chunks seen so far. A token's relative exponential is therefore an upper
    bound of its probability, by which tokens are left out of the derivative. Each row's `excluded` token, -1 for none, does not
    count.

    Returns:
        (row,) and (row, d_model), the derivative None without `gradient`.
    """
    columns, dtype, n_rows = padded_columns(hidden, unembed.dtype), accumulator(hidden), len(hidden)
    stride = max(1, len(unembed) // CHUNK)
    spread = chunk_logits(unembed[::stride], columns, None if bias is None else bias[::stride], softcap, dtype)
    padding = (0, columns.shape[1] - n_rows)
    lower_bound = torch.nn.functional.pad(lower_bound, padding, value=-torch.inf)
    if excluded is not None:
        excluded = torch.nn.functional.pad(excluded, padding, value=-1)
        _exclude(spread, excluded // stride, excluded % stride == 0)
    first_reference = torch.maximum(spread.logsumexp(0), lower_bound)
    reference, total = first_reference, torch.zeros_like(first_reference, dtype=torch.float64)
    mean = torch.zeros(columns.shape, dtype=dtype, device=hidden.device) if gradient else None
    allowed = 0.0 if exact else _SKIPPED_ROUNDINGS * torch.finfo(dtype).eps
    skipped = torch.zeros((), dtype=dtype, device=hidden.device)
    for start, weight, part, logits in _chunks(columns, unembed, bias, softcap, dtype):
        if weight.dtype != dtype:
            _refine_likely(logits, weight, columns, part, reference, softcap)
        slopes = None if softcap is None or mean is None else _soft_cap_slope(logits, softcap)
        if excluded is not None:
            _exclude(logits, excluded - start)
        shares = (logits - reference).exp_()
        scale = (reference - first_reference).double().exp()
        total += shares.sum(0).double() * scale
        if mean is not None:
            likeliest, order = shares[:, :n_rows].amax(1).sort()
            running = likeliest.cumsum(0) + skipped
            n_skipped = int((running <= allowed * ((start + len(weight)) / len(unembed))).sum())
            skipped = running[n_skipped - 1] if n_skipped else skipped
            if len(kept := order[n_skipped:]):
                weighted = shares.index_select(0, kept)
                if slopes is not None:
                    weighted *= slopes.index_select(0, kept)
                sums = _weighted_sums(weight.index_select(0, kept), weighted.to(weight.dtype))
                mean += sums.to(dtype) * scale.to(dtype)
        reference = torch.maximum(first_reference, first_reference + total.log().to(dtype))
    if not total.isfinite().all():  # the lower bound was too low for an exponential
        highest_of_chunks = []
        for start, _, _, logits in _chunks(columns, unembed, bias, softcap, dtype):
            if excluded is not None:
                _exclude(logits, excluded - start)
            highest_of_chunks.append(logits.amax(0))
        highest = torch.stack(highest_of_chunks).amax(0)[:n_rows]
        if highest.isfinite().all():
            again = None if excluded is None else excluded[:n_rows]
            return log_normaliser(
                hidden, unembed, bias, softcap, highest, gradient=gradient, exact=exact, excluded=again
            )
    normaliser = first_reference + total.log().to(dtype)
    derivative = None if mean is None else (mean / total.to(dtype)).T[:n_rows]
    return normaliser[:n_rows], derivative


def _refine_likely(
    logits: torch.Tensor,
    weight: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    reference: torch.Tensor,
    softcap: float | None,
) -> None:
    """Compute again in `logits`, without the rounding to the weights' lower precision, tokens that are likely in some row."""
    likely = ((logits - reference).amax(1) > _LIKELY).nonzero()[:, 0]
    again = weight[likely].to(logits.dtype) @ columns.to(logits.dtype)
    logits[likely] = _soft_cap(again if bias is None else again + bias[likely, None], softcap)


def _exclude(logits: torch.Tensor, tokens: torch.Tensor, where: torch.Tensor | None = None) -> None:
    """Set the (token, row) logit of each row's token to minus infinity, where that token is in the chunk."""
    inside = (tokens >= 0) & (tokens < len(logits))
    inside = inside if where is None else inside & where
    rows = tokens.clamp(0, len(logits) - 1)[None]
    logits.scatter_(0, rows, torch.where(inside, -torch.inf, logits.gather(0, rows)))


# One chunk


def accumulator(hidden: torch.Tensor) -> torch.dtype:
    """Return the dtype of scores: at least float32, whatever the weights' dtype."""
    return torch.promote_types(hidden.dtype, torch.float32)


def padded_columns(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Transpose hidden states to (d_model, row), rows padded with zeros, in the layout that `chunk_logits` reads fastest."""
    padding = -len(hidden) % ALIGNED if len(hidden) > ALIGNED // 2 else 0
    rows = torch.nn.functional.pad(hidden, (0, 0, 0, padding)).to(dtype)
    return rows.contiguous().T if by_onednn(rows) else rows.T.contiguous()


def chunk_logits(
    weight: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None, softcap: float | None, dtype: torch.dtype
) -> Float[torch.Tensor, "token row"]:
    """Compute (token, row) logits of one chunk; this orientation is the fast one for tall chunks."""
    if by_onednn(columns) and not (torch.is_grad_enabled() and (weight.requires_grad or columns.requires_grad)):
        logits = product(weight, columns.T).to(dtype)
    else:
        logits = (weight @ columns).to(dtype)
    return _soft_cap(logits if bias is None else logits + bias[:, None], softcap)


def _soft_cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Bound logits by the soft-cap c: c * tanh(logits / c)."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _soft_cap_slope(capped: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Return the derivative of `_soft_cap` by its argument, from its result."""
    return torch.ones_like(capped) if softcap is None else 1 - (capped / softcap) ** 2


def _chunks(
    columns: torch.Tensor, unembed: torch.Tensor, bias: torch.Tensor | None, softcap: float | None, dtype: torch.dtype
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None, torch.Tensor]]:
    """Yield the first token, unembedding, bias and (token, row) logits of each chunk of the vocabulary."""
    for start in range(0, len(unembed), CHUNK):
        weight, part = unembed[start : start + CHUNK], None if bias is None else bias[start : start + CHUNK]
        yield start, weight, part, chunk_logits(weight, columns, part, softcap, dtype)


def _weighted_sums(weight: torch.Tensor, shares: torch.Tensor) -> Float[torch.Tensor, "d_model row"]:
    """Sum one chunk's unembeddings, each times its (token, row) share; without a gradient."""
    return product(shares.T, weight.T).T if by_onednn(shares) else weight.T @ shares
