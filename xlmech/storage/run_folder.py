"""A run's folder: its lock, its settings, its log, and whether it is finished.

`run.json` holds state and settings, `log.jsonl` one JSON object per event (ids and numbers, no personal values), `parts` the
finished shards of an unfinished run. The lock is the system's own on `.lock`: it ends with its process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xlmech.storage.atomic import new_file

STATE, LOG, PARTS = "run.json", "log.jsonl", "parts"
_LOCK, _HOLDER = ".lock", "lock.json"


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this process holds."""

    path: Path

    @property
    def parts(self) -> Path:
        """Folder of the finished shards."""
        return self.path / PARTS

    def log(self, event: str, **values: Any) -> None:
        """Add one line to the log; `values` must name no person and no person's data."""
        line = {"time": _now(), "event": event} | values
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def record_settings(self, settings: Mapping[str, Any]) -> None:
        """Add settings to the state, and compare those that an earlier process recorded.

        Raises:
            ValueError: Some differ; names each with both values.
        """
        state = _read_state(self.path)
        recorded = state.get("settings", {})
        given = json.loads(json.dumps(dict(settings)))
        changed = [key for key in given if key in recorded and recorded[key] != given[key]]
        if changed:
            shown = "; ".join(f"{key}: was {recorded[key]!r}, is {given[key]!r}" for key in changed)
            raise ValueError(
                f"{self.path} was begun with other settings ({shown}); set them back to continue it, or give another `out`"
            )
        _write(self.path / STATE, state | {"settings": recorded | given})

    def finish(self) -> None:
        """Mark the run as finished, and delete its shards."""
        _write(self.path / STATE, _read_state(self.path) | {"state": "finished"})
        self.log("finished")
        shutil.rmtree(self.parts, ignore_errors=True)


def is_unfinished(folder: Path) -> bool:
    """Tell whether a run was begun in the folder and is not finished."""
    return (folder / STATE).is_file() and not is_finished(folder)


def is_finished(folder: Path) -> bool:
    """Tell whether a run in the folder is finished."""
    return _read_state(folder).get("state") == "finished"


@contextmanager
def open_run_folder(
    folder: Path, *, say: Callable[[str], None] = lambda _: None, state: str = "running"
) -> Iterator[RunFolder]:
    """Lock a run folder, new or begun earlier, for this process while the block runs.

    A new folder in which nothing was finished vanishes if the block fails.

    Args:
        folder: The run folder.
        say: Called with a sentence if the last process died in it.
        state: State of the run meanwhile; a finished run to which something is added stays "finished".

    Raises:
        RuntimeError: Another process holds it (names process, machine and since when).
        FileExistsError: It exists and holds no run.
        OSError: It cannot be made.
    """
    is_new = not (folder / STATE).is_file()
    if is_new and folder.exists() and any(path.name not in (_LOCK, _HOLDER) for path in folder.iterdir()):
        raise FileExistsError(f"out: {folder} exists and holds no run; give a new folder, or move that one away")
    folder.mkdir(parents=True, exist_ok=True)
    lock, run = FileLock(folder / _LOCK), RunFolder(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"{folder} is worked in by {_holder(folder)}; wait for it, stop it, or give another `out`"
        ) from None
    try:
        if (folder / _HOLDER).is_file():
            say(f"{_holder(folder)} worked in {folder} and is gone; its finished shards are used")
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        _write(folder / _HOLDER, process | {"since": _now()})
        earlier = {"started": _now()} | _read_state(folder)
        session = 1 + int(earlier.get("sessions", 0))
        _write(folder / STATE, earlier | {"state": state, "sessions": session})
        run.log("opened", **process, session=session)
        yield run
    except BaseException as error:
        run.log("stopped", error=type(error).__name__)
        if is_new and not run.parts.exists() and not (folder / "results").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()  # its file stays: another process may have opened it already


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); move {folder} away and run again") from error


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with new_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
