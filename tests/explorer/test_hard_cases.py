"""Records, models and choices that are not as a person would like them: the explorer goes on, or says why in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.people import person, phone
from helpers.tiny_models import tiny

import xlmech
from xlmech.data.attributes import Attribute
from xlmech.data.records import Record
from xlmech.models.load import load_model
from xlmech.neurons.neuron_set import NeuronSet

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

LANGUAGES = ("en", "fr", "es")
RECORDS = (*(person(number) for number in range(3)), *(person(number, group="public") for number in (3, 4)))
FRENCH = Record(id="f", subject="Zoe Q", attribute="birth_country", value="XX", forms={"fr": "Quux"})
pytestmark = pytest.mark.filterwarnings("ignore:every neuron of layer")


def explore(model: Any, records: Any = RECORDS, **more: Any) -> Any:
    return xlmech.explore(model, records, languages=LANGUAGES, prompt="plain", **more)


def messages(view: Any) -> list[str]:
    """Open every panel, with all that it can show, and return what each says in the place of what it cannot."""
    for number, panel in enumerate(view.panels):
        view.tabs.selected_index = number
        for name in ("more", "all_languages"):
            if hasattr(panel, name):
                getattr(panel, name).value = True
    return [panel.message.value for panel in view.panels]


def hidden(panel: Any) -> bool:
    return any(child.layout.display == "none" for child in panel.box.children[1:])


def test_a_record_with_one_language_is_asked_in_that_one(model: Any) -> None:
    view = explore(model, [FRENCH, *RECORDS])
    assert (view.state.record, view.state.languages) == ("f", ("fr",))
    assert messages(view) == ["", "", "", ""]
    view.controls.record.value = "r0-birth_country"
    assert view.state.languages == LANGUAGES == view.controls.languages.value
    assert "f" in view.circuit.questions.others_of("r0-birth_country")
    view.controls.languages.value = ("en", "fr")
    view.controls.record.value = "f"
    assert view.state.languages == ("fr",)
    view.controls.languages.value = ("en", "fr")
    assert "no value form in en" in view.answers.value
    view.controls.record.value = "r1-birth_country"
    assert view.state.languages == ("en", "fr") and "no value form" not in view.answers.value


def test_a_record_without_a_language_is_passed_over(model: Any) -> None:
    nowhere = FRENCH.model_copy(update={"id": "n", "forms": {"de": "Quux"}})
    view = explore(model, [nowhere, *RECORDS])
    assert view.state.record == "r0-birth_country" and "n" not in view.circuit.questions.others_of(view.state.record)
    view.controls.record.value = "n"
    assert "(birth_country) has no value form in en, fr, es" in view.answers.value and hidden(view.panels[0])
    view.controls.record.value = "r1-birth_country"
    assert not hidden(view.panels[0]) and "no value form" not in view.answers.value
    with pytest.raises(ValueError, match="record 'n' .* has no value form in en"):
        explore(model, [nowhere])
    with pytest.raises(ValueError, match="no language pack for 'xx'"):
        xlmech.explore(model, RECORDS, languages=["en", "xx"])
    with pytest.raises(ValueError, match="1 of the records have the id of another one"):
        explore(model, [RECORDS[0], RECORDS[0]])


def test_a_wrong_choice_changes_nothing(model: Any) -> None:
    view = explore(model)
    state, shown = view.state, view.answers.value
    wrong = {
        "unknown record 'nobody'": {"record": "nobody"},
        "unknown language 'it'": {"languages": ("en", "it")},
        "expected a list of languages": {"languages": "en"},
        "one language at least": {"languages": ()},
        "unknown other record 'x'": {"other": "x"},
        "unknown layer 99; use 0, 1, 2": {"layer": 99},
        "unknown template 7": {"template": 7},
        "unknown component 'z'": {"component": "z"},
        "neuron .9, 9. is outside 3 layers": {"ablated": [(9, 9)]},
        "position -1: tokens are counted from 0": {"position": -1},
        "unknown field of the state 'colour'": {"colour": 1},
    }
    for reason, changes in wrong.items():
        with pytest.raises(ValueError, match=reason):
            view.change(**changes)
        assert view.state == state and view.answers.value == shown
    view.change(ablated=[(0, 1)])
    assert view.state.ablated == {(0, 1)}


def test_another_record_keeps_the_ablation_and_undo_takes_back_step_by_step(model: Any) -> None:
    view = explore(model)
    for neuron in range(3):
        view.change(ablated=view.state.ablated | {(1, neuron)})
    view.controls.record.value = "r1-birth_country"
    assert len(view.state.ablated) == 3 and view.state.other == "r2-birth_country"
    with xlmech.ablate(model, view.circuit.neuron_set(view.state.ablated)):
        probes = xlmech.build_probes(RECORDS[1:2], LANGUAGES, templates=[0], prompt=view.circuit.questions.frame)
        after = xlmech.written_answers(model, probes, candidates=RECORDS, max_new_tokens=32)
    assert view.circuit.answers(view.state).prob.tolist() == after.prob.tolist()
    left = []
    for _ in range(4):
        view.undo()
        left.append(len(view.state.ablated))
    assert left == [2, 1, 0, 0] and view.state.record == "r1-birth_country"


def test_all_neurons_can_be_ablated(model: Any) -> None:
    view = explore(model)
    for layer in range(3):
        view.controls.layer.value = layer
        view.controls.buttons["layer"].click()
    assert len(view.state.ablated) == 192 and messages(view) == ["", "", "", ""]
    assert view.circuit.answers(view.state).prob.notna().all()


def test_an_empty_set_is_not_exported_and_reasons_are_told(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    view = explore(model)
    controls, export = view.controls, view.controls.buttons["export"]
    view.change(ablated={(0, 1)})
    export.click()
    controls.buttons["none"].click()
    export.click()
    assert "not written: no neuron is ablated" in controls.ablated.value
    assert NeuronSet.load("ablated-neurons.json").neurons == {(0, 1)}, "what was exported before stays"
    view.undo()
    controls.file.value = str(tmp_path / "ablated-neurons.json" / "x.json")
    export.click()
    assert "could not be written (Not a directory)" in controls.ablated.value
    monkeypatch.setenv("HOME", str(tmp_path))
    controls.file.value = "~/mine.csv"
    export.click()
    assert NeuronSet.load(tmp_path / "mine.csv").neurons == {(0, 1)}


def test_values_that_are_written_alike_keep_the_table_of_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.explorer.circuit.plant_language", lambda model: "en")
    monkeypatch.setattr("xlmech.lens.logit.plant_language", lambda model: "en")
    records = [phone(0), phone(1, subject="Bo B", value="+44 7700 900456")]
    view = explore(model, records)
    layers = view.panels[0]
    assert not layers.missing.value
    view.controls.languages.value = ("fr", "es")
    assert "forms share their first token" in layers.missing.value and layers.lens.box.layout.display == "none"
    assert not layers.message.value and layers.table.figure is not None and layers.table.box.layout.display is None
    view.controls.languages.value = ("en", "fr")
    assert not layers.missing.value and layers.lens.box.layout.display is None


def test_a_panel_that_cannot_be_drawn_hides_what_it_drew_before(model: Any) -> None:
    lone = person(0, attribute="birth_month")
    view = explore(model, [*RECORDS, lone])
    view.tabs.selected_index = 1
    flow = view.panels[1]
    assert flow.map.figure is not None and not hidden(flow)
    view.controls.record.value = lone.id
    assert "no other record of the kind birth_month" in flow.message.value
    assert flow.map.box.layout.display == "none" and flow.component.layout.display is None
    view.controls.record.value = "r0-birth_country"
    assert not hidden(flow) and not flow.message.value


def test_a_kind_with_one_candidate(model: Any) -> None:
    questions = {"en": ["Which club is {subject} in?"], "fr": ["Quel club ? {subject}"], "es": ["Club de {subject}"]}
    kind = Attribute(name="club", questions=questions, values={"A": {"en": "Alpha", "fr": "Beta", "es": "Gamma"}})
    records = [Record(id=f"k{n}", subject=name, attribute="club", value="A") for n, name in enumerate(("Ana Li", "Bo"))]
    told = messages(explore(model, records, kinds=iter([kind])))
    assert [bool(message) for message in told] == [False, True, False, True]
    assert "no other record of the kind club has another person and another value" in told[1]


@pytest.mark.parametrize("silent", ["attention", "mlp"])
def test_a_model_whose_heads_or_neurons_do_nothing(tokenizer: Any, silent: str) -> None:
    network = tiny("gemma3").double()
    with torch.no_grad():
        for layer in network.model.layers:
            (layer.self_attn.o_proj if silent == "attention" else layer.mlp.down_proj).weight.zero_()
    view = explore(load_model(network, tokenizer=tokenizer, dtype=torch.float64))
    assert messages(view) == ["", "", "", ""]
    said = view.panels[3].heads.value
    assert ("No head's output moves the answer" in said) == (silent == "attention")


def test_a_failure_of_the_model_leaves_no_old_numbers(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    view = explore(model)

    def fail(state: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(view.circuit, "flow", fail)
        with pytest.raises(RuntimeError):
            view.tabs.selected_index = 1
        assert "not drawn: RuntimeError" in view.panels[1].message.value and hidden(view.panels[1])
        patch.setattr(view.circuit, "answers", fail)
        with pytest.raises(RuntimeError):
            view.change(layer=1)
        assert "no answers: RuntimeError" in view.answers.value
    view.change(layer=2)
    assert not view.panels[1].message.value and not hidden(view.panels[1])


def test_models_and_folders_that_cannot_be_explored(model: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a model must be hooked, as of load_model"):
        xlmech.explore(tiny("gemma3"))
    with pytest.raises(FileNotFoundError, match="no run folder .*nowhere"):
        xlmech.explore(model, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no config.yaml that names its records; give the records"):
        xlmech.explore(model, run)
