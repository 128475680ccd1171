"""The smallest pieces of work that `xlmech.execution.resume` cuts an analysis into, and how one is done, here or elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from xlmech.execution.store import Piece, PieceStore

_FAILURES = (RuntimeError, MemoryError, OSError)


class Task(Protocol):
    """What is done with items: a frozen dataclass of plain values, so that it can be sent and recognised."""

    @property
    def stage(self) -> str:
        """Name in logs, and of the folder."""

    def __call__(self, model: Any, items: Sequence[Any], /) -> Piece:
        """Frames and tensors of these items."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that a watcher is told.

    Attributes:
        kind: `stage` (a job starts), `part` (one is computed), `kept` (one was there already), `damaged` (one was there,
            cannot be used and is computed again), `retry` (one failed and is tried again), `failed` (an item failed every
            time).
        stage: Name of the task.
        n: Items that this is about.
        total: Items of the job.
        seconds: That a part took.
        peak_bytes: Largest resident memory so far of the process that computed it.
        text: Why, or which item.
    """

    kind: str
    stage: str
    n: int = 0
    total: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    text: str = ""


Watch = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is run at a time: a part, or one item of it.

    Attributes:
        part: Number of the part.
        items: The items.
        keep: Whether the piece is written.
        failed: Ids of the items of the part that are left out.
        fingerprint: Of all the part's items.
    """

    part: int
    items: tuple[Any, ...]
    fingerprint: str
    keep: bool = True
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """All parts of one analysis.

    Attributes:
        model: Hooked model, with what is deactivated on it.
        task: What is done.
        key: Folder in the store: the stage and a fingerprint of model, deactivated neurons, task and items.
        store: Where pieces are kept.
    """

    model: Any
    task: Task
    key: str
    store: PieceStore


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a unit ended; `error` is "" where it went well."""

    unit: Unit
    error: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0


Runner = Callable[[Job, Sequence[Unit]], Iterable[Finished]]


def compute(model: Any, task: Task, store: PieceStore, key: str, unit: Unit) -> Finished:
    """Run one unit and keep its piece; what may succeed another time or elsewhere is no exception but an `error`.

    Raises:
        PieceError: The piece could not be written.
        Exception: What the task raises for its arguments (ValueError and so on).
    """
    started = time.perf_counter()
    try:
        piece = task(model, unit.items)
    except _FAILURES as error:
        return Finished(unit=unit, error=f"{type(error).__name__}: {error}")
    if unit.keep:
        store.write(key, unit.part, piece, items=unit.fingerprint, failed=unit.failed)
    return Finished(unit=unit, seconds=time.perf_counter() - started, peak_bytes=peak_bytes())


def peak_bytes() -> int:
    """Largest resident memory of this process, as far as the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


def run_here(job: Job, units: Sequence[Unit]) -> Iterator[Finished]:
    """Units one after another in this process."""
    for unit in units:
        yield compute(job.model, job.task, job.store, job.key, unit)
