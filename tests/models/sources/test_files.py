"""Files that are no files, or not whole, are named before anything is read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import tiny

from xlmech.models.checkpoints import load_checkpoint
from xlmech.models.sources.files import check_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 536223056\n"


@pytest.fixture
def sharded(tmp_path: Path, tokenizer: Any) -> Path:
    """A checkpoint whose weights are in several files."""
    tiny("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def test_whole_files_pass(sharded: Path) -> None:
    check_folder(sharded)
    assert load_checkpoint(sharded).name == sharded.name


@pytest.mark.parametrize("name", ["model-00002-of-*.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_place_of_a_file(name: str, sharded: Path) -> None:
    path = next(sharded.glob(name))
    path.write_text(POINTER)
    with pytest.raises(
        ValueError, match=rf"^{path} is a Git LFS pointer of {len(POINTER)} bytes .*`git lfs pull` in its"
    ):
        load_checkpoint(sharded)


def test_a_file_of_weights_that_is_cut_short(sharded: Path) -> None:
    path = next(sharded.glob("model-00002-of-*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    message = (
        f"^{path}: this file of weights is cut short, {len(whole) - 1} of {len(whole)} bytes; copy or download it again"
    )
    with pytest.raises(ValueError, match=message):
        load_checkpoint(sharded)


@pytest.mark.parametrize("content", [b"", b"abc", b"\x05\x00\x00\x00\x00\x00\x00\x00[1,2]", b"\xff" * 100])
def test_a_file_of_weights_without_a_header(content: bytes, sharded: Path) -> None:
    path = next(sharded.glob("model-00002-of-*"))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: this file of weights is damaged .*{len(content)} bytes in all"):
        load_checkpoint(sharded)


def test_a_file_that_the_index_names_and_nobody_copied(sharded: Path) -> None:
    path = next(sharded.glob("model-00002-of-*"))
    n_files = len(list(sharded.glob("*.safetensors")))
    path.unlink()
    message = rf"^{sharded}: 1 of the {n_files} files of weights that .*index.json names are not there \({path.name}\)"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(sharded)


def test_an_index_that_is_none(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    for text in ("{", json.dumps({"metadata": {}})):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"^{path} is damaged: it has no weight_map; copy it again"):
            load_checkpoint(sharded)
