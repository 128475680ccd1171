"""Sizes of a model against counted parameters; a model that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.families import FAMILIES, network_of
from helpers.tiny_models import save_tokenizer, tiny

from xlmech.mitigation.export.down_projection import down_projections, layer_count
from xlmech.models import load as models
from xlmech.models.load import load_model
from xlmech.models.shape import shape_of


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "qwen3"])
def test_weights_are_counted(architecture: str) -> None:
    network = tiny(architecture)
    matrices = sum(
        weight.numel() for name, weight in network.named_parameters() if weight.ndim == 2 and "wpe" not in name
    )
    shape = shape_of(network.config)
    assert shape.n_parameters == matrices
    assert shape.weight_bytes("float32") == 4 * matrices


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_every_family_are_counted(family: str) -> None:
    network = network_of(FAMILIES[family])
    stack = next(
        part
        for part in network.modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == layer_count(network)
    )
    shape = shape_of(network.config)
    assert shape.body == sum(weight.numel() for weight in stack.parameters() if weight.ndim == 2)
    assert (
        shape.d_mlp
        == network.get_submodule(down_projections(network, shape.d_mlp)[0][0]).weight.numel() // shape.d_model
    )


def test_an_unusual_config_is_refused() -> None:
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
