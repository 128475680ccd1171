"""Formulas of cost against counted operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_models import tiny
from torch.utils.flop_counter import FlopCounterMode

from xlmech.audit.cost_model import (
    LLAMA_3_8B,
    LLAMA_3_70B,
    attention_operations,
    forward_operations,
    memory,
    operations,
    shard_bytes,
)
from xlmech.models.shape import shape_of


def test_operations_are_those_that_torch_counts() -> None:
    network, shape, n = tiny("llama"), shape_of(tiny("llama").config), 40
    network.set_attn_implementation("eager")  # its products are counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.model(torch.ones(1, n, dtype=torch.long))
    masked = attention_operations(shape, n)  # torch counts the half that is masked too
    assert counter.get_total_flops() == forward_operations(shape, n) + masked
    with FlopCounterMode(display=False) as counter:
        embedded = network.model.embed_tokens(torch.ones(1, n, dtype=torch.long)).detach().requires_grad_()
        for weight in network.parameters():
            weight.requires_grad_(False)
        network.model(inputs_embeds=embedded).last_hidden_state.sum().backward()
    assert (
        counter.get_total_flops()
        == 2 * (forward_operations(shape, n) + masked) + attention_operations(shape, n) + masked
    )


def test_llama_3_has_its_size() -> None:
    assert LLAMA_3_8B.n_parameters / 1e9 == pytest.approx(8.03, abs=0.01)
    assert LLAMA_3_70B.n_parameters / 1e9 == pytest.approx(70.55, abs=0.02)
    for shape in (LLAMA_3_8B, LLAMA_3_70B):
        stages: Any = ("leakage", "lens", "locate", "patching", "ablate")
        assert min(operations(shape, stage) for stage in stages) > 0
        assert min(memory(shape, stage) for stage in stages) > 0
        assert operations(shape, "ablate") == 2 * operations(shape, "leakage")
        assert memory(shape, "locate", batch=32) == 2 * memory(shape, "locate", batch=16)
    assert shard_bytes(LLAMA_3_8B, 2) == 24 * 32 * 14336


def test_a_row_of_a_step_of_gates_costs_what_attribution_does_without_its_baseline() -> None:
    without = operations(LLAMA_3_8B, "locate") - forward_operations(LLAMA_3_8B, 24)
    assert operations(LLAMA_3_8B, "gates") == pytest.approx(without)
    assert memory(LLAMA_3_8B, "gates") == memory(LLAMA_3_8B, "locate")
