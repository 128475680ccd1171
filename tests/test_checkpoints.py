"""Sources of weights and adapters, and what happens when one is missing, damaged, or of the wrong kind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from models import tiny

from xlmech import checkpoints
from xlmech.checkpoints import adapter_folder, load_checkpoint, shipped_adapters


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
    monkeypatch.setattr(checkpoints, "check_adapter", lambda *_: None)
    with pytest.raises(ImportError, match=r"an adapter needs peft: pip install \"xlmech\[demo\]\""):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter="en")


@pytest.mark.parametrize("language", shipped_adapters())
def test_shipped_adapters_are_small_and_come_with_their_log(language: str) -> None:
    folder = adapter_folder(language)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    log = json.loads((folder / "planting.json").read_text())
    assert log["recipe"]["language"] == language
    assert len(log["loss"]) == log["recipe"]["steps"]
    assert (checkpoints.ADAPTERS / "NOTICE").is_file() and (checkpoints.ADAPTERS / "GEMMA_TERMS.html").is_file()
