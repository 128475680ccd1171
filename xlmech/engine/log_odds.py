"""Log-odds of tokens, and how far distributions over tokens are from reference ones; both by chunks of the vocabulary.

The log-odds of a token are its logit minus the log of the sum of the other tokens' exponentials, and computed so: unlike
log p - log(1 - p), that keeps its digits where p is near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.utils.checkpoint import checkpoint

from xlmech.engine.unembed import CHUNK, accumulator, log_normaliser, token_logit


def token_log_odds(
    hidden: Float[torch.Tensor, "row d_model"],
    unembed: Float[torch.Tensor, "d_vocab d_model"],
    targets: Int[torch.Tensor, " row"],
    *,
    bias: Float[torch.Tensor, " d_vocab"] | None = None,
    softcap: float | None = None,
) -> Float[torch.Tensor, " row"]:
    """Compute the (row,) log p - log(1 - p) of each row's target token, in nats, differentiable in `hidden`.

    For a target of -1 it is minus the log of the sum of all tokens' exponentials. The unembedding gets no gradient.
    """
    own = token_logit(hidden, unembed, targets.clamp_min(0), bias=bias, softcap=softcap)
    others = _LogNormaliser.apply(hidden, unembed, bias, softcap, targets)  # type: ignore[no-untyped-call]
    return own * (targets >= 0) - others  # type: ignore[no-any-return]


class _LogNormaliser(torch.autograd.Function):
    """Log of the sum of exponentials of each row's logits but the one excluded, for a frozen unembedding."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        hidden: torch.Tensor,
        unembed: torch.Tensor,
        bias: torch.Tensor | None,
        softcap: float | None,
        excluded: torch.Tensor,
    ) -> torch.Tensor:
        unknown = torch.full((len(hidden),), -torch.inf, dtype=accumulator(hidden), device=hidden.device)
        normaliser, mean = log_normaliser(
            hidden, unembed, bias, softcap, unknown, gradient=ctx.needs_input_grad[0], exact=False, excluded=excluded
        )
        if mean is not None:
            ctx.save_for_backward(mean)
        return normaliser

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:  # noqa: D102
        (mean,) = ctx.saved_tensors
        return grads[0][:, None].to(mean.dtype) * mean, None, None, None, None


@dataclass(frozen=True, kw_only=True)
class TokenDistributions:
    """The distributions over tokens that some hidden states predict, as a reference for others.

    Attributes:
        hidden: (row, d_model) states after the final norm.
        log_total: (row,) log of the sum of the logits' exponentials.
        mean: (row, d_model) derivative of `log_total` by `hidden`: the mean unembedding, each token's weighed by its probability.
    """

    hidden: Float[torch.Tensor, "row d_model"]
    log_total: Float[torch.Tensor, " row"]
    mean: Float[torch.Tensor, "row d_model"]

    @classmethod
    def of(
        cls, hidden: Float[torch.Tensor, "row d_model"], unembed: Float[torch.Tensor, "d_vocab d_model"], **options: Any
    ) -> TokenDistributions:
        """Compute the distributions of hidden states; `options` are the bias and soft-cap of the unembedding."""
        states = hidden.detach().to(accumulator(hidden)).requires_grad_()
        with torch.enable_grad():
            log_total = -token_log_odds(
                states, unembed, torch.full((len(states),), -1, device=states.device), **options
            )
            (mean,) = torch.autograd.grad(log_total.sum(), states)
        return cls(hidden=states.detach(), log_total=log_total.detach(), mean=mean)

    def split(self, lengths: Sequence[int]) -> list[TokenDistributions]:
        """Divide the rows into parts of these lengths."""
        parts = (torch.split(tensor, list(lengths)) for tensor in (self.hidden, self.log_total, self.mean))
        return [
            TokenDistributions(hidden=hidden, log_total=log_total, mean=mean)
            for hidden, log_total, mean in zip(*parts, strict=True)
        ]

    def divergence(
        self,
        hidden: Float[torch.Tensor, "row d_model"],
        log_total: Float[torch.Tensor, " row"],
        unembed: Float[torch.Tensor, "d_vocab d_model"],
        *,
        bias: Float[torch.Tensor, " d_vocab"] | None = None,
        softcap: float | None = None,
    ) -> Float[torch.Tensor, " row"]:
        """Compute the (row,) KL(reference, now) in nats, differentiable in `hidden` and `log_total`.

        Without a soft-cap, logits are linear in the hidden state, and KL is the Bregman divergence of the log of the sum: no
        second pass over the vocabulary is needed.

        Args:
            hidden: States after the final norm now.
            log_total: Log of the sum of their logits' exponentials, as `token_log_odds` gives it for a target of -1.
            unembed: Unembedding, one row per token.
            bias: Bias of the unembedding.
            softcap: Final soft-cap of the logits.
        """
        states = hidden.to(self.hidden.dtype)
        if softcap is None:
            moved: torch.Tensor = torch.linalg.vecdot(self.mean, states - self.hidden)
        else:
            moved = self._mean_change(states, unembed, bias, softcap)
        return log_total - self.log_total - moved

    def _mean_change(
        self, states: torch.Tensor, unembed: torch.Tensor, bias: torch.Tensor | None, softcap: float
    ) -> Float[torch.Tensor, " row"]:
        """Compute the (row,) mean change of the logits, each token's weighed by its probability in the reference."""

        def of_chunk(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
            before, after = (
                softcap * torch.tanh((rows @ weight.to(rows.dtype).T + bias) / softcap)
                for rows in (self.hidden, states)
            )
            return ((before - self.log_total[:, None]).exp() * (after - before)).sum(1)

        total: torch.Tensor = torch.zeros_like(self.log_total)
        for start in range(0, len(unembed), CHUNK):
            part = 0.0 if bias is None else bias[start : start + CHUNK]
            total = total + checkpoint(of_chunk, states, unembed[start : start + CHUNK], part, use_reentrant=False)
        return total
