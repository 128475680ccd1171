"""The widgets draw the state's numbers and change the state; no browser is needed for that."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
from helpers.people import person

import xlmech
from xlmech.data.readers import save_records
from xlmech.data.records import MASK
from xlmech.neurons.neuron_set import NeuronSet

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from xlmech.explorer.panels.flow import Flow
from xlmech.explorer.panels.layers import Layers
from xlmech.explorer.panels.neurons import Neurons

LANGUAGES = ("en", "fr", "es")
RECORDS = (*(person(number) for number in range(3)), *(person(number, group="public") for number in (3, 4)))
SET = NeuronSet(frozenset({(0, 1), (1, 2)}), 3, 64)


def clicked(x: int, y: int, number: int = -1) -> dict[str, Any]:
    """What the browser tells of a click on one point."""
    return {"trace": 0, "point": number, "x": x, "y": y, "time": 0}


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))


@pytest.fixture
def view(model: Any) -> Any:
    return xlmech.explore(
        model, RECORDS, languages=LANGUAGES, prompt="plain", neurons={"chosen": SET, "none": SET - SET}
    )


def opened(view: Any, kind: type) -> Any:
    """The panel of a class, with its tab open."""
    number = next(number for number, panel in enumerate(view.panels) if isinstance(panel, kind))
    view.tabs.selected_index = number
    return view.panels[number]


def test_a_notebook_shows_it(view: Any) -> None:
    assert "application/vnd.jupyter.widget-view+json" in view._repr_mimebundle_()
    assert view.tabs.titles == ("Layers", "Flow", "Neurons", "Attention")


def test_a_front_end_finds_every_script_without_the_internet(view: Any) -> None:
    """VS Code reads the scripts of widgets from the environment's nbextensions; those of the plots come with the widget."""
    state = view.panels[0].lens._widget.get_state()
    assert "export default { initialize, render }" in state["_esm"] and "http" not in state["_esm"]
    assert (state["_model_module"], state["_view_module"]) == ("anywidget", "anywidget")
    shipped = {str(path).rpartition("share/jupyter/")[2] for path in files("anywidget") or ()}
    assert {"nbextensions/anywidget/index.js", "nbextensions/anywidget/extension.js"} <= shipped
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {re.split("[>=]", line)[0] for line in project["optional-dependencies"]["notebook"]}
    assert extra >= {"ipykernel", "ipywidgets", "anywidget"}


def test_only_the_open_panel_is_computed(view: Any) -> None:
    layers, flow, neurons, attention = view.panels
    assert layers.table.figure is not None
    assert flow.map.figure is None and neurons.map.figure is None and not attention.view.value
    view.tabs.selected_index = 1
    assert flow.map.figure is not None and neurons.map.figure is None
    drawn = layers._drawn
    view.change(layer=1)
    assert layers._drawn is drawn and flow._drawn.layer == 1


def test_ticking_a_neuron_ablates_it(view: Any) -> None:
    panel = opened(view, Neurons)
    before = view.circuit.answers(view.state)
    panel.ticks[1].value = True
    pair = panel.listed[1]
    assert view.state.ablated == {pair} and "1 neuron in layer" in view.controls.ablated.value
    after = view.circuit.answers(view.state)
    assert (before.prob != after.prob).any() and "after: probability" in text(view.answers.value)
    assert f"NeuronSet(frozenset({{{pair}}}), 3, 64" in view.code.value
    panel.map.click(clicked(pair[1], pair[0], 3))
    assert view.state.ablated == frozenset() and panel.ticks[1].value is False
    assert "after" not in text(view.answers.value)
    view.undo()
    assert view.state.ablated == {pair} and panel.ticks[1].value is True
    view.controls.buttons["none"].click()
    assert view.state.ablated == frozenset()
    for _ in range(9):
        view.controls.buttons["undo"].click()
    assert view.state.ablated == frozenset()


