"""Log-probabilities of rows that are small changes of a clean row, such as ablations of single neurons.

A token's logit moves by at most the distance of the rows times the length of its unembedding. That bounds how far the unlikely
tokens' part of the normaliser can be from its value in the clean row, so only the likely tokens need to be computed.

Invariant: for every row, the tokens that are left out change the normaliser by at most 8 roundings of the dtype
(`LikelyTokens.n_needed` has the bound). `exact=True` takes the whole vocabulary.

    likely = likely_tokens(clean, unembed, **backend.unembed_options)
    changed_log_prob(hidden, likely, targets)  # token_log_prob(hidden, unembed, targets, **backend.unembed_options), to rounding
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from xlmech.engine.unembed import (
    ALIGNED,
    CHUNK,
    accumulator,
    chunk_logits,
    padded_columns,
    token_log_prob,
    token_logit,
    token_logits,
)

_ROUNDINGS = 8
"""Largest error of the normaliser, in roundings of the dtype; a logit's own rounding is of this size."""
_MAX_SHARE = 1 / 8
"""Rows that need more than this share of the vocabulary take all of it: in its own order it need not be gathered."""


@dataclass(frozen=True, kw_only=True)
class LikelyTokens:
    """The vocabulary by its probability in a clean row, the tokens that matter for small changes of the row first.

    Attributes:
        clean: (d_model,) the clean hidden state.
        tokens: (d_vocab,) tokens, the most probable first.
        log_probs: (d_vocab,) their log-probabilities.
        log_tails: (d_vocab + 1,) log of the summed probability of each of these and all less likely ones, and of none.
        normaliser: Log of the sum of exponentials of the clean row's logits.
        mean: (d_model,) probability-weighted mean of the unembedding; None with a soft-cap, whose logits are not linear.
        max_norm: Length of the longest unembedding.
        unembed: The unembedding.
        bias: Its bias.
        softcap: The final soft-cap.
    """

    clean: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor
    log_tails: torch.Tensor
    normaliser: torch.Tensor
    mean: torch.Tensor | None
    max_norm: torch.Tensor
    unembed: torch.Tensor
    bias: torch.Tensor | None
    softcap: float | None

    def n_needed(self, max_shift: Float[torch.Tensor, " row"]) -> Int[torch.Tensor, " row"]:
        """Count the most probable tokens that a row needs whose logits differ from the clean row's by at most `max_shift`.

        The other tokens' part of the normaliser is taken from the clean row, to first order in the change where `mean` is known.
        By Taylor's theorem that is wrong by at most their probability times exp(max_shift) - 1, or
        exp(max_shift) * max_shift^2 / 2, relative to a normaliser of at least exp(-max_shift).
        """
        error = max_shift.exp() * max_shift**2 / 2 if self.mean is not None else max_shift.expm1()
        limit = math.log(_ROUNDINGS * torch.finfo(max_shift.dtype).eps) - error.log() - max_shift
        return torch.searchsorted(-self.log_tails, -limit)


@torch.no_grad()
def likely_tokens(
    clean: Float[torch.Tensor, " d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> LikelyTokens:
    """Order the vocabulary by its probability in one row, for `changed_log_prob` of small changes of the row."""
    logits = token_logits(clean[None], unembed, bias=bias, softcap=softcap)[0]
    normaliser = logits.logsumexp(0)
    log_probs = logits - normaliser
    order = log_probs.sort(descending=True)
    return LikelyTokens(
        clean=clean,
        tokens=order.indices,
        log_probs=order.values,
        log_tails=torch.nn.functional.pad(order.values.flip(0).logcumsumexp(0).flip(0), (0, 1), value=-torch.inf),
        normaliser=normaliser,
        mean=log_probs.exp().to(unembed.dtype) @ unembed if softcap is None else None,
        max_norm=torch.linalg.vector_norm(unembed, dim=1).max().to(logits.dtype),
        unembed=unembed,
        bias=bias,
        softcap=softcap,
    )


@torch.no_grad()
def changed_log_prob(
    hidden: Float[torch.Tensor, "row d_model"],
    likely: LikelyTokens,
    targets: Int[torch.Tensor, "row ..."],
    *,
    exact: bool = False,
) -> Float[torch.Tensor, "row ..."]:
    """Compute `token_log_prob` of rows that are small changes of a clean row, without a gradient.

    A soft-cap only makes logits move less, so the bound holds with it too.

    Args:
        hidden: Hidden states after the final norm.
        likely: Of the clean row.
        targets: Token ids per row.
        exact: Whether to compute the whole vocabulary for every row, in place of the tokens that a row needs.
    """
    unembed = likely.unembed
    options: dict[str, Any] = {"bias": likely.bias, "softcap": likely.softcap}
    if exact:
        return token_log_prob(hidden, unembed, targets, **options)
    dtype = accumulator(hidden)
    change = hidden.to(dtype) - likely.clean.to(dtype)
    n_needed, order = likely.n_needed(change.norm(dim=1) * likely.max_norm).sort()
    n_near = int((n_needed <= int(len(unembed) * _MAX_SHARE)).sum())
    near, far = order[:n_near], order[n_near:]
    columns = targets if targets.ndim == 2 else targets[:, None]
    scores = token_logit(hidden, unembed, columns, **options)
    if len(near):
        scores[near] -= _normaliser(hidden[near], change[near], likely, n_needed[:n_near])[:, None]
    if len(far):
        scores[far] = token_log_prob(hidden[far], unembed, columns[far], **options)
    return scores.view(targets.shape)


def _normaliser(
    hidden: torch.Tensor, change: torch.Tensor, likely: LikelyTokens, n_needed: torch.Tensor
) -> Float[torch.Tensor, " row"]:
    """Compute the log of the sum of exponentials of rows that are sorted by how many tokens they need.

    Chunk by chunk of the most probable tokens; a row that has its tokens takes the rest from the clean row and drops out.
    """
    unembed, dtype = likely.unembed, change.dtype
    columns, total = padded_columns(hidden, unembed.dtype), torch.zeros_like(change[:, 0])
    partial_mean = torch.zeros_like(change[0])
    first = 0
    for start in range(0, max(1, int(n_needed[-1])), CHUNK):
        tokens = likely.tokens[start : start + CHUNK]
        weight, stop = unembed.index_select(0, tokens), start + len(tokens)
        part = None if likely.bias is None else likely.bias[tokens]
        logits = chunk_logits(weight, columns[:, first:], part, likely.softcap, dtype)
        total[first:] += (logits[:, : len(hidden) - first] - likely.normaliser).exp_().sum(0)
        if likely.mean is not None:
            partial_mean += (likely.log_probs[start:stop].exp().to(weight.dtype) @ weight).to(dtype)
        n_done = int(torch.searchsorted(n_needed, stop, right=True))
        last = n_done if n_done == len(hidden) else n_done - n_done % ALIGNED
        total[first:last] += likely.log_tails[stop].exp()
        if likely.mean is not None:
            total[first:last] += change[first:last] @ (likely.mean.to(dtype) - partial_mean)
        first = max(first, last)
    return likely.normaliser + total.log()
