"""Log-probabilities of rows that are small changes of a known one, such as single neurons' ablations.

A token's logit moves by at most the distance times the length of its unembedding. That bounds how far all the unlikely tokens'
part of the normaliser is from its known value, so that only the likely ones need to be looked at: as many as it takes to prove,
for the very rows at hand, an error of a few roundings of the dtype.

    known = nearby(clean, unembed, **backend.readout)
    near_log_prob(hidden, known, targets)      # token_log_prob(hidden, unembed, targets, **backend.readout), to rounding
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from xlmech.engine.unembed import token_log_prob, token_logits
from xlmech.engine.vocabulary import ALIGNED, CHUNK, ROUNDINGS, accumulator, bias_of, cap, columns_of, scores

_FAR = 8
"""Rows that need more than this part of the vocabulary walk all of it: in its own order it need not be gathered."""


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
        limit = math.log(ROUNDINGS * torch.finfo(reach.dtype).eps) - wrong.log() - reach
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
    unembed, exact = known.unembed, accumulator(hidden)
    moved = hidden.to(exact) - known.near.to(exact)
    needed, order = known.tokens_needed(moved.norm(dim=1) * known.longest).sort()
    n_near = int((needed <= len(unembed) // _FAR).sum())
    near, far = order[:n_near], order[n_near:]
    several = targets if targets.ndim == 2 else targets[:, None]
    found = torch.linalg.vecdot(unembed[several].to(exact), hidden[:, None].to(exact))
    found = cap(found + bias_of(known.readout["bias"], several), known.readout["softcap"])
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
    columns, total = columns_of(hidden, unembed.dtype), torch.zeros_like(moved[:, 0])
    seen, first = torch.zeros_like(moved[0]), 0
    for start in range(0, max(1, int(needed[-1])), CHUNK):
        tokens = known.tokens[start : start + CHUNK]
        weight, stop = unembed.index_select(0, tokens), start + len(tokens)
        part = None if bias is None else bias[tokens]
        logits = cap(scores(weight, columns[:, first:], part, exact), known.readout["softcap"])
        total[first:] += (logits[:, : len(hidden) - first] - known.normaliser).exp_().sum(0)
        if known.mean is not None:
            seen += (known.log_probs[start:stop].exp().to(weight.dtype) @ weight).to(exact)
        done = int(torch.searchsorted(needed, stop, right=True))
        last = done if done == len(hidden) else done - done % ALIGNED
        total[first:last] += known.left_out[stop].exp()
        if known.mean is not None:
            total[first:last] += moved[first:last] @ (known.mean.to(exact) - seen)
        first = max(first, last)
    return known.normaliser + total.log()
