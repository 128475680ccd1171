"""Sources of weights and adapters, and what happens when one is missing, damaged, or of the wrong kind."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import ALL_ARCHITECTURES, N_LAYERS, multimodal, tiny
from safetensors.torch import load_file, save_file

from xlmech.models.checkpoints import load_checkpoint
from xlmech.models.sources import lora as adapters
from xlmech.models.sources.lora import adapter_folder, shipped_adapters
from xlmech.models.sources.weight_checks import check_tokenizer

Tensors = dict[str, torch.Tensor]


def test_sources_that_are_not_there(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no GGUF file at"):
        load_checkpoint(tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError, match="no checkpoint folder at"):
        load_checkpoint(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_checkpoint(tmp_path)


def test_an_encoder_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is an encoder or a headless model"):
        load_checkpoint(tmp_path, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="BertModel is not a causal language model"):
        load_checkpoint(BertModel(config), tokenizer=tokenizer)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer could be read.*pass tokenizer="):
        load_checkpoint(tmp_path)


def test_an_adapter_for_another_base(tokenizer: Any) -> None:
    assert "en" in shipped_adapters()
    with pytest.raises(
        ValueError, match="adapter 'en' was trained on google/gemma-3-270m, not on this LlamaForCausalLM"
    ):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter="en")
    with pytest.raises(FileNotFoundError, match=r"no adapter at 'nowhere'.*one shipped \(.*en"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter="nowhere")


def test_a_damaged_adapter(tmp_path: Path, tokenizer: Any) -> None:
    shutil.copytree(adapter_folder("en"), tmp_path / "en")
    (tmp_path / "en" / "adapter_model.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(ValueError, match="adapter_model.safetensors is missing or damaged"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=tmp_path / "en")


def test_an_adapter_needs_peft(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(adapters, "check_adapter", lambda *_: None)
    with pytest.raises(ImportError, match=r"an adapter needs peft: pip install \"xlmech\[demo\]\""):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter="en")


@pytest.mark.parametrize("language", shipped_adapters())
def test_shipped_adapters_are_small_and_come_with_their_log(language: str) -> None:
    folder = adapter_folder(language)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    log = json.loads((folder / "planting.json").read_text())
    assert log["recipe"]["language"] == language
    assert len(log["loss"]) == log["recipe"]["steps"]
    assert (adapters.ADAPTERS / "NOTICE").is_file() and (adapters.ADAPTERS / "GEMMA_TERMS.html").is_file()


# Weights that are not those of the config


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Any) -> Path:
    """A whole checkpoint."""
    tiny("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def _change(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Write a file of tensors again; it must be read whole before."""
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    save_file(change(tensors), path, {"format": "pt"})


def _configure(folder: Path, name: str = "config.json", **values: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


def _prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


def _without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if part not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_prefixed("module."), r"30 missing, .*lm_head.weight, .*30 without .*module.lm_head.*prefix 'module.': .*unwrapped"),
        (_prefixed("_orig_mod."), r"the prefix '_orig_mod.': save the model that was compiled"),
        (_prefixed("student.net."), r"the prefix 'student.net.': rename the keys"),
        (_without("layers.1."), r"9 missing, .*model.layers.1.input_layernorm.weight.*Use the config.json"),
        (_without("lm_head"), r"1 missing, .*lm_head.weight.*head is missing: .*tie_word_embeddings"),
        (
            lambda tensors: {key.replace("mlp", "ffn"): tensor for key, tensor in tensors.items()},
            r"9 missing, .*layers.0.mlp.down_proj.weight.*9 without a place .*layers.0.ffn.down_proj.weight",
        ),
        (
            lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
            r"1 without a place in the model \(model.layers.0.self_attn.q_proj.bias\)",
        ),
        (
            lambda tensors: {key.replace("q_proj", "q_proj.base_layer"): tensor for key, tensor in tensors.items()},
            r"holds an adapter that is not merged",
        ),
    ],
)  # fmt: skip
def test_weights_that_are_missing_or_of_another_model(
    change: Callable[[Tensors], Tensors], message: str, saved: Path
) -> None:
    assert load_checkpoint(saved).name == saved.name
    _change(saved / "model.safetensors", change)
    with pytest.raises(ValueError, match=f"^{saved}: its tensors are not those of the LlamaForCausalLM .*{message}"):
        load_checkpoint(saved)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(saved, device_map={"": "cpu"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 2}, r"9 without a place in the model \(model.layers.2.*this one says 2 layers"),
        ({"num_hidden_layers": 4}, r"9 missing, .*model.layers.3.*this one says 4 layers"),
        ({"vocab_size": 400}, r"2 of another shape .*lm_head.weight is \(300, 32\), not \(400, 32\)"),
    ],
)
def test_weights_of_another_config(values: dict[str, Any], message: str, saved: Path) -> None:
    _configure(saved, **values)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(saved)


def test_what_the_text_model_does_not_need_may_be_there(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = (
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "v_head.summary.weight",
        "model.vision_tower.layers.0.weight",
    )
    before = load_checkpoint(saved).model.state_dict()
    _change(saved / "model.safetensors", lambda tensors: tensors | {name: torch.ones(2) for name in others})
    after = load_checkpoint(saved).model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert not caplog.records


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_whole_checkpoints_pass(architecture: str, tmp_path: Path, tokenizer: Any) -> None:
    network = tiny(architecture)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_checkpoint(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, found[key]) for key, tensor in network.state_dict().items())


