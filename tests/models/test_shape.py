"""Formulas of cost against counted parameters and counted operations; stages that know how much is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import save_tokenizer, tiny
from torch.utils.flop_counter import FlopCounterMode

from xlmech.audit.stage_clock import StageClock
from xlmech.execution.shard import Event, peak_bytes
from xlmech.models import load as models
from xlmech.models.load import load_model
from xlmech.models.shape import LLAMA_3_8B, LLAMA_3_70B, shape_of


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "qwen3"])
def test_weights_are_counted(architecture: str) -> None:
    network = tiny(architecture)
    matrices = sum(
        weight.numel() for name, weight in network.named_parameters() if weight.ndim == 2 and "wpe" not in name
    )
    shape = shape_of(network.config)
    assert shape.n_parameters == matrices
    assert shape.weight_bytes("float32") == 4 * matrices


def test_operations_are_those_that_torch_counts() -> None:
    network, shape, n = tiny("llama"), shape_of(tiny("llama").config), 40
    network.set_attn_implementation("eager")  # its products are counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.model(torch.ones(1, n, dtype=torch.long))
    masked = shape._attention(n)  # torch counts the half that is masked too
    assert counter.get_total_flops() == shape._forward(n) + masked
    with FlopCounterMode(display=False) as counter:
        embedded = network.model.embed_tokens(torch.ones(1, n, dtype=torch.long)).detach().requires_grad_()
        for weight in network.parameters():
            weight.requires_grad_(False)
        network.model(inputs_embeds=embedded).last_hidden_state.sum().backward()
    assert counter.get_total_flops() == 2 * (shape._forward(n) + masked) + shape._attention(n) + masked


def test_llama_3_has_its_size() -> None:
    assert LLAMA_3_8B.n_parameters / 1e9 == pytest.approx(8.03, abs=0.01)
    assert LLAMA_3_70B.n_parameters / 1e9 == pytest.approx(70.55, abs=0.02)
    for shape in (LLAMA_3_8B, LLAMA_3_70B):
        stages: Any = ("leakage", "lens", "locate", "patching", "deactivate")
        assert min(shape.operations(stage) for stage in stages) > 0
        assert min(shape.memory(stage) for stage in stages) > 0
        assert shape.operations("deactivate") == 2 * shape.operations("leakage")
        assert shape.memory("locate", batch=32) == 2 * shape.memory("locate", batch=16)
    assert LLAMA_3_8B.kept_bytes(2) == 24 * 32 * 14336
    with pytest.raises(ValueError, match="the config of odd has no num_hidden_layers; its cost is not known"):
        shape_of(type("Config", (), {"model_type": "odd"})())


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny("llama").save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    spread = load_model(str(tmp_path), backend="bridge", device_map="auto", dtype="float32")
    one = load_model(str(tmp_path), backend="bridge", dtype="float32")
    tokens = torch.tensor([[2, 5, 9]])
    torch.testing.assert_close(spread(tokens, return_type="logits"), one(tokens, return_type="logits"))
    with pytest.raises(ValueError, match="takes the place of device; leave `device` out"):
        load_model(str(tmp_path), backend="bridge", device="cpu", device_map="auto")
    monkeypatch.setattr(models, "free_memory", lambda device: 1000)
    with pytest.raises(
        ValueError, match=r"0.0 GB of weights in torch.float32 do not fit cpu, which has .*device_map='auto'"
    ):
        load_model(str(tmp_path), backend="bridge", dtype="float32")


def test_the_clock_knows_what_is_left() -> None:
    said, logged, shown = list[str](), list[tuple[str, dict[str, Any]]](), list[str]()
    clock = StageClock(said.append, log=lambda event, **values: logged.append((event, values)), show=shown.append)
    clock.expect({"leakage": (10, 1.0), "locate": (5, 4.0)})
    assert clock.seconds_left() is None
    with clock("leakage: 10 questions"):
        clock.watch(Event(kind="stage", stage="leakage", total=10))
        assert shown == ["leakage: 0% of the measuring is done"]
        clock.watch(Event(kind="kept", stage="leakage", n=4, total=10))
        assert shown[-1] == "leakage: 13% of the measuring is done"
        clock.watch(Event(kind="shard", stage="leakage", n=2, total=10, seconds=4.0, peak_bytes=7 * 10**12))
        assert clock.seconds_left() == pytest.approx(4 * 2 + 5 * 8)  # 2 s per unit of cost
        assert shown[-1] == "leakage: 20% of the measuring is done, about 48 s left"
        clock.watch(Event(kind="damaged", stage="leakage", n=2, total=10, text="shard 1: it cannot be read"))
    with clock("locate: 5 questions"):
        assert clock.seconds_left() == pytest.approx(40)
        clock.watch(Event(kind="shard", stage="baseline", n=5, total=5, seconds=1.0))
        clock.watch(Event(kind="shard", stage="attribution", n=5, total=5, seconds=9.0))
        clock.watch(Event(kind="failed", stage="attribution", n=1, total=5, text="p1/en/0"))
    assert clock.seconds_left() == 0
    assert said[1] == "leakage: shard 1: it cannot be read" and said[-1] == "attribution: p1/en/0 failed every time"
    assert set(clock.seconds) == {"leakage", "locate"} and clock.peak_mb["leakage"] == 7e6
    assert 10 < clock.peak_mb["locate"] <= peak_bytes() / 1e6 + 1
    assert [event for event, _ in logged].count("stage_done") == 2


def test_stages_that_are_not_counted_say_what_goes_on() -> None:
    """While a checkpoint is written the line says so, and what is measured once more counts from the beginning."""
    shown = list[str]()
    clock = StageClock(show=shown.append)
    clock.expect_again("union", like="deactivate")
    with clock("load: the model"):
        assert shown[-1] == "load: the model"
        clock.expect({"leakage": (10, 1.0), "deactivate": (20, 1.0)})
    with clock("leakage: 10 questions"):
        clock.watch(Event(kind="shard", stage="leakage", n=10, total=10, seconds=10.0))
        assert shown[-1] == "leakage: 20% of the measuring is done, about 40 s left"
    with clock("deactivate 4 neurons"):
        clock.watch(Event(kind="shard", stage="leakage", n=20, total=20, seconds=20.0))
        assert shown[-1] == "deactivate: 60% of the measuring is done, about 20 s left"
    with clock("union: deactivate all 8 neurons"):
        assert shown[-1] == "union: 60% of the measuring is done, about 20 s left"
        clock.watch(Event(kind="shard", stage="leakage", n=20, total=20, seconds=20.0))
    with clock("export: into mitigated"):
        assert shown[-1] == "export: into mitigated"
    assert not any("100%" in line for line in shown if not line.startswith("union"))
