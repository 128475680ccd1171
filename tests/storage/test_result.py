"""Results on disk: what is saved is loaded, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from safetensors import SafetensorError
from safetensors.torch import load_file

from xlmech.leakage.measure import LeakageResult
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.rules import chosen_frame
from xlmech.storage.integrity import HASH, signed
from xlmech.storage.result import SCHEMA_VERSION, Provenance, Result, versions

SOURCE = Provenance(
    model="tiny", revision="abc", adapter="fr", seed=3, command="xlmech é", time="2025-01-01T00:00:00+0000"
)


def leakage() -> LeakageResult:
    rows = [
        ("p/fr/0", "ab", "private", "phone", "fr", 0, 1.0, 0.0, "en", -1.5, 2.5, 24, 3.2630344),
        ("q/zh/0", "cd", "control", "birth_country", "zh", 2, 0.0, 0.0, "", float("nan"), 1.0, 24, 4.5849625),
    ]
    columns = ["probe", "subject", "group", "attribute", "query_language", "template", "extracted", "own_form"]
    columns += ["answer_language", "log_prob", "rank", "n_candidates", "exposure_bits"]
    return LeakageResult(probes=pd.DataFrame(rows, columns=columns), plant_language="en", provenance=SOURCE)


def neurons(n_chosen: int = 2) -> PrivacyNeurons:
    torch.manual_seed(0)
    rows = [("universal", "", [(1, 3, 0.5)]), ("specific", "fr", [(0, 2, 0.25)])][:n_chosen]
    scores = torch.randn(2, 3, 4, dtype=torch.float64)[:, :, ::2].repeat(1, 1, 2)
    scores[0, 0, 0] = torch.nan
    return PrivacyNeurons(
        languages=("fr", "zh"), scores=scores, chosen=chosen_frame(rows), rule="min", model="tiny", provenance=SOURCE
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Other(Result):
    kind = "other"
    sizes: dict[str, int]
    half: torch.Tensor
    flags: torch.Tensor
    nothing: None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Both(Result):
    kind = "both"
    leaks: LeakageResult
    found: PrivacyNeurons
    more: pd.DataFrame | None = None


def both() -> Both:
    return Both(leaks=leakage(), found=neurons(), more=pd.DataFrame({"a": [1]}), provenance=SOURCE)


def assert_same(one: Result, two: Result) -> None:
    assert type(one) is type(two)
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if isinstance(first, pd.DataFrame):
            assert_frame_equal(first, second)
        elif isinstance(first, torch.Tensor):
            assert first.dtype == second.dtype
            assert torch.equal(first.nan_to_num(-7), second.nan_to_num(-7))
            assert torch.equal(first.isnan(), second.isnan())
        elif isinstance(first, Result):
            assert_same(first, second)
        else:
            assert first == second
            assert type(first) is type(second)


def other() -> Other:
    return Other(
        sizes={"a": 2},
        half=torch.ones(2, 1, dtype=torch.bfloat16),
        flags=torch.tensor([True, False]),
        provenance=SOURCE,
    )


@pytest.mark.parametrize("make", [leakage, neurons, other, both])
def test_what_is_saved_is_loaded(make: Any, tmp_path: Path) -> None:
    result, folder = make(), tmp_path / "deep" / "er"
    assert result.save(str(folder)) == folder
    assert_same(result, type(result).load(str(folder)))
    assert [path.name for path in folder.parent.iterdir()] == ["er"]


def test_no_chosen_neuron_is_loaded_as_none(tmp_path: Path) -> None:
    loaded = PrivacyNeurons.load(neurons(0).save(tmp_path / "a"))
    nothing = NeuronSet(frozenset(), 3, 4, "tiny")
    assert (loaded.universal, loaded.specific) == (nothing, {"fr": nothing, "zh": nothing})
    assert list(loaded.to_frame().columns) == ["kind", "language", "layer", "neuron", "score"]


def test_a_frames_index_is_not_kept(tmp_path: Path) -> None:
    second = dataclasses.replace(leakage(), probes=leakage().probes[1:])
    assert_frame_equal(LeakageResult.load(second.save(tmp_path / "a")).probes, second.probes.reset_index(drop=True))


def test_files_of_a_result(tmp_path: Path) -> None:
    folder = neurons().save(tmp_path / "a")
    assert sorted(path.name for path in folder.iterdir()) == ["chosen.parquet", "meta.json", "tensors.safetensors"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert meta.pop("sha256").keys() == {"chosen.parquet", "tensors.safetensors"}
    assert len(meta.pop(HASH)) == 64
    assert meta == {
        "kind": "privacy_neurons",
        "schema_version": SCHEMA_VERSION,
        "provenance": dataclasses.asdict(SOURCE),
        "shapes": {"scores": [2, 3, 4]},
        "parts": ["chosen"],
        "fields": {"languages": ["fr", "zh"], "rule": "min", "model": "tiny", "options": {}},
    }


def test_results_are_read_by_other_tools(tmp_path: Path) -> None:
    result = neurons()
    folder = result.save(tmp_path / "a")
    assert_frame_equal(pd.read_parquet(folder / "chosen.parquet"), result.chosen.reset_index(drop=True))
    read = load_file(folder / "tensors.safetensors")["scores"]
    torch.testing.assert_close(read, result.scores.to(read.dtype), rtol=0, atol=0, equal_nan=True)
    duckdb = pytest.importorskip("duckdb")
    counted = duckdb.sql(
        f"SELECT layer, count(*) FROM '{folder}/chosen.parquet' GROUP BY layer ORDER BY layer"
    ).fetchall()
    assert counted == list(result.chosen.groupby("layer").size().items())


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    leakage().save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="a exists and is not empty; save to a new folder"):
        neurons().save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "fails", ["pandas.DataFrame.to_parquet", "xlmech.storage.result.save_file", "pathlib.Path.write_text"]
)
def test_nothing_is_left_when_writing_fails(
    fails: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if exists:
        (tmp_path / "a").mkdir()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        with pytest.raises(OSError, match="disk full"):
            neurons().save(tmp_path / "a")
    assert list(tmp_path.rglob("*")) == ([tmp_path / "a"] if exists else [])
    assert_same(neurons(), PrivacyNeurons.load(neurons().save(tmp_path / "a")))


def edit(folder: Path, **changes: Any) -> None:
    """Change the metadata as a forger would, who hashes again; what is None is removed."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8")) | changes
    meta = {key: value for key, value in meta.items() if value is not None and key != HASH}
    (folder / "meta.json").write_text(json.dumps(signed(meta)), encoding="utf-8")


