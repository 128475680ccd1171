"""Shards: the groups of items into which an analysis is cut, and the function that computes one of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from xlmech.execution.store import ShardOutput, ShardStore
from xlmech.models.backends import Backend

_FAILURES = (RuntimeError, MemoryError, OSError)


class Item(Protocol):
    """Input of a task, e.g. an `EncodedProbe`: picklable, of plain values."""

    @property
    def id(self) -> str:
        """Name of the item, unique within a task."""

    @property
    def length(self) -> Any:
        """Sort key: items of similar length share a shard, because batches are formed within shards."""

    @property
    def group(self) -> str:
        """Items of different groups share no shard."""


class Task(Protocol):
    """Analysis of items: a frozen dataclass of plain values, so that it can be pickled and fingerprinted."""

    @property
    def stage(self) -> str:
        """Name in logs and of the folder."""

    def __call__(self, backend: Backend, items: Sequence[Any], /) -> ShardOutput:
        """Compute the frames and tensors of these items."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Progress of a task, as passed to `Watch`.

    Attributes:
        kind: `stage` (a task starts), `shard` (a shard is computed), `kept` (a finished shard is read), `damaged` (a stored
            shard is unusable; it is computed again), `retry` (a shard failed and is tried again), `failed` (an item
            failed every time).
        stage: Name of the task.
        n: Number of items concerned.
        total: Number of items of the task.
        seconds: Time that the shard took.
        peak_bytes: Largest resident memory so far of the process that computed the shard.
        text: The reason, or the item's id.
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
class Shard:
    """Items that are computed together.

    Attributes:
        number: Number of the shard within its task.
        items: The items.
        fingerprint: Fingerprint of all items that the shard had when it was cut.
        is_stored: Whether the output is written to the store; an item that is retried alone is not.
        failed: Ids of the shard's items that are left out.
    """

    number: int
    items: tuple[Item, ...]
    fingerprint: str
    is_stored: bool = True
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardedTask:
    """A task, the model and the store of its shards.

    Attributes:
        backend: The model with its active ablations.
        task: The task.
        key: Folder in the store: the stage and a fingerprint of the model, ablated neurons, task and items.
        store: Where outputs are written.
    """

    backend: Backend
    task: Task
    key: str
    store: ShardStore


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """Outcome of a shard.

    Attributes:
        shard: The shard.
        error: The reason for which it failed, "" for success.
        seconds: Time that it took.
        peak_bytes: As of `Event`.
    """

    shard: Shard
    error: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0


Runner = Callable[[ShardedTask, Sequence[Shard]], Iterable[FinishedShard]]


def compute_shard(sharded: ShardedTask, shard: Shard) -> FinishedShard:
    """Compute one shard and store its output. A failure that a retry may mend becomes an `error`.

    Raises:
        ShardError: The output could not be written.
        Exception: What the task raises for its arguments (ValueError and so on).
    """
    started = time.perf_counter()
    try:
        output = sharded.task(sharded.backend, shard.items)
    except _FAILURES as error:
        return FinishedShard(shard=shard, error=f"{type(error).__name__}: {error}")
    if shard.is_stored:
        sharded.store.write(sharded.key, shard.number, output, items=shard.fingerprint, failed=shard.failed)
    return FinishedShard(shard=shard, seconds=time.perf_counter() - started, peak_bytes=peak_bytes())


def peak_bytes() -> int:
    """Return the largest resident memory of this process in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


def run_here(sharded: ShardedTask, shards: Sequence[Shard]) -> Iterator[FinishedShard]:
    """Compute shards one after another in this process."""
    for shard in shards:
        yield compute_shard(sharded, shard)
