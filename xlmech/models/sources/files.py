"""Check the files of a checkpoint before they are read: whole ones, and no Git LFS pointers in their place."""

from __future__ import annotations

import json
from pathlib import Path

from xlmech.models.sources.weight_checks import first_names

_POINTER = b"version https://git-lfs"
_INDEX = "model.safetensors.index.json"


def check_not_pointer(path: Path) -> None:
    """Raise ValueError where a file is a Git LFS pointer: what a clone without `git lfs` leaves in its place."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise ValueError(
            f"{path} is a Git LFS pointer of {path.stat().st_size} bytes and not the file itself; run `git lfs pull` in its "
            "folder, or download the file"
        )


def check_folder(folder: Path) -> None:
    """Check the files of a folder that transformers would read.

    Raises:
        ValueError: One is a Git LFS pointer, is cut short, or is missing though the index names it; names it.
    """
    for path in sorted(folder.iterdir()):
        check_not_pointer(path)
    names = ["model.safetensors"]
    if not (folder / names[0]).is_file() and (folder / _INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder / _INDEX} is damaged: it has no weight_map; copy it again") from error
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ValueError(
                f"{folder}: {len(missing)} of the {len(names)} files of weights that {_INDEX} names are not there "
                f"({first_names(missing)}); copy or download them too"
            )
    for name in names:
        _check_length(folder / name)


def _check_length(path: Path) -> None:
    """Raise ValueError where a safetensors file is shorter than its own header says."""
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        header = file.read(n_header) if n_header < size else b""
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        expected = 8 + n_header + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: this file of weights is damaged (its header cannot be read, {size} bytes in all); copy or download it again"
        ) from error
    if size < expected:
        raise ValueError(
            f"{path}: this file of weights is cut short, {size} of {expected} bytes; copy or download it again"
        )
