"""Token scores by chunks of the vocabulary against plain logits."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import peaked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlmech.engine import unembed as module
from xlmech.engine.unembed import chunk_logits, greedy_tokens, padded_columns, token_log_prob, token_logits


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)


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


def test_several_targets_share_a_row() -> None:
    hidden, unembed, bias, logits = _case(None, True)
    targets, weights = torch.tensor([[0, 5, 5]] * 5), torch.randn(5, 3, dtype=torch.float64)
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found = token_log_prob(ours, unembed, targets, bias=bias)
    torch.testing.assert_close(found.detach(), logits.log_softmax(-1).gather(1, targets))
    wanted = (plain @ unembed.T + bias).log_softmax(-1).gather(1, targets)
    gradients = (torch.autograd.grad((weights * one).sum(), at)[0] for one, at in ((found, ours), (wanted, plain)))
    torch.testing.assert_close(next(gradients), next(gradients))


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_the_gradient_leaves_out_only_what_rounding_would_lose(
    softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, unembed = peaked(torch.float64)
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found = token_log_prob(ours, unembed, torch.arange(4) + 9, softcap=softcap).sum()
    logits = plain @ unembed.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    wanted = logits.log_softmax(-1)[range(4), torch.arange(4) + 9].sum()
    (a,), (b,) = torch.autograd.grad(found, ours), torch.autograd.grad(wanted, plain)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    monkeypatch.setattr(torch, "finfo", lambda dtype: type("Info", (), {"eps": 1e-7}))
    again = token_log_prob(ours, unembed, torch.arange(4) + 9, softcap=softcap).sum()
    (c,) = torch.autograd.grad(again, ours)
    assert 0 < float((c - b).abs().max()) < module._SKIPPED_ROUNDINGS * 1e-7, (
        "something is left out, and no more than allowed"
    )
    assert float((c - b).abs().max()) > 10 * float((a - b).abs().max())
    whole = token_log_prob(ours, unembed, torch.arange(4) + 9, softcap=softcap, exact=True).sum()
    (d,) = torch.autograd.grad(whole, ours)
    torch.testing.assert_close(d, b, rtol=1e-9, atol=1e-11)


def test_a_logit_that_overflows_every_guess_starts_again() -> None:
    hidden, unembed = torch.ones(2, 4, dtype=torch.float32), torch.zeros(5000, 4)
    unembed[4999], unembed[3] = 100.0, 99.0
    found = token_log_prob(hidden.requires_grad_(), unembed, torch.tensor([3, 4999]))
    assert found.tolist() == pytest.approx([-4.01815, -0.01815], abs=1e-4)
    (slope,) = torch.autograd.grad(found.sum(), hidden)
    assert torch.isfinite(slope).all()


def test_likely_tokens_of_a_bfloat16_model_are_read_in_float32() -> None:
    """Products of bfloat16 are rounded to 0.03 at logits of 8; log-probabilities and their slopes must not be that far off."""
    torch.manual_seed(0)
    unembed, hidden = torch.randn(3000, 64).bfloat16(), (0.35 * torch.randn(7, 64)).bfloat16()
    hidden += 0.12 * unembed[:7]
    targets = torch.arange(7)
    low = hidden.clone().requires_grad_()
    found = token_log_prob(low, unembed, targets)
    exact = hidden.double().requires_grad_()
    wanted = (exact @ unembed.double().T).log_softmax(-1)[range(7), targets]
    assert float((found.double() - wanted).detach().abs().max()) < 1e-4
    slopes = torch.autograd.grad(found.sum(), low)[0].double(), torch.autograd.grad(wanted.sum(), exact)[0]
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 2.5e-3


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n_rows=st.integers(1, 70), n_tokens=st.integers(1, 90), width=st.integers(1, 40), with_bias=st.booleans())
def test_a_chunk_equals_the_plain_product(n_rows: int, n_tokens: int, width: int, with_bias: bool) -> None:
    torch.manual_seed(n_rows)
    hidden, weight = torch.randn(n_rows, width), torch.randn(n_tokens, width)
    bias = torch.randn(n_tokens) if with_bias else None
    wanted = hidden.double() @ weight.double().T + (0 if bias is None else bias)
    columns = padded_columns(hidden, torch.float32)
    found = chunk_logits(weight, columns, bias, None, torch.float32)[:, :n_rows].T
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)
    part = chunk_logits(weight, columns[:, n_rows // 2 :], bias, None, torch.float32)[:, : n_rows - n_rows // 2].T
    torch.testing.assert_close(part.double(), wanted[n_rows // 2 :], rtol=1e-5, atol=1e-4)


def test_both_libraries_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.randn(19, 32), torch.randn(300, 32)
    found = token_logits(hidden, weight)
    monkeypatch.setattr(module, "by_onednn", lambda _: False)
    torch.testing.assert_close(token_logits(hidden, weight), found, rtol=1e-5, atol=1e-5)


def test_a_gradient_that_is_wanted_is_there() -> None:
    hidden, weight = torch.randn(5, 32, requires_grad=True), torch.randn(300, 32)
    (found,) = torch.autograd.grad(token_logits(hidden, weight).sum(), hidden)
    torch.testing.assert_close(found, weight.sum(0).expand(5, -1), rtol=1e-5, atol=1e-4)
