"""The same work on Ray: parts of probes go to actors, each of which has loaded the model once and keeps it.

with on_ray("auto", actors=4, num_gpus=1):
    measure_leakage(model, probes)           # the same result as without the block

Every analysis that works in parts does so here: leakage, the lens, patching, attribution, neutral text, and what stands on them
(`locate_privacy_neurons`, `evaluate_mitigation`, `run_config`). A part is the same wherever it is computed, and parts are put
together in their own order, so the number of actors does not show in the results: their bits are those of a local run in parts
of the same size, on the same kind of device and with as many threads.

The model itself does not travel, but how `load_model` made it, and what is deactivated on it; hooks of your own do not. An
actor gets one part at a time, writes its piece itself (Parquet and safetensors, to any place that fsspec knows), and reports.
One that dies is started again by Ray, on another node if it must be.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from xlmech.execution.ray_worker import ModelSpec, Worker
from xlmech.execution.resume import Plan, current_plan, planned
from xlmech.execution.shard import Finished, Job, Unit
from xlmech.execution.store import PieceStore
from xlmech.models.ablation_state import ASKED, active_ablations
from xlmech.models.backends import backend_of

_LOCAL_STORE_BYTES = 200 * 2**20
_WAIT_SECONDS, _RESTART_SECONDS, _PAUSE_SECONDS = 5, 900, 0.3


class RayPool:
    """Actors that hold one model, and what is given to them; a runner of `xlmech.execution.resume`."""

    def __init__(self, *, actors: int, num_cpus: float, num_gpus: float, threads: int) -> None:
        """Actors are started when the first part is there; arguments as of `on_ray`."""
        self.n, self.needs, self.threads = actors, {"num_cpus": num_cpus, "num_gpus": num_gpus}, threads
        self.spec: ModelSpec | None = None
        self.actors: list[Any] = []
        self.is_open = True

    def __call__(self, job: Job, units: Sequence[Unit]) -> Iterator[Finished]:
        """Run the units, each on whichever actor is free; one that dies gives its unit back as failed.

        Raises:
            RuntimeError: The `on_ray` block whose actors these are has ended.
        """
        if not self.is_open:
            raise RuntimeError(
                "the on_ray block that this work was given to has ended, and its actors with it; leave the blocks that were "
                "entered inside it before it"
            )
        import ray

        self._start(ModelSpec.of(job.model, self.threads))
        network = backend_of(job.model).model
        common = ([ray.put(job.task)], job.key, job.store.url)
        state = (active_ablations(network), ASKED.get())
        waiting, free, running = deque(units), list(self.actors), dict[Any, tuple[Any, Unit | None]]()
        lost_at: dict[Any, float] = {}
        while waiting or running:
            while free and waiting:
                actor, unit = free.pop(0), waiting.popleft()
                running[actor.run.remote(*common, unit, *state)] = (actor, unit)
            if not running:  # nobody is left
                yield from (Finished(unit=unit, error="no actor is left") for unit in waiting)
                return
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            actor, in_work = running.pop(done)
            try:
                found = ray.get(done)
            except ray.exceptions.RayError as error:
                if in_work is not None:
                    lost_at[actor] = time.monotonic()
                    yield Finished(unit=in_work, error=_reason(error))
                if _comes_back(error, lost_at[actor]):
                    running[actor.ready.remote()] = (actor, None)
                else:
                    self.actors.remove(actor)
                continue
            free.append(actor)
            if in_work is not None:
                kind, outcome = found
                if kind == "error":
                    raise outcome
                yield replace(outcome, unit=in_work)

    def stop(self) -> None:
        """End the actors."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors, self.spec = [], None

    def close(self) -> None:
        """End the actors for good."""
        self.is_open = False
        self.stop()

    def _start(self, spec: ModelSpec) -> None:
        import ray

        if self.spec == spec and self.actors:
            return
        self.stop()
        self._check_room()
        kind = ray.remote(max_restarts=-1, max_task_retries=0, **self.needs)(Worker)
        actors = [kind.remote(spec) for _ in range(self.n)]
        try:
            wrong = [text for text in ray.get([actor.ready.remote() for actor in actors]) if text]
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"an actor could not load the model: {_reason(error)}. Every node must reach {spec.recipe['source']!r} and have "
                "xlmech installed; a model that does not fit takes fewer actors, a smaller dtype or device_map"
            ) from error
        if wrong:
            raise ValueError(f"{wrong[0]}: every node must load the same files as the caller")
        self.actors, self.spec = actors, spec

    def _check_room(self) -> None:
        import ray

        there = ray.cluster_resources()
        for name, key in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            wanted = self.n * self.needs[name]
            if wanted > there.get(key, 0.0) + 1e-6:
                raise ValueError(
                    f"{self.n} actors with {name}={self.needs[name]:g} need {wanted:g} {key}, and this Ray has "
                    f"{there.get(key, 0.0):g}; ask for fewer actors, or less for each"
                )


