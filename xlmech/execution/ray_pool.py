"""Run analyses on Ray: shards of items go to actors, each of which has loaded the model once and keeps it.

with on_ray("auto", actors=4, num_gpus=1):
    measure_leakage(model, probes)           # the same result as without the block

Every analysis that works in shards does so here: leakage, the lens, patching, attribution, neutral text, and what is built on
them (`locate_privacy_neurons`, `evaluate_mitigation`, `run_config`). A shard is the same wherever it is computed, and outputs are
read in the order of the shards, so that the number of actors does not change the results: they are equal to the bit to those of
a local run in shards of the same size, on the same kind of device and with as many threads.

An actor gets the arguments of `load_model` and the active ablations, not the model's weights and not hooks of your own. It takes
one shard at a time and writes the output itself (Parquet and safetensors, to any address that fsspec supports). If an actor dies,
Ray starts it again, on another node if necessary.
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

from xlmech.engine.ablation_state import ASKED_LANGUAGE, active_ablations
from xlmech.execution.ray_worker import ModelSpec, Worker
from xlmech.execution.resume import ExecutionPlan, current_plan, execution_plan
from xlmech.execution.shard import FinishedShard, Shard, ShardedTask
from xlmech.execution.store import ShardStore

_LOCAL_STORE_BYTES = 200 * 2**20
_WAIT_SECONDS, _RESTART_SECONDS, _POLL_SECONDS = 5, 900, 0.3


class RayPool:
    """Distribute shards to actors that hold one model; a runner of `xlmech.execution.resume`."""

    def __init__(self, *, actors: int, num_cpus: float, num_gpus: float, threads: int) -> None:
        """Take the arguments of `on_ray`; actors are started with the first shard."""
        self.n_actors = actors
        self.resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self.threads = threads
        self.spec: ModelSpec | None = None
        self.actors: list[Any] = []
        self.is_open = True

    def __call__(self, sharded: ShardedTask, shards: Sequence[Shard]) -> Iterator[FinishedShard]:
        """Compute each shard on the next idle actor; the shard of an actor that dies counts as failed.

        Raises:
            RuntimeError: The `on_ray` block whose actors these are has ended.
        """
        if not self.is_open:
            raise RuntimeError(
                "the on_ray block that holds these actors has ended, and its actors with it; leave the blocks that were "
                "entered inside it before it"
            )
        import ray

        self._start(ModelSpec.of(sharded.backend, self.threads))
        common = ([ray.put(sharded.task)], sharded.key, sharded.store.url)
        state = (active_ablations(sharded.backend.model), ASKED_LANGUAGE.get())
        waiting = deque(shards)
        free = list(self.actors)
        running = dict[Any, tuple[Any, Shard | None]]()
        died_at: dict[Any, float] = {}
        while waiting or running:
            while free and waiting:
                actor, shard = free.pop(0), waiting.popleft()
                running[actor.run.remote(*common, shard, *state)] = (actor, shard)
            if not running:
                yield from (FinishedShard(shard=shard, error="no actor is left") for shard in waiting)
                return
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            actor, computed = running.pop(done)
            try:
                reply = ray.get(done)
            except ray.exceptions.RayError as error:
                if computed is not None:
                    died_at[actor] = time.monotonic()
                    yield FinishedShard(shard=computed, error=_reason(error))
                if _restarts(error, died_at[actor]):
                    running[actor.ready.remote()] = (actor, None)
                else:
                    self.actors.remove(actor)
                continue
            free.append(actor)
            if computed is not None:
                kind, outcome = reply
                if kind == "error":
                    raise outcome
                yield replace(outcome, shard=computed)

    def stop(self) -> None:
        """End the actors."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors, self.spec = [], None

    def close(self) -> None:
        """End the actors and refuse further shards."""
        self.is_open = False
        self.stop()

    def _start(self, spec: ModelSpec) -> None:
        import ray

        if self.spec == spec and self.actors:
            return
        self.stop()
        self._check_resources()
        kind = ray.remote(max_restarts=-1, max_task_retries=0, **self.resources)(Worker)
        actors = [kind.remote(spec) for _ in range(self.n_actors)]
        try:
            mismatches = [text for text in ray.get([actor.ready.remote() for actor in actors]) if text]
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"an actor could not load the model: {_reason(error)}. Every node must reach {spec.recipe['source']!r} and have "
                "xlmech installed; a model that does not fit takes fewer actors, a smaller dtype or device_map"
            ) from error
        if mismatches:
            raise ValueError(f"{mismatches[0]}: every node must load the same files as the caller")
        self.actors, self.spec = actors, spec

    def _check_resources(self) -> None:
        import ray

        available = ray.cluster_resources()
        for name, key in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            required = self.n_actors * self.resources[name]
            if required > available.get(key, 0.0) + 1e-6:
                raise ValueError(
                    f"{self.n_actors} actors with {name}={self.resources[name]:g} need {required:g} {key}, and this Ray has "
                    f"{available.get(key, 0.0):g}; use fewer actors, or less for each"
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
) -> Iterator[ExecutionPlan]:
    """Run the analyses in the block on Ray.

    Args:
        address: `auto`: the cluster that this machine belongs to or, without one, a new Ray on this machine; `local`: always a
            new Ray on this machine; or a cluster's address, `host:6379` or `ray://host:10001`.
        actors: Processes that hold the model.
        num_cpus: CPUs that Ray reserves for each actor.
        num_gpus: GPUs for each actor; several for a model that needs them (load it with `device_map="auto"`).
        threads: Threads of torch in each actor; by default as many as in this process, which equal bits require.
        folder: Where finished shards are stored: a path that all nodes share, or an address that fsspec supports. By default the
            folder of an enclosing `resumable` or, on one machine only, a temporary folder.
        shard_size: Items in a shard, 64 by default.

    Yields:
        The plan; its `failed` lists the items that failed every time.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: No Ray answers at the address.
        ValueError: `actors` or `shard_size` is below 1, the cluster lacks these resources, or actors cannot load the model
            (see `ModelSpec.of`).
    """
    if actors < 1 or (shard_size is not None and shard_size < 1):
        raise ValueError(f"actors and shard_size must be at least 1, got {actors} and {shard_size}")
    import torch

    with ExitStack() as stack:
        disconnect = _connect(address, cpus=actors * num_cpus)
        if disconnect is not None:
            stack.callback(disconnect)
        pool = RayPool(actors=actors, num_cpus=num_cpus, num_gpus=num_gpus, threads=threads or torch.get_num_threads())
        stack.callback(pool.close)
        outer = current_plan()
        if folder is None and outer is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="xlmech-shards-"))
        plan = outer or ExecutionPlan(store=ShardStore(str(folder)))
        plan = replace(plan, runner=pool, shard_size=shard_size or plan.shard_size)
        if folder is not None:
            plan = replace(plan, store=ShardStore.at(folder))
        with execution_plan(plan):
            yield plan


def _connect(address: str, *, cpus: float) -> Any:
    """Connect to Ray.

    Returns:
        A function that ends the connection; None if Ray was connected already.
    """
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
    """Raise ConnectionError unless something listens at the address; Ray itself would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_WAIT_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray at {address} ({error}); start one there with `ray start --head`, or use 'auto' or 'local' to start one on "
            "this machine"
        ) from error


def _restarts(error: BaseException, since: float) -> bool:
    """Tell whether Ray is starting the actor again; true for some minutes, after which the actor is given up."""
    import ray

    time.sleep(_POLL_SECONDS)
    died = isinstance(error, ray.exceptions.ActorDiedError) and not isinstance(
        error, ray.exceptions.ActorUnavailableError
    )
    return time.monotonic() - since < _RESTART_SECONDS and not (died and time.monotonic() - since > _WAIT_SECONDS)


def _reason(error: BaseException) -> str:
    """Write a Ray error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else 'no message'}"