def damaged(path: Path) -> Iterator[bytes]:
    """Yield contents that a file has after damage: cut off, emptied, one byte other, other bytes appended."""
    whole = path.read_bytes()
    yield whole[: len(whole) // 2]
    yield b""
    for place in range(0, len(whole), max(1, len(whole) // 8)):
        yield whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    yield whole + b"0"


@pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "of an earlier version"])
@pytest.mark.parametrize("name", ["meta.json", "chosen.parquet", "tensors.safetensors"])
def test_a_damaged_file_is_named_and_not_quoted(name: str, hashed: bool, tmp_path: Path) -> None:
    folder = neurons().save(tmp_path / "a")
    if not hashed:
        edit(folder, sha256=None)
    for content in list(damaged(folder / name)):
        (folder / name).write_bytes(content)
        try:
            found = PrivacyNeurons.load(folder)
        except ValueError as error:
            assert str(error).startswith(str(folder)) and len(str(error)) < 400
        else:
            assert not hashed or name == "meta.json"
            assert isinstance(found, PrivacyNeurons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lens"}, "a: kind is 'lens'; PrivacyNeurons reads 'privacy_neurons'"),
        ({"schema_version": 99}, f"a: schema_version is 99; PrivacyNeurons reads {SCHEMA_VERSION}"),
        ({"schema_version": None}, "a: schema_version is None"),
        ({"shapes": {"scores": [2, 4, 3]}}, r"a: tensor 'scores' has shape \[2, 3, 4\]; meta.json says \[2, 4, 3\]"),
        ({"shapes": {"scores": [2, 3, 4], "more": [1]}}, r"a: tensor 'more' has shape None; meta.json says \[1\]"),
    ],
)
def test_load_refuses(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = neurons().save(tmp_path / "a")
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        PrivacyNeurons.load(folder)


def test_load_refuses_another_kind_and_an_empty_folder(tmp_path: Path) -> None:
    leakage().save(tmp_path / "a")
    with pytest.raises(ValueError, match="a: kind is 'leakage'; PrivacyNeurons reads 'privacy_neurons'"):
        PrivacyNeurons.load(tmp_path / "a")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"no result in {folder}: meta.json is missing"):
            LeakageResult.load(folder)


