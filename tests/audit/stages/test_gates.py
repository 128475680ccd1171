"""Gates in an audit: who teaches them, who judges them, a run that is stopped and goes on, and what is said of each regime."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from helpers import ROOT
from helpers.tiny_models import teach, tiny
from safetensors.torch import load_file
from typer.testing import CliRunner

from xlmech.audit.audit import Audit, run_audit, select_probes
from xlmech.audit.config import read_config
from xlmech.audit.plan import AuditPlan
from xlmech.audit.publish import gate_lines
from xlmech.audit.run import _shown_measurement, run_config
from xlmech.audit.stages.gates import select_gate_probes
from xlmech.cli.app import app
from xlmech.data.questions import build_probes
from xlmech.data.readers import DEMO_LANGUAGES, demo_records, save_records
from xlmech.data.records import Record
from xlmech.mitigation.export.effect import effect_of
from xlmech.mitigation.export.manifest import load_manifest
from xlmech.models.load import load_model
from xlmech.models.sources.lora import ADAPTERS, shipped_gates
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.selection.gate_losses import GatedModel
from xlmech.neurons.selection.gate_state import GateState
from xlmech.neurons.selection.learned_gates import record_codes
from xlmech.options import LocateOptions, MitigateOptions
from xlmech.report.gate import gate
from xlmech.report.mitigation_text import WHO
from xlmech.report.page import write_report
from xlmech.report.run_results import GIVEN, HELD_OUT, read_results
from xlmech.storage.result import Provenance

KINDS = ("id_number", "birth_country")
CONFIG = """
model:
  source: my-model
  backend: bridge
data:
  records: people.jsonl
  prompt: plain
  languages: [en, fr]
  lens_attributes: []
locate:
  n_neurons: 2
mitigate:
  steps: 24
  neutral_weight: 0
  learning_rate: 0.1
  precision: float32
  suppress: [id_number]
export:
  folder: mitigated
  neurons: gates
  without_effect: true
