"""The explorer in JupyterLab and a real browser: what is changed by hand shows the library's numbers."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.lab import notebook_page
from helpers.people import person
from helpers.tiny_models import tiny

import xlmech
from xlmech.explorer.circuit import MAX_NEW_TOKENS
from xlmech.models.load import load_model
from xlmech.neurons.neuron_set import NeuronSet

LANGUAGES = ["en", "fr", "es"]
CELL = """
import tempfile
from pathlib import Path
import torch
from helpers.people import person
from helpers.tiny_models import save_tokenizer, tiny
from xlmech import explore, load_model

tokenizer = save_tokenizer(Path(tempfile.mkdtemp()))
model = load_model(tiny("gemma3").double(), tokenizer=tokenizer, dtype=torch.float64)
records = [*(person(n) for n in range(3)), *(person(n, group="public") for n in (3, 4))]
explore(model, records, languages=["en", "fr", "es"], prompt="plain")
"""
SAVED = """
from xlmech import explore

explore({folder!r})
"""
_SECONDS = 120
pytestmark = pytest.mark.slow


def probabilities(page: Any) -> list[list[str]]:
    """The numbers in the table of answers, a row per language: before, and after an ablation."""
    rows = page.locator(".jupyter-widgets table").first.locator("tr").all_inner_texts()[1:]
    return [re.findall(r"\d\.\d{3}\b|\de-\d+", row) for row in rows]


def wait_for_probabilities(page: Any, expected: list[list[str]]) -> None:
    """Wait until the table of answers shows these numbers; the kernel's messages reach the page one by one."""
    end = time.monotonic() + _SECONDS
    while (shown := probabilities(page)) != expected:
        if time.monotonic() > end:
            pytest.fail(f"the table shows {shown} instead of {expected}")
        page.wait_for_timeout(100)


def written(numbers: Any) -> list[str]:
    """Probabilities as the table writes them."""
    return [f"{number:.3f}" if number >= 0.0005 else f"{number:.0e}" for number in numbers]


def choose(page: Any, name: str, value: str) -> None:
    box = page.locator(".widget-dropdown", has=page.get_by_text(name, exact=True)).first
    box.locator("select").select_option(label=value)


def tab(page: Any, name: str) -> None:
    page.locator(".jupyter-widget-tab, .widget-tab").locator(".lm-TabBar-tab", has_text=name).first.click()


def test_record_and_neuron_are_changed_by_hand(tokenizer: Any, tmp_path: Path) -> None:
    model = load_model(tiny("gemma3").double(), tokenizer=tokenizer, dtype=torch.float64)
    records = [*(person(n) for n in range(3)), *(person(n, group="public") for n in (3, 4))]
    probes = xlmech.build_probes(records[1:2], LANGUAGES, templates=[0])
    before = xlmech.written_answers(model, probes, candidates=records, max_new_tokens=MAX_NEW_TOKENS)
    top = xlmech.attribute_neurons(model, probes.filter(languages=["fr"]), progress=False).top
    layer, neuron = top.sort_values("effect", ascending=False)[["layer", "neuron"]].iloc[0].astype(int)
    with xlmech.ablate(model, NeuronSet(frozenset({(int(layer), int(neuron))}), 3, 64)):
        after = xlmech.written_answers(model, probes, candidates=records, max_new_tokens=MAX_NEW_TOKENS)
    assert written(before.prob) != written(after.prob)
    with notebook_page(tmp_path, CELL) as page:
        from playwright.sync_api import expect  # installed where there is a page

        page.locator(".jupyter-widgets .heatmaplayer .hm").first.wait_for()
        choose(page, "record", "r1-birth_country")
        page.get_by_text("one.id == 'r1-birth_country'").first.wait_for()
        wait_for_probabilities(page, [[prob] for prob in written(before.prob)])
        tab(page, "Neurons")
        tick = page.get_by_role("checkbox", name=f"layer {layer}, neuron {neuron}", exact=True)
        tick.check()
        page.get_by_text("with their cost in").wait_for()
        wait_for_probabilities(
            page, [list(pair) for pair in zip(written(before.prob), written(after.prob), strict=True)]
        )
        page.get_by_role("button", name="undo").click()
        wait_for_probabilities(page, [[prob] for prob in written(before.prob)])
        expect(tick).not_to_be_checked(timeout=1000 * _SECONDS)
        tab(page, "Flow")
        cells = page.locator(".js-plotly-plot:visible .nsewdrag").first
        cells.wait_for()
        box = cells.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 4)
        page.mouse.click(box["x"] + box["width"] - 4, box["y"] + 4)
        page.get_by_text("patched: the model writes").wait_for()
        tab(page, "Attention")
        page.frame_locator("iframe").get_by_text("Head Selector").wait_for()
        shown = page.locator(".jp-OutputArea").all_inner_texts()
        assert not any(record.subject in text for record in records for text in shown)
        assert page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
        page.screenshot(path=tmp_path / "explorer.png")


def test_a_cell_of_a_saved_runs_matrix_is_clicked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notebook").mkdir()
    with notebook_page(tmp_path / "notebook", SAVED.format(folder=str(run))) as page:
        page.locator(".jupyter-widgets .heatmaplayer .hm").first.wait_for()
        cells = page.locator(".js-plotly-plot:visible .nsewdrag").first
        box = cells.bounding_box()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
        page.locator(".jupyter-widgets table b", has_text="French (fr)").wait_for()
        tab(page, "Layers")
        page.get_by_text("saved.lens(record='r0')").wait_for()
        tab(page, "Figures of the run")
        page.get_by_text("saved.figure('by language of leakage')").wait_for()
        page.locator(".js-plotly-plot:visible .shapelayer path").first.wait_for()
        assert page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
        page.screenshot(path=tmp_path / "saved.png")
