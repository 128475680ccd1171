"""What a part of a job computed, on disk: frames as Parquet, tensors as safetensors, and last a manifest with their hashes.

A piece is there when its manifest is, and its manifest is written last: whatever kills the process leaves whole pieces and some
files that nobody reads. The folder may be any place that fsspec knows (a path, `s3://bucket/run`, `memory://run`).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

Piece = dict[str, Any]
"""Frames and tensors (nothing else) by name."""


class PieceError(OSError):
    """A piece could not be written: a full disk, or no permission. Nothing that was finished before is lost."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A piece as read back.

    Attributes:
        piece: Frames and tensors.
        failed: Ids of the items that it lacks, because they failed every time.
    """

    piece: Piece
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class PieceStore:
    """A folder of pieces.

    Attributes:
        url: A path, or an address that fsspec knows.
    """

    url: str

    @classmethod
    def at(cls, place: str | Path) -> PieceStore:
        """A store in a folder (made absolute, since other processes use it too) or at an address."""
        text = str(place)
        return cls(text if "://" in text else str(Path(text).expanduser().absolute()))

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.url}: no place for parts ({error}); give a path, or an fsspec address") from error
        return files, root.rstrip("/")

    def write(self, key: str, number: int, piece: Piece, *, items: str, failed: tuple[str, ...] = ()) -> None:
        """Write one piece.

        Args:
            key: Folder of the job in the store.
            number: Of the part.
            piece: Frames without an index of their own, and tensors.
            items: Fingerprint of the items that it was computed from.
            failed: Ids of items that it lacks.

        Raises:
            PieceError: It could not be written.
        """
        files, base = self._place[0], f"{self._place[1]}/{key}"
        contents = {f"{number:06d}.{name}.parquet": _parquet(value) for name, value in _frames(piece).items()}
        if tensors := {name: value for name, value in piece.items() if isinstance(value, torch.Tensor)}:
            contents[f"{number:06d}.safetensors"] = bytes_of(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            )
        hashes = {name: _digest(content) for name, content in contents.items()}
        manifest = {"items": items, "files": hashes, "failed": list(failed)}
        contents[f"{number:06d}.json"] = json.dumps(manifest, ensure_ascii=False).encode()
        try:
            files.makedirs(base, exist_ok=True)
            for name, content in contents.items():
                files.pipe_file(f"{base}/{name}", content)
        except (OSError, ValueError) as error:
            raise PieceError(
                f"{base}: a finished part could not be written ({error}); make room or give a folder that can be written to, "
                "then continue with --resume: nothing that was finished before is lost"
            ) from error

    def read(self, key: str, number: int, *, items: str) -> Stored | str:
        """One piece; "" where there is none of these items, or what is wrong with it.

        Args:
            key: Folder of the job in the store.
            number: Of the part.
            items: Fingerprint of the items that it must have been computed from.
        """
        files, base = self._place[0], f"{self._place[1]}/{key}"
        manifest: dict[str, Any] = {}
        try:
            manifest = json.loads(files.cat_file(f"{base}/{number:06d}.json"))
            if manifest["items"] != items:
                return ""
            contents = {name: files.cat_file(f"{base}/{name}") for name in manifest["files"]}
            for name, content in contents.items():
                if _digest(content) != manifest["files"][name]:
                    return f"{name} is not what was written"
            return Stored(piece=_piece(contents), failed=tuple(manifest["failed"]))
        except FileNotFoundError:
            return "a file of it is missing" if manifest else ""
        except (ValueError, KeyError, TypeError, OSError) as error:
            return f"it cannot be read ({type(error).__name__})"

    def failed(self, key: str, number: int) -> tuple[str, ...]:
        """Ids of the items that a finished piece lacks."""
        files, root = self._place
        try:
            return tuple(json.loads(files.cat_file(f"{root}/{key}/{number:06d}.json"))["failed"])
        except (OSError, ValueError, KeyError) as error:
            raise PieceError(
                f"{self.url}/{key}: part {number} was finished, and now cannot be read ({error}); every process must see the "
                "same folder. Continue with --resume"
            ) from error


def _frames(piece: Piece) -> dict[str, pd.DataFrame]:
    return {name: value for name, value in piece.items() if isinstance(value, pd.DataFrame)}


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _piece(contents: dict[str, bytes]) -> Piece:
    piece: Piece = {}
    for name, content in contents.items():
        if name.endswith(".safetensors"):
            piece |= tensors_of(content)
        else:
            piece[name.split(".")[1]] = pd.read_parquet(io.BytesIO(content))
    return piece


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
