"""Notice that a saved file is not what was written: cut off, damaged, or edited. A forger can hash again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

HASH = "content_sha256"
"""Key of the hash in JSON that `signed` writes."""
_Read = TypeVar("_Read")


def sha256(content: Any) -> str:
    """Hash plain values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its hash."""
    return {**content, HASH: sha256(content)}


def check_signed(content: Mapping[str, Any], path: Path, *, remedy: str) -> None:
    """Raise ValueError if the content has a hash that is not its own; content of earlier versions has none."""
    rest = {name: value for name, value in content.items() if name != HASH}
    if HASH in content and content[HASH] != sha256(rest):
        raise ValueError(f"{path}: not what was written there, but damaged or edited; {remedy}")


def read_intact(
    path: Path, read: Callable[[Path], _Read], *, remedy: str, problem: str = "damaged", written: str | None = None
) -> _Read:
    """Read a file, of which nothing is quoted if it cannot be read.

    Args:
        path: File.
        read: Function that reads it.
        remedy: What to do about a file that is damaged.
        problem: What to call a file that `read` does not read.
        written: SHA-256 of what was written, if that is known.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file has another hash, or is not what `read` reads.
    """
    if written is not None and file_sha256(path) != written:
        raise ValueError(f"{path}: not what was written there, but damaged or edited; {remedy}")
    try:
        return read(path)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path}: {problem} ({type(error).__name__}); {remedy}") from error
