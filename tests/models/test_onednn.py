"""Products by oneDNN against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_models import tiny

from xlmech.models import onednn as products
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.models.onednn import by_onednn, faster, product

needs_onednn = pytest.mark.skipif(
    not by_onednn(torch.zeros(1)), reason="this build of torch has no oneDNN linear layer"
)


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    made = torch.nn.Linear(48, 80)
    return made.requires_grad_(False)


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (3, 5, 48)])
def test_product_is_that_of_torch(layer: torch.nn.Linear, shape: tuple[int, ...]) -> None:
    rows = torch.randn(shape)
    wanted = torch.nn.functional.linear(rows.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(product(rows, layer.weight, layer.bias).double(), wanted, rtol=1e-5, atol=1e-5)
    sliced = torch.randn(*shape[:-1], 96)[..., ::2]  # not contiguous
    torch.testing.assert_close(product(sliced, layer.weight), sliced @ layer.weight.T)


@needs_onednn
def test_faster_layers_give_torchs_values_and_gradients(layer: torch.nn.Linear) -> None:
    rows = torch.randn(3, 5, 48, requires_grad=True)
    upstream = torch.randn(3, 5, 80)
    wanted = layer(rows)
    (wanted_slope,) = torch.autograd.grad(wanted, rows, upstream)
    with faster([layer]):
        found = layer(rows)
        (slope,) = torch.autograd.grad(found, rows, upstream)
    assert "FrozenLinear" in found.grad_fn.name()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(slope, wanted_slope)
    assert "FrozenLinear" not in layer(rows).grad_fn.name()


def test_what_it_must_not_take(layer: torch.nn.Linear) -> None:
    rows = torch.randn(2, 48)
    with faster([layer]):
        layer.weight.requires_grad_()
        layer(rows).sum().backward()
        assert layer.weight.grad is not None, "a layer that learns gets its gradient"
        layer.weight.requires_grad_(False)
        layer.bias.requires_grad_()
        layer(rows).sum().backward()
        assert layer.bias.grad is not None
        layer.bias.requires_grad_(False)
        assert layer(rows[:0]).shape == (0, 80)
    joint = torch.nn.Linear(48, 80).requires_grad_(False)
    joint.weight = torch.nn.Parameter(torch.randn(48, 240)[:, :80].T, requires_grad=False)
    with faster([joint]):
        again = torch.randn(2, 48, requires_grad=True)
        found = joint(again)
        assert "FrozenLinear" not in found.grad_fn.name()
        torch.testing.assert_close(found, torch.nn.functional.linear(again, joint.weight, joint.bias))
    for dtype in (torch.float64, torch.bfloat16):
        other = torch.nn.Linear(48, 80, dtype=dtype).requires_grad_(False)
        with faster([other]):
            torch.testing.assert_close(
                other(rows.to(dtype)), torch.nn.functional.linear(rows.to(dtype), other.weight, other.bias)
            )


def test_restored_on_an_exception_and_left_alone_where_wrapped(layer: torch.nn.Linear) -> None:
    wrapped = torch.nn.Linear(48, 80)
    own = vars(wrapped)["forward"] = lambda rows: rows
    with pytest.raises(RuntimeError, match="stop"), faster([layer, wrapped]):
        assert "forward" in vars(layer)
        raise RuntimeError("stop")
    assert "forward" not in vars(layer)
    assert vars(wrapped)["forward"] is own


@needs_onednn
def test_the_bridge_runs_its_layers_so(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = products._FrozenLinear.apply
    backend = backend_of(load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge", dtype="float32"))
    tokens = torch.tensor([[2, 7, 8, 9]])
    monkeypatch.setattr(products._FrozenLinear, "apply", lambda *args: calls.append(1) or plain(*args))
    found, _ = backend.hidden(tokens)
    assert len(calls) == 7 * backend.n_layers
    monkeypatch.setattr(products, "by_onednn", lambda _: False)
    wanted, _ = backend.hidden(tokens)
    assert len(calls) == 7 * backend.n_layers
    torch.testing.assert_close(found, wanted)
