"""Run analyses in shards: groups of items of fixed size, each computed on its own and stored as soon as it is finished.

with resumable("shards"):                    # finished shards are stored in this folder, and read instead of computed
    measure_leakage(model, probes)

An analysis hands a task and its items to `run_task`. Outside of any block that is one call with all items. Inside `resumable`
(or `xlmech.execution.ray_pool.on_ray`) the items are cut into shards in a fixed order. Batches are formed within a shard only, so
that its numbers depend on nothing but the model, the options and its items: stopped and resumed, on one actor or on four, the
results are the same to the bit, on the same kind of machine with the same number of threads, as long as memory suffices and no
batch is halved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from xlmech.engine.ablation_state import ASKED_LANGUAGE, active_ablations, n_foreign_hooks
from xlmech.execution.shard import Event, Item, Runner, Shard, ShardedTask, Task, Watch, run_here
from xlmech.execution.store import ShardError, ShardOutput, ShardStore, StoredShard
from xlmech.models.backends import Backend
from xlmech.scopes import OpenBlocks
from xlmech.storage.fingerprint import fingerprint, weights_fingerprint

SHARD_SIZE = 64
"""Items in a shard, which is the most that each process loses in a crash."""
TRIES = 3
"""Number of times that an item may fail before it counts as failed."""


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """How tasks are run in shards.

    Attributes:
        shard_size: Items in a shard.
        store: Where finished shards are stored.
        runner: Computes the shards.
        watch: Called with every `Event`.
        failed: Collects (stage, item id) of the items that failed every time.
    """

    shard_size: int = SHARD_SIZE
    store: ShardStore
    runner: Runner = run_here
    watch: Watch = lambda _: None
    failed: list[tuple[str, str]] = field(default_factory=list)


_PLAN: OpenBlocks[ExecutionPlan] = OpenBlocks("xlmech_execution_plan")


def current_plan() -> ExecutionPlan | None:
    """Return the plan of the enclosing block, None outside of any."""
    return _PLAN.get()


@contextmanager
def execution_plan(plan: ExecutionPlan) -> Iterator[ExecutionPlan]:
    """Run the analyses in the block by this plan."""
    with _PLAN.holding(plan):
        yield plan


@contextmanager
def resumable(
    folder: str | Path, *, shard_size: int | None = None, watch: Watch | None = None
) -> Iterator[ExecutionPlan]:
    """Store finished shards of every analysis in the block, and read stored ones instead of computing them.

    Args:
        folder: Where shards are stored; a path, or an address that fsspec supports. Shards of another model, other probes or
            options, or of another size are neither used nor changed: every weight is compared, by its hash, once per analysis
            (`weights_fingerprint`, 0.65 s for the demo). The folder may be deleted once the results are saved.
        shard_size: Items in a shard, 64 by default: the most that a crash loses.
        watch: Called with every `Event`.

    Yields:
        The plan; its `failed` lists the items that failed every time.

    Raises:
        ValueError: `shard_size` is below 1.
    """
    if shard_size is not None and shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    store = ShardStore.at(folder)
    plan = replace(_PLAN.get() or ExecutionPlan(store=store), store=store, failed=[])
    plan = replace(plan, shard_size=shard_size or plan.shard_size, watch=watch or plan.watch)
    with execution_plan(plan):
        yield plan


@dataclass(frozen=True, kw_only=True)
class TaskOutputs:
    """Outputs of a task's shards, in a fixed order; read when iterated over, one at a time.

    Attributes:
        outputs: Frames and tensors of each shard.
        failed: Ids of the items that failed every time, and are in no output.
    """

    outputs: Iterable[ShardOutput]
    failed: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ShardOutput]:
        return iter(self.outputs)


def run_task(backend: Backend, task: Task, items: Sequence[Item]) -> TaskOutputs:
    """Run a task on all items, in shards inside a block of `resumable` or `on_ray`.

    Args:
        backend: The model.
        task: A function of its fields, the model and the items alone.
        items: Input of the task, sorted into shards by `group` and `length` and named by `id`.

    Raises:
        ValueError: Inside a block, the model has hooks that `ablate` did not add: stored shards do not record what they
            change.
        RuntimeError: Every item of a shard failed every time, or a shard without the failing ones failed.
        ShardError: An output could not be written.
    """
    plan = _PLAN.get()
    if plan is None:
        return TaskOutputs(outputs=[task(backend, items)])
    if n_hooks := n_foreign_hooks(backend.model):
        raise ValueError(
            f"{n_hooks} hooks of your own are on the model, and stored shards do not record what they change; remove them, use "
            "`ablate`, or leave the block of `resumable` or `on_ray`"
        )
    shards = _shards(items, plan.shard_size)
    ids = fingerprint(plan.shard_size, [shard.fingerprint for shard in shards])
    base = fingerprint(model_identity(backend), task.stage, task, ids)
    sharded = ShardedTask(backend=backend, task=task, key=f"{task.stage}-{base[:16]}", store=plan.store)
    plan.watch(Event(kind="stage", stage=task.stage, total=len(items)))
    missing = [shard for shard in shards if not _is_finished(sharded, shard, plan.watch, len(items))]
    if missing:
        _compute(sharded, missing, plan, len(items))
    failed = tuple(item for shard in shards for item in plan.store.failed(sharded.key, shard.number))
    if len(failed) == len(items):
        raise _task_error(task, "everything", "see the log")
    for item in failed:
        plan.failed.append((task.stage, item))
        plan.watch(Event(kind="failed", stage=task.stage, n=1, total=len(items), text=item))
    return TaskOutputs(outputs=_StoredOutputs(sharded, shards), failed=failed)


def model_identity(backend: Backend) -> dict[str, Any]:
    """Return what identifies a model: its source, its weights, and its active ablations."""
    network = backend.model
    source = getattr(network, "xlmech_source", None)
    names = {} if source is None else {"name": source.name, "revision": source.revision, "adapter": source.adapter}
    return names | {
        "plant_language": "" if source is None else source.plant_language,
        "backend": type(network).__name__,
        "weights": weights_fingerprint(network),
        "ablated": active_ablations(network),
        "asked_language": ASKED_LANGUAGE.get(),
    }


@dataclass(frozen=True)
class _StoredOutputs:
    sharded: ShardedTask
    shards: Sequence[Shard]

    def __iter__(self) -> Iterator[ShardOutput]:
        return (output for shard in self.shards if (output := _read(self.sharded, shard)))


def _shards(items: Sequence[Item], size: int) -> list[Shard]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    members = [
        ordered[start : start + size]
        for ordered in (sorted(group, key=attrgetter("length")) for group in groups.values())
        for start in range(0, len(ordered), size)
    ]
    return [
        Shard(number=number, items=tuple(batch), fingerprint=fingerprint([item.id for item in batch], batch))
        for number, batch in enumerate(members)
    ]


def _read(sharded: ShardedTask, shard: Shard) -> ShardOutput:
    stored = sharded.store.read(sharded.key, shard.number, items=shard.fingerprint)
    if not isinstance(stored, StoredShard):
        raise ShardError(
            f"{sharded.store.url}/{sharded.key}: shard {shard.number} was finished, and now {stored or 'it is missing'}; every "
            "process must see the same folder. Continue with --resume"
        )
    return stored.output


def _is_finished(sharded: ShardedTask, shard: Shard, watch: Watch, total: int) -> bool:
    stored = sharded.store.read(sharded.key, shard.number, items=shard.fingerprint)
    event = Event(kind="kept", stage=sharded.task.stage, n=len(shard.items), total=total)
    if isinstance(stored, StoredShard):
        watch(event)
        return True
    if stored:
        watch(replace(event, kind="damaged", text=f"shard {shard.number}: {stored}; it is computed again"))
    return False


def _compute(sharded: ShardedTask, shards: Sequence[Shard], plan: ExecutionPlan, total: int) -> None:
    """Compute shards: whole ones twice, then item by item, then the shard without the items that failed every time."""
    reasons: dict[str, str] = {}

    def failures(shards: Sequence[Shard]) -> list[Shard]:
        """Run shards and return those that failed."""
        remaining = {id(shard): shard for shard in shards}
        for finished in plan.runner(sharded, shards):
            shard = finished.shard
            if finished.error:
                reasons.update({item.id: finished.error for item in shard.items})
            else:
                remaining.pop(id(shard))
            if shard.is_stored or finished.error:
                plan.watch(
                    Event(
                        kind="retry" if finished.error else "shard",
                        stage=sharded.task.stage,
                        n=len(shard.items),
                        total=total,
                        seconds=finished.seconds,
                        peak_bytes=finished.peak_bytes,
                        text=finished.error and f"shard {shard.number}: {finished.error}",
                    )
                )
        return list(remaining.values())

    if not (failed := failures(shards)) or not (failed := failures(failed)):
        return
    singles = [replace(shard, items=(item,), is_stored=False) for shard in failed for item in shard.items]
    for _ in range(TRIES - 2):
        singles = failures(singles)
    failed_items = {(single.number, single.items[0].id) for single in singles}
    reduced = [_without(shard, [item for number, item in failed_items if number == shard.number]) for shard in failed]
    for shard in reduced:
        if not shard.items and len(shard.failed) == 1:  # a shard of one item
            sharded.store.write(sharded.key, shard.number, {}, items=shard.fingerprint, failed=shard.failed)
    reason = next(iter(reasons.values()), "a process died without a message")
    for shard in reduced:
        if not shard.items and len(shard.failed) > 1:
            raise _task_error(sharded.task, f"all of shard {shard.number}", reason)
    if again := failures([shard for shard in reduced if shard.items]):
        raise _task_error(sharded.task, f"shard {again[0].number}", reason)


def _without(shard: Shard, ids: Sequence[str]) -> Shard:
    """Remove the items of these ids from the shard."""
    kept = tuple(item for item in shard.items if item.id not in ids)
    return replace(shard, items=kept, failed=tuple(item.id for item in shard.items if item.id in ids))


def _task_error(task: Task, failed: str, reason: str) -> RuntimeError:
    return RuntimeError(
        f"{task.stage}: {failed} failed {TRIES} times ({reason}); what was finished is kept. Mend the cause (memory, a device, a "
        "file), then continue with --resume"
    )


def in_order(frame: Any, column: str, ids: Iterable[str]) -> Any:
    """Sort the rows of a frame by the order of their ids; rows of one id stay as they are."""
    ranks = {name: rank for rank, name in enumerate(ids)}
    return frame.sort_values(column, key=lambda names: names.map(ranks), kind="stable", ignore_index=True)
