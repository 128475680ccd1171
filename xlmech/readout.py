"""From final hidden states to token scores without a row of logits per position.

A vocabulary of 262,144 makes logits the dearest tensor of a small model: 1 MB per position in float32, written,
exponentiated and read again. Here the vocabulary is walked in chunks that stay in cache, with the running maximum and
sum of online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867). Two things are then left out because they are below
rounding, and proven to be so for the very rows at hand, never assumed:
- the gradient needs the probability-weighted mean of the unembedding: tokens whose probabilities add up to less than the
  dtype's rounding do not enter it (`_weighted_mean`);
- rows close to one whose logits are known (`near_log_prob`): a token's logit moves by at most the distance times the length
  of its unembedding, which bounds what all the unlikely tokens together can add to the normaliser.
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
_STORED_LOGITS = 2**26
"""Logits that are kept at once for a gradient: 256 MB in float32."""


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
        n_rows, exact, kept = len(hidden), _accumulator(hidden), []
        columns = _columns(hidden, unembed.dtype)
        highest = torch.full((columns.shape[1],), -torch.inf, dtype=exact, device=hidden.device)
        total = torch.zeros_like(highest)
        for start in range(0, len(unembed), CHUNK):
            logits = _cap(_scores(unembed[start : start + CHUNK], columns, _part(bias, start), exact), softcap)
            new_highest = torch.maximum(highest, logits.amax(0))
            if ctx.needs_input_grad[0]:
                kept.append(logits[:, :n_rows])
            total = total * torch.exp(highest - new_highest) + (logits - new_highest).exp_().sum(0)
            highest = new_highest
        normaliser = (highest + total.log())[:n_rows]
        rows = unembed[targets].to(exact)
        own = _cap(torch.linalg.vecdot(rows, hidden[:, None].to(exact)) + _bias_of(bias, targets), softcap)
        if kept:
            mean = _weighted_mean(kept, normaliser, unembed, softcap)
            ctx.save_for_backward(rows * _slope(own, softcap)[:, :, None] - mean[:, None])
        return own - normaliser[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:  # noqa: D102
        (slope,) = ctx.saved_tensors
        return (grads[0][:, :, None].to(slope.dtype) * slope).sum(1), None, None, None, None


def _weighted_mean(
    parts: list[torch.Tensor], normaliser: torch.Tensor, unembed: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """(row, d_model) mean of the unembedding, weighted with each row's probabilities (and the soft-cap's slope).

    Tokens are left out, the unlikeliest first, as long as their largest probabilities in any row add up to less than the
    dtype's rounding; the error is below that, relative to the longest unembedding.

    Args:
        parts: (token, row) logits of consecutive chunks of the vocabulary.
        normaliser: (row,) log of the sum of exponentials.
        unembed: (token, d_model).
        softcap: As of the model.
    """
    largest = torch.cat([(logits - normaliser).amax(1) for logits in parts]).exp_()
    threshold, rounding = 0.0, torch.finfo(normaliser.dtype).eps
    for candidate in (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12):
        if largest[largest < candidate].sum() < rounding:
            threshold = candidate
            break
    chosen = torch.split(largest >= threshold, [len(logits) for logits in parts])
    some = torch.cat([logits[here] for logits, here in zip(parts, chosen, strict=True)])
    shares = (some - normaliser).exp_() * _slope(some, softcap)
    weight = unembed[torch.cat(chosen)]
    return (weight.T @ shares.to(weight.dtype)).T.to(normaliser.dtype)


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
    size = max(1, _STORED_LOGITS // len(unembed)) if torch.is_grad_enabled() and hidden.requires_grad else len(hidden)
    parts = [
        _TokenLogProb.apply(rows, unembed, bias, softcap, wanted)  # type: ignore[no-untyped-call]
        for rows, wanted in zip(torch.split(hidden, max(1, size)), torch.split(several, max(1, size)), strict=True)
    ]
    found = parts[0] if len(parts) == 1 else torch.cat(parts)
    return found.view(targets.shape)


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
        left_out: (d_vocab,) log of the summed probability of each of these and all less likely ones.
        normaliser: Log of the sum of exponentials of the row's logits.
        longest: Length of the longest unembedding.
        unembed: The unembedding.
        readout: Its `bias` and `softcap`.
    """

    near: torch.Tensor
    tokens: torch.Tensor
    left_out: torch.Tensor
    normaliser: torch.Tensor
    longest: torch.Tensor
    unembed: torch.Tensor
    readout: dict[str, Any]


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
        left_out=order.values.flip(0).logcumsumexp(0).flip(0),
        normaliser=normaliser,
        longest=torch.linalg.vector_norm(unembed, dim=1).max().to(logits.dtype),
        unembed=unembed,
        readout=readout,
    )


@torch.no_grad()
def near_log_prob(
    hidden: Float[torch.Tensor, "row d_model"], known: Nearby, targets: Int[torch.Tensor, "row ..."]
) -> Float[torch.Tensor, "row ..."]:
    """`token_log_prob` of rows that are small changes of a known row, such as single neurons' ablations; no gradient.

    They take the tokens that can matter to them. Rows for which the bound of the module's docstring does not prove an error
    below the dtype's rounding are walked in full. A soft-cap only makes logits move less.

    Args:
        hidden: Hidden states after the final norm.
        known: Of the row that they are changes of.
        targets: Token ids per row.
    """
    unembed, bias, softcap = known.unembed, known.readout["bias"], known.readout["softcap"]
    exact = _accumulator(hidden)
    allowed = math.log(torch.finfo(exact).eps)
    reach = (hidden.to(exact) - known.near.to(exact)).norm(dim=1) * known.longest
    n_tokens = int((known.left_out > allowed - reach.quantile(0.9) - 1).sum())
    if n_tokens > len(unembed) // 2:
        return token_log_prob(hidden, unembed, targets, **known.readout)
    tokens = known.tokens[:n_tokens]
    part = None if bias is None else bias[tokens]
    logits = _cap(_scores(unembed[tokens], _columns(hidden, unembed.dtype), part, exact), softcap)
    normaliser = logits.logsumexp(0)[: len(hidden)]
    proven = known.left_out[n_tokens] + known.normaliser + reach - normaliser <= allowed
    several = targets if targets.ndim == 2 else targets[:, None]
    own = torch.linalg.vecdot(unembed[several].to(exact), hidden[:, None].to(exact)) + _bias_of(bias, several)
    found = _cap(own, softcap) - normaliser[:, None]
    if not proven.all():
        found[~proven] = token_log_prob(hidden[~proven], unembed, several[~proven], **known.readout)
    return found.view(targets.shape)


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
