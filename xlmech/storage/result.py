"""The frozen base of every result: provenance, headline, saving and loading.

A result is a folder: `meta.json` (kind, schema version, provenance, plain fields), one Parquet file per frame and one
safetensors file for all tensors; a result in a result is a folder in it.
"""

from __future__ import annotations

import dataclasses
import html
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from xlmech.storage.atomic import new_folder
from xlmech.storage.brief import Brief
from xlmech.storage.integrity import check_signed, file_sha256, read_intact, signed

SCHEMA_VERSION = 1
_TENSORS = "tensors.safetensors"
_REMEDY = "copy the whole folder again, or run the analysis again and save its result"
_PACKAGES = ("xlmech", "torch", "transformers", "transformer-lens")
_N_SHOWN = 5
"""Most lines of a result's headline that are shown."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a result was computed from.

    Attributes:
        model: Name of the model.
        revision: Hub commit or file hash, "" if unknown.
        adapter: Merged adapter, "" without one.
        backend: `hooked` or `bridge`.
        dtype: Dtype of the weights.
        device: Device of the computation.
        seed: Seed of all random draws.
        settings: Other choices that decide the numbers, such as the prompt format and the budget of new tokens.
        versions: Versions of Python and of the packages that decide numbers.
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
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    command: str = field(default_factory=lambda: " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))


def versions() -> dict[str, str]:
    """Read the versions of Python and of the packages that decide numbers."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result:
    """Base of all results: fields are frames, CPU tensors, other results, or plain JSON values.

    Subclasses are frozen dataclasses too, and share this `repr`.
    """

    kind: ClassVar[str] = "result"
    provenance: Provenance

    def __init_subclass__(cls) -> None:
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # @dataclass replaces an inherited one only

    def to_frame(self) -> pd.DataFrame:
        """Make one tidy frame, one row per measured thing."""
        raise TypeError(f"{type(self).__name__} has no frame")

    def headline(self) -> Mapping[str, str]:
        """Map labels to the texts that `repr` shows: the numbers that matter, each with its interval and n.

        Must hold no personal value. By default: rows, people and probes of each frame, and shapes of tensors.
        """
        shown = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, pd.DataFrame):
                columns = {"subject": "people", "probe": "probes"}
                counts = [f"{value[name].nunique():,} {label}" for name, label in columns.items() if name in value]
                shown[item.name] = ", ".join([f"{len(value):,} rows", *counts])
            elif isinstance(value, torch.Tensor):
                shown[item.name] = f"tensor of {' x '.join(map(str, value.shape))}"
        return shown

    def __repr__(self) -> str:
        title, lines = self._shown()
        return "\n  ".join([title, *map(": ".join, lines)])

    def _brief(self) -> Brief | None:
        """Return a sentence with the main number and a small picture, for notebooks; None for the headline alone."""
        return None

    def _repr_html_(self) -> str:
        title, brief = f"<b>{html.escape(self._title())}</b>", self._brief()
        if brief is not None:
            return title + brief.to_html()
        _, lines = self._shown()
        rows = "".join(f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>" for label, text in lines)
        return f"{title}<table>{rows}</table>"

    def _title(self) -> str:
        adapter = f", adapter {self.provenance.adapter}" if self.provenance.adapter else ""
        return f"{type(self).__name__} of {self.provenance.model}{adapter}"

    def _shown(self) -> tuple[str, list[tuple[str, str]]]:
        return self._title(), list(self.headline().items())[:_N_SHOWN]

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
            save_file(tensors, folder / _TENSORS)
        meta = {
            "kind": self.kind,
            "schema_version": SCHEMA_VERSION,
            "provenance": dataclasses.asdict(self.provenance),
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
            "parts": parts,
            "fields": plain,
            "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()},
        }
        (folder / "meta.json").write_text(json.dumps(signed(meta), indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a result written by `save`.

        Raises:
            FileNotFoundError: No result in `folder`.
            ValueError: Another kind, schema version or shape than expected, a frame, a tensor or an inner result is missing, or a
                file is damaged or edited.
        """
        folder = Path(folder)
        if not (folder / "meta.json").is_file():
            raise FileNotFoundError(f"no result in {folder}: meta.json is missing")
        meta = _read_meta(folder / "meta.json")
        for key, wanted in (("kind", cls.kind), ("schema_version", SCHEMA_VERSION)):
            if meta.get(key) != wanted:
                raise ValueError(f"{folder}: {key} is {meta.get(key)!r}; {cls.__name__} reads {wanted!r}")
        check_signed(meta, folder / "meta.json", remedy=_REMEDY)
        tensors: dict[str, torch.Tensor] = {}
        frames: dict[str, pd.DataFrame] = {}
        for path in folder.iterdir():
            written = meta.get("sha256", {}).get(path.name)
            if path.name == _TENSORS:
                tensors = read_intact(path, load_file, remedy=_REMEDY, written=written)
            elif path.suffix == ".parquet":
                frames[path.stem] = read_intact(path, pd.read_parquet, remedy=_REMEDY, written=written)
        for name, wanted in meta["shapes"].items():
            shape = list(tensors[name].shape) if name in tensors else None
            if shape != wanted:
                raise ValueError(f"{folder}: tensor {name!r} has shape {shape}; meta.json says {wanted}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in meta["fields"].items()
        }
        given |= tensors | frames
        inner = [path for path in folder.iterdir() if path.is_dir()]
        kinds = get_type_hints(cls) if inner else {}
        given |= {path.name: kinds[path.name].load(path) for path in inner if path.name in kinds}
        given["provenance"] = Provenance(**meta["provenance"])
        fields = dataclasses.fields(cls)
        required = {item.name for item in fields if item.default is MISSING and item.default_factory is MISSING}
        if missing := (required | {*meta.get("parts", ())}) - given.keys():
            raise ValueError(f"{folder}: {', '.join(sorted(missing))} of this {cls.__name__} is missing; {_REMEDY}")
        return cls(**given)


def _read_meta(path: Path) -> dict[str, Any]:
    """Read `meta.json`; what is not the metadata of a result is refused."""
    meta = read_intact(path, lambda path: json.loads(path.read_text(encoding="utf-8")), remedy=_REMEDY)
    wanted = {"shapes": dict, "fields": dict, "provenance": dict, "parts": list, "sha256": dict}
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key, kind()), kind) for key, kind in wanted.items()):
        raise ValueError(f"{path}: not the metadata of a result; {_REMEDY}")
    return meta
