"""Work in shards: the same numbers as in one go, read instead of computed when they are there, and what becomes of failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from helpers.analyses import Letter, analyses, letters, same
from helpers.tiny_models import tiny

from xlmech.data.probes import ProbeSet
from xlmech.engine.sampling import Sampling
from xlmech.execution.resume import current_plan, execution_plan, model_identity, resumable, run_task
from xlmech.execution.shard import Event
from xlmech.execution.store import ShardError, ShardStore, StoredShard
from xlmech.leakage.measure import measure_leakage
from xlmech.mitigation.fluency import neutral_nll
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.neurons.ablation import ablate, asking
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.fingerprint import fingerprint, weights_fingerprint
from xlmech.storage.result import Provenance


@pytest.fixture
def private(probes: ProbeSet) -> ProbeSet:
    return probes.filter(group="private")


@pytest.mark.parametrize("size", [1, 4, 100])
def test_shards_add_up_to_the_whole(model: Any, private: ProbeSet, size: int, tmp_path: Path) -> None:
    whole = list(analyses(model, private))
    with resumable(tmp_path, shard_size=size) as plan:
        sharded = list(analyses(model, private))
        again = list(analyses(model, private))
    assert plan.failed == [] and current_plan() is None
    for one, other, read in zip(whole, sharded, again, strict=True):
        same(one, other, exactly=False)
        same(other, read)
    nll = neutral_nll(backend_of(model), ["en", "fr"], n_neutral=2)
    with resumable(tmp_path, shard_size=size):
        pd.testing.assert_series_equal(nll, neutral_nll(backend_of(model), ["en", "fr"], n_neutral=2))


def test_finished_shards_are_read_and_not_computed(model: Any, private: ProbeSet, tmp_path: Path) -> None:
    events: list[Event] = []
    with resumable(tmp_path, shard_size=4, watch=events.append):
        first = measure_leakage(model, private, progress=False)
        assert [event.kind for event in events] == ["stage"] + ["shard"] * 3
        assert sum(event.n for event in events) == len(private) == events[0].total
        (tmp_path / next(iter(tmp_path.glob("leakage-*"))).name / "000001.json").unlink()
        events.clear()
        same(first, measure_leakage(model, private, progress=False))
    assert [event.kind for event in events] == ["stage", "kept", "kept", "shard"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "no json"])
def test_a_damaged_shard_is_computed_again_and_said(damage: str, model: Any, private: ProbeSet, tmp_path: Path) -> None:
    events: list[Event] = []
    with resumable(tmp_path, shard_size=4, watch=events.append):
        first = measure_leakage(model, private, progress=False)
        (path,) = tmp_path.glob("leakage-*/000001.probes.parquet")
        content = path.read_bytes()
        if damage == "flip":
            path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "gone":
            path.unlink()
        else:
            path.with_name("000001.json").write_text("{", encoding="utf-8")
        same(first, measure_leakage(model, private, progress=False))
    (said,) = [event for event in events if event.kind == "damaged"]
    assert said.text.startswith("shard 1: ") and said.text.endswith("; it is computed again")
    assert [event.kind for event in events].count("shard") == 4


def test_other_work_has_other_shards(model: Any, private: ProbeSet, tmp_path: Path) -> None:
    one = NeuronSet(frozenset({(0, 1), (1, 2)}), 3, 64, "")

    def gates(factor: float) -> NeuronGates:
        return NeuronGates(factors=torch.full((3, 64), factor), provenance=Provenance(model="m"))

    events: list[Event] = []
    with resumable(
        tmp_path, shard_size=100, watch=lambda event: events.append(event) if event.kind != "stage" else None
    ):
        measure_leakage(model, private, progress=False)
        measure_leakage(model, private[:4], progress=False)
        measure_leakage(model, private, sampling=Sampling(n_samples=1), progress=False)
        one = NeuronSet(
            one.neurons, model.cfg.n_layers, model.cfg.d_mlp, model_identity(backend_of(model)).get("name", one.model)
        )
        with ablate(model, one):
            measure_leakage(model, private, progress=False)
        with ablate(model, one, mode="scale", factor=0.5):
            measure_leakage(model, private, progress=False)
        with ablate(model, {"fr": one}), asking("fr"):
            measure_leakage(model, private, progress=False)
        for factor in (0.5, 0.25):
            with ablate(model, gates(factor)):
                measure_leakage(model, private, progress=False)
        assert [event.kind for event in events] == ["shard"] * 8
        with ablate(model, one):
            measure_leakage(model, private, progress=False)
        with ablate(model, gates(0.5)):  # made anew: another time of making, the same factors
            measure_leakage(model, private, progress=False)
    assert [event.kind for event in events[8:]] == ["kept"] * 2
    assert len(list(tmp_path.glob("leakage-*"))) == 8
    assert model_identity(backend_of(model))["ablated"] == ()


def test_fingerprints_tell_values_apart(model: Any) -> None:
    values = [
        1,
        1.0,
        "1",
        b"1",
        True,
        None,
        [1],
        {1: 1},
        {"a": torch.ones(2)},
        {"a": torch.ones(2, 1)},
        pd.DataFrame({"a": [1]}),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": {2, 1}}) == fingerprint({"b": {1, 2}, "a": 1})
    before = weights_fingerprint(model)
    weight = next(iter(model.parameters()))
    with torch.no_grad():
        weight.mul_(2)
        assert weights_fingerprint(model) != before
        weight.div_(2)
    assert weights_fingerprint(model) == before


def zero_most_columns(network: Any) -> None:
    """Three quarters of the MLP's columns, but for those that every 512th number lies in."""
    for name, weight in network.named_parameters():
        if weight.ndim == 2 and "mlp" in name:
            step = max(1, weight.numel() // 512)
            kept = torch.arange(0, weight.numel(), step) % weight.shape[1]
            gone = torch.ones(weight.shape[1], dtype=torch.bool).index_fill(0, kept.unique(), False)
            weight.data[:, gone] = 0


def swap_two(network: Any) -> None:
    """Two numbers that an exclusive or over all would not miss."""
    weight = next(one for one in network.parameters() if one.ndim == 2)
    weight.data[[3, 5], [1, 2]] = weight.data[[5, 3], [2, 1]]


def double_changes(network: Any) -> None:
    weight = next(one for one in network.parameters() if one.ndim == 2)
    weight.data[[3, 5], [1, 2]] = torch.tensor([1.5, 1.5], dtype=weight.dtype)
    weight.data[[7, 9], [1, 2]] = torch.tensor([2.5, 2.5], dtype=weight.dtype)


def change_a_buffer(network: Any) -> None:
    next(one for one in network.buffers() if one.numel() > 1).data[-1] += 1


def change_the_cap(network: Any) -> None:
    network.original_model.config.final_logit_softcapping = 5.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [zero_most_columns, swap_two, double_changes, change_a_buffer, change_the_cap])
