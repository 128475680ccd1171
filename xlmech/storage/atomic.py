"""Folders that are whole or not there: written under another name, and given their own when all went well."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def new_folder(
    target: Path, *, needs: int = 0, remedy: str = "make room, or give another folder", shared: bool = False
) -> Iterator[Path]:
    """A folder to write into, which gets the name `target` when the block ends well and vanishes on any other exit.

    What the block says itself passes through: OSErrors of its own (those without the system's number) and all other errors.

    Args:
        target: Not there yet, or an empty folder, which stays as it is where nothing is written.
        needs: Bytes that must be free; looked at before anything is written.
        remedy: What can be done where the disk is full or not writable.
        shared: Whether another process may be making the same thing: who is first wins, the other's copy is dropped.

    Raises:
        FileExistsError: `target` is there, and neither an empty folder nor `shared`.
        OSError: Too little room, or the system or safetensors could not write; names the folder and the remedy.
    """
    if not shared:
        _check_free(target)
    with _explained(target, remedy):
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target, needs, remedy)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _explained(target, remedy):
            yield partial
            partial.chmod(0o755)  # it was made for its owner alone
            partial.replace(target)
    except OSError:
        if shared and target.is_dir() and any(target.iterdir()):
            return
        _check_free(target)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _explained(target: Path, remedy: str) -> Iterator[None]:
    """Errors of the system and of safetensors, which has its own for a full disk, as one that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise OSError(f"{target}: could not be written ({error}), nothing of it is left; {remedy}") from error


def _check_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} exists and is not a folder; save to a new folder")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} exists and is not empty; save to a new folder")


def _check_room(target: Path, needs: int, remedy: str) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needs:
        raise OSError(
            f"{target.parent}: {free / 1e9:.1f} GB free, {needs / 1e9:.1f} GB needed for {target.name}; {remedy}"
        )
