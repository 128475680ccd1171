"""Short hashes by which finished work is recognised: of plain values, of frames and tensors, and of a model's weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pandas as pd
import torch

_AT_ONCE = 2**24
"""Numbers of a tensor that are hashed at a time."""
_NAMES = {
    *("_name_or_path", "name_or_path", "model_name", "original_architecture", "tokenizer_name", "transformers_version"),
    *("device", "n_devices", "seed", "checkpoint_index", "checkpoint_label_type", "checkpoint_value"),
}
"""Settings of a model that say what it is called or where it is, and change no number."""


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
    """Hash every number of a model's parameters and buffers, with their names, shapes and dtypes, and its config.

    Any change of a weight is noticed, wherever it was made. Nothing is kept from an earlier call, because a change through
    `weight.data` leaves no trace that could be looked for. Cost: SHA-256 of all bytes, on torch's threads; the demo's 1.1 GB in
    float32 took 0.65 s of one core that has instructions for it. Weights on a GPU are copied to the CPU in pieces.

    Raises:
        ValueError: A weight is on no device (accelerate moved it to the disk).
    """
    digest, parts = hashlib.sha256(), list[torch.Tensor]()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"weight {name} is on no device, so that the model cannot be told from others; load it whole"
            )
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype};".encode())
        parts += torch.split(tensor.detach().reshape(-1), _AT_ONCE)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for part in threads.map(_hashed, parts):
            digest.update(part)
    digest.update(fingerprint(_settings(model)).encode())
    return digest.hexdigest()[:32]


def _hashed(part: torch.Tensor) -> bytes:
    return hashlib.sha256(_bytes_of(part)).digest()


def _bytes_of(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor of any dtype, on any device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""


def _settings(model: torch.nn.Module) -> dict[str, Any]:
    """A model's config without names and places: numbers of heads, caps, windows, and the like."""
    config = getattr(getattr(model, "original_model", model), "config", None) or getattr(model, "cfg", None)
    values = config.to_dict() if config is not None else {}
    return {key: value for key, value in values.items() if key not in _NAMES}


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"tensor{tuple(value.shape)}{value.dtype}".encode()
        yield bytes(_bytes_of(value))
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