@contextmanager
def on_ray(
    address: str = "auto",
    *,
    actors: int = 2,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    threads: int | None = None,
    folder: str | Path | None = None,
    shard_size: int | None = None,
) -> Iterator[Plan]:
    """Run the analyses in the block on Ray.

    Args:
        address: `auto`, a cluster that this machine belongs to, and where there is none a Ray of its own on this machine;
            `local`, always such a one; or a cluster's address, `host:6379` or `ray://host:10001`.
        actors: Processes that hold the model.
        num_cpus: CPUs that Ray sets aside for each.
        num_gpus: GPUs for each; several for a model that needs them (load it with `device_map="auto"`).
        threads: Of torch in each; as many as here by default, which equal bits need.
        folder: For finished parts: a path that all nodes share, or an address that fsspec knows. A temporary folder by default,
            which is right on one machine. Inside `resumable` its folder is used.
        shard_size: Items in a part, 64 by default.

    Yields:
        The plan; its `failed` lists what failed every time.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: There is no Ray at the address.
        ValueError: `actors` or `shard_size` is below 1, the cluster lacks what is asked for, or the model cannot be loaded by
            others (see `ModelSpec.of`).
    """
    if actors < 1 or (shard_size is not None and shard_size < 1):
        raise ValueError(f"actors and shard_size must be at least 1, got {actors} and {shard_size}")
    import torch

    with ExitStack() as stack:
        ours = _connect(address, cpus=actors * num_cpus)
        if ours is not None:
            stack.callback(ours)
        pool = RayPool(actors=actors, num_cpus=num_cpus, num_gpus=num_gpus, threads=threads or torch.get_num_threads())
        stack.callback(pool.close)
        outer = current_plan()
        if folder is None and outer is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="xlmech-parts-"))
        plan = outer or Plan(store=PieceStore(str(folder)))
        plan = replace(plan, run=pool, size=shard_size or plan.size)
        if folder is not None:
            plan = replace(plan, store=PieceStore.at(folder))
        with planned(plan):
            yield plan


def _connect(address: str, *, cpus: float) -> Any:
    """Connect to Ray; what ends it again, None where it was there before."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('Ray is not installed: pip install "xlmech[ray]"') from error
    if ray.is_initialized():
        return None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address not in ("auto", "local"):
        _check_address(address)
        ray.init(address=address, **quiet)
        return ray.shutdown
    if address == "auto":
        try:
            ray.init(address="auto", **quiet)
            return ray.shutdown
        except ConnectionError:
            pass
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), os.pathsep.join(paths)
    try:
        n_cpus = max(os.cpu_count() or 1, int(-(-cpus // 1)))
        ray.init(
            address="local", num_cpus=n_cpus, include_dashboard=False, object_store_memory=_LOCAL_STORE_BYTES, **quiet
        )
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return ray.shutdown


def _check_address(address: str) -> None:
    """Raise ConnectionError unless something listens there: Ray itself would try for long."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_WAIT_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray at {address} ({error}); start one there with `ray start --head`, or use 'auto' or 'local' to start one on "
            "this machine"
        ) from error


def _comes_back(error: BaseException, since: float) -> bool:
    """Whether Ray is starting the actor again; asked now and then, for some minutes."""
    import ray

    time.sleep(_PAUSE_SECONDS)
    gone = isinstance(error, ray.exceptions.ActorDiedError) and not isinstance(
        error, ray.exceptions.ActorUnavailableError
    )
    return time.monotonic() - since < _RESTART_SECONDS and not (gone and time.monotonic() - since > _WAIT_SECONDS)


def _reason(error: BaseException) -> str:
    """A Ray error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else 'no message'}"
