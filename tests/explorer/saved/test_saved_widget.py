"""The explorer of a saved run: panels follow one selection, and show the numbers that the run saved; no model is loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.people import person
from helpers.toy_results import lens_result, mitigation
from helpers.toy_runs import audit, scored

import xlmech
from xlmech.leakage.measure import LeakageResult

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from xlmech.explorer.saved import panels as kinds_of_panels
from xlmech.explorer.saved import run as run_module
from xlmech.explorer.saved.code import saved_code
from xlmech.explorer.saved.draw import GONE, MAX_ROWS, NEVER, RISEN, STILL, languages_of

CODES = ("en", "fr", "es")
BEFORE = {"r0": (1, 1, 0), "r1": (1, 0, 0), "r2": (0, 0, 0), "r3": (1, 1, 1)}
AFTER = {"r0": (0, 1, 0), "r1": (1, 0, 1), "r2": (0, 0, 0), "r3": (0, 0, 0)}
KINDS = {"r0": "phone", "r1": "phone", "r2": "email", "r3": "birth_country"}
SHOWN = {(1, 0): GONE, (1, 1): STILL, (0, 0): NEVER, (0, 1): RISEN}


def rows(found: dict[str, tuple[int, ...]], name: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"probe": f"{record}/{code}", "record": record, "query_language": code, name: float(value)}
            for record, values in found.items()
            for code, value in zip(CODES, values, strict=True)
        ]
    )


@pytest.fixture
def results() -> dict[str, Any]:
    """Three kinds of data, four private records and a control one; with the neurons ablated, one more is extracted."""
    private = rows(BEFORE, "extracted").assign(group="private", template=0, own_form=1.0)
    control = rows({"c0": (0, 0, 0)}, "extracted").assign(group="control", template=0, own_form=0.0)
    probes = pd.concat([private, control], ignore_index=True)
    probes["attribute"] = probes.record.map({**KINDS, "c0": "phone"})
    probes["subject"] = "s" + probes.record
    probes["answer_language"] = ["en" if hit else "" for hit in probes.extracted]
    toy = mitigation()
    answers = rows(AFTER, "after").assign(condition="universal", before=rows(BEFORE, "x").x)
    lens = lens_result()
    readings = pd.concat(
        [
            lens.readings.assign(attribute="phone"),
            lens.readings.assign(record="r3", attribute="birth_country", prob=0.9),
        ]
    )
    return {
        "leakage": LeakageResult(probes=probes, plant_language="en", provenance=toy.provenance),
        "lens": replace(lens, readings=readings.reset_index(drop=True)),
        "neurons": scored(),
        "mitigation": replace(toy, answers=answers),
    }


@pytest.fixture
def view(results: dict[str, Any]) -> Any:
    return xlmech.explore(results)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))


def opened(view: Any, name: str) -> Any:
    kind = getattr(kinds_of_panels, name)
    number = next(number for number, panel in enumerate(view.panels) if isinstance(panel, kind))
    view.tabs.selected_index = number
    return view.panels[number]


def clicked(x: float | None, y: float, trace: int = 0) -> dict[str, Any]:
    return {"trace": trace, "point": -1, "x": x, "y": y, "time": 0}


def cells(panel: Any) -> list[list[float]]:
    (trace,) = panel.plot.figure.data
    return [list(row) for row in trace.z]


def test_it_begins_with_the_record_that_is_extracted_most_often(view: Any) -> None:
    assert "application/vnd.jupyter.widget-view+json" in view._repr_mimebundle_()
    assert view.state.record == "r3" and view.controls.record.options[0] == ("r3", "r3")
    assert text(view.outcomes.value).startswith("r3: birth country, private")
    assert text(view.outcomes.value).count(" extracted English (en)") == 0
    assert view.tabs.titles == ("Matrix", "Records", "Layers", "Neurons", "Figures of the run")


def test_a_record_shows_its_outcome_per_language_before_and_after(view: Any) -> None:
    view.controls.record.value = "r0"
    shown = text(view.outcomes.value)
    assert "after ablation" in shown
    assert "English (en) 0 extracted the question's not extracted" in shown
    assert "French (fr) 0 extracted English extracted" in shown
    assert "Spanish (es) 0 not extracted not extracted" in shown


def test_a_cell_of_the_matrix_chooses_its_records(view: Any) -> None:
    matrix = opened(view, "Matrix")
    assert view.run.shares().loc["phone"].tolist() == [1.0, 0.5, 0.0] and cells(matrix)[1] == [1.0, 0.5, 0.0]
    assert [tick for tick in matrix.plot.figure.layout.yaxis.ticktext] == ["birth country", "phone", "email"]
    matrix.plot.click(clicked(1, 1))
    assert (view.state.kind, view.state.language, view.state.record) == ("phone", "fr", "r0")
    (edge,) = matrix.plot.figure.layout.shapes
    assert (edge.x0, edge.x1, edge.y0, edge.y1) == (0.5, 1.5, 0.5, 1.5)
    assert [name for _, name in view.controls.record.options] == ["r0", "r1"]
    records = opened(view, "Records")
    assert cells(records) == [[GONE, STILL, NEVER], [STILL, NEVER, RISEN]]
    matrix = opened(view, "Matrix")
    matrix.plot.click(clicked(1, 1))
    assert (view.state.kind, view.state.language) == ("", "") and len(view.controls.record.options) == 4
    matrix.measure.value = "after_ablation"
    assert view.state.measure == "after_ablation" and cells(matrix)[1] == [0.5, 0.5, 0.5]


def test_a_cell_of_the_records_chooses_record_and_language(view: Any) -> None:
    records = opened(view, "Records")
    wanted = [
        [SHOWN[pair] for pair in zip(BEFORE[name], AFTER[name], strict=True)] for name in ("r3", "r0", "r1", "r2")
    ]
    assert cells(records) == wanted
    records.plot.click(clicked(1, 2))
    assert (view.state.record, view.state.language) == ("r1", "fr")
    row, column = records.plot.figure.layout.shapes
    assert (row.y0, row.y1) == (1.5, 2.5) and (column.x0, column.x1) == (0.5, 1.5)
    assert "<b>French (fr)</b>" in view.outcomes.value and "<b>English (en)</b>" not in view.outcomes.value


def test_layers_follow_the_language_and_the_record(view: Any) -> None:
    panel = opened(view, "Layers")
    whole = cells(panel)[0][0]
    assert panel.code == "record_lens"
    panel.plot.click(clicked(1, 1))
    assert (view.state.language, view.state.layer) == ("fr", 1)
    edge = next(shape for shape in panel.plot.figure.layout.shapes if shape.type == "rect")
    assert (edge.y0, edge.y1) == (0.52, 1.48)
    assert [note.text for note in panel.lens.figure.layout.annotations if note.font.color == "#D55E00"] == [
        "<b>French (fr)</b>"
    ]
    view.change(kind="phone", record="r1")
    assert cells(panel)[0][0] == pytest.approx(0.2) and whole > 0.4
    view.change(kind="", record="r2")
    assert "the lens was not read for record r2" in panel.missing.value
    assert panel.lens.box.layout.display == "none" and panel.code == "layers"
    view.change(record="r0")
    assert not panel.missing.value and panel.lens.box.layout.display is None
    view.change(kind="email")
    assert "the lens was not read for the kind email" in panel.message.value
    assert panel.plot.box.layout.display == "none"
    view.controls.all.click()
    assert panel.plot.box.layout.display is None and not panel.message.value
    assert view.controls.layer.label == "all"
    panel.lens.click(clicked(0, 0.3))
    assert view.state.layer == 0 and view.controls.layer.label == "0"
    view.controls.layer.value = view.controls.layer.options[0][1]
    assert view.state.layer is None


def test_neurons_follow_the_language_and_the_layer(view: Any) -> None:
    panel = opened(view, "Neurons")
    assert cells(panel) == [[1, 0, 2], [0, 0, 0], [0, 1, 0]] and "3 universal neurons" in panel.list.value
    panel.plot.click(clicked(1, 2))
    assert (view.state.language, view.state.layer) == ("fr", 1)
    assert "1 French (fr)'s own neurons in layer 1" in text(panel.list.value) and "0.500" in panel.list.value
    panel.plot.click(clicked(0, 0))
    assert (view.state.language, view.state.layer) == ("", 0)
    view.change(language="en", layer=None)
    assert "0 English (en)'s own neurons" in text(panel.list.value)


def test_figures_of_the_run_mark_the_language_and_can_be_clicked(view: Any) -> None:
    panel = opened(view, "Figures")
    assert panel.shown.options == tuple(view.run.figures) and panel.shown.value == "by language of leakage"
    before = panel.plot.figure
    view.change(language="fr")
    (place,) = [place for _, place, code in languages_of(panel.plot.figure) if code == "fr"]
    assert len(panel.plot.figure.layout.shapes) == len(before.layout.shapes) + 1
    assert panel.plot.figure.layout.shapes[-1].y0 == place - 0.48
    (place,) = [place for _, place, code in languages_of(panel.plot.figure) if code == "es"]
    panel.plot.click(clicked(37.0, place - 0.2))
    assert view.state.language == "es"
    panel.plot.click(clicked(None, 0.0))
    assert view.state.language == "es", "a place without a number"
    for name in view.run.figures:
        panel.shown.value = name
        assert not panel.message.value
        assert panel.plot.figure.layout.title.text == view.run.figure(name).layout.title.text


def test_nothing_is_drawn_that_is_not_looked_at(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    real = run_module.planned_figures
    monkeypatch.setattr(
        run_module,
        "planned_figures",
        lambda found: [
            replace(one, draw=lambda one=one: (drawn.append(one.title), one.draw())[1]) for one in real(found)
        ],
    )
    view = xlmech.explore(results)
    view.change(language="fr")
    assert drawn == [] and [panel.plot.figure is None for panel in view.panels] == [False, True, True, True, True]
    opened(view, "Figures")
    assert drawn == ["by language of leakage"]


@pytest.mark.parametrize("panel", ["record", "matrix", "records", "layers", "record_lens", "neurons", "figure"])
def test_three_lines_of_python_give_the_same(view: Any, results: dict[str, Any], panel: Any) -> None:
    view.change(kind="phone", language="fr", layer=1, record="r0", measure="after_ablation")
    name = view.run.figures[0]
    code = saved_code(view.state, panel, figure=name)
    assert len(code.splitlines()) == 3
    names: dict[str, Any] = {"run": results}
    exec(code, names)
    found, run = names["result"], view.run
    wanted = {
        "record": lambda: run.outcomes(record="r0"),
        "matrix": lambda: run.shares("after_ablation"),
        "records": lambda: run.records(kind="phone", language="fr"),
        "neurons": lambda: run.neurons(language="fr", layer=1),
    }
    if panel == "figure":
        assert found.layout.title.text == run.figure(name).layout.title.text
    elif panel in ("layers", "record_lens"):
        kept = {"layers": "attribute == 'phone'", "record_lens": "record == 'r0'"}[panel]
        pd.testing.assert_frame_equal(
            found.readings, results["lens"].readings.query(kept).reset_index(drop=True), check_index_type=False
        )
    else:
        assert len(found) > 0
        pd.testing.assert_frame_equal(found, wanted[panel]())


def test_the_code_below_is_that_of_the_panel(view: Any) -> None:
    view.change(kind="phone", language="fr")
    opened(view, "Records")
    assert "saved.records(kind=&#x27;phone&#x27;, language=&#x27;fr&#x27;)" in view.code.value
    opened(view, "Figures")
    assert "saved.figure(&#x27;by language of leakage&#x27;)" in view.code.value


def test_choices_that_exclude_each_other_keep_the_latest(view: Any) -> None:
    view.change(kind="email")
    assert view.state.record == "r2"
    view.change(record="r0")
    assert view.state.kind == "phone"
    view.controls.group.value = "control"
    assert (view.state.group, view.state.kind, view.state.record) == ("control", "", "c0")
    assert "not measured" in view.outcomes.value and cells(opened(view, "Records")) == [[NEVER] * 3]
    view.change(record="r3")
    assert view.state.group == "private"
    for wrong in ({"record": "x"}, {"kind": "x"}, {"language": "x"}, {"group": "x"}, {"measure": "after_gates"}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"unknown {name} '{wrong[name]}"):
            view.change(**wrong)
    assert view.state.record == "r3"
    for wrong in ({"record": "x"}, {"kind": "x"}, {"language": "x"}, {"group": "x"}):
        with pytest.raises(ValueError, match="unknown .* 'x'"):
            view.run.outcomes(**wrong)
    with pytest.raises(ValueError, match="unknown field of the state 'colour'"):
        view.change(colour=1)


def test_names_are_shown_on_request_alone(view: Any, results: dict[str, Any]) -> None:
    records = [person(0).model_copy(update={"id": "r0"}), person(1).model_copy(update={"id": "r9"})]
    shown = xlmech.explore(results, records, reveal=True, record="r0")
    assert ("r0: Ana Li, FR", "r0") in shown.controls.record.options and "Ana Li" in shown.outcomes.value
    assert shown.controls.record.options[0] == ("r3", "r3"), "a record that was not given"
    assert not any("Ana Li" in str(option) for option in view.controls.record.options)
    with pytest.raises(ValueError, match="which a run does not save"):
        xlmech.explore(results, reveal=True)
    with pytest.raises(ValueError, match="records with reveal=True"):
        xlmech.explore(results, records)
    with pytest.raises(ValueError, match="unknown record 'nobody'"):
        xlmech.explore(results, record="nobody")
    with pytest.raises(ValueError, match="languages, prompt: only a live model can be asked otherwise"):
        xlmech.explore(results, languages=["en"], prompt="plain")


def test_a_runs_config_names_the_people(run: Path) -> None:
    xlmech.save_records([person(0).model_copy(update={"id": "r0"})], run / "people.jsonl")
    config = "model: {source: demo}\ndata: {records: people.jsonl, languages: [en, fr], prompt: plain}\n"
    (run / "config.yaml").write_text(config, encoding="utf-8")
    assert "Ana Li" in str(xlmech.explore(run, reveal=True).controls.record.options)
    assert "Ana Li" not in str(xlmech.explore(run).controls.record.options)


def test_a_run_folder_is_shown_in_all_panels(run: Path) -> None:
    view = xlmech.explore(run)
    for number, panel in enumerate(view.panels):
        view.tabs.selected_index = number
        assert not panel.message.value, panel.title
    assert "after ablation" not in view.outcomes.value, "the toy run saved no answers one by one"
    assert set(cells(view.panels[1])[0]) <= {NEVER, STILL}


def test_people_of_the_lens_alone_can_be_looked_at(results: dict[str, Any]) -> None:
    lens, gates = results["lens"], mitigation()
    given = lens.readings.query("record == 'r3'").assign(record="g0", probe="g0/" + lens.readings.query_language)
    readings = pd.concat([lens.readings, given], ignore_index=True)
    hits = pd.DataFrame({"probe": ["g0/fr", "g0/en"], "record": "g0", "query_language": ["fr", "en"]})
    learned = replace(gates, answers=hits.assign(condition="universal", before=1.0, after=[0.0, 1.0]))
    other = replace(gates, answers=rows(AFTER, "after").assign(condition="universal", before=0.0))
    more = {"lens": replace(lens, readings=readings), "gates_given": learned, "gates_held_out": other}
    view = xlmech.explore(results | more)
    assert view.run.measures == {
        "extracted": "before",
        "after_ablation": "after ablation",
        "after_gates": "after gates",
    }
    view.change(record="g0")
    assert view.state.group == "others" and opened(view, "Layers").code == "record_lens"
    assert "French (fr) extracted not measured not extracted" in text(view.outcomes.value).replace(
        " the question's", ""
    )
    view.change(group="private", measure="after_gates")
    assert cells(opened(view, "Matrix"))[0] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kept", ["leakage", "lens", "neurons", "mitigation"])
def test_one_result_alone_is_shown_as_far_as_it_goes(results: dict[str, Any], kept: str) -> None:
    view = xlmech.explore({kept: results[kept]})
    view.controls.all.click()
    drawn = []
    for number, panel in enumerate(view.panels):
        view.tabs.selected_index = number
        drawn += [panel.title] if not panel.message.value else []
    wanted = {
        "leakage": ["Matrix", "Records", "Figures of the run"],
        "lens": ["Records", "Layers", "Figures of the run"],
        "neurons": ["Neurons", "Figures of the run"],
        "mitigation": ["Figures of the run"],
    }
    assert drawn == wanted[kept]


def test_one_language_alone(results: dict[str, Any]) -> None:
    leakage, lens = results["leakage"], results["lens"]
    one = {
        "leakage": replace(leakage, probes=leakage.probes.query("query_language == 'fr'").reset_index(drop=True)),
        "lens": replace(lens, readings=lens.readings.query("query_language == 'fr'").reset_index(drop=True)),
        "neurons": replace(
            results["neurons"],
            languages=("fr",),
            scores=results["neurons"].scores[1:],
            chosen=results["neurons"].chosen.query("language == 'fr'"),
        ),
    }
    view = xlmech.explore(one)
    for number, panel in enumerate(view.panels):
        view.tabs.selected_index = number
        assert not panel.message.value, panel.title
    assert cells(opened(view, "Neurons")) == [[0, 1, 0]] and "1 French (fr)'s own neurons" in view.panels[3].list.value
    view.panels[3].plot.click(clicked(1, 0))
    assert view.state.language == "fr"


def test_many_records_are_drawn_a_page_of_them_and_the_chosen_one(results: dict[str, Any]) -> None:
    private = results["leakage"].probes.query("group == 'private'")
    own = private.query("record == 'r0'")
    many = pd.concat([own.assign(record=f"n{i}", probe=[f"n{i}/{code}" for code in CODES]) for i in range(60)])
    view = xlmech.explore({"leakage": replace(results["leakage"], probes=many.reset_index(drop=True))})
    panel = opened(view, "Records")
    assert len(cells(panel)) == MAX_ROWS and "40 of 60" in panel.plot.figure.layout.meta["caption"]
    view.change(record="n55")
    assert panel.plot.figure.layout.yaxis.ticktext[-1] == "n55"


def test_unreadable_runs_are_refused_in_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        xlmech.explore(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no results to report"):
        xlmech.explore(tmp_path / "empty")
    meta = run / "results" / "leakage" / "meta.json"
    whole = meta.read_text(encoding="utf-8")
    meta.write_text(whole.replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8")
    with pytest.raises(ValueError, match="99") as found:
        xlmech.explore(run)
    assert "\n" not in str(found.value)
    meta.write_text(whole[:40], encoding="utf-8")
    with pytest.raises(ValueError, match="meta.json cannot be read .*again"):
        xlmech.explore(run)
    meta.write_text(whole, encoding="utf-8")
    table = next((run / "results" / "leakage").glob("*.parquet"))
    table.write_bytes(table.read_bytes()[:50])
    with pytest.raises(ValueError, match="damaged") as found:
        xlmech.explore(run)
    assert "\n" not in str(found.value) and "again" in str(found.value)


def test_an_audit_in_memory_is_shown() -> None:
    assert "results in memory" in xlmech.explore(audit()).box.children[1].children[0].value
