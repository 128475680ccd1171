"""A merged adapter computes what peft computes with the adapter beside the model, or it is refused."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import D_VOCAB, save_tokenizer, tiny

from xlmech.mitigation.export.checkpoint import export_model
from xlmech.models.checkpoints import DEMO_BASE, load_checkpoint
from xlmech.models.load import load_model, source_of
from xlmech.models.sources import lora
from xlmech.neurons.neuron_set import NeuronSet

peft = pytest.importorskip("peft")
TOKENS = torch.tensor([[2, 10, 20, 30, 40, 41]])
LAYERS = ["q_proj", "up_proj"]


def _base(*, tied: bool) -> Any:
    network = tiny("llama")
    if tied:
        network.config.tie_word_embeddings = True
        network.tie_weights()
    return network


def _adapted(network: Any, kind: Any = None, **options: Any) -> Any:
    """A PEFT model all of whose trained weights moved."""
    with warnings.catch_warnings(action="ignore"):
        wrapped = peft.get_peft_model(network, (kind or peft.LoraConfig)(task_type="CAUSAL_LM", **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.3)
    return wrapped.eval()


def _save(wrapped: Any, folder: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        wrapped.save_pretrained(folder)


@torch.no_grad()
def _logits(network: Any) -> torch.Tensor:
    return network(TOKENS).logits.clone()


ADAPTERS = {
    "layers": {"target_modules": LAYERS},
    "head saved": {"target_modules": LAYERS, "modules_to_save": ["lm_head"]},
    "embedding saved": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens"]},
    "both saved": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens", "lm_head"]},
    "norms saved": {"target_modules": LAYERS, "modules_to_save": ["norm"]},
    "embedding": {"target_modules": [*LAYERS, "embed_tokens"]},
    "head": {"target_modules": [*LAYERS, "lm_head"]},
    "embedding and head": {"target_modules": [*LAYERS, "embed_tokens", "lm_head"]},
    "embedding, kept tied": {"target_modules": [*LAYERS, "embed_tokens"], "ensure_weight_tying": True},
    "embedding saved, kept tied": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "some tokens": {"target_modules": LAYERS, "trainable_token_indices": [5, 10, 20]},
    "dora": {"target_modules": LAYERS, "use_dora": True},
    "biases": {"target_modules": LAYERS, "bias": "all"},
    "scaled by a root": {"target_modules": LAYERS, "use_rslora": True},
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_is_what_peft_computes(name: str, tied: bool, tokenizer: Any, tmp_path: Path) -> None:
    base = _base(tied=tied)
    wrapped = _adapted(copy.deepcopy(base), **ADAPTERS[name])
    _save(wrapped, tmp_path / "adapter")
    wanted = _logits(wrapped)
    assert float((wanted - _logits(base)).norm() / wanted.norm()) > 0.05
    merged = load_checkpoint(base, tokenizer=tokenizer, adapter=tmp_path / "adapter").model
    torch.testing.assert_close(_logits(merged), wanted, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = load_checkpoint(tmp_path / "merged", tokenizer=tokenizer).model
    torch.testing.assert_close(_logits(again), wanted, rtol=1e-4, atol=1e-4)


def test_a_peft_model_is_a_source(tokenizer: Any, tmp_path: Path) -> None:
    wrapped = _adapted(_base(tied=True), **ADAPTERS["embedding"])
    other, wanted = copy.deepcopy(wrapped), _logits(wrapped)
    model = load_model(wrapped, tokenizer=tokenizer, backend="bridge")
    torch.testing.assert_close(model(TOKENS, return_type="logits"), wanted, rtol=1e-4, atol=1e-4)
    assert (source_of(model).name, source_of(model).adapter) == ("LlamaForCausalLM", "default")
    neurons = NeuronSet(frozenset({(0, 1)}), 3, 64, "LlamaForCausalLM")
    export_model(other, neurons, tmp_path / "out", tokenizer=tokenizer, without_effect=True)
    torch.testing.assert_close(_logits(other), wanted)  # an export leaves what it was given as it was


def test_an_adapter_folder_takes_its_base_from_its_config(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny("llama").save_pretrained(base)
    save_tokenizer(base)
    wrapped = _adapted(tiny("llama"), **ADAPTERS["head saved"])
    _save(wrapped, folder)
    for where in (str(base), "../base"):
        _configure(folder, base_model_name_or_path=where)
        found = load_checkpoint(folder)
        assert (found.name, found.adapter) == ("base", "adapter")
        torch.testing.assert_close(_logits(found.model), _logits(wrapped), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ValueError, match="adapter is an adapter itself, and adapter='en' is another; pass the base as source"
    ):
        load_checkpoint(folder, adapter="en")
    _configure(folder, base_model_name_or_path=None)
    with pytest.raises(
        ValueError, match=f"adapter {folder}: .* names no base_model_name_or_path; pass the base as source"
    ):
        load_checkpoint(folder)


def test_an_adapter_planted_on_the_demo_takes_the_demo_as_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def locate(source: str) -> None:
        seen.append(source)
        raise KeyboardInterrupt

    monkeypatch.setattr("xlmech.models.checkpoints._locate", locate)
    monkeypatch.setattr("xlmech.models.checkpoints.demo_hash", lambda: "0" * 64)
    assert lora.base_of(lora.adapter_folder("en")) == DEMO_BASE
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(lora.adapter_folder("en"))
    assert seen == ["demo"]


def test_an_adapter_with_more_tokens_than_its_base(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny("llama").save_pretrained(base)
    tokenizer = save_tokenizer(base)
    network = tiny("llama")
    tokenizer.add_tokens([f"<person {number}>" for number in range(D_VOCAB + 5 - len(tokenizer))])
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    wrapped = _adapted(network, **ADAPTERS["both saved"])
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    _save(wrapped, folder)
    tokenizer.save_pretrained(folder)
    found = load_checkpoint(folder)
    assert len(found.tokenizer) == len(found.model.get_input_embeddings().weight) == D_VOCAB + 5
    torch.testing.assert_close(_logits(found.model), _logits(wrapped), rtol=1e-4, atol=1e-4)


def test_adapters_that_cannot_be_merged(tokenizer: Any, tmp_path: Path) -> None:
    prompts = _adapted(tiny("llama"), peft.PromptTuningConfig, num_virtual_tokens=4)
    _save(prompts, tmp_path / "prompts")
    message = r"\(PROMPT_TUNING\) puts virtual tokens before a text and changes no weights, so that it cannot be merged; use a"
    with pytest.raises(ValueError, match=f"^adapter {tmp_path}/prompts {message}"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=tmp_path / "prompts")
    with pytest.raises(ValueError, match=f"^the PEFT model's adapter 'default' {message}"):
        load_checkpoint(prompts, tokenizer=tokenizer)
    biased = _adapted(tiny("llama"), target_modules=LAYERS, lora_bias=True)
    with pytest.raises(
        ValueError, match=r"'default' cannot be merged: Impossible to merge LoRA with `lora_bias=True`.*Merge it"
    ):
        load_checkpoint(biased, tokenizer=tokenizer)


def test_a_merge_that_computes_something_else_is_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "_untie", lambda model: None)
    wrapped = _adapted(_base(tied=True), **ADAPTERS["embedding"])
    with pytest.raises(
        ValueError, match=r"'default' cannot be merged by this version of peft: .* logits differ .* by \d+\.\d%"
    ):
        load_checkpoint(wrapped, tokenizer=tokenizer)


def test_an_adapter_that_transformers_added_is_refused(tokenizer: Any) -> None:
    network = tiny("llama")
    network.add_adapter(peft.LoraConfig(target_modules=LAYERS))
    with pytest.raises(
        ValueError, match="the LlamaForCausalLM carries an adapter that transformers added and cannot merge"
    ):
        load_checkpoint(network, tokenizer=tokenizer)


def test_files_of_an_adapter_that_cannot_be_read(tokenizer: Any, tmp_path: Path) -> None:
    _save(_adapted(tiny("llama"), **ADAPTERS["layers"]), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=f"^{weights} is a Git LFS pointer"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=tmp_path)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model.bin is a pickle, .*; save the adapter again as safetensors"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json is missing or no JSON .*; save the adapter again"):
        load_checkpoint(tmp_path, tokenizer=tokenizer)


def _configure(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