def test_any_change_of_the_model_shows_in_its_fingerprint(
    change: Callable[[Any], None], dtype: torch.dtype, tokenizer: Any
) -> None:
    one, other = (load_model(tiny("gemma3").to(dtype), tokenizer=tokenizer, dtype=dtype) for _ in range(2))
    before = weights_fingerprint(one)
    assert weights_fingerprint(other) == before
    change(other)
    assert weights_fingerprint(other) != before
    assert weights_fingerprint(one) == before


def test_a_weight_that_is_nowhere_is_said() -> None:
    with pytest.raises(ValueError, match="weight weight is on no device"):
        weights_fingerprint(torch.nn.Linear(2, 2, device="meta"))


def test_a_changed_model_gets_no_shards_of_the_model_before(tokenizer: Any, private: ProbeSet, tmp_path: Path) -> None:
    model = load_model(tiny("llama").double(), tokenizer=tokenizer, dtype=torch.float64)
    with resumable(tmp_path):
        before = measure_leakage(model, private, measures=["exposure"], progress=False).probes.log_prob
        zero_most_columns(model)
        after = measure_leakage(model, private, measures=["exposure"], progress=False).probes.log_prob
    assert not after.equals(before)


def test_hooks_of_ones_own_are_refused_where_shards_are_stored(model: Any, private: ProbeSet, tmp_path: Path) -> None:
    backend = backend_of(model)
    with backend.hooks([(backend.hook_name("mlp.hook_post", 0), lambda value, hook: 2 * value)]):
        measure_leakage(model, private[:1], progress=False)
        with (
            resumable(tmp_path),
            pytest.raises(ValueError, match="1 hooks of your own are on the model, and stored shards"),
        ):
            measure_leakage(model, private[:1], progress=False)


# Failures


@dataclass(frozen=True, kw_only=True)
class Moody:
    """Fails for what is in `bad`; the first `times` times, where `count` is a folder to count in."""

    stage: ClassVar[str] = "moody"
    bad: tuple[str, ...]
    count: str = ""
    times: int = 0
    error: str = "lost"

    def __call__(self, _: Any, items: Sequence[Letter]) -> dict[str, Any]:
        names = [item.id for item in items]
        wrong = set(self.bad) & set(names)
        if wrong and self.count:
            (Path(self.count) / str(len(list(Path(self.count).iterdir())))).touch()
            wrong = wrong if len(list(Path(self.count).iterdir())) <= self.times else set()
        if wrong and self.error == "value":
            raise ValueError("not a text")
        if wrong:
            raise RuntimeError(self.error)
        return {"items": pd.DataFrame({"item": names, "batch": len(items)})}


LETTERS = letters("abcdefgh")


