"""A GPU in name only: its tensors are computed on the CPU, and what would fail on a GPU fails here too.

with FakeGPU() as gpu:
    model = load_model(on_gpu(network), tokenizer=tokenizer, device="cuda:0", dtype="float32")

A tensor on it says that its device is `cuda:0`. Operations that mix it with one on the CPU raise, as CUDA's do; numbers without
dimensions and indices may be on the CPU. Every read of a number by the host is counted, by line of xlmech, in `gpu.reads`.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
_READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")
_MADE = {torch.tensor, torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.eye}
_LIKE = {
    torch.zeros_like,
    torch.ones_like,
    torch.empty_like,
    torch.full_like,
    torch.Tensor.new_zeros,
    torch.Tensor.new_ones,
}
_reads: Counter[str] = Counter()


class _OnGPU(torch.Tensor):
    """A tensor whose values are in `values`, on the CPU."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> _OnGPU:
        made: _OnGPU = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=values.device,
        )  # fmt: skip
        made.values = values
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name(), dict(kwargs or {})
        if name in _READS:
            _reads[_line()] += 1
        _check_places(name, args, kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if func._schema.is_mutable and name.partition(".")[0].endswith("_"):
            return args[0]
        return tree_map(lambda one: _OnGPU(one) if type(one) is torch.Tensor else one, found)


def _check_places(name: str, args: Any, kwargs: Any) -> None:
    """Raise RuntimeError where CUDA would, because a tensor is on the CPU."""
    if name.startswith(("aten::index.", "aten::index_put", "aten::_index_put")):
        checked = [args[0], *args[2:]]  # indices may be anywhere, unless what they index is on the CPU
    elif name == "aten::copy_":
        return
    else:
        checked = tree_leaves((args, kwargs))
    strangers = [one for one in checked if type(one) is torch.Tensor and one.ndim]
    if strangers:
        shapes = ", ".join(str(tuple(one.shape)) for one in strangers)
        raise RuntimeError(f"expected all tensors on one device: {name} got {shapes} on the CPU")


def _values(one: Any) -> Any:
    return one.values if isinstance(one, _OnGPU) else one


def _line() -> str:
    """The innermost line of xlmech that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        _, found, path = frame.f_code.co_filename.rpartition("/xlmech/")
        if found and "/tests/" not in path:
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class _Move(torch.autograd.Function):
    """A copy to the GPU or back, differentiable."""

    @staticmethod
    def forward(ctx: Any, one: torch.Tensor, on: bool) -> torch.Tensor:
        ctx.came_from_gpu = isinstance(one, _OnGPU)
        return _OnGPU(one.detach().clone()) if on else _values(one).clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (_OnGPU(grads[0]) if ctx.came_from_gpu else _values(grads[0])), None


def _moved(one: torch.Tensor, on: bool) -> torch.Tensor:
    if on == isinstance(one, _OnGPU):
        return one
    if not on:
        _reads[_line()] += 1
    return _Move.apply(one, on)  # type: ignore[no-any-return, no-untyped-call]


class FakeGPU(TorchFunctionMode):
    """In its block, tensors can be made on the GPU and moved to it; `reads` counts by line how often the host read from it."""

    @property
    def reads(self) -> Counter[str]:
        return _reads

    def __enter__(self) -> FakeGPU:
        _reads.clear()
        super().__enter__()
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu:
            return _moved(args[0], False)
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and isinstance(args[0], _OnGPU):
            raise TypeError("can't convert a tensor on the GPU to numpy; use Tensor.cpu() first")
        if func is torch.Tensor.tolist and isinstance(args[0], _OnGPU):
            return _moved(args[0], False).tolist()
        if func is torch.Tensor.to:
            return _to(args[0], [*args[1:], *kwargs.values()])
        if func is torch.as_tensor and isinstance(args[0], torch.Tensor):
            return _to(args[0], [*kwargs.values()])
        if func in _MADE or func in _LIKE or func is torch.as_tensor:
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else _moved(made, torch.device(device).type == "cuda")
        return func(*args, **kwargs)


def _to(one: torch.Tensor, wanted: list[Any]) -> torch.Tensor:
    """`Tensor.to` of a dtype, a device or another tensor's."""
    for other in wanted:
        if isinstance(other, torch.Tensor):
            one = _moved(one if one.dtype == other.dtype else one.type(other.dtype), isinstance(other, _OnGPU))
        elif isinstance(other, torch.dtype):
            one = one if one.dtype == other else one.type(other)
        elif isinstance(other, torch.device | str):
            one = _moved(one, torch.device(other).type == "cuda")
    return one


def on_gpu(network: Any) -> Any:
    """The network with its weights and buffers on the GPU; weights that are one stay one."""
    moved: dict[int, torch.nn.Parameter] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                moved.setdefault(id(weight), torch.nn.Parameter(_OnGPU(weight.detach()), requires_grad=False))
                module._parameters[name] = moved[id(weight)]
        for name, buffer in module._buffers.items():
            if type(buffer) is torch.Tensor:
                module._buffers[name] = _OnGPU(buffer)
    return network
