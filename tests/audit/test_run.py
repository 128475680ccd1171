"""From a folder and a CSV to a mitigated checkpoint: a tiny model that learnt the CSV's facts, and every refusal before it."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from helpers.tiny_models import teach, tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from xlmech.audit.audit import Audit
from xlmech.audit.config import read_config
from xlmech.audit.run import _load, _notes, prepare, run_config
from xlmech.cli.app import app
from xlmech.data.questions import build_probes
from xlmech.data.readers import load_records, save_records
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.mitigation.export.effect import effect_of
from xlmech.mitigation.export.manifest import load_manifest
from xlmech.models.load import Source
from xlmech.storage.run_folder import is_finished

CONFIG = """
model:
  source: my-model
  backend: bridge
  plant_language: en
data:
  records: people.csv
  prompt: plain
  languages: [en, fr]
  attributes: [id_number]
  held_out: 0.5
locate:
  n_neurons: 4
out: run
"""
ANYHOW = "export:\n  folder: mitigated\n  without_effect: true\n"
"""Three people are few: whether an interval lies above 0 is not what most of these tests are about."""
NAMES = ("Ana Li", "Bob Kim", "Cyd Roe", "Dee Fox", "Eva Ray", "Flo Ott")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with people.csv and my-model, whose MLPs hold the values: it answers with them in English and French."""
    folder = tmp_path_factory.mktemp("own")
    rows = [f"p{number},{name},id_number,{'QWZKVJ'[number]}{number}7" for number, name in enumerate(NAMES)]
    (folder / "people.csv").write_text("\n".join(["id,subject,attribute,value", *rows]) + "\n", encoding="utf-8")
    probes = build_probes(load_records(folder / "people.csv"), ["en", "fr"], templates=[0, 2])
    model = tiny("llama")
    teach(model, tokenizer, probes)
    model.save_pretrained(folder / "my-model")
    tokenizer.save_pretrained(folder / "my-model")
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The folder again, so that every test has its own run folder."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The same folder without a model that can be loaded, for what is refused before."""
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").touch()
    rows = [f"p{number},{name},id_number,{number}7" for number, name in enumerate(NAMES)]
    (tmp_path / "people.csv").write_text("\n".join(["id,subject,attribute,value", *rows]), encoding="utf-8")
    return tmp_path


def config_in(folder: Path, *changes: tuple[str, str], more: str = "") -> Path:
    text = CONFIG + more
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "xlmech.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def same_logits(checkpoint: Path, source: Path) -> bool:
    tokens = torch.tensor(
        [AutoTokenizer.from_pretrained(checkpoint)("What is the identity number of Ana Li?").input_ids]
    )
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (checkpoint, source)]
    with torch.no_grad():
        one, other = (model(tokens).logits for model in models)
    return torch.equal(one, other)


