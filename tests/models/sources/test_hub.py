"""A hub id is asked for once, and each answer has its own sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from xlmech.models.checkpoints import load_checkpoint, load_tokenizer
from xlmech.models.sources.hub import MODEL_FILES, check_on_hub


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub is asked for; it cannot be reached."""
    asked: list[str] = []

    def unreachable(url: str, **options: Any) -> None:
        asked.append(url)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    return asked


def test_a_hub_that_cannot_be_reached_is_asked_once(calls: list[str], tokenizer: Any) -> None:
    start = time.perf_counter()
    message = (
        "^an-owner/mispelt: there is no such folder here, and no model of this name in the Hugging Face cache of this machine; "
        r"whether the hub has one is not known, as it could not be asked \(no route to host\); give 'demo'"
    )
    with pytest.raises(ValueError, match=message):
        load_checkpoint("an-owner/mispelt", tokenizer=tokenizer)
    assert time.perf_counter() - start < 5
    assert [url.rpartition("/")[2] for url in calls] == ["config.json"]


def test_the_tokenizer_of_a_hub_that_cannot_be_reached(calls: list[str]) -> None:
    with pytest.raises(ValueError, match=r"could not be asked \(no route to host\); give tokenizer= a folder"):
        load_tokenizer("an-owner/mispelt")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "RepositoryNotFoundError",
            r"no such folder here, and the hub has no model of this name that you may see \(log in",
        ),
        (
            "GatedRepoError",
            "only those read this model who have accepted its terms; accept them on its page, and log in",
        ),
        ("OfflineModeIsEnabled", r"whether the hub has one is not known, as it could not be asked \(refused\)"),
    ],
)
def test_what_the_hub_answers(error: str, message: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(errors, error)
    failure = kind.__new__(kind)
    Exception.__init__(failure, "refused")

    def answer(url: str, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    with pytest.raises(ValueError, match=f"^an-owner/mispelt: .*{message}"):
        check_on_hub("an-owner/mispelt", MODEL_FILES)


@pytest.mark.parametrize("name", ["a name", "one/two/three"])
def test_what_cannot_be_a_hub_id(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: is no folder here, and cannot be a hub id; give 'demo'"):
        load_checkpoint(name)


def test_what_is_in_the_cache_is_not_asked_for(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(tmp_path / file))
    check_on_hub("an-owner/cached", MODEL_FILES)
    assert calls == []


def test_a_model_without_the_file_is_left_to_transformers(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(url: str, **options: Any) -> None:
        raise errors.EntryNotFoundError("no such file")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    check_on_hub("an-owner/other", MODEL_FILES)