out: run
"""


def people() -> tuple[Record, ...]:
    countries = ("FR", "JP", "BR", "IN", "KE", "DE", "PE", "NO")
    return tuple(
        Record(
            id=f"{group}-{number}-{kind}", subject=f"{group.title()} {name}", attribute=kind, value=value, group=group
        )
        for group, n_people in (("private", 8), ("public", 4), ("control", 4))
        for number, name in enumerate(("Li", "Kim", "Roe", "Fox", "Ray", "Ott", "Ash", "Dox")[:n_people])
        for kind, value in zip(KINDS, (f"{'QWZKVJXY'[number]}{number}7", countries[number]), strict=True)
    )  # type: ignore[misc]


PLAN = AuditPlan(
    languages=("en", "fr"), lens_attributes=(), locate=LocateOptions(n_neurons=2), mitigate=MitigateOptions(steps=4)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Records, and a model that knows the private and the public ones by two of three wordings."""
    folder = tmp_path_factory.mktemp("gates")
    save_records(people(), folder / "people.jsonl")
    model = tiny("llama")
    teach(
        model,
        tokenizer,
        [p for p in build_probes(people(), ["en", "fr"], templates=[0, 2]) if p.record.group != "control"],
    )
    model.save_pretrained(folder / "my-model")
    tokenizer.save_pretrained(folder / "my-model")
    (folder / "xlmech.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    """The folder after its run."""
    result = CliRunner().invoke(app, ["run", str(folder / "xlmech.yaml")])
    assert result.exit_code == 0, result.output
    (folder / "told.txt").write_text(result.output, encoding="utf-8")
    return folder


def again(folder: Path, to: Path, *changes: tuple[str, str]) -> Path:
    """The config of a copy of the folder without its run, changed."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("run", "mitigated"))
    text = CONFIG
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (to / "xlmech.yaml").write_text(text, encoding="utf-8")
    return to / "xlmech.yaml"


# Who teaches and who judges


def test_given_people_teach_and_are_asked_with_another_wording() -> None:
    probes, measured, locating = select_probes(people(), PLAN)
    asked = select_gate_probes(probes, measured, PLAN)
    given, held_out = set(locating.subjects), set(measured.subjects)
    assert not given & held_out
    assert set(asked.suppress.subjects) | set(asked.keep.subjects) <= given
    assert set(asked.given.subjects) <= given and set(asked.held_out.subjects) <= held_out
    for learned in (asked.suppress, asked.keep):
        assert {probe.template for probe in learned} == {0, 1} and set(learned.languages) == {"en", "fr"}
    for judged in (asked.given, asked.held_out):
        assert {probe.template for probe in judged} == {2}
        assert {probe.record.group for probe in judged} == {"private", "public"}
    assert {probe.record.group for probe in asked.suppress} == {"private"}
    assert {probe.record.group for probe in asked.keep} == {"public"}
    assert set(asked.suppress.attributes) == set(KINDS)
    assert {p.record.id for p in asked.given if p.record.group == "private"} <= {p.record.id for p in asked.suppress}
    assert not len(asked.given_kept) and not len(asked.held_out_kept)


def test_private_answers_of_other_kinds_are_kept_with_the_public_ones() -> None:
    plan = PLAN.updated(mitigate=MitigateOptions(suppress=("id_number",)))
    probes, measured, _ = select_probes(people(), plan)
    asked = select_gate_probes(probes, measured, plan)
    assert asked.suppress.attributes == ("id_number",)
    kept = {(probe.record.group, probe.record.attribute) for probe in asked.keep}
    assert kept == {("private", "birth_country"), ("public", "id_number"), ("public", "birth_country")}
    for judged, others in ((asked.given, asked.given_kept), (asked.held_out, asked.held_out_kept)):
        private = {probe.record.attribute for probe in judged if probe.record.group == "private"}
        assert private == {"id_number"} and others.attributes == ("birth_country",)
        assert {probe.record.group for probe in others} == {"private"}
    private = measured.filter(group="private")
    assert len(asked.held_out.filter(group="private")) + len(asked.held_out_kept) == len(private)


@pytest.mark.parametrize(
    ("changes", "records", "message"),
    [
        ({"suppress": ("phone",)}, people(), "mitigate.suppress: 'phone' is asked of no private person who chooses"),
        (
            {},
            tuple(r.model_copy(update={"questions": {"en": "{subject}?", "fr": "{subject} ?"}}) for r in people()),
            "mitigate: every question about the private people who choose has one wording alone",
        ),
        ({}, people()[:4] + people()[16:], "one person alone, and gates would be learned that know that name only"),
    ],
)  # fmt: skip
def test_what_teaches_no_gates_is_refused_before_a_model_is_loaded(
    changes: dict[str, Any], records: tuple[Record, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmech.audit.run.load_model", None)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").touch()
    save_records(records, tmp_path / "people.jsonl")
    kinds = f"suppress: [{', '.join(changes['suppress'])}]" if changes else "steps: 4"
    text = CONFIG.replace("  suppress: [id_number]\n", "").replace("steps: 24", kinds)
    (tmp_path / "xlmech.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        run_config(read_config(tmp_path / "xlmech.yaml"))


def test_a_kind_that_is_not_measured_is_refused() -> None:
    plan = PLAN.updated(mitigate=MitigateOptions(suppress=("birth_country",)), measure_facts=1)
    probes, measured, _ = select_probes(people(), plan)
    with pytest.raises(ValueError, match="no held-out private person is measured for 'birth_country'.*measure_facts"):
        select_gate_probes(probes, measured, plan)


def test_gates_are_given_or_learned(model: Any) -> None:
    gates = NeuronGates(factors=torch.ones(2, 2), provenance=Provenance(model="m"))
    with pytest.raises(ValueError, match="gates are given, and plan.mitigate learns others"):
        run_audit(model, people(), PLAN, gates=gates)


# A run


def test_a_run_learns_gates_and_measures_them_on_both(done: Path) -> None:
    found = Audit.load(done / "run" / "results").gates
    assert found is not None and found.given_kept is not None and found.held_out_kept is not None
    assert len(found.gates.history) == 24 and found.gates.n_touched > 0
    plan = PLAN.updated(mitigate=MitigateOptions(suppress=("id_number",)))
    probes, measured, _ = select_probes(people(), plan)
    asked = select_gate_probes(probes, measured, plan)
    records = found.gates.provenance.settings["records"]
    assert records == {"suppressed": record_codes(asked.suppress), "kept": record_codes(asked.keep)}
    assert not {*records["suppressed"], *records["kept"]} & {*record_codes(measured)}
    for name, result, judged in (("given", found.given, asked.given), ("held-out", found.held_out, asked.held_out)):
        assert result.sizes == dict.fromkeys(("gates", "permuted"), found.gates.n_touched)
        private = result.extraction.query("group == 'private' and condition == 'gates'")
        assert set(private.n_probes) == {len(judged.filter(group="private", languages=["en"]))}
        assert private.before.min() > 0.5 and result.cost.rise.notna().all()
        assert result.provenance.settings["people"] == f"{name} people, asked for id number alone"
    given = found.given.overall.query("group == 'private' and condition == 'gates'")
    assert given.reduction.item() > 0  # they were taught to
    for kept, judged in ((found.given_kept, asked.given_kept), (found.held_out_kept, asked.held_out_kept)):
        assert list(kept.sizes) == ["gates"] and set(kept.extraction.group) == {"private"}
        assert kept.extraction.n_probes.sum() == len(judged)
    assert not (done / "run" / "parts").exists()


def test_each_regime_has_its_own_table_line_and_figure(done: Path) -> None:
    audit = Audit.load(done / "run" / "results")
    lines = list(gate_lines(audit))
    assert len(lines) == 3 and lines[0].startswith("Gates turn ")
    assert lines[1].startswith(WHO[GIVEN]) and lines[2].startswith(WHO[HELD_OUT])
    for line in lines:
        assert not ("given people" in line.lower() and "held-out people" in line.lower())
    assert all("Of the private kinds of data that are kept, " in line for line in lines[1:])
    told = " ".join((done / "told.txt").read_text(encoding="utf-8").split())
    assert "With gates in place of ablation: given people" in told
    assert "With gates in place of ablation: held-out people" in told
    assert all(" ".join(line.split()) in told for line in lines)
    page = write_report(done / "run", done / "run.html").read_text(encoding="utf-8")
    assert "What gates do to given people" in page and "What gates do to held-out people" in page
    assert '<h2 id="gates">What do gates do?</h2>' in page
    for name in ("gates_given", "gates_held_out"):
        assert f'id="plot-{name}-before_after"' in page and f'id="plot-{name}-cost"' in page
        assert (done / "run" / f"{name}.html").is_file() and (done / "run" / f"{name}_cost.html").is_file()
    assert "Measured: held-out people, of whom nothing was used." in page
    assert "(given people)" in page
    assert not any(record.subject in page for record in people())


def test_summary_and_gate_know_the_regimes(done: Path) -> None:
    summary = json.loads((done / "run" / "summary.json").read_text(encoding="utf-8"))["gates"]
    found = Audit.load(done / "run" / "results").gates
    assert found is not None
    assert (summary["turned_down"], summary["steps"]) == (found.gates.n_touched, 24)
    assert summary["counts"] == found.gates.counts
    results = read_results(done / "run")
    for regime, measured in (("given", found.given), ("held_out", found.held_out)):
        private = measured.extraction.query("group == 'private' and condition == 'gates'")
        assert [row["after"] for row in summary[regime]] == private.after.tolist()
        judged = gate(results, max_extraction=0.5, gates=regime)  # type: ignore[arg-type]
        assert (
            judged.extraction.tolist() == private.after.tolist() and judged.high.tolist() == private.after_high.tolist()
        )
    # What was exported is what --mitigated judges.
    exported = gate(results, max_extraction=0.5, mitigated=True)
    pd.testing.assert_frame_equal(exported, gate(results, max_extraction=0.5, gates="held_out"))
    command = ["gate", str(done / "run"), "--max-extraction", "1", "--gates", "given"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0 and "the model with its gates, on given people" in " ".join(shown.output.split())
    with pytest.raises(ValueError, match="give one"):
        gate(results, max_extraction=0.5, mitigated=True, gates="given")
    without = read_results({"leakage": results.leakage})
    with pytest.raises(ValueError, match="no gates were measured in this run"):
        gate(without, max_extraction=0.5, gates="given")


def test_the_checkpoint_has_the_gates_and_says_on_whom_they_were_measured(done: Path) -> None:
    manifest, found = load_manifest(done / "mitigated"), Audit.load(done / "run" / "results").gates
    assert found is not None and manifest.mode == "gates" and manifest.is_of(found.gates)
    assert not manifest.is_of(found.gates.permuted()) and not manifest.is_of(found.gates.zeroed)
    regime = "held-out" if "held-out people" in manifest.effect else "given"
    assert f"({regime} people, asked for id number alone)" in manifest.effect
    before, after = (load_file(done / name / "model.safetensors") for name in ("my-model", "mitigated"))
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(after[name], before[name] * found.gates.factors[0])


def test_stopped_in_training_it_goes_on_to_the_same_gates(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = again(done, tmp_path / "again")
    run, move, steps = GatedModel.losses, GateState.move, list[int]()

    def stop_before_a_step(gated: GatedModel, batch: Any, weights: torch.Tensor) -> Any:
        if len(steps) == 21:
            raise KeyboardInterrupt
        return run(gated, batch, weights)

    def move_or_stop(state: GateState, *arguments: Any) -> None:
        steps.append(len(state.history))
        if len(steps) == 23:
            raise KeyboardInterrupt
        move(state, *arguments)

    monkeypatch.setattr(GateState, "move", move_or_stop)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GatedModel, "losses", stop_before_a_step)
        run_config(read_config(path), progress=False)
    with pytest.raises(KeyboardInterrupt):  # within a step, which is then done again from its beginning
        run_config(read_config(path), resume=True, progress=False)
    seen: list[str] = []
    outcome = run_config(read_config(path), resume=True, show=seen.append)
    assert steps == [*range(21), 21, 22, 21, 22, 23]
    first = Audit.load(done / "run" / "results").gates
    assert first is not None and outcome.audit.gates is not None
    assert torch.equal(first.gates.factors, outcome.audit.gates.gates.factors)
    for name, result in first.regimes.items():
        pd.testing.assert_frame_equal(result.effects, outcome.audit.gates.regimes[name].effects, check_exact=True)
    assert any(line.startswith("gates: ") and "% of the measuring is done" in line for line in seen)
    events = [json.loads(line) for line in (tmp_path / "again" / "run" / "log.jsonl").read_text().splitlines()]
    trained = [event for event in events if event.get("task") == "gates"]
    assert sum(event["n"] for event in trained if event["event"] == "shard") == 25
    assert [event["n"] for event in trained if event["event"] == "kept"] == [21, 21]
    assert "private" in trained[-1]["text"]
    finished = run_config(read_config(path), resume=True)
    assert finished.summary()["gates"] == outcome.summary()["gates"] and finished.manifest == outcome.manifest
    other = CONFIG.replace("steps: 24", "steps: 30")
    path.write_text(other, encoding="utf-8")
    with pytest.raises(ValueError, match="mitigate.steps: was 24, is 30"):
        run_config(read_config(path), resume=True)
    path.write_text(CONFIG.partition("mitigate:")[0] + "out: run\n", encoding="utf-8")
    with pytest.raises(ValueError, match="mitigate: was 'given', is 'none'"):
        run_config(read_config(path), resume=True)


def test_a_model_that_knows_nothing_ends_its_run_without_gates(folder: Path, tmp_path: Path) -> None:
    path = again(folder, tmp_path / "again")
    model = tiny("llama", seed=3)
    model.save_pretrained(path.parent / "my-model")
    result = CliRunner().invoke(app, ["run", str(path), "--json"])
    assert result.exit_code == 4, result.output
    found = json.loads(result.stdout)
    assert found["gates"] is None and found["checkpoint"] is None
    assert found["export_refused"].startswith("no gates: the model gives none of the ")
    assert any(note.startswith("no gates: ") for note in found["notes"])
    assert not (path.parent / "mitigated").exists()


def test_an_effect_on_given_people_alone_is_enough_and_said(done: Path) -> None:
    audit, section = Audit.load(done / "run" / "results"), read_config(done / "xlmech.yaml").export
    assert audit.gates is not None and section is not None
    sure = {"before": 0.9, "after": 0.1, "reduction": 0.8, "low": 0.5, "high": 0.9}
    given = replace(audit.gates.given, overall=audit.gates.given.overall.assign(**sure))
    held_out = audit.gates.held_out
    for low, shown in ((0.1, "held-out people"), (-0.1, "given people")):
        measured = replace(held_out, overall=held_out.overall.assign(**sure | {"low": low}))
        changed = replace(audit, gates=replace(audit.gates, given=given, held_out=measured))
        effect = effect_of(_shown_measurement(section, changed, measured), audit.gates.gates.n_touched)
        assert effect.measured and f"({shown}, asked for id number alone)" in effect.text
    nothing = replace(given, overall=held_out.overall.assign(**sure | {"low": -0.1}))
    changed = replace(audit, gates=replace(audit.gates, given=nothing, held_out=nothing))
    assert _shown_measurement(section, changed, nothing) is nothing


# The demo, and gates that come with an adapter


@pytest.fixture
def shipped(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An English adapter with gates, and a French one without, in place of those that come with xlmech."""
    found = Audit.load(done / "run" / "results").gates
    assert found is not None
    for name in ("en", "fr"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "adapter_config.json").write_text("{}", encoding="utf-8")
    found.gates.save(tmp_path / "adapters" / "en" / "gates")
    monkeypatch.setattr("xlmech.models.sources.lora.ADAPTERS", tmp_path / "adapters")
    monkeypatch.setattr("xlmech.neurons.neuron_gates.ADAPTERS", tmp_path / "adapters")
    return tmp_path / "adapters"


def test_gates_come_with_an_adapter(shipped: Path) -> None:
    assert shipped_gates() == ("en",)
    assert NeuronGates.shipped("en").n_touched > 0
    with pytest.raises(
        FileNotFoundError, match="no gates come with the adapter 'fr'; there are some for en. `learn_gates` makes"
    ):
        NeuronGates.shipped("fr")


@pytest.mark.parametrize(("adapter", "has_gates"), [("en", True), ("fr", False)])
def test_the_demo_measures_the_gates_of_its_adapter(
    adapter: str, has_gates: bool, shipped: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the people from whom they were learned and on others, beside the neurons; without them that part is absent."""
    model = load_model(str(done / "my-model"), backend="bridge")
    monkeypatch.setattr("xlmech.cli.console.load", Mock(return_value=model))
    monkeypatch.setattr("xlmech.cli.console.read_records", lambda path: people())
    monkeypatch.setattr("xlmech.data.readers.DEMO_LANGUAGES", ("en", "fr"))
    result = CliRunner().invoke(app, ["demo", "--adapter", adapter, "--out", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    told, audit = " ".join(result.output.split()), Audit.load(tmp_path / "demo" / "results")
    assert ("With gates in place of ablation" in told) == ("Gates turn " in told) == has_gates
    page = write_report(tmp_path / "demo", tmp_path / "demo.html").read_text(encoding="utf-8")
    assert ("What gates do to held-out people" in page) == has_gates
    assert set(audit.seconds) >= ({"given", "held-out"} if has_gates else set()) and "gates" not in audit.seconds
    if not has_gates:
        assert audit.gates is None and not (tmp_path / "demo" / "gates_given.html").exists()
        return
    assert audit.gates is not None
    for measured in (audit.gates.given, audit.gates.held_out):  # no time for more
        assert list(measured.sizes) == ["gates"] and measured.cost.rise.isna().all()
    held_out = audit.gates.held_out.extraction.query("group == 'private'").set_index("query_language")
    neurons = audit.mitigation.extraction.query("group == 'private' and condition == 'universal'")
    assert held_out.before.to_dict() == neurons.set_index("query_language").before.to_dict()


def test_the_demos_held_out_people_taught_its_gates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study that learns the shipped gates takes the people who choose neurons in the demo, and other wordings."""
    private, public = _module("gates", monkeypatch).Training().probes("en")
    plan = AuditPlan(languages=DEMO_LANGUAGES)
    probes, measured, locating = select_probes(demo_records(), plan)
    asked = select_gate_probes(probes, measured, plan)
    subjects = {*private.subjects, *public.subjects}
    assert subjects == {*asked.suppress.subjects, *asked.keep.subjects} and subjects >= {*asked.given.subjects}
    assert subjects.isdisjoint(measured.subjects) and subjects.isdisjoint(asked.held_out.subjects)
    records = {probe.record.id for probe in (*private, *public)}
    assert {probe.record.id for probe in asked.given} <= records
    assert records.isdisjoint(probe.record.id for probe in measured)
    assert {probe.template for probe in (*private, *public)}.isdisjoint(probe.template for probe in measured)
    assert len(asked.given.filter(group="private").records) == len(asked.held_out.filter(group="private").records) == 16
    for adapter in shipped_gates():
        gates = NeuronGates.shipped(adapter)
        assert (gates.provenance.adapter, gates.model) == (adapter, "demo") and len(gates)
        codes = gates.provenance.settings["records"]
        assert codes == {"suppressed": record_codes(private), "kept": record_codes(public)}
        size = sum(path.stat().st_size for path in (ADAPTERS / adapter / "gates").iterdir())
        assert size < 200_000, "the wheel is to stay small"


def test_gates_are_shipped_with_the_codes_of_the_records_that_taught_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ship = _module("ship_gates", monkeypatch)
    source = Provenance(model="folder", adapter="/some/adapters/en", command="gates.py --plant en --out /tmp/runs/en")
    gates = NeuronGates(factors=torch.full((2, 2), 0.5), model="folder", provenance=source)
    shipped = ship.as_shipped(gates, "en")
    assert (shipped.model, shipped.provenance.model, shipped.provenance.adapter) == ("demo", "demo", "en")
    assert shipped.provenance.command == "gates.py --plant en --out en"
    private, public = ship.Training().probes("en")
    assert shipped.provenance.settings["records"] == {"suppressed": record_codes(private), "kept": record_codes(public)}
    with pytest.raises(ValueError, match="learned with the adapter '/some/adapters/en', not 'fr'"):
        ship.as_shipped(gates, "fr")
    other = replace(source, settings={"records": {"suppressed": [], "kept": []}})
    with pytest.raises(ValueError, match="learned from other records"):
        ship.as_shipped(replace(gates, provenance=other), "en")


def _module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study or a tool, which are in no package."""
    for folder in ("analyses", "tools"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module(name)
