"""On a Ray of its own on this machine: the same bits on one, two and four actors as here, and actors that die.

One Ray and four actors serve all tests: starting them takes most of the time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from helpers.analyses import Letter, analyses, letters, same
from helpers.tiny_models import save_tokenizer, tiny
from typer.testing import CliRunner

from xlmech.cli.app import app
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.execution.ray_pool import RayPool, on_ray
from xlmech.execution.ray_worker import ModelSpec, Worker
from xlmech.execution.resume import execution_plan, resumable, run_task
from xlmech.execution.shard import Event, run_here
from xlmech.leakage.measure import measure_leakage
from xlmech.mitigation.evaluate import evaluate_mitigation
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Provenance, Result

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
SIZE = 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model that other processes can load too."""
    folder = tmp_path_factory.mktemp("shared") / "tiny-llama"
    tiny("llama").save_pretrained(folder)
    save_tokenizer(folder)
    return load_model(str(folder), backend="bridge", dtype="float32")


@pytest.fixture(scope="module")
def pool(loaded: Any) -> Iterator[RayPool]:
    for name in (__name__, Letter.__module__):  # actors have no tests
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])
    with on_ray("local", actors=4, num_cpus=0.5, shard_size=SIZE) as plan:
        found = plan.runner
        assert isinstance(found, RayPool)
        yield found


@pytest.fixture
def private(probes: ProbeSet) -> ProbeSet:
    return probes.filter(group="private")


def everything(model: Any, probes: ProbeSet, records: tuple[Record, ...]) -> Iterator[Result]:
    yield from analyses(model, probes)
    chosen = NeuronSet(frozenset({(0, 3), (1, 5), (2, 9)}), 3, 64, "tiny-llama")
    options = EvaluateOptions(measures=["extraction", "exposure"], n_neutral=2)
    yield evaluate_mitigation(model, probes, chosen, candidates=records, options=options, progress=False)


def test_any_number_of_actors_gives_the_same_bits(
    pool: RayPool, loaded: Any, private: ProbeSet, records: tuple[Record, ...], tmp_path: Path
) -> None:
    with resumable(tmp_path / "here", shard_size=SIZE) as plan:
        assert plan.runner is pool
        with resumable(tmp_path / "here", shard_size=SIZE) as inner, _here(inner):
            here = list(everything(loaded, private, records))
    for number in (4, 2, 1):
        pool_of = pool if number == 4 else _fewer(pool, number)
        with resumable(tmp_path / str(number), shard_size=SIZE) as plan, _with(plan, pool_of):
            there = list(everything(loaded, private, records))
        for one, other in zip(here, there, strict=True):
            same(one, other)
    names = [sorted(path.name for path in (tmp_path / place).iterdir()) for place in ("here", "4", "1")]
    assert names[0] == names[1] == names[2]  # the same tasks, by the same fingerprints


@pytest.mark.parametrize("is_gated", [False, True])
def test_what_is_ablated_here_is_so_there(
    is_gated: bool, pool: RayPool, loaded: Any, private: ProbeSet, tmp_path: Path
) -> None:
    chosen: Any = NeuronSet(
        frozenset((layer, neuron) for layer in range(3) for neuron in range(0, 64, 2)), 3, 64, "tiny-llama"
    )
    if is_gated:
        chosen = NeuronGates(factors=torch.linspace(0, 1, 192).view(3, 64), provenance=Provenance(model="m"))
    with ablate(loaded, chosen), resumable(tmp_path, shard_size=SIZE):
        off = measure_leakage(loaded, private, measures=["exposure"], progress=False)
    with ablate(loaded, chosen):
        here = measure_leakage(loaded, private, measures=["exposure"], progress=False)
    with resumable(tmp_path, shard_size=SIZE):
        on = measure_leakage(loaded, private, measures=["exposure"], progress=False)
    same(off, here, exactly=False)
    assert (on.probes.log_prob - off.probes.log_prob).abs().max() > 0.01


@dataclass(frozen=True, kw_only=True)
class Deadly:
    """Ends the process at some items."""

    stage: ClassVar[str] = "deadly"
    bad: tuple[str, ...]
    error: str = ""

    def __call__(self, _: Any, items: Sequence[Letter]) -> dict[str, Any]:
        names = [item.id for item in items]
        if set(self.bad) & set(names):
            if self.error:
                raise ValueError(self.error)
            os._exit(1)
        return {"items": pd.DataFrame({"item": names, "thread": torch.get_num_threads()})}


