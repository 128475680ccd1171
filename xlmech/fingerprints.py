"""Short hashes by which finished work is recognised: of plain values, of frames and tensors, and of a model's weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch

_SAMPLED = 512


def fingerprint(*values: Any) -> str:
    """32 hexadecimal digits that are the same wherever the values are.

    Args:
        values: Plain values, lists, tuples, sets, mappings (their order does not matter), dataclasses, pydantic models, frames
            and tensors; else a value's `repr`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(values):
        digest.update(part)
    return digest.hexdigest()


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Of a model's weights: names, shapes and some hundred numbers of every tensor, spread evenly over it.

    Another checkpoint or adapter is noticed, a change of a few single weights is not.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(some.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        exact = value.detach().cpu().contiguous()
        yield f"tensor{tuple(exact.shape)}{exact.dtype}".encode()
        yield exact.reshape(-1).view(torch.uint8).numpy().tobytes() if exact.numel() else b""
    elif isinstance(value, pd.DataFrame):
        yield pd.util.hash_pandas_object(value, index=False).to_numpy().tobytes()
        yield "".join(map(str, value.columns)).encode()
    elif isinstance(value, str | bytes | int | float | bool | None):
        yield f"{type(value).__name__}:{value!r};".encode()
    elif isinstance(value, Mapping):
        yield b"{"
        for key in sorted(value, key=repr):
            yield from _parts(key)
            yield from _parts(value[key])
        yield b"}"
    elif isinstance(value, list | tuple):
        yield b"["
        for item in value:
            yield from _parts(item)
        yield b"]"
    elif isinstance(value, set | frozenset):
        yield from _parts(sorted(value, key=repr))
    elif hasattr(value, "model_dump"):
        yield from _parts(value.model_dump())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value) if item.compare]
        yield from _parts([type(value).__name__, *shown])
    else:
        yield f"{type(value).__name__}:{value!r};".encode()