def test_layers_and_sets_are_ablated_and_exported(view: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    controls = view.controls
    assert controls.set.options == ("chosen (2)",)
    controls.buttons["set"].click()
    assert view.state.ablated == SET.neurons
    controls.layer.value = 2
    controls.buttons["layer"].click()
    assert len(view.state.ablated) == 66 and "the whole MLP is gone in layer 2" in controls.ablated.value
    controls.buttons["export"].click()
    assert "written to ablated-neurons.json" in controls.ablated.value
    assert NeuronSet.load("ablated-neurons.json") == view.circuit.neuron_set(view.state.ablated)
    controls.file.value = "missing/neurons.csv"
    controls.buttons["none"].click()
    controls.buttons["export"].click()
    assert "not written" in controls.ablated.value


def test_what_is_known_of_a_neuron_is_shown_on_demand(view: Any) -> None:
    panel = opened(view, Neurons)
    assert "exact" not in panel.texts[0].value
    panel.more.value = True
    exact = view.circuit.exact(view.state).set_index(["layer", "neuron"]).effect
    for number, pair in enumerate(panel.listed):
        assert f"exact {exact[pair]:+.3f}" in " ".join(text(panel.texts[number].value).split())
    assert "public facts" in panel.texts[0].value and "raises" in panel.texts[0].value
    shown = text(" ".join(one.value for one in panel.texts))
    assert not {letter for letter in "ABC" if f" {letter} " in shown}, "tokens of values"


def test_cells_select_layer_and_token(view: Any) -> None:
    layers = opened(view, Layers)
    layers.table.click(clicked(5, 1))
    assert (view.state.layer, view.state.position) == (1, 5)
    layers.lens.click(clicked(2, 0))
    assert view.state.layer == 2
    layers.by.value = "entropy"
    assert "entropy" in layers.table.figure.data[0].colorbar.title.text
    flow = opened(view, Flow)
    assert "Layer 2, token 5 patched: the model writes" in flow.answer.value
    last = len(view.circuit.flow(view.state).tokens) - 1
    flow.map.click(clicked(last, 2))
    assert f"Layer 2, token {last} patched" in flow.answer.value
    flow.value.value = "source_in_target"
    assert "source" in flow.map.figure.layout.title.text
    whole = flow.map.figure.data[0].z
    flow.component.value = "mlp_out"
    assert view.state.component == "mlp_out" and flow.map.figure.data[0].z != whole
    view.change(component="resid_post")
    assert flow.component.value == "resid_post" and flow.map.figure.data[0].z == whole


def test_controls_change_the_state(view: Any) -> None:
    controls = view.controls
    controls.record.value = "r1-birth_country"
    assert (view.state.record, view.state.other) == ("r1-birth_country", "r2-birth_country")
    controls.languages.value = ("en", "es")
    assert view.state.languages == ("en", "es") and view.state.language == "en"
    controls.languages.value = ()
    assert view.state.languages == ("en", "es") == controls.languages.value
    controls.language.value, controls.template.value, controls.form.value = "es", 1, "en"
    assert (view.state.language, view.state.template, view.state.form) == ("es", 1, "en")
    rows = view.circuit.answers(view.state)
    assert f"{rows.prob[0]:.0e}" in view.answers.value or f"{rows.prob[0]:.3f}" in view.answers.value


def test_every_panel_draws_and_shows_nobody(view: Any) -> None:
    for number in range(4):
        view.tabs.selected_index = number
    view.panels[3].all_languages.value = True
    assert all(not panel.message.value for panel in view.panels)
    shown = _everything(view)
    for record in RECORDS:
        assert record.subject not in shown
        assert not any(form in shown for form in record.forms.values())
    assert "CircuitsVis" in view.panels[3].view.value and view.panels[3].rows.value.count("subject\u00a01/") == 3


def _everything(view: Any) -> str:
    panels = view.panels
    plots = [panels[0].table, panels[0].lens, panels[1].map, panels[2].map]
    texts = [plot.figure.to_json() for plot in plots]
    texts += [view.answers.value, view.code.value, panels[1].answer.value, panels[3].view.value, panels[3].rows.value]
    return "\n".join([*texts, *(one.value for one in panels[2].texts), str(view.controls.record.options)])


def test_names_are_shown_on_request_and_empty_sets_not_at_all(model: Any) -> None:
    sets = {"chosen": SET, "none": SET - SET}
    view = xlmech.explore(model, RECORDS, languages=LANGUAGES, prompt="plain", reveal=True, neurons=sets)
    assert view.controls.set.options == ("chosen (2)",)
    assert RECORDS[0].subject in view.controls.record.options[0][0]
    assert MASK not in view.answers.value
    assert "•••" not in str(view.panels[0].table.figure.data[0].text)


def test_what_cannot_be_drawn_says_why(model: Any) -> None:
    view = xlmech.explore(model, RECORDS[:1], languages=LANGUAGES, prompt="plain")
    assert "no other record of the kind birth_country" in opened(view, Flow).message.value
    assert view.controls.other.value == ""


def test_without_widgets_the_extra_is_named(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r'explore needs ipywidgets: pip install "xlmech\[notebook\]"'):
        xlmech.explore(model, RECORDS)


def test_wrong_arguments_are_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no records to explore; give a list"):
        xlmech.explore(model)
    with pytest.raises(ValueError, match="expected a HookedTransformer or TransformerBridge, got str"):
        xlmech.explore("somewhere", RECORDS)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        xlmech.explore(tmp_path / "nothing")
    with pytest.raises(ValueError, match="neurons of a model with"):
        xlmech.explore(model, RECORDS, neurons={"others": NeuronSet(frozenset({(0, 0)}), 9, 9)})
    with pytest.raises(ValueError, match="unknown record 'x'"):
        xlmech.explore(model, RECORDS, languages=LANGUAGES, record="x")


def test_a_run_folder_names_the_records(model: Any, run: Path, tmp_path: Path) -> None:
    save_records(RECORDS, tmp_path / "people.jsonl")
    config = "model: {source: demo}\ndata: {records: ../people.jsonl, languages: [en, es], prompt: plain}\n"
    (run / "config.yaml").write_text(config, encoding="utf-8")
    view = xlmech.explore(model, run, neurons={"chosen": SET})
    assert view.state.languages == ("en", "es") and "prompt_format(model, 'plain')" in view.python("answers")
    assert [record.id for record in view.circuit.questions.records] == [record.id for record in RECORDS]
    with pytest.raises(ValueError, match="neurons of a model with"):
        xlmech.explore(model, run)  # the neurons that the toy run saved are of another model
