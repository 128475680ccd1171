"""Compute matrix products by oneDNN, where torch's own on a CPU are MKL's.

For the few rows that the engine runs, MKL's products in float32 reach 50 to 80 % of oneDNN's speed on the AVX-512 machine they
were measured on. The numbers are those of any float32 product, up to the order of its sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch


def by_onednn(operand: torch.Tensor) -> bool:
    """Tell whether `product` takes the operand: in float32 on a CPU, where this build of torch has what it needs."""
    return operand.device.type == "cpu" and operand.dtype == torch.float32 and _linear() is not None


def product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply rows with a linear layer's weights, without a gradient, for operands that `by_onednn` takes."""
    return _linear()(rows.contiguous(), weight, bias, "none", [], "")  # type: ignore[no-any-return]


@cache
def _linear() -> Any:
    """Return the linear layer that torch.compile uses on CPUs; None where this build of torch lacks it."""
    mkldnn: Any = torch.backends.mkldnn
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if mkldnn.is_available() else None


class _FrozenLinear(torch.autograd.Function):
    """A linear layer whose weights get no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:  # noqa: D102
        ctx.weight = weight
        return product(rows, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: D102
        return product(grads[0], ctx.weight.T), None, None


def _forward(layer: torch.nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in layer.parameters())
    # oneDNN takes 100 times as long for weights with gaps between rows, which the bridge cuts out of GPT-2's joint matrices.
    takes = by_onednn(rows) and by_onednn(layer.weight) and rows.numel() and layer.weight.is_contiguous()
    if learns or not takes or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(rows, layer.weight, layer.bias)
    return _FrozenLinear.apply(rows, layer.weight, layer.bias)  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def faster(layers: Sequence[torch.nn.Linear]) -> Iterator[None]:
    """Run linear layers with frozen weights by oneDNN where they can be, within the block.

    Layers with a `forward` of their own, as accelerate gives to those it moves between devices, are left as they are.
    """
    changed = [layer for layer in layers if "forward" not in vars(layer)]
    try:
        for layer in changed:
            vars(layer)["forward"] = partial(_forward, layer)
        yield
    finally:
        for layer in changed:
            vars(layer).pop("forward", None)
