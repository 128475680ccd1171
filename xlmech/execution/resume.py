"""Work in parts: the items of an analysis in groups of fixed size, each computed on its own and kept as soon as it is finished.

with resumable("parts"):                     # finished parts are kept in this folder, and read instead of computed
    measure_leakage(model, probes)

An analysis hands its items and a function of them to `mapped`. Without an enclosing block that is one call with all of them.
Inside `resumable` (or `xlmech.execution.ray_pool.on_ray`) the items are cut into parts in a fixed order;
batches are formed within a part only, so that a part's numbers depend on nothing but the model, the options and
its items: killed and resumed, on one actor or on four, the results are the same to the bit, on the same
kind of machine with the same number of threads. Memory must not run so short that batches are halved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xlmech.execution.shard import Event, Job, Runner, Task, Unit, Watch, run_here
from xlmech.execution.store import Piece, PieceError, PieceStore, Stored
from xlmech.models.ablation_state import ASKED, active_ablations, own_hooks
from xlmech.models.backends import backend_of
from xlmech.scopes import OpenBlocks
from xlmech.storage.fingerprint import fingerprint, weights_fingerprint

SHARD_SIZE = 64
"""Items in a part: what a crash costs at most on each process, and what an actor gets at a time."""
TRIES = 3
"""How often an item may fail before it is set aside."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How work is done in parts.

    Attributes:
        size: Items in a part.
        store: Where finished parts are kept.
        run: What computes them.
        watch: Is told what happens.
        failed: Collects (stage, item) of everything set aside.
    """

    size: int = SHARD_SIZE
    store: PieceStore
    run: Runner = run_here
    watch: Watch = lambda _: None
    failed: list[tuple[str, str]] = field(default_factory=list)


_PLAN: OpenBlocks[Plan] = OpenBlocks("xlmech_parts")


def current_plan() -> Plan | None:
    """The enclosing block's plan, None outside of any."""
    return _PLAN.get()


@contextmanager
def planned(plan: Plan) -> Iterator[Plan]:
    """Analyses in the block work in parts by this plan."""
    with _PLAN.holding(plan):
        yield plan