def test_a_poisoned_item_is_left_out_and_the_rest_is_whole(pool: RayPool, loaded: Any, tmp_path: Path) -> None:
    events = list[Event]()
    with resumable(tmp_path, shard_size=SIZE, watch=events.append) as plan:
        found = run_task(backend_of(loaded), Deadly(bad=("f",)), letters("abcdefghijkl"))
        frame = pd.concat([output["items"] for output in found], ignore_index=True)
    assert frame.item.tolist() == list("abcdeghijkl") and plan.failed == [("deadly", "f")]
    failed = [event for event in events if event.kind == "retry"]
    assert len(failed) == 3 and all("Actor" in event.text for event in failed)
    assert set(frame.thread) == {1}


def test_an_actor_that_is_lost_is_replaced(pool: RayPool, loaded: Any, private: ProbeSet, tmp_path: Path) -> None:
    ray.kill(pool.actors[0], no_restart=False)
    with resumable(tmp_path / "there", shard_size=SIZE) as plan:
        there = measure_leakage(loaded, private, progress=False)
        assert not plan.failed
    with resumable(tmp_path / "here", shard_size=SIZE) as plan, _here(plan):
        same(measure_leakage(loaded, private, progress=False), there)


def test_an_error_for_the_caller_reaches_the_caller(pool: RayPool, loaded: Any, tmp_path: Path) -> None:
    with resumable(tmp_path, shard_size=SIZE), pytest.raises(ValueError, match="no such thing"):
        run_task(backend_of(loaded), Deadly(bad=("a",), error="no such thing"), letters("abcd"))
    (tmp_path / "file").touch()
    with resumable(tmp_path / "file", shard_size=SIZE), pytest.raises(OSError, match="could not be written.*--resume"):
        run_task(backend_of(loaded), Deadly(bad=()), letters("abcd"))


def test_what_actors_cannot_have_is_refused(pool: RayPool, loaded: Any, model: Any, private: ProbeSet) -> None:
    with pytest.raises(ValueError, match="made from an object in memory: save it with save_pretrained"):
        measure_leakage(model, private, progress=False)
    backend = backend_of(loaded)
    with backend.hooks([(backend.hook_name("mlp.hook_post", 0), lambda value, hook: value)]):
        with pytest.raises(ValueError, match="1 hooks of your own are on the model, and actors cannot have them"):
            ModelSpec.of(backend_of(loaded), 1)
        chosen = NeuronSet(frozenset({(0, 3)}), 3, 64, "tiny-llama")
        with ablate(loaded, chosen), pytest.raises(ValueError, match="1 hooks of your own"):
            ModelSpec.of(backend_of(loaded), 1)
    with on_ray("local", actors=2, num_gpus=8), pytest.raises(ValueError, match="need 16 GPU, and this Ray has 0"):
        measure_leakage(loaded, private, progress=False)
    spec = ModelSpec.of(backend_of(loaded), 1)
    assert Worker(spec).ready() == ""
    assert "has other weights on" in Worker(replace(spec, weights="others")).ready()


def test_a_ray_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"):
        with (
            pytest.raises(ConnectionError, match=f"no Ray at {address} .*start one there with `ray start --head`"),
            on_ray(address),
        ):
            pass
    for wrong in ({"actors": 0}, {"shard_size": 0}):
        with pytest.raises(ValueError, match="actors and shard_size must be at least 1"), on_ray("local", **wrong):
            pass
    (tmp_path / "config.json").touch()
    (tmp_path / "people.csv").write_text("id,subject,attribute,value\na,Ana Li,id_number,1\n", encoding="utf-8")
    text = f"model:\n  source: {tmp_path}\ndata:\n  records: people.csv\n"
    (tmp_path / "xlmech.yaml").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(tmp_path / "xlmech.yaml"), "--ray", "127.0.0.1:1"])
    assert result.exit_code == 1 and "no Ray at 127.0.0.1:1" in result.stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'Ray is not installed: pip install "xlmech\[ray\]"'), on_ray("local"):
        pass


def _with(plan: Any, runner: Any) -> Any:
    return execution_plan(replace(plan, runner=runner))


def _here(plan: Any) -> Any:
    return _with(plan, run_here)


def _fewer(pool: RayPool, n: int) -> RayPool:
    """A pool of some of the actors."""
    found = RayPool(actors=n, num_cpus=0.5, num_gpus=0, threads=pool.threads)
    found.spec, found.actors = pool.spec, pool.actors[:n]
    return found