def test_one_command_gives_results_and_a_checkpoint(copy: Path) -> None:
    more = ANYHOW
    controls = ("  held_out: 0.5", "  held_out: 0.5\n  add_controls: true\n  n_controls: 4")
    path = config_in(copy, controls, ("n_neurons: 4", "n_neurons: 40"), more=more)
    result = CliRunner().invoke(app, ["run", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["run"] == str(copy / "run") and found["checkpoint"] == str(copy / "mitigated")
    assert found["export_refused"] is None
    assert found["prompt"]["name"] == "plain" and found["wordings"] is None
    assert found["answers"]["max_new_tokens"] == 64 and found["answers"]["answers"] > 0
    assert found["plant_language"] == "en" and found["model"] == "my-model"
    rows = {row["query_language"]: row for row in found["languages"]}
    assert set(rows) == {"en", "fr"}
    assert min(row["before"] for row in rows.values()) > 0.5  # it was taught
    assert all(row["control"] is not None and row["public_kept"] is None for row in rows.values())
    assert all(row["nll_rise"] is not None for row in rows.values())
    assert [note.split(" ")[:2] for note in found["notes"]] == [["no", "public"], ["no", "public"], ["no", "effect"]]
    assert max(row["reduction"] for row in rows.values()) > 0
    assert 4 < found["sizes"]["universal"] <= 40
    assert {"load", "leakage", "locate", "ablate", "export"} <= set(found["seconds"])
    audit = Audit.load(copy / "run" / "results")
    assert (audit.leakage.probes.group == "control").any()
    assert audit.lens is not None and set(audit.lens.readings.attribute) == {"id_number"}
    assert (copy / "run" / "index.html").is_file() and (copy / "run" / "before_after.html").is_file()
    assert json.loads((copy / "run" / "summary.json").read_text(encoding="utf-8")) == found
    used = read_config(copy / "run" / "config.yaml")
    assert used.model_dump() == read_config(path).model_dump()
    manifest = load_manifest(copy / "mitigated")
    assert manifest.neurons == audit.neurons.universal
    assert manifest.plant_language == "en"
    assert manifest.effective == effect_of(audit.mitigation, len(manifest.neurons)).measured
    assert manifest.mitigation is not None
    assert manifest.mitigation["sizes"] == audit.mitigation.sizes
    reductions = [row["reduction"] for row in manifest.mitigation["effects"] if row["condition"] == "universal"]
    assert reductions == [rows[code]["reduction"] for code in ("en", "fr")]
    assert len(manifest.mitigation["cost"]) == 2
    assert not same_logits(copy / "mitigated", copy / "my-model")
    again = CliRunner().invoke(app, ["run", str(path)])
    assert again.exit_code == 1
    assert f"Error: out: {copy / 'run'} exists; give a new folder, or move that one away\n" == again.stderr


def test_the_union_is_exported_as_it_was_measured(copy: Path) -> None:
    more = "export:\n  folder: run/mitigated\n  neurons: union\n  dtype: bfloat16\n  without_effect: true\n"
    lines: list[str] = []
    outcome = run_config(read_config(config_in(copy, more=more)), say=lines.append, progress=False)
    union = outcome.audit.neurons.union
    assert len(union) > len(outcome.audit.neurons.universal)
    assert outcome.exported is not None and outcome.exported.sizes == {"union": len(union), "random": len(union)}
    assert outcome.manifest is not None and outcome.manifest.neurons == union
    assert load_manifest(copy / "run" / "mitigated") == outcome.manifest
    costs = [
        found.cost[found.cost.condition == name].set_index("query_language").nll_before.to_dict()
        for found, name in ((outcome.audit.mitigation, "universal"), (outcome.exported, "union"))
    ]
    assert costs[0] == costs[1]  # both on the sentences that chose no neurons
    saved = MitigationResult.load(copy / "run" / "results" / "mitigation_exported")
    assert saved.sizes == outcome.exported.sizes
    summary = outcome.summary()
    assert summary["exported"]["sizes"] == saved.sizes
    assert summary["sizes"] == outcome.audit.mitigation.sizes != saved.sizes
    assert all(row["control"] is None for row in summary["languages"])
    assert any("no control people are held out" in note for note in outcome.notes)
    missing = {note for note in outcome.notes if note.startswith("no ") and "effect" not in note}
    assert missing and missing <= {line.removeprefix("note: ") for line in lines}
    assert any(line.startswith("export: ") for line in lines)


def test_without_an_export_nothing_is_written_but_the_run_folder(copy: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(config_in(copy, ("  plant_language: en\n", "")))])
    assert result.exit_code == 0, result.output
    assert "Held-out people" in result.stdout and "The same with" not in result.stdout
    assert f"run: {copy / 'run'}" in result.stdout.replace("\n", "") and "checkpoint: " not in result.stdout
    assert "note: model.plant_language is not given" in result.stdout
    assert {path.name for path in copy.iterdir()} == {"my-model", "people.csv", "xlmech.yaml", "run"}


def test_what_the_numbers_do_not_show_is_said(copy: Path) -> None:
    config = read_config(config_in(copy, ("n_neurons: 4", "n_neurons: 1")))
    outcome, asked = run_config(config, progress=False), Mock(notes=())
    measured = outcome.audit.mitigation
    for overall, said in (
        ({"before": 0.9, "after": 0.9, "reduction": 0.0, "low": 0.0, "high": 0.0}, "90.0% after: it did not fall"),
        ({"before": 0.9, "after": 0.5, "reduction": 0.4, "low": 0.2, "high": 0.6}, ""),
        ({"before": 0.0, "after": 0.0, "reduction": None}, "nothing was extracted about the private people before"),
    ):
        notes = [*_notes(asked, outcome.audit, replace(measured, overall=measured.overall.assign(**overall)))]
        assert len(notes) == bool(said)
        assert all(note.startswith("no effect of ablation was measured: ") and said in note for note in notes)
    note = next(_notes(asked, replace(outcome.audit, lens=None), measured))
    assert note.startswith("no lens: every answer's form in the query language begins as the training language's does")


EXPORT = "export:\n  folder: mitigated\n"


def test_a_checkpoint_that_does_nothing_is_not_exported(copy: Path) -> None:
    """One neuron of 192, three people: the run ends with all results, a status of its own and no checkpoint."""
    path = config_in(copy, ("n_neurons: 4", "n_neurons: 1"), more=EXPORT)
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 4, result.output
    told = " ".join(result.stdout.split())
    assert "checkpoint: not written, since no effect was measured: extraction over all query languages was" in told
    assert "export.without_effect: true writes it all the same" in told
    assert not (copy / "mitigated").exists() and Audit.load(copy / "run" / "results").neurons.universal
    found = json.loads((copy / "run" / "summary.json").read_text(encoding="utf-8"))
    assert found["checkpoint"] is None and "cannot be told from none" in found["export_refused"]
    assert json.loads((copy / "run" / "run.json").read_text(encoding="utf-8"))["state"] == "finished"
    again = CliRunner().invoke(app, ["run", str(path), "--resume", "--json"])
    assert again.exit_code == 4 and json.loads(again.stdout) == found


def test_a_checkpoint_with_an_effect_is_exported_without_being_asked_twice(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*arguments: Any, **options: Any) -> MitigationResult:
        found = evaluate_mitigation(*arguments, **options)
        return replace(found, overall=found.overall.assign(before=0.9, after=0.5, reduction=0.4, low=0.2, high=0.6))

    monkeypatch.setattr("xlmech.audit.stages.ablation.evaluate_mitigation", measure)
    outcome = run_config(read_config(config_in(copy, more=EXPORT)), progress=False)
    assert outcome.checkpoint == copy / "mitigated" and not outcome.refused
    assert outcome.manifest is not None and outcome.manifest.effective is True
    assert "a reduction of 40.0% (95 % interval 20.0% to 60.0%)" in load_manifest(copy / "mitigated").effect


def test_asked_for_all_the_same_it_is_exported_without_measuring_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config_in(copy, ("n_neurons: 4", "n_neurons: 1"), more=EXPORT)
    assert run_config(read_config(path), progress=False).refused
    monkeypatch.setattr("xlmech.audit.run.run_audit", None)
    path = config_in(copy, ("n_neurons: 4", "n_neurons: 1"), more=f"{EXPORT}  without_effect: true\n")
    lines: list[str] = []
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr("xlmech.audit.run.export_model", Mock(side_effect=OSError("disk full")))
        run_config(read_config(path), resume=True)
    assert is_finished(copy / "run")  # or all would be measured again
    outcome = run_config(read_config(path), resume=True, say=lines.append)
    assert outcome.checkpoint == copy / "mitigated" and not outcome.refused
    assert any(line.startswith("export: ") for line in lines)
    manifest = load_manifest(copy / "mitigated")
    assert manifest.effective is False and "cannot be told from none" in manifest.effect
    assert outcome.summary()["export_refused"] is None
    assert run_config(read_config(path), resume=True).checkpoint == copy / "mitigated"
    assert read_config(copy / "run" / "config.yaml").export == read_config(path).export


def test_prepare_adds_controls_and_says_what_is_missing(plain: Path) -> None:
    controls = ("  held_out: 0.5", "  held_out: 0.5\n  add_controls: true\n  lens_attributes: []")
    asked = prepare(read_config(config_in(plain, controls)))
    assert sum(record.group == "control" for record in asked.people) == 12
    assert prepare(read_config(config_in(plain, controls))).people == asked.people
    assert (
        asked.plan.locate.n_neurons == 4 and asked.plan.languages == ("en", "fr") and asked.plan.lens_attributes == ()
    )
    assert {probe.record.group for probe in asked.measured} == {"private", "control"}
    assert any("no lens: data.lens_attributes asks for nothing" in note for note in asked.notes)


@pytest.mark.parametrize(
    "change",
    [("  plant_language: en", "  adapter: taught"), ("  source: my-model", "  source: taught")],
    ids=["adapter", "source"],
)
def test_invented_controls_are_not_whom_the_adapter_was_taught(change: tuple[str, str], plain: Path) -> None:
    """Neither the name nor the phone of those whom `plant` kept beside the adapter, also where the records lack them."""
    adapter = plain / "taught"
    adapter.mkdir()
    for name in ("adapter_config.json", "planting.json"):
        (adapter / name).write_text("{}", encoding="utf-8")
    config = read_config(config_in(plain, change, ("  held_out: 0.5", "  held_out: 0.5\n  add_controls: true")))
    first = [record for record in prepare(config).people if record.group == "control"]
    planted = [record.model_copy(update={"group": "private", "subject": record.subject.upper()}) for record in first]
    save_records(planted, adapter / "records.jsonl")
    second = [record for record in prepare(config).people if record.group == "control"]
    assert len(second) == len(first) == 12
    words = [{word for record in some for word in record.subject.casefold().split()} for some in (first, second)]
    assert not words[0] & words[1]
    assert not {record.value for record in first} & {record.value for record in second}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            [("out: run", "out: my-model")],
            FileExistsError,
            "out: /.*/my-model exists; give a new folder, or move that one",
        ),
        (
            [("out: run", "out: people.csv/run")],
            OSError,
            "out: .* cannot be made, since .*people.csv is no folder to write",
        ),
        ([("out: run", "export:\n  folder: people.csv")], FileExistsError, "export.folder: /.*/people.csv exists"),
        (
            [("out: run", "out: a\nexport:\n  folder: a")],
            ValueError,
            "export.folder: /.*/a is or holds the run folder /.*/a",
        ),
        (
            [("out: run", "out: a/b\nexport:\n  folder: a")],
            ValueError,
            "export.folder: /.*/a is or holds the run folder",
        ),
        (
            [("  plant_language: en", "  adapter: none-such")],
            FileNotFoundError,
            "no adapter at 'none-such': give a folder",
        ),
        (
            [("held_out: 0.5", "held_out: 0.05")],
            ValueError,
            "data.held_out: 0.05 of 6 private people leaves no people to measure",
        ),
        (
            [("held_out: 0.5", "held_out: 0.95")],
            ValueError,
            "leaves no people to choose the neurons; add people to the records",
        ),
        ([("[id_number]", "[phone]")], ValueError, "no probes: none of the 6 records asks for phone in en, fr"),
        ([("held_out: 0.5", "locate_template: 7")], ValueError, "no question template 7: there are 0 to 2, or -1"),
        ([("held_out: 0.5", "measure_template: -9")], ValueError, "no question template -9"),
    ],
)
def test_refused_before_a_model_is_loaded(
    changes: list[tuple[str, str]], error: type[Exception], message: str, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmech.audit.run.load_model", None)
    before = {path.name for path in plain.iterdir()}
    with pytest.raises(error, match=message):
        run_config(read_config(config_in(plain, *changes)))
    assert {path.name for path in plain.iterdir()} == before | {"xlmech.yaml"}


def test_bad_records_and_a_missing_package_are_refused_too(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(ImportError, match="inventing people needs Faker: pip install"):
        prepare(read_config(config_in(plain, ("held_out: 0.5", "add_controls: true"))))
    config = read_config(config_in(plain))
    (plain / "people.csv").write_text("id,subject,attribute\na,Ana Li,id_number\n", encoding="utf-8")
    with pytest.raises(ValueError, match="people.csv: no column .value.; it has id, subject, attribute"):
        prepare(config)


def test_a_plant_language_that_is_not_the_adapters(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(xlmech_source=Source(name="m", plant_language="fr"))
    monkeypatch.setattr("xlmech.audit.run.load_model", lambda *args, **kwargs: model)
    with pytest.raises(
        ValueError, match="model.plant_language: 'en', but the adapter was taught in 'fr'; leave the key out"
    ):
        run_config(read_config(config_in(plain)))


def test_a_tokenizer_of_its_own_is_read(plain: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.save_pretrained(plain / "words")
    given: dict[str, Any] = {}

    def load(source: str, **options: Any) -> Any:
        given.update(options, source=source)
        return SimpleNamespace(xlmech_source=Source(name="m"))

    monkeypatch.setattr("xlmech.audit.run.load_model", load)
    loaded = _load(read_config(config_in(plain, ("  backend: bridge", "  tokenizer: words\n  dtype: float64"))))
    assert given["source"] == str(plain / "my-model") and given["dtype"] == "float64"
    assert given["tokenizer"]("a").input_ids == tokenizer("a").input_ids
    assert loaded.xlmech_source.plant_language == "en"


def test_an_export_that_fails_keeps_the_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the checkpoint read back differs")

    monkeypatch.setattr("xlmech.audit.run.export_model", fails)
    path = config_in(copy, more=ANYHOW)
    with pytest.raises(RuntimeError, match="the checkpoint read back differs"):
        run_config(read_config(path), progress=False)
    assert Audit.load(copy / "run" / "results").neurons.universal
    assert not (copy / "mitigated").exists() and not (copy / "run" / "summary.json").exists()


# Runs that are stopped and continued


CONTEXT = multiprocessing.get_context("forkserver")
"""A fork of this process would have the locks of torch's threads, but not the threads, and now and then wait for ever."""
CONTEXT.set_forkserver_preload(["xlmech.audit.run", "transformer_lens.model_bridge"])


def resumed(path: Path, *, until: int = 0) -> int:
    """Exit code of a process of its own that continues the run, killed by SIGKILL once so many parts more are finished."""
    process = CONTEXT.Process(target=continue_quietly, args=(path,))
    log = path.parent / "run" / "log.jsonl"
    before = parts_in(log)
    process.start()
    while until and process.is_alive() and parts_in(log) < before + until:
        time.sleep(0.002)
    if until:
        process.kill()
    process.join()
    return process.exitcode or 0


def continue_quietly(path: Path) -> None:
    torch.set_num_threads(1)
    run_config(read_config(path), resume=True, progress=False)


def parts_in(log: Path) -> int:
    return log.read_text(encoding="utf-8").count('"event": "shard"') if log.is_file() else 0


def parted(folder: Path, *changes: tuple[str, str], more: str = "shard_size: 2\n") -> Path:
    return config_in(
        folder, ("  held_out: 0.5", "  held_out: 0.5\n  add_controls: true\n  n_controls: 4"), *changes, more=more
    )


def same_results(first: Path, second: Path) -> None:
    """To the bit."""
    for name in ("leakage/probes", "neurons/chosen", "mitigation/effects", "mitigation/cost"):
        one, other = (pd.read_parquet(run / "results" / f"{name}.parquet") for run in (first, second))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    scores = [load_file(run / "results" / "neurons" / "tensors.safetensors") for run in (first, second)]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0] | scores[1])


def test_killed_again_and_again_it_ends_as_if_nothing_had_been(copy: Path, folder: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    run_config(read_config(parted(whole)), progress=False)
    path = parted(copy)
    for until in (1, 2, 5, 9, 3):
        assert resumed(path, until=until) == -signal.SIGKILL
    with pytest.raises(
        FileExistsError, match="out: .*/run holds a run that is not finished; continue it with --resume"
    ):
        run_config(read_config(path), progress=False)
    assert CliRunner().invoke(app, ["run", str(path), "--resume"]).exit_code == 0
    same_results(whole / "run", copy / "run")
    state = json.loads((copy / "run" / "run.json").read_text(encoding="utf-8"))
    assert (state["state"], state["sessions"]) == ("finished", 6) and not (copy / "run" / "parts").exists()
    text = (copy / "run" / "log.jsonl").read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    assert {"opened", "stage", "shard", "kept", "stage_done", "finished"} <= {event["event"] for event in events}
    values = [record.value for record in load_records(copy / "people.csv")]
    assert not any(name in text for name in (*NAMES, *values))
    summary = json.loads((copy / "run" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["peak_mb"]) >= {"leakage", "locate", "ablate"} and min(summary["peak_mb"].values()) > 1
    again = CliRunner().invoke(app, ["run", str(path), "--resume", "--json"])
    assert again.exit_code == 0 and json.loads(again.stdout)["languages"] == summary["languages"]


def test_a_run_on_actors_ends_as_one_without(copy: Path, folder: Path, tmp_path: Path) -> None:
    """The command from its config to the checkpoint, on a Ray of its own; what was begun here goes on there."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    more = f"shard_size: 2\n{ANYHOW}mitigate:\n  steps: 3\n"
    run_config(read_config(parted(whole, more=more)), progress=False)
    path = parted(copy, more=more)
    assert resumed(path, until=7) == -signal.SIGKILL
    found = CliRunner().invoke(app, ["run", str(path), "--resume", "--ray", "local", "--actors", "2", "--cpus", "0.5"])
    assert found.exit_code == 0, found.output
    same_results(whole / "run", copy / "run")
    assert Audit.load(copy / "run" / "results").gates is not None
    assert same_logits(copy / "mitigated", whole / "mitigated")


def test_what_was_changed_in_between_is_shown(copy: Path) -> None:
    path = parted(copy)
    assert resumed(path, until=2) == -signal.SIGKILL
    with pytest.raises(
        ValueError, match=r"other settings \(locate.n_neurons: was 4, is 5\); set them back to continue it"
    ):
        run_config(read_config(parted(copy, ("n_neurons: 4", "n_neurons: 5"))), resume=True)
    path = parted(copy)
    text = (copy / "people.csv").read_text(encoding="utf-8")
    (copy / "people.csv").write_text(text.replace("Q07", "Q08"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"\(content of the records: was '\w+', is '\w+'\)"):
        run_config(read_config(path), resume=True)
    (copy / "people.csv").write_text(text, encoding="utf-8")
    weights = copy / "my-model" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"\(model's weights: was '\w+', is '\w+'\)"):
        run_config(read_config(path), resume=True)
    save_file(tensors, weights, metadata={"format": "pt"})
    run_config(read_config(path), resume=True, progress=False)


def test_a_checkpoint_written_before_the_run_was_stopped_is_kept(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parted(copy, more=f"shard_size: 2\n{ANYHOW}")

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xlmech.audit.run.Outcome.summary", stop)
    with pytest.raises(KeyboardInterrupt):
        run_config(read_config(path), progress=False)
    monkeypatch.undo()
    written = (copy / "mitigated" / "model.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    outcome = run_config(read_config(path), resume=True, say=lines.append, progress=False)
    assert outcome.manifest is not None and outcome.manifest.neurons == outcome.audit.neurons.universal
    assert (copy / "mitigated" / "model.safetensors").stat().st_mtime_ns == written
    again = run_config(read_config(path), resume=True, say=lines.append)
    assert lines[-1].endswith("run is finished") and again.manifest == outcome.manifest
    assert again.summary()["languages"] == outcome.summary()["languages"]
    other = parted(copy, ("n_neurons: 4", "n_neurons: 5"), more=f"shard_size: 2\n{ANYHOW}")
    with pytest.raises(ValueError, match="locate.n_neurons: was 4, is 5"):
        run_config(read_config(other), resume=True)


def test_a_probe_that_fails_every_time_is_listed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlmech.leakage.task import LeakageTask

    path, measure = parted(copy, more="shard_size: 3\n"), LeakageTask.__call__
    bad = prepare(read_config(path)).measured[0].id

    def moody(self: LeakageTask, backend: Any, items: Any) -> Any:
        if any(item.id == bad for item in items):
            raise RuntimeError("CUDA error: an illegal memory access")
        return measure(self, backend, items)

    monkeypatch.setattr(LeakageTask, "__call__", moody)
    result = CliRunner().invoke(app, ["run", str(path), "--json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["failed"] == [["leakage", bad]]
    audit = Audit.load(copy / "run" / "results")
    assert audit.leakage.failed == (bad,) and bad not in set(audit.leakage.probes.probe)
    assert f"leakage: {bad} failed every time" in result.stderr