@contextmanager
def resumable(folder: str | Path, *, shard_size: int | None = None, watch: Watch | None = None) -> Iterator[Plan]:
    """Keep finished parts of every analysis in the block, and read those that are there already instead of computing them.

    Args:
        folder: For the parts; a path, or an address that fsspec knows. Parts of another model, other probes or options, or of
            another size are left alone, not used: every weight is compared, by its hash, once per analysis
            (`fingerprints.weights_fingerprint`, 0.65 s for the demo). It may be deleted once the results are saved.
        shard_size: Items in a part, 64 by default: what a crash costs at most.
        watch: Called with an `Event` for whatever happens.

    Yields:
        The plan; its `failed` lists what failed every time.

    Raises:
        ValueError: `shard_size` is below 1.
    """
    if shard_size is not None and shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    outer, store = _PLAN.get(), PieceStore.at(folder)
    plan = replace(outer or Plan(store=store), store=store, failed=[])
    plan = replace(plan, size=shard_size or plan.size, watch=watch or plan.watch)
    with planned(plan):
        yield plan


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Pieces of a job, in a fixed order of parts; read when iterated over, one at a time."""

    pieces: Iterable[Piece]
    failed: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)


def mapped(
    model: Any,
    task: Task,
    items: Sequence[Any],
    *,
    name: Callable[[Any], str] = str,
    order: Callable[[Any], Any] = lambda _: 0,
    apart: Callable[[Any], Any] = lambda _: 0,
) -> Mapped:
    """Do `task` on all items, in parts where the enclosing block asks for it.

    Args:
        model: Hooked model.
        task: What is done; must not look at anything but its fields, the model and the items.
        items: Picklable, plain.
        name: An item's id.
        order: Items are cut into parts in its order (like beside like: batches are formed within parts).
        apart: Items for which it differs share no part.

    Raises:
        ValueError: Inside a block, hooks of your own are on the model: a kept part would not tell what they change.
        RuntimeError: Every item of a part failed every time, or a part without the failing ones failed.
        PieceError: A piece could not be written.
    """
    plan = _PLAN.get()
    if plan is None:
        return Mapped(pieces=[task(model, items)])
    if there := own_hooks(backend_of(model).model):
        raise ValueError(
            f"{there} hooks of your own are on the model, and parts that are kept would not tell what they change; remove them, "
            "use `ablate`, or leave the block of `resumable` or `on_ray`"
        )
    units = _units(_ordered(items, order, apart), plan.size, name, apart)
    ids = fingerprint(plan.size, [unit.fingerprint for unit in units])
    base = fingerprint(described(model), task.stage, task, ids)
    job = Job(model=model, task=task, key=f"{task.stage}-{base[:16]}", store=plan.store)
    plan.watch(Event(kind="stage", stage=task.stage, total=len(items)))
    missing = [unit for unit in units if not _is_there(job, unit, plan.watch, len(items))]
    _finish(job, missing, plan, name, len(items))
    failed = tuple(item for unit in units for item in job.store.failed(job.key, unit.part))
    if len(failed) == len(items):
        raise _given_up(job, "everything", "see the log")
    for item in failed:
        plan.failed.append((task.stage, item))
        plan.watch(Event(kind="failed", stage=task.stage, n=1, total=len(items), text=item))
    return Mapped(pieces=_Pieces(job, units), failed=failed)


def described(model: Any) -> dict[str, Any]:
    """What tells one model from another: its source, its weights, and what is deactivated on it."""
    network = backend_of(model).model
    source = getattr(network, "xlmech_source", None)
    found = {} if source is None else {"name": source.name, "revision": source.revision, "adapter": source.adapter}
    return found | {
        "plant_language": "" if source is None else source.plant_language,
        "backend": type(network).__name__,
        "weights": weights_fingerprint(network),
        "deactivated": active_ablations(network),
        "asked": ASKED.get(),
    }


@dataclass(frozen=True)
class _Pieces:
    job: Job
    units: Sequence[Unit]

    def __iter__(self) -> Iterator[Piece]:
        return (piece for unit in self.units if (piece := _read(self.job, unit)))


def _ordered(items: Sequence[Any], order: Callable[[Any], Any], apart: Callable[[Any], Any]) -> list[Any]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(apart(item), []).append(item)
    return [item for group in groups.values() for item in sorted(group, key=order)]


def _units(items: Sequence[Any], size: int, name: Callable[[Any], str], apart: Callable[[Any], Any]) -> list[Unit]:
    parts: list[list[Any]] = []
    for item in items:
        if parts and len(parts[-1]) < size and apart(parts[-1][0]) == apart(item):
            parts[-1].append(item)
        else:
            parts.append([item])
    return [
        Unit(part=number, items=tuple(part), fingerprint=fingerprint([name(item) for item in part], part))
        for number, part in enumerate(parts)
    ]


def _read(job: Job, unit: Unit) -> Piece:
    found = job.store.read(job.key, unit.part, items=unit.fingerprint)
    if not isinstance(found, Stored):
        raise PieceError(
            f"{job.store.url}/{job.key}: part {unit.part} was finished, and now {found or 'it is gone'}; every process must see "
            "the same folder. Continue with --resume"
        )
    return found.piece


def _is_there(job: Job, unit: Unit, watch: Watch, total: int) -> bool:
    found = job.store.read(job.key, unit.part, items=unit.fingerprint)
    event = Event(kind="kept", stage=job.task.stage, n=len(unit.items), total=total)
    if isinstance(found, Stored):
        watch(event)
        return True
    if found:
        watch(replace(event, kind="damaged", text=f"part {unit.part}: {found}; it is computed again"))
    return False


def _finish(job: Job, units: Sequence[Unit], plan: Plan, name: Callable[[Any], str], total: int) -> None:
    """Compute what is missing: whole parts twice, then item by item, then the part without those that failed thrice."""
    reasons: dict[str, str] = {}

    def run(units: Sequence[Unit]) -> list[Unit]:
        """Those that failed."""
        left = {id(unit): unit for unit in units}
        for done in plan.run(job, units):
            kind = "retry" if done.error else "part"
            event = Event(
                kind=kind, stage=job.task.stage, n=len(done.unit.items), total=total, seconds=done.seconds,
                peak_bytes=done.peak_bytes,
            )  # fmt: skip
            if done.error:
                reasons.update({name(item): done.error for item in done.unit.items})
            else:
                left.pop(id(done.unit))
            if done.unit.keep or done.error:
                plan.watch(replace(event, text=done.error and f"part {done.unit.part}: {done.error}"))
        return list(left.values())

    if not units or not (failed := run(units)) or not (failed := run(failed)):
        return
    singles = [replace(unit, items=(item,), keep=False) for unit in failed for item in unit.items]
    for _ in range(TRIES - 2):
        singles = run(singles)
    bad = {(single.part, name(single.items[0])) for single in singles}
    rest = [
        replace(
            unit,
            items=tuple(item for item in unit.items if (unit.part, name(item)) not in bad),
            failed=tuple(name(item) for item in unit.items if (unit.part, name(item)) in bad),
        )
        for unit in failed
    ]
    lost = [unit for unit in rest if len(unit.failed) > 1 and not unit.items]
    for unit in rest:
        if len(unit.failed) == 1 and not unit.items:  # a part of one
            job.store.write(job.key, unit.part, {}, items=unit.fingerprint, failed=unit.failed)
    still = lost or run([unit for unit in rest if unit.items])
    if still:
        which = f"all of part {still[0].part}" if lost else f"part {still[0].part}"
        raise _given_up(job, which, next(iter(reasons.values()), "a process died without a word"))


def _given_up(job: Job, which: str, reason: str) -> RuntimeError:
    return RuntimeError(
        f"{job.task.stage}: {which} failed {TRIES} times ({reason}); what was finished is kept. Mend the cause (memory, a "
        "device, a file), then continue with --resume"
    )


def in_order(frame: Any, column: str, ids: Iterable[str]) -> Any:
    """The rows of a frame in the order of their ids, rows of one id as they were."""
    place = {one: number for number, one in enumerate(ids)}
    return frame.iloc[frame[column].map(place).to_numpy().argsort(kind="stable")].reset_index(drop=True)


def probe_id(probe: Any) -> str:
    """Name of a probe or pair of probes, for `mapped`."""
    return str(probe.id)


def prompt_length(probe: Any) -> tuple[int, int]:
    """Order in which probes are cut into parts: like beside like, in characters."""
    return len(probe.prompt.encode()), len(probe.answers[probe.query_language])
