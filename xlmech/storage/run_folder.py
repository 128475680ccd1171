"""A run's folder while the run goes on: who works in it, what it was told, what happened, and whether it is finished.

`run.json` tells state, settings and versions, `log.jsonl` is one JSON object per event (ids and numbers, no personal values),
`parts` holds finished parts until the run is finished. The lock is the system's own on `.lock`: it ends with its process.
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

STATE, LOG, PARTS = "run.json", "log.jsonl", "parts"
_LOCK, _HOLDER = ".lock", "lock.json"


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this process holds.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def parts(self) -> Path:
        """Where finished parts are."""
        return self.path / PARTS

    def log(self, event: str, **values: Any) -> None:
        """Add one line to the log; `values` must name no person and no person's data."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event} | values
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Note further settings, and compare those that were noted by an earlier process.

        Raises:
            ValueError: Some differ; names each, what it was and what it is.
        """
        state = _state(self.path)
        known = state.get("settings", {})
        given = json.loads(json.dumps(dict(settings)))
        changed = {key: (known[key], value) for key, value in given.items() if key in known and known[key] != value}
        if changed:
            shown = "; ".join(f"{key}: was {was!r}, is {now!r}" for key, (was, now) in changed.items())
            raise ValueError(
                f"{self.path} was begun with other settings ({shown}); set them back to continue it, or give another `out`"
            )
        _write_state(self.path, state | {"settings": known | given})

    def finish(self) -> None:
        """Say that all is written, and drop the parts."""
        _write_state(self.path, _state(self.path) | {"state": "finished"})
        self.log("finished")
        shutil.rmtree(self.parts, ignore_errors=True)


def is_unfinished(folder: Path) -> bool:
    """Whether a run was begun in the folder and is not finished."""
    return (folder / STATE).is_file() and not is_finished(folder)


def is_finished(folder: Path) -> bool:
    """Whether a run in the folder came to its end."""
    return (folder / STATE).is_file() and _state(folder).get("state") == "finished"


@contextmanager
def opened(folder: Path, *, say: Callable[[str], None] = lambda _: None, state: str = "running") -> Iterator[RunFolder]:
    """Work in a run folder, new or begun earlier, which no other process may do at the same time.

    A folder that is new and in which nothing was finished vanishes when the block fails.

    Args:
        folder: The run folder.
        say: Called with a sentence where a process that died is followed.
        state: What the folder says of the run meanwhile; a finished one to which something is added stays "finished".

    Raises:
        RuntimeError: Another process works in it (names process, machine and since when).
        FileExistsError: It is there, and no run's.
        OSError: It cannot be made.
    """
    fresh = not (folder / STATE).is_file()
    if fresh and folder.exists() and any(path.name not in (_LOCK, _HOLDER) for path in folder.iterdir()):
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
            say(f"{_holder(folder)} worked in {folder} and is gone; its finished parts are used")
        _write(folder / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
        known = {"started": _now()} | _state(folder)
        session = 1 + int(known.get("sessions", 0))
        _write_state(folder, known | {"state": state, "sessions": session})
        run.log("opened", pid=os.getpid(), host=socket.gethostname(), session=session)
        yield run
    except BaseException as error:
        run.log("stopped", error=type(error).__name__)
        if fresh and not run.parts.exists() and not (folder / "results").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()  # its file stays: another process may have opened it already


def _holder(folder: Path) -> str:
    try:
        found = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} (since {found['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


def _state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); move {folder} away and run again") from error


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    _write(folder / STATE, state)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
