"""An audit in one language alone: what is undefined is left out and said, and everything else is measured."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import teach, tiny
from typer.testing import CliRunner

from xlmech.audit.audit import Audit
from xlmech.audit.config import read_config
from xlmech.audit.preflight import prepare
from xlmech.cli.app import app
from xlmech.data.questions import build_probes
from xlmech.data.readers import load_records
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.export.manifest import load_manifest
from xlmech.neurons.neuron_set import NeuronSet

CONFIG = """
model:
  source: my-model
  backend: bridge
  plant_language: en
data:
  records: people.csv
  prompt: plain
  languages: [en]
  attributes: [id_number]
  add_controls: true
  n_controls: 8
  max_new_tokens: 8
locate:
  n_neurons: 20
export:
  folder: mitigated
  without_effect: true
out: run
"""
NAMES = ("Ana Li", "Bob Kim", "Cyd Roe", "Dee Fox", "Eva Ray", "Flo Ott", "Gus Orr", "Hal Poe")
OTHER_LANGUAGES = re.compile(r"(other|all|several|\d\d+|[02-9]) languages|universal neurons? (act|of)|cross")

pytestmark = pytest.mark.filterwarnings("ignore:asked in en only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with a model that learnt eight private and four public people's numbers in English, and a finished run."""
    folder = tmp_path_factory.mktemp("english")
    rows = ["id,subject,attribute,value,group"]
    rows += [f"p{n},{name},id_number,{'QWZKVJXB'[n]}{n}7,private" for n, name in enumerate(NAMES)]
    rows += [
        f"k{n},{name},id_number,{'FGHM'[n]}{n}4,public"
        for n, name in enumerate(("Ida Fry", "Jo Mee", "Kim Wu", "Lu Ask"))
    ]
    (folder / "people.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    model = tiny("llama")
    teach(model, tokenizer, build_probes(load_records(folder / "people.csv"), ["en"], templates=[0, 2]))
    model.save_pretrained(folder / "my-model")
    tokenizer.save_pretrained(folder / "my-model")
    (folder / "xlmech.yaml").write_text(CONFIG, encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(folder / "xlmech.yaml")])
    assert result.exit_code == 0, result.output
    (folder / "told.txt").write_text(" ".join(result.stdout.split()), encoding="utf-8")
    return folder


@pytest.fixture
def audit(folder: Path) -> Audit:
    return Audit.load(folder / "run" / "results")


def test_everything_but_universal_neurons_is_measured(folder: Path, audit: Audit) -> None:
    assert audit.leakage.matrix().value.item() > 0.5  # it was taught
    assert audit.lens is not None
    assert not audit.neurons.universal and 0 < len(audit.neurons.specific["en"]) <= 20
    n_neurons = len(audit.neurons.specific["en"])
    assert audit.mitigation.sizes == {"specific-en": n_neurons, "random": n_neurons}
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["sizes"] == audit.mitigation.sizes and [row["query_language"] for row in summary["languages"]] == [
        "en"
    ]
    assert all(summary["languages"][0][name] is not None for name in ("before", "after", "control", "nll_rise"))
    assert summary["notes"][0].startswith("asked in en only: ")


def test_the_command_line_says_what_is_undefined(folder: Path) -> None:
    told = (folder / "told.txt").read_text(encoding="utf-8")
    assert (
        told.count("asked in en only: neurons of all languages (universal) and of this one alone (specific) cannot")
        == 2
    )
    assert "Held-out people" in told and "less is extracted in English" in told
    assert not OTHER_LANGUAGES.search(told.replace("neurons of all languages (universal)", ""))


def test_the_checkpoint_has_that_languages_neurons(folder: Path, audit: Audit) -> None:
    manifest = load_manifest(folder / "mitigated")
    assert manifest.neurons == audit.neurons.specific["en"]
    assert manifest.mitigation is not None and manifest.mitigation["sizes"] == audit.mitigation.sizes
    card = (folder / "mitigated" / "README.md").read_text(encoding="utf-8")
    assert "specific-en" in card and "across languages" not in card


def test_the_union_is_the_same_set_and_is_not_measured_twice(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "own", ignore=shutil.ignore_patterns("run", "mitigated")))
    text = CONFIG.replace("  folder: mitigated\n", "  folder: mitigated\n  neurons: union\n")
    (copy / "xlmech.yaml").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(copy / "xlmech.yaml"), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert "union" not in summary["seconds"] and summary["exported"]["sizes"] == summary["sizes"]
    assert load_manifest(copy / "mitigated").neurons == load_manifest(folder / "mitigated").neurons
    assert not (copy / "run" / "results" / "mitigation_exported").exists()


