"""Short hashes by which finished work is recognised: of plain values, frames, tensors, and a model's weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pandas as pd
import torch

_CHUNK = 2**24
"""Numbers of a tensor that are hashed at a time."""
_NAMES = {
    *("_name_or_path", "name_or_path", "model_name", "original_architecture", "tokenizer_name", "transformers_version"),
    *("device", "n_devices", "seed", "checkpoint_index", "checkpoint_label_type", "checkpoint_value"),
}
"""Settings of a model that say what it is called or where it is, and change no number."""


def fingerprint(*values: Any) -> str:
    """Hash values to 32 hexadecimal digits.

    Args:
        values: Plain values, lists, tuples, sets, mappings (their order does not matter), dataclasses, pydantic models, frames
            and tensors; of anything else its `repr`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(values):
        digest.update(part)
    return digest.hexdigest()


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Hash every number of a model's parameters and buffers, with their names, shapes and dtypes, and its config.

    Nothing is kept between calls, because a change through `weight.data` leaves no trace. Hashing (SHA-256, on torch's threads)
    1.1 GB of weights takes 0.65 s of one core that has instructions for it. Weights on a GPU are copied to the CPU in chunks.

    Raises:
        ValueError: A weight is on no device (accelerate moved it to the disk).
    """
    digest, chunks = hashlib.sha256(), list[torch.Tensor]()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"weight {name} is on no device, so that the model cannot be recognised; load it whole")
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype};".encode())
        chunks += torch.split(tensor.detach().reshape(-1), _CHUNK)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for part in threads.map(lambda chunk: hashlib.sha256(_bytes_of(chunk)).digest(), chunks):
            digest.update(part)
    config = getattr(getattr(model, "original_model", model), "config", None) or getattr(model, "cfg", None)
    settings = config.to_dict() if config is not None else {}
    digest.update(fingerprint({key: value for key, value in settings.items() if key not in _NAMES}).encode())
    return digest.hexdigest()[:32]


def _bytes_of(tensor: torch.Tensor) -> Any:
    """View the bytes of a tensor of any dtype, on any device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"tensor{tuple(value.shape)}{value.dtype}".encode()
        yield bytes(_bytes_of(value))
    elif isinstance(value, pd.DataFrame):
        yield pd.util.hash_pandas_object(value, index=False).to_numpy().tobytes()
        yield "".join(map(str, value.columns)).encode()
    elif isinstance(value, Mapping):
        yield b"{"
        for key in sorted(value, key=repr):
            yield from _parts(key)
            yield from _parts(value[key])
        yield b"}"
    elif isinstance(value, list | tuple | set | frozenset):
        yield b"["
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _parts(item)
        yield b"]"
    elif hasattr(value, "model_dump"):
        yield from _parts(value.model_dump())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        compared = [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value) if item.compare]
        yield from _parts([type(value).__name__, *compared])
    else:
        yield f"{type(value).__name__}:{value!r};".encode()
