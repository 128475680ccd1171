"""Log-odds and divergences by chunks of the vocabulary against plain logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlmech.engine import log_odds, unembed
from xlmech.engine.log_odds import TokenDistributions, token_log_odds


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unembed, "CHUNK", 64)
    monkeypatch.setattr(log_odds, "CHUNK", 64)


def _case(
    softcap: float | None, with_bias: bool, dtype: torch.dtype = torch.float64
) -> tuple[Any, Any, dict[str, Any]]:
    drawn = torch.Generator().manual_seed(1)
    weights = torch.randn(300, 16, generator=drawn, dtype=dtype)
    bias = torch.randn(300, generator=drawn, dtype=dtype) if with_bias else None
    return 2 * torch.randn(5, 16, generator=drawn, dtype=dtype), weights, {"bias": bias, "softcap": softcap}


def _logits(hidden: torch.Tensor, weights: torch.Tensor, bias: Any, softcap: Any) -> torch.Tensor:
    logits = hidden @ weights.T + (0 if bias is None else bias)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.parametrize("softcap", [None, 30.0, 2.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_log_odds_and_their_gradient(softcap: float | None, with_bias: bool) -> None:
    hidden, weights, options = _case(softcap, with_bias)
    targets = torch.tensor([0, 63, 64, 299, -1])
    plain, ours = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    logits = _logits(plain, weights, **options)
    log_probs = logits[:4].log_softmax(-1)[range(4), targets[:4]]
    wanted = torch.cat([log_probs - torch.log1p(-log_probs.exp()), -logits[4:].logsumexp(-1)])
    found = token_log_odds(ours, weights, targets, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    scale = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((scale * found).sum(), ours),
        torch.autograd.grad((scale * wanted).sum(), plain),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_tokens_keep_their_digits(dtype: torch.dtype) -> None:
    """With p = 1 - 3e-13, log p - log(1 - p) would be infinite in float32, and its gradient noise in bfloat16."""
    hidden, weights, _ = _case(None, False, torch.float32)
    hidden = hidden + 3 * weights[:5]
    exact, ours = hidden.double().requires_grad_(), hidden.clone().requires_grad_()
    logits = exact @ weights.double().T
    others = torch.stack([row[torch.arange(300) != number] for number, row in enumerate(logits)])
    wanted = logits[range(5), range(5)] - others.logsumexp(-1)
    assert wanted.max() > 20
    found = token_log_odds(ours, weights.to(dtype), torch.arange(5))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    (gradient,), (right,) = (torch.autograd.grad(value.sum(), at) for value, at in ((found, ours), (wanted, exact)))
    assert float((gradient - right).norm() / right.norm()) < tolerance


def test_others_that_are_far_below_do_not_underflow() -> None:
    hidden, weights, _ = _case(None, False)
    assert token_log_odds(1e4 * hidden, weights, torch.arange(5)).isfinite().all()


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_divergence_and_its_gradient(softcap: float | None, with_bias: bool) -> None:
    before, weights, options = _case(softcap, with_bias)
    after = before + 0.3 * torch.randn(before.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain, ours = after.clone().requires_grad_(), after.clone().requires_grad_()
    reference = _logits(before, weights, **options).log_softmax(-1)
    now = _logits(plain, weights, **options).log_softmax(-1)
    wanted = (reference.exp() * (reference - now)).sum(-1)

    def divergence(states: torch.Tensor) -> torch.Tensor:
        log_total = -token_log_odds(states, weights, torch.full((5,), -1), **options)
        return TokenDistributions.of(before, weights, **options).divergence(states, log_total, weights, **options)

    found = divergence(ours)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(divergence(before), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    for one, other in zip(
        torch.autograd.grad(found.sum(), ours), torch.autograd.grad(wanted.sum(), plain), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
