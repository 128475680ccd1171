"""The frozen base of every result: provenance, a tidy frame, saving and loading.

A result is a folder: `meta.json` (kind, schema version, provenance, plain fields), one Parquet file per frame and one
safetensors file for all tensors; a result in a result is a folder in it. It is written under a temporary name and
renamed, so a result that exists is whole; what has been lost from it since, `load` says.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from dataclasses import MISSING, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from xlmech.storage.atomic import new_folder

SCHEMA_VERSION = 1
_PACKAGES = ("xlmech", "torch", "transformers", "transformer-lens")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a figure was computed from.

    Attributes:
        model: Name of the model.
        revision: Hub commit or file hash, "" where unknown.
        adapter: Merged adapter, "" without one.
        backend: `hooked` or `bridge`.
        dtype: Of the weights.
        device: Where it ran.
        seed: Of whatever was drawn.
        versions: Of Python and the packages that decide numbers.
        command: Command line of the process.
        time: Local time of the end, ISO 8601.
    """

    model: str
    revision: str = ""
    adapter: str = ""
    backend: str = ""
    dtype: str = ""
    device: str = ""
    seed: int = 0
    versions: dict[str, str] = field(default_factory=lambda: versions())
    command: str = field(default_factory=lambda: " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Base of all results: fields are frames, CPU tensors, other results, or plain JSON values."""

    kind: ClassVar[str] = "result"
    provenance: Provenance

    def to_frame(self) -> pd.DataFrame:
        """The result as one tidy frame, one row per measured thing."""
        raise TypeError(f"{type(self).__name__} has no frame")

    def save(self, folder: str | Path) -> Path:
        """Write the result to a new folder.

        Raises:
            FileExistsError: `folder` exists and is not an empty folder.
            OSError: It could not be written, and nothing was kept.
        """
        folder = Path(folder)
        with new_folder(folder) as partial:
            self._write(partial)
        return folder

    def _write(self, folder: Path) -> None:
        plain: dict[str, Any] = {}
        tensors: dict[str, torch.Tensor] = {}
        parts: list[str] = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, pd.DataFrame):
                value.to_parquet(folder / f"{item.name}.parquet", index=False)
                parts.append(item.name)
            elif isinstance(value, Result):
                (folder / item.name).mkdir()
                value._write(folder / item.name)
                parts.append(item.name)
            elif isinstance(value, torch.Tensor):
                tensors[item.name] = value.detach().cpu().contiguous()
            elif item.name != "provenance":
                plain[item.name] = value
        if tensors:
            save_file(tensors, folder / "tensors.safetensors")
        meta = {
            "kind": self.kind,
            "schema_version": SCHEMA_VERSION,
            "provenance": dataclasses.asdict(self.provenance),
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
            "parts": parts,
            "fields": plain,
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a result written by `save`.

        Raises:
            FileNotFoundError: No result in `folder`.
            ValueError: Another kind, schema version or shape than expected (names both), or a frame, a tensor or a result in it
                is missing.
        """
        folder = Path(folder)
        if not (folder / "meta.json").is_file():
            raise FileNotFoundError(f"no result in {folder}: meta.json is missing")
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for key, wanted in (("kind", cls.kind), ("schema_version", SCHEMA_VERSION)):
            if meta.get(key) != wanted:
                raise ValueError(f"{folder}: {key} is {meta.get(key)!r}; {cls.__name__} reads {wanted!r}")
        path = folder / "tensors.safetensors"
        tensors = load_file(path) if path.is_file() else {}
        for name, shape in meta["shapes"].items():
            found = list(tensors[name].shape) if name in tensors else None
            if found != shape:
                raise ValueError(f"{folder}: tensor {name!r} has shape {found}; meta.json says {shape}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in meta["fields"].items()
        }
        given |= tensors | {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}
        inner = [path for path in folder.iterdir() if path.is_dir()]
        kinds = get_type_hints(cls) if inner else {}
        given |= {path.name: kinds[path.name].load(path) for path in inner if path.name in kinds}
        given["provenance"] = Provenance(**meta["provenance"])
        if missing := (_required(cls) | {*meta.get("parts", ())}) - given.keys():
            raise ValueError(
                f"{folder}: {', '.join(sorted(missing))} of this {cls.__name__} is missing; copy the whole folder again, or "
                "run the analysis again and save its result"
            )
        return cls(**given)


def _required(kind: type[Result]) -> set[str]:
    """Fields without a default."""
    items = dataclasses.fields(kind)
    return {item.name for item in items if item.default is MISSING and item.default_factory is MISSING}
