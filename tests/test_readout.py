"""The chunked read-out against plain logits."""

from __future__ import annotations

import pytest
import torch

from xlmech import readout
from xlmech.readout import greedy_tokens, token_log_prob, token_logits


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "CHUNK", 64)


def _case(softcap: float | None, with_bias: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    unembed = torch.randn(300, 16, dtype=dtype)
    bias = torch.randn(300, dtype=dtype) if with_bias else None
    hidden = 3 * torch.randn(5, 16, dtype=dtype)
    logits = hidden @ unembed.T + (0 if bias is None else bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return hidden, unembed, bias, logits  # type: ignore[return-value]


@pytest.mark.parametrize("softcap", [None, 30.0, 2.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_log_softmax_and_its_gradient(softcap: float | None, with_bias: bool) -> None:
    hidden, unembed, bias, _ = _case(softcap, with_bias)
    targets = torch.tensor([0, 63, 64, 299, 7])
    plain = hidden.clone().requires_grad_()
    logits = plain @ unembed.T + (0 if bias is None else bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    wanted = logits.log_softmax(-1)[range(5), targets]
    (wanted_gradient,) = torch.autograd.grad((weights * wanted).sum(), plain)
    ours = hidden.clone().requires_grad_()
    found = token_log_prob(ours, unembed, targets, bias=bias, softcap=softcap)
    (gradient,) = torch.autograd.grad((weights * found).sum(), ours)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-10, atol=1e-12)


def test_gradient_passes_finite_differences() -> None:
    hidden, unembed, bias, _ = _case(5.0, True)
    targets = torch.tensor([1, 2, 3, 4, 5])
    assert torch.autograd.gradcheck(
        lambda rows: token_log_prob(rows, unembed, targets, bias=bias, softcap=5.0), hidden.requires_grad_()
    )


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_logits_and_greedy_tokens(softcap: float | None) -> None:
    hidden, unembed, bias, logits = _case(softcap, True)
    torch.testing.assert_close(token_logits(hidden, unembed, bias=bias, softcap=softcap), logits)
    assert greedy_tokens(hidden, unembed, bias=bias).tolist() == logits.argmax(-1).tolist()


def test_huge_logits_do_not_overflow() -> None:
    hidden, unembed, _, _ = _case(None, False)
    found = token_log_prob(1e4 * hidden, unembed, torch.zeros(5, dtype=torch.long))
    assert found.isfinite().all()


def test_bfloat16_accumulates_in_float32() -> None:
    hidden, unembed, _, _ = _case(None, False, torch.float32)
    exact = token_log_prob(hidden, unembed, torch.arange(5))
    rough = token_log_prob(hidden.bfloat16(), unembed.bfloat16(), torch.arange(5))
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.1