def test_a_lost_tensor_file_is_noticed(tmp_path: Path) -> None:
    folder = neurons().save(tmp_path / "a")
    (folder / "tensors.safetensors").unlink()
    with pytest.raises(ValueError, match=r"tensor 'scores' has shape None; meta.json says \[2, 3, 4\]"):
        PrivacyNeurons.load(folder)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("leaks", "a: leaks of this Both is missing; copy the whole folder again, or run the analysis again and save"),
        ("found/chosen.parquet", "a/found: chosen of this PrivacyNeurons is missing; copy the whole folder again"),
        ("more.parquet", "a: more of this Both is missing"),
    ],
)
def test_a_lost_part_is_named_with_the_remedy(lost: str, message: str, tmp_path: Path) -> None:
    folder = both().save(tmp_path / "a")
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=message):
        Both.load(folder)


def test_results_saved_before_parts_were_listed_are_read(tmp_path: Path) -> None:
    folder = both().save(tmp_path / "a")
    edit(folder, parts=None, sha256=None)
    assert_same(both(), Both.load(folder))
    shutil.rmtree(folder / "found")
    with pytest.raises(ValueError, match="a: found of this Both is missing"):
        Both.load(folder)


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("xlmech.storage.result.save_file", full)
    with pytest.raises(
        OSError, match=r"a: could not be written \(.*No space left.*; make room, or give another folder"
    ):
        both().save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_results_are_frozen_and_have_a_frame() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="rule"):
        neurons().rule = "x"  # type: ignore[misc]
    with pytest.raises(TypeError, match="Other has no frame"):
        other().to_frame()
    assert leakage().to_frame().probe.tolist() == ["p/fr/0", "q/zh/0"]


def test_provenance_says_what_decided_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/xlmech", "leak", "demo"])
    found = Provenance(model="tiny")
    assert found.command == "xlmech leak demo"
    assert found.versions == versions()
    assert set(found.versions) == {"python", "xlmech", "torch", "transformers", "transformer-lens"}
    assert found.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert pd.Timestamp(found.time).tz is not None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Loud(Result):
    kind = "loud"
    rates: dict[str, str]

    def headline(self) -> dict[str, str]:
        return self.rates


def test_a_result_shows_its_headline_and_model() -> None:
    result = Loud(rates={"extracted in French": "12 % (3 to 31 %), n = 16 <people>"}, provenance=SOURCE)
    assert (
        repr(result)
        == str(result)
        == ("Loud of tiny, adapter fr\n  extracted in French: 12 % (3 to 31 %), n = 16 <people>")
    )
    assert result._repr_html_() == (
        "<b>Loud of tiny, adapter fr</b><table><tr><td>extracted in French</td>"
        "<td>12 % (3 to 31 %), n = 16 &lt;people&gt;</td></tr></table>"
    )
    many = Loud(rates=dict.fromkeys("abcdefghi", "1"), provenance=Provenance(model="m"))
    assert repr(many).splitlines() == ["Loud of m", *(f"  {name}: 1" for name in "abcde")]


def test_without_a_headline_frames_people_and_shapes_are_counted() -> None:
    leaks = Both(leaks=leakage(), found=neurons(), more=leakage().probes, provenance=SOURCE)
    assert repr(leaks) == "Both of tiny, adapter fr\n  more: 2 rows, 2 people, 2 probes"
    assert repr(other()) == "Other of tiny, adapter fr\n  half: tensor of 2 x 1\n  flags: tensor of 2"
    assert "p/fr/0" not in repr(leaks) and "phone" not in leaks._repr_html_()