def test_a_shard_that_fails_once_is_tried_again(model: Any, tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()
    events: list[Event] = []
    with resumable(tmp_path / "shards", shard_size=4, watch=events.append) as plan:
        found = run_task(backend_of(model), Moody(bad=("b",), count=str(tmp_path / "count"), times=1), LETTERS)
        frame = pd.concat([output["items"] for output in found], ignore_index=True)
    assert frame.item.tolist() == [item.id for item in LETTERS] and set(frame.batch) == {4}
    assert [event.kind for event in events] == ["stage", "retry", "shard", "shard"] and not plan.failed
    assert events[1].text == "shard 0: RuntimeError: lost"


def test_what_fails_every_time_is_left_out(model: Any, tmp_path: Path) -> None:
    events: list[Event] = []
    for _ in range(2):
        with resumable(tmp_path, shard_size=4, watch=events.append) as plan:
            found = run_task(backend_of(model), Moody(bad=("b", "g")), LETTERS)
            frame = pd.concat([output["items"] for output in found], ignore_index=True)
        assert frame.item.tolist() == list("acdefh") and set(frame.batch) == {3}
        assert found.failed == ("b", "g") and plan.failed == [("moody", "b"), ("moody", "g")]
    kinds = [event.kind for event in events]
    assert kinds.count("shard") == 2 and kinds.count("kept") == 2 and kinds.count("failed") == 4


def test_a_shard_of_one_can_be_left_out_too(model: Any, tmp_path: Path) -> None:
    for _ in range(2):
        with resumable(tmp_path, shard_size=7) as plan:
            found = run_task(backend_of(model), Moody(bad=("h",)), LETTERS)
            assert [len(output["items"]) for output in found] == [7] and plan.failed == [("moody", "h")]
    with resumable(tmp_path, shard_size=1), pytest.raises(RuntimeError, match="moody: everything failed 3 times"):
        run_task(backend_of(model), Moody(bad=tuple("abcdefgh")), LETTERS)


def test_when_all_fails_nothing_is_left_out(model: Any, tmp_path: Path) -> None:
    with (
        resumable(tmp_path, shard_size=4),
        pytest.raises(RuntimeError, match=r"moody: all of shard 1 failed 3 times \(Run"),
    ):
        run_task(backend_of(model), Moody(bad=tuple("efgh")), LETTERS)
    with resumable(tmp_path, shard_size=4), pytest.raises(ValueError, match="not a text"):
        run_task(backend_of(model), Moody(bad=("a",), error="value"), LETTERS)


def test_a_place_that_takes_nothing_is_named(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with resumable(tmp_path / "file", shard_size=4), pytest.raises(ShardError, match="could not be written.*--resume"):
        run_task(backend_of(model), Moody(bad=()), LETTERS)
    with resumable("nowhere://x"), pytest.raises(ValueError, match="nowhere://x: cannot hold shards"):
        run_task(backend_of(model), Moody(bad=()), LETTERS)
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"), resumable(tmp_path, shard_size=0):
        pass

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    store = ShardStore(str(tmp_path / "ok"))
    monkeypatch.setattr(type(store._root[0]), "pipe_file", full)
    with pytest.raises(ShardError, match="No space left on device.*make room"):
        store.write("key", 0, {"a": torch.ones(1)}, items="x")


def test_a_shard_that_vanishes_is_an_error_not_a_gap(model: Any, tmp_path: Path) -> None:
    with resumable(tmp_path, shard_size=4):
        found = run_task(backend_of(model), Moody(bad=()), LETTERS)
        for path in tmp_path.glob("moody-*"):
            shutil.rmtree(path)
        with pytest.raises(ShardError, match="shard 0 was finished, and now it is missing; every process must see"):
            list(found)
    with pytest.raises(ShardError, match="shard 7 was finished, and now cannot be read"):
        ShardStore(str(tmp_path)).failed("none", 7)


def test_outputs_keep_types_in_any_place(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.1, float("nan")], "c": ["", "é"], "d": [True, False]})
    for url in (str(tmp_path / "here"), "memory://xlmech-test"):
        store = ShardStore(url)
        assert store.read("key", 0, items="x") == ""
        store.write("key", 0, {"frame": frame, "n": torch.tensor(3), "m": torch.ones(2, dtype=torch.int32)}, items="x")
        found = store.read("key", 0, items="x")
        assert isinstance(found, StoredShard) and store.read("key", 0, items="y") == ""
        pd.testing.assert_frame_equal(found.output["frame"], frame)
        assert found.output["n"] == 3 and found.output["m"].dtype == torch.int32
    manifest = json.loads((tmp_path / "here" / "key" / "000000.json").read_text(encoding="utf-8"))
    assert set(manifest) == {"items", "files", "failed"}


def test_blocks_nest(tmp_path: Path) -> None:
    with resumable(tmp_path / "a", shard_size=3) as outer, resumable(tmp_path / "b") as inner:
        assert (inner.shard_size, inner.store.url) == (3, str(tmp_path / "b")) and inner.failed is not outer.failed
        with execution_plan(outer):
            assert current_plan() is outer
        assert current_plan() is inner
