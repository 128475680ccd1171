"""Outputs of shards on disk: frames as Parquet, tensors as safetensors, and a manifest with their hashes.

A shard is finished once its manifest exists. The manifest is written last, so a killed process leaves complete outputs and
files that are ignored. The folder is a path or any address that fsspec supports (`s3://bucket/run`, `memory://run`).
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

ShardOutput = dict[str, Any]
"""Frames and tensors (nothing else) by name."""


class ShardError(OSError):
    """The output of a shard could not be written or read back. Shards that were finished before are kept."""


@dataclass(frozen=True, kw_only=True)
class StoredShard:
    """A finished shard as read back.

    Attributes:
        output: Frames and tensors.
        failed: Ids of the items that failed every time and are left out.
    """

    output: ShardOutput
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardStore:
    """A folder of outputs.

    Attributes:
        url: A path, or an address that fsspec supports.
    """

    url: str

    @classmethod
    def at(cls, folder: str | Path) -> ShardStore:
        """Make a store in a folder (made absolute, since other processes use it too) or at an address."""
        text = str(folder)
        return cls(text if "://" in text else str(Path(text).expanduser().absolute()))

    @cached_property
    def _root(self) -> tuple[Any, str]:
        """Return the file system, and the folder in it."""
        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.url}: cannot hold shards ({error}); give a path, or an fsspec address") from error
        return files, root.rstrip("/")

    def write(self, key: str, number: int, output: ShardOutput, *, items: str, failed: tuple[str, ...] = ()) -> None:
        """Write the output of one shard.

        Args:
            key: Folder of the task in the store.
            number: Number of the shard.
            output: Frames without an index of their own, and tensors.
            items: Fingerprint of the shard's items.
            failed: Ids of items that failed and are left out.

        Raises:
            ShardError: The output could not be written.
        """
        files, folder = self._root[0], f"{self._root[1]}/{key}"
        contents = {
            f"{number:06d}.{name}.parquet": _parquet(value)
            for name, value in output.items()
            if isinstance(value, pd.DataFrame)
        }
        if tensors := {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}:
            contents[f"{number:06d}.safetensors"] = bytes_of(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            )
        hashes = {name: _digest(content) for name, content in contents.items()}
        manifest = {"items": items, "files": hashes, "failed": list(failed)}
        contents[f"{number:06d}.json"] = json.dumps(manifest, ensure_ascii=False).encode()
        try:
            files.makedirs(folder, exist_ok=True)
            for name, content in contents.items():
                files.pipe_file(f"{folder}/{name}", content)
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{folder}: a finished shard could not be written ({error}); make room or give a folder that can be written "
                "to, then continue with --resume: nothing that was finished before is lost"
            ) from error

    def read(self, key: str, number: int, *, items: str) -> StoredShard | str:
        """Read one shard.

        Args:
            key: Folder of the task in the store.
            number: Number of the shard.
            items: Fingerprint of the items that the shard must be of.

        Returns:
            The shard; "" if none of these items is stored; or the reason why it cannot be used.
        """
        files, folder = self._root[0], f"{self._root[1]}/{key}"
        manifest: dict[str, Any] = {}
        try:
            manifest = json.loads(files.cat_file(f"{folder}/{number:06d}.json"))
            if manifest["items"] != items:
                return ""
            contents = {name: files.cat_file(f"{folder}/{name}") for name in manifest["files"]}
            for name, content in contents.items():
                if _digest(content) != manifest["files"][name]:
                    return f"{name} is not what was written"
            return StoredShard(output=_output(contents), failed=tuple(manifest["failed"]))
        except FileNotFoundError:
            return "a file of it is missing" if manifest else ""
        except (ValueError, KeyError, TypeError, OSError) as error:
            return f"it cannot be read ({type(error).__name__})"

    def failed(self, key: str, number: int) -> tuple[str, ...]:
        """List the ids of the items that failed in a finished shard.

        Raises:
            ShardError: The shard cannot be read.
        """
        files, root = self._root
        try:
            return tuple(json.loads(files.cat_file(f"{root}/{key}/{number:06d}.json"))["failed"])
        except (OSError, ValueError, KeyError) as error:
            raise ShardError(
                f"{self.url}/{key}: shard {number} was finished, and now cannot be read ({error}); every process must see the "
                "same folder. Continue with --resume"
            ) from error


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _output(contents: dict[str, bytes]) -> ShardOutput:
    """Read the frames and tensors of a shard's files."""
    output: ShardOutput = {}
    for name, content in contents.items():
        if name.endswith(".safetensors"):
            output |= tensors_of(content)
        else:
            output[name.split(".")[1]] = pd.read_parquet(io.BytesIO(content))
    return output


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