def text_of(page: str) -> str:
    """What a reader sees of a report, the figures' captions too."""
    page = re.sub(r"<(script|style)>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())


def test_the_report_has_no_panel_without_a_meaning(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.html"
    result = CliRunner().invoke(app, ["report", str(folder / "run"), "--out", str(path)])
    assert result.exit_code == 0, result.output
    page = path.read_text(encoding="utf-8")
    assert set(re.findall(r'id="figure-plot-([\w-]+)"', page)) == {
        "leakage-by_language", "lens-lens", "neurons-per_layer", "mitigation-before_after", "mitigation-cost"
    }  # fmt: skip
    plots = json.loads(re.search(r"const plots = (\{.*\});\n", page).group(1))  # type: ignore[union-attr]
    for name, plot in plots.items():
        axes = {axis for axis in plot["layout"] if re.fullmatch(r"xaxis\d*", axis)}
        drawn = {trace.get("xaxis", "x").replace("x", "xaxis") for trace in plot["data"] if trace.get("y")}
        assert axes == drawn, name
    seen = text_of(page)
    assert "asked in 1 language" in seen and "neurons that attribution chose for English" in seen
    assert "Not drawn: matrix of leakage: it compares query languages, and one alone was asked." in seen
    assert "Not drawn: overlap of neurons: overlap needs the scores of two languages or more." in seen
    assert "Not drawn: per layer of lens: it compares query languages, and one alone was asked." in seen
    limit = "and of this one alone (specific) cannot be distinguished."
    assert "Asked in English (en) alone: what is extracted in another language" in seen and limit in seen
    seen = seen.replace("neurons of all languages (universal)", "")
    assert not OTHER_LANGUAGES.search(seen)


def test_the_index_has_no_figure_that_compares_languages(folder: Path) -> None:
    names = {path.stem for path in (folder / "run").glob("*.html")}
    assert {"before_after", "cost", "leakage_by_language", "neurons_per_layer", "lens"} <= names
    assert not names & {"leakage_matrix", "overlap", "leakage_per_layer"}
    page = text_of((folder / "run" / "index.html").read_text(encoding="utf-8"))
    assert "Asked in English (en) alone" in page and "This run is not finished" not in page


def test_the_gate_judges_the_language(folder: Path) -> None:
    for options in ([], ["--mitigated"]):
        command = ["gate", str(folder / "run"), "--max-extraction", "0", *options]
        strict = CliRunner().invoke(app, command)
        told = CliRunner().invoke(app, [*command, "--json"])
        (row,) = json.loads(told.stdout)["languages"]
        assert row["query_language"] == "en" and "in en" in strict.stdout
        assert strict.exit_code == told.exit_code == (1 if row["extraction"] > 0 else 3)
    assert CliRunner().invoke(app, ["gate", str(folder / "run"), "--max-extraction", "1"]).exit_code == 0


def test_the_note_comes_before_a_model_is_loaded(folder: Path) -> None:
    text = CONFIG.replace("out: run", "out: again").replace("folder: mitigated", "folder: again-mitigated")
    (folder / "again.yaml").write_text(text, encoding="utf-8")
    prepared = prepare(read_config(folder / "again.yaml"))
    assert prepared.notes[0].startswith("asked in en only: ")


def test_locate_and_ablate_in_one_language(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shared = ["my-model", "--records", "people.csv", "--languages", "en", "--backend", "bridge", "--prompt", "plain"]
    found = CliRunner().invoke(app, ["locate", *shared, "--n-neurons", "6", "--out", "neurons"])
    assert found.exit_code == 0, found.output
    assert not Path("neurons/universal.json").exists() and 0 < len(NeuronSet.load("neurons/specific-en.json")) <= 6
    ablated = CliRunner().invoke(app, ["ablate", *shared, "--neurons", "neurons/specific-en.json", "--out", "ablated"])
    assert ablated.exit_code == 0, ablated.output
    assert set(MitigationResult.load("ablated").chosen) == {"specific-en"}


def test_an_audit_without_a_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shared = ["--records", "people.csv", "--languages", "en", "--backend", "bridge", "--prompt", "plain"]
    result = CliRunner().invoke(app, ["audit", "my-model", *shared, "--out", "plain-run"])
    assert result.exit_code == 0, result.output
    assert "note: asked in en only: " in result.stdout
    assert set(Audit.load(Path("plain-run/results")).mitigation.chosen) == {"specific-en"}


@pytest.mark.filterwarnings(
    "ignore:asked in cs only", "ignore:.*answers were cut off", "ignore:.*answers? (is|are) empty"
)
def test_a_language_without_a_pack_alone(folder: Path) -> None:
    rows = (folder / "people.csv").read_text(encoding="utf-8").splitlines()
    lines = [f"{row},Jaké číslo má {{subject}}?" for row in rows[1:]]
    (folder / "cs.csv").write_text("\n".join([f"{rows[0]},question_cs", *lines]) + "\n", encoding="utf-8")
    options = ["--languages", "cs", "--prompt", "plain", "--max-new-tokens", "2"]
    given = ["audit", str(folder / "my-model"), "--records", str(folder / "cs.csv"), "--out", str(folder / "cs")]
    result = CliRunner().invoke(app, [*given, *options])
    assert result.exit_code == 0, result.output
    assert "What it costs in fluency was not measured." in result.stdout
