"""From final hidden states to token scores without a row of logits per position.

A vocabulary of 262,144 makes logits the dearest tensor of a small model: 1 MB per position in float32, written,
exponentiated and read again. Here the vocabulary is walked in chunks that stay in cache, with the running maximum and
sum of online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867). Two things are then left out because they are below
rounding, and proven to be so for the very rows at hand, never assumed:
- the gradient needs the probability-weighted mean of the unembedding: tokens whose probabilities add up to less than a few
  roundings of the dtype do not enter it (`_walk`);
- rows close to one whose logits are known (`near_log_prob`): a token's logit moves by at most the distance times the length
  of its unembedding, which bounds how far all the unlikely tokens' part of the normaliser is from its known value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

CHUNK = 2048
_ALIGNED = 32
"""Rows are filled up to a multiple of this: matrix products of odd widths run at half the speed."""
_ROUNDINGS = 8
"""How much of the probability may be wrong or left out, in roundings of the dtype; a logit's own rounding is of this size."""
_FAR = 8
"""Rows that need more than this part of the vocabulary walk all of it: in its own order it need not be gathered."""


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
        rows = unembed[targets].to(_accumulator(hidden))
        own = _cap(torch.linalg.vecdot(rows, hidden[:, None].to(rows.dtype)) + _bias_of(bias, targets), softcap)
        normaliser, mean = _walk(hidden, unembed, bias, softcap, own.amax(1), gradient=ctx.needs_input_grad[0])
        if mean is not None:
            ctx.save_for_backward(rows * _slope(own, softcap)[:, :, None] - mean[:, None])
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
    upper bound of its probability: what is left out of the derivative is at most `_ROUNDINGS` of the dtype.

    Returns:
        (row,) and (row, d_model), the derivative None without `gradient`.
    """
    columns, exact, n_rows = _columns(hidden, unembed.dtype), _accumulator(hidden), len(hidden)
    known = torch.nn.functional.pad(known, (0, columns.shape[1] - n_rows), value=-torch.inf)
    stride = max(1, len(unembed) // CHUNK)
    some = _cap(_scores(unembed[::stride], columns, None if bias is None else bias[::stride], exact), softcap)
    begun = torch.maximum(some.logsumexp(0), known)  # both are sums over a part
    reference, total = begun, torch.zeros_like(begun, dtype=torch.float64)
    mean = torch.zeros_like(columns, dtype=exact) if gradient else None
    allowed, left_out = _ROUNDINGS * torch.finfo(exact).eps, torch.zeros((), dtype=exact, device=hidden.device)
    for start in range(0, len(unembed), CHUNK):
        weight = unembed[start : start + CHUNK]
        logits = _cap(_scores(weight, columns, _part(bias, start), exact), softcap)
        slopes = None if softcap is None or mean is None else _slope(logits, softcap)
        shares = (logits - reference).exp_()
        scale = (reference - begun).double().exp()
        total += shares.sum(0).double() * scale
        if mean is not None:
            likeliest, order = shares[:, :n_rows].amax(1).sort()
            running = likeliest.cumsum(0) + left_out
            n_skipped = int((running <= allowed * min(1.0, (start + CHUNK) / len(unembed))).sum())
            left_out = running[n_skipped - 1] if n_skipped else left_out
            chosen = order[n_skipped:]
            weighted = shares[chosen] if slopes is None else shares[chosen] * slopes[chosen]
            mean += (weight[chosen].T @ weighted.to(weight.dtype)).to(exact) * scale.to(exact)
        reference = torch.maximum(begun, begun + total.log().to(exact))
    if not total.isfinite().all() and (higher := _highest(columns, unembed, bias, softcap)[:n_rows]).isfinite().all():
        return _walk(hidden, unembed, bias, softcap, higher, gradient=gradient)
    normaliser = begun + total.log().to(exact)
    derivative = None if mean is None else (mean / total.to(exact)).T[:n_rows]
    return normaliser[:n_rows], derivative


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
    own = torch.linalg.vecdot(unembed[targets].to(_accumulator(hidden)), hidden.to(_accumulator(hidden)))
    return _cap(own + _bias_of(bias, targets), softcap)


@dataclass(frozen=True, kw_only=True)
class Nearby:
    """What is known of one row, so that small changes of it need not walk the whole vocabulary; see `nearby`.

    Attributes:
        near: (d_model,) the row's hidden state.
        tokens: (d_vocab,) tokens, the likeliest first.
        log_probs: (d_vocab,) their log-probabilities.
        left_out: (d_vocab + 1,) log of the summed probability of each of these and all less likely ones, and of none.
        normaliser: Log of the sum of exponentials of the row's logits.
        mean: (d_model,) probability-weighted mean of the unembedding; None with a soft-cap, whose logits are not linear.
        longest: Length of the longest unembedding.
        unembed: The unembedding.
        readout: Its `bias` and `softcap`.
    """

    near: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor
    left_out: torch.Tensor
    normaliser: torch.Tensor
    mean: torch.Tensor | None
    longest: torch.Tensor
    unembed: torch.Tensor
    readout: dict[str, Any]

    def tokens_needed(self, reach: Float[torch.Tensor, " row"]) -> Int[torch.Tensor, " row"]:
        """How many of the likeliest tokens a row must look at whose logits differ from this row's by at most `reach`.

        The others' part of the normaliser is taken as it is here, and to first order in the change where `mean` is known. By
        Taylor's theorem that is wrong by at most their probability times exp(reach) - 1, or exp(reach) * reach^2 / 2,
        relative to a normaliser of at least exp(-reach).
        """
        wrong = reach.exp() * reach**2 / 2 if self.mean is not None else reach.expm1()
        limit = math.log(_ROUNDINGS * torch.finfo(reach.dtype).eps) - wrong.log() - reach
        return torch.searchsorted(-self.left_out, -limit)


@torch.no_grad()
def nearby(
    near: Float[torch.Tensor, " d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Nearby:
    """Walk the vocabulary for one row, for `near_log_prob` of its small changes."""
    readout: dict[str, Any] = {"bias": bias, "softcap": softcap}
    logits = token_logits(near[None], unembed, **readout)[0]
    normaliser = logits.logsumexp(0)
    order = (logits - normaliser).sort(descending=True)
    return Nearby(
        near=near,
        tokens=order.indices,
        log_probs=order.values,
        left_out=torch.nn.functional.pad(order.values.flip(0).logcumsumexp(0).flip(0), (0, 1), value=-torch.inf),
        normaliser=normaliser,
        mean=(logits - normaliser).exp().to(unembed.dtype) @ unembed if softcap is None else None,
        longest=torch.linalg.vector_norm(unembed, dim=1).max().to(logits.dtype),
        unembed=unembed,
        readout=readout,
    )


@torch.no_grad()
def near_log_prob(
    hidden: Float[torch.Tensor, "row d_model"], known: Nearby, targets: Int[torch.Tensor, "row ..."]
) -> Float[torch.Tensor, "row ..."]:
    """`token_log_prob` of rows that are small changes of a known row, such as single neurons' ablations; no gradient.

    Rows look at as many tokens as it takes to prove an error below a few roundings of the dtype (`Nearby.tokens_needed`), all
    tokens where that is many. A soft-cap only makes logits move less.

    Args:
        hidden: Hidden states after the final norm.
        known: Of the row that they are changes of.
        targets: Token ids per row.
    """
    unembed, exact = known.unembed, _accumulator(hidden)
    moved = hidden.to(exact) - known.near.to(exact)
    needed, order = known.tokens_needed(moved.norm(dim=1) * known.longest).sort()
    n_near = int((needed <= len(unembed) // _FAR).sum())
    near, far = order[:n_near], order[n_near:]
    several = targets if targets.ndim == 2 else targets[:, None]
    found = torch.linalg.vecdot(unembed[several].to(exact), hidden[:, None].to(exact))
    found = _cap(found + _bias_of(known.readout["bias"], several), known.readout["softcap"])
    if len(near):
        found[near] -= _near_normaliser(hidden[near], moved[near], known, needed[:n_near])[:, None]
    if len(far):
        found[far] = token_log_prob(hidden[far], unembed, several[far], **known.readout)
    return found.view(targets.shape)


def _near_normaliser(
    hidden: torch.Tensor, moved: torch.Tensor, known: Nearby, needed: torch.Tensor
) -> Float[torch.Tensor, " row"]:
    """Log of the sum of exponentials of rows in the order of how many tokens they need: rows that have theirs leave the walk."""
    unembed, bias, exact = known.unembed, known.readout["bias"], moved.dtype
    columns, total = _columns(hidden, unembed.dtype), torch.zeros_like(moved[:, 0])
    seen, first = torch.zeros_like(moved[0]), 0
    for start in range(0, max(1, int(needed[-1])), CHUNK):
        tokens = known.tokens[start : start + CHUNK]
        weight, stop = unembed[tokens], start + len(tokens)
        part = None if bias is None else bias[tokens]
        logits = _cap(_scores(weight, columns[:, first:], part, exact), known.readout["softcap"])
        total[first:] += (logits[:, : len(hidden) - first] - known.normaliser).exp_().sum(0)
        if known.mean is not None:
            seen += (known.log_probs[start:stop].exp().to(weight.dtype) @ weight).to(exact)
        done = int(torch.searchsorted(needed, stop, right=True))
        last = done if done == len(hidden) else done - done % _ALIGNED
        total[first:last] += known.left_out[stop].exp()
        if known.mean is not None:
            total[first:last] += moved[first:last] @ (known.mean.to(exact) - seen)
        first = max(first, last)
    return known.normaliser + total.log()


def token_logits(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "row d_vocab"]:
    """(row, d_vocab) logits in float32; for a few rows, where the whole vocabulary is wanted."""
    columns, exact = _columns(hidden, unembed.dtype), _accumulator(hidden)
    parts = [
        _cap(_scores(unembed[start : start + CHUNK], columns, _part(bias, start), exact), softcap)
        for start in range(0, len(unembed), CHUNK)
    ]
    return torch.cat(parts)[:, : len(hidden)].T


def greedy_tokens(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
) -> Int[torch.Tensor, " row"]:
    """(row,) most probable token of each row; a soft-cap does not change it."""
    columns, exact = _columns(hidden, unembed.dtype), _accumulator(hidden)
    best = torch.full((columns.shape[1],), -torch.inf, dtype=exact, device=hidden.device)
    tokens = torch.zeros(len(best), dtype=torch.long, device=hidden.device)
    for start in range(0, len(unembed), CHUNK):
        top, index = _scores(unembed[start : start + CHUNK], columns, _part(bias, start), exact).max(0)
        tokens = torch.where(top > best, index + start, tokens)
        best = torch.maximum(best, top)
    return tokens[: len(hidden)]


def _highest(
    columns: torch.Tensor, unembed: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> torch.Tensor:
    """(row,) highest logit of each row."""
    dtype = _accumulator(columns)
    chunks = range(0, len(unembed), CHUNK)
    return torch.stack([
        _cap(_scores(unembed[start : start + CHUNK], columns, _part(bias, start), dtype), softcap).amax(0)
        for start in chunks
    ]).amax(0)  # fmt: skip


def _accumulator(hidden: torch.Tensor) -> torch.dtype:
    """At least float32, whatever the weights' dtype."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _columns(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(d_model, row) for products with the unembedding, rows filled up with zeros."""
    fill = -len(hidden) % _ALIGNED if len(hidden) > _ALIGNED // 2 else 0
    return torch.nn.functional.pad(hidden, (0, 0, 0, fill)).T.contiguous().to(dtype)


def _part(bias: torch.Tensor | None, start: int) -> torch.Tensor | None:
    return None if bias is None else bias[start : start + CHUNK]


def _scores(weight: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """(token, row) scores of one chunk; this orientation is the fast one for tall chunks."""
    scores = (weight @ columns).to(dtype)
    return scores if bias is None else scores + bias[:, None]


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _slope(capped: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Derivative of `_cap`, from its result."""
    return (
        torch.ones((), dtype=capped.dtype, device=capped.device).expand_as(capped)
        if softcap is None
        else 1 - (capped / softcap) ** 2
    )


def _bias_of(bias: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor | float:
    return 0.0 if bias is None else bias[tokens]
