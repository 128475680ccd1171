"""Files and folders that are whole or absent: written under a temporary name, and renamed when all went well."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

_REMEDY = "make room, or give another folder"


@contextmanager
def new_file(target: Path, *, remedy: str = _REMEDY) -> Iterator[Path]:
    """Yield a path to write a file to, which is renamed to `target` when the block ends well, and vanishes otherwise.

    A file that is at `target` already is replaced, or kept if the block fails. The folder of `target` must exist.

    Raises:
        OSError: `target` is a folder, or the file could not be written; names the file and the remedy.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with _explained(target, remedy):
            if target.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            yield partial
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def new_folder(
    target: Path, *, needs: int = 0, remedy: str = _REMEDY, shared: bool = False, replace: bool = False
) -> Iterator[Path]:
    """Yield a folder to write into, which is renamed to `target` when the block ends well, and vanishes otherwise.

    Errors of the block pass through, but those of the system and of safetensors name the folder and the remedy.

    Args:
        target: Absent, or an empty folder, which stays as it is if the block fails.
        needs: Bytes that must be free before anything is written.
        remedy: What to do if the disk is full or not writable.
        shared: Whether other processes may be making the same thing: the first one wins, the others' copies are dropped.
        replace: Whether a folder that is at `target` already is replaced; it is kept if the block fails.

    Raises:
        FileExistsError: `target` exists, is no empty folder, and neither `shared` nor `replace` is set.
        OSError: Too little room, or the folder could not be written.
    """
    if not shared and not replace:
        _check_free(target)
    with _explained(target, remedy):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < needs:
            shown = f"{free / 1e9:.1f} GB free, {needs / 1e9:.1f} GB needed for {target.name}"
            raise OSError(f"{target.parent}: {shown}; {remedy}")
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _explained(target, remedy):
            yield partial
            partial.chmod(0o755)  # mkdtemp makes it for its owner alone
            if replace:
                shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
    except OSError:
        if shared and target.is_dir() and any(target.iterdir()):
            return
        if not replace:
            _check_free(target)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _explained(target: Path, remedy: str) -> Iterator[None]:
    """Add the remedy to errors of the system and of safetensors, which has its own for a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{target}: could not be written ({reason}), nothing of it is left; {remedy}") from error


def _check_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} exists and is not a folder; save to a new folder")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} exists and is not empty; save to a new folder")