def test_a_damaged_file_of_weights(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=f"^{path}: this file of weights is damaged .*1000 bytes in all.*download it again"
    ):
        load_checkpoint(saved)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(value: float, saved: Path) -> None:
    def spoil(tensors: Tensors) -> Tensors:
        tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = value
        return tensors

    _change(saved / "model.safetensors", spoil)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match="model.layers.1.mlp.up_proj.weight has values that are NaN or infinite"):
            load_checkpoint(saved, dtype=dtype)


# Multimodal checkpoints


@pytest.mark.parametrize("old_names", [True, False])
def test_of_a_multimodal_checkpoint_the_text_part_is_loaded(old_names: bool, tmp_path: Path, tokenizer: Any) -> None:
    network = multimodal()
    network.save_pretrained(tmp_path, save_original_format=old_names)
    tokenizer.save_pretrained(tmp_path)
    found = load_checkpoint(tmp_path, free_memory=("cpu", 10**9))
    tokens = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.model(tokens).logits, network(tokens).logits)
    assert found.model.config.architectures == ["Gemma3ForCausalLM"]
    found.model.save_pretrained(tmp_path / "text")
    again = load_checkpoint(tmp_path / "text", tokenizer=tokenizer).model.state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in found.model.state_dict().items())


def test_a_multimodal_checkpoint_without_a_text_tensor(tmp_path: Path, tokenizer: Any) -> None:
    multimodal().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _change(tmp_path / "model.safetensors", _without("layers.1.mlp.up_proj"))
    with pytest.raises(ValueError, match=r"1 missing, .*\(model.layers.1.mlp.up_proj.weight\)"):
        load_checkpoint(tmp_path)


def test_a_multimodal_checkpoint_whose_text_part_is_no_model_of_its_own(tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLConfig

    Qwen2_5_VLConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no causal language model for qwen2_5_vl or its text part"):
        load_checkpoint(tmp_path)


def test_a_multimodal_model_in_memory_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match="Gemma3ForConditionalGeneration is multimodal; give its folder or Hugging Face id"
    ):
        load_checkpoint(multimodal(), tokenizer=tokenizer)


# Another vocabulary


def test_a_tokenizer_with_more_tokens_than_the_embedding(tokenizer: Any) -> None:
    network = tiny("llama")
    network.resize_token_embeddings(100)
    with pytest.raises(ValueError, match=r"259 tokens and the model's embedding 100: 159 of them .*pass the"):
        load_checkpoint(network, tokenizer=tokenizer)


def test_special_tokens_beyond_the_embedding_pass(saved: Path) -> None:
    from transformers import AutoTokenizer

    network, tokenizer = tiny("llama"), AutoTokenizer.from_pretrained(saved)
    network.resize_token_embeddings(len(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_tokenizer("here", network, tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<new>"})
    with pytest.raises(ValueError, match=r"261 tokens and the model's embedding 259: 1 of them \(<new>\) have"):
        check_tokenizer("here", network, tokenizer)


def test_a_tokenizer_with_far_fewer_tokens_than_the_embedding(tokenizer: Any) -> None:
    network = tiny("llama")
    network.resize_token_embeddings(3000)
    with pytest.raises(ValueError, match=r"259 tokens and .*embedding 3000, so it is another model's; .*resize"):
        load_checkpoint(network, tokenizer=tokenizer)


# Adapters


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA adapter that changes every MLP and attention query of the tiny Llama."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def test_a_whole_adapter_is_merged(lora: Path, tokenizer: Any) -> None:
    tensors = load_file(lora / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * N_LAYERS
    found = load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=lora).model
    one = "model.layers.1.mlp.up_proj"
    a, b = (tensors[f"base_model.model.{one}.lora_{side}.weight"] for side in "AB")
    change = found.get_submodule(one).weight - tiny("llama").get_submodule(one).weight
    torch.testing.assert_close(change, 8 / 2 * b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("lora_B", r"6 missing, .*q_proj.lora_B"),
        ("up_proj", r"6 missing, .*up_proj.lora_A"),
        ("layers.0.", r"4 missing, .*layers.0"),
        ("", r"12 missing, "),
    ],
)
def test_an_adapter_without_some_tensors(part: str, message: str, lora: Path, tokenizer: Any) -> None:
    _change(lora / "adapter_model.safetensors", _without(part))
    network = tiny("llama")
    with pytest.raises(
        ValueError, match=rf"adapter {lora}: its tensors are not those that .* asks for: {message}.*Save"
    ):
        load_checkpoint(network, tokenizer=tokenizer, adapter=lora)
    assert network.state_dict().keys() == tiny("llama").state_dict().keys(), "the model is given back as it was"


def test_an_adapter_with_tensors_that_its_config_does_not_name(lora: Path, tokenizer: Any) -> None:
    _configure(lora, "adapter_config.json", target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"6 not in its config \(.*up_proj.lora_A"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=lora)


def test_an_adapter_beside_the_model_is_not_merged_unseen(saved: Path, lora: Path) -> None:
    for path in lora.iterdir():
        shutil.copy(path, saved)
    with pytest.raises(ValueError, match="an adapter lies beside the model, .*pass that as adapter="):
        load_checkpoint(saved)
