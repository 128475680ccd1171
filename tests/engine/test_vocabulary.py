"""Products with the unembedding: the same numbers whichever library multiplies, and never without a gradient that is wanted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.engine import vocabulary as chunks
from xlmech.engine.unembed import token_logits


@settings(deadline=None, max_examples=25)
@given(n_rows=st.integers(1, 70), n_tokens=st.integers(1, 90), width=st.integers(1, 40), with_bias=st.booleans())
def test_scores_equal_the_plain_product(n_rows: int, n_tokens: int, width: int, with_bias: bool) -> None:
    torch.manual_seed(n_rows)
    hidden, weight = torch.randn(n_rows, width), torch.randn(n_tokens, width)
    bias = torch.randn(n_tokens) if with_bias else None
    wanted = hidden.double() @ weight.double().T + (0 if bias is None else bias)
    columns = chunks.columns_of(hidden, torch.float32)
    found = chunks.scores(weight, columns, bias, torch.float32)[:, :n_rows].T
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)
    part = chunks.scores(weight, columns[:, n_rows // 2 :], bias, torch.float32)[:, : n_rows - n_rows // 2].T
    torch.testing.assert_close(part.double(), wanted[n_rows // 2 :], rtol=1e-5, atol=1e-4)


def test_both_libraries_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.randn(19, 32), torch.randn(300, 32)
    found = token_logits(hidden, weight)
    monkeypatch.setattr(chunks, "by_onednn", lambda _: False)
    torch.testing.assert_close(token_logits(hidden, weight), found, rtol=1e-5, atol=1e-5)


def test_a_gradient_that_is_wanted_is_there() -> None:
    hidden, weight = torch.randn(5, 32, requires_grad=True), torch.randn(300, 32)
    (found,) = torch.autograd.grad(token_logits(hidden, weight).sum(), hidden)
    torch.testing.assert_close(found, weight.sum(0).expand(5, -1), rtol=1e-5, atol=1e-4)
