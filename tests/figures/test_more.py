"""Overlap, specificity, dose and response, views of prompts, and figures as files."""

from __future__ import annotations

import builtins
import json
import math
from dataclasses import dataclass, replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.browser import browser, visit
from helpers.toy_figures import axis_titles, sweep, trace
from helpers.toy_results import growing, leakage, lens_result, mitigation, neurons

from xlmech import figures
from xlmech.data.records import MASK
from xlmech.figures import style, token_views
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.neurons.privacy_neurons import PrivacyNeurons

BAD = "</script><script>alert(1)</script>"


# Leakage per layer: which record, which form


def test_leakage_per_layer_shows_the_masked_record_and_its_form() -> None:
    cells = figures.leakage_per_layer(lens_result()).data[0]
    # French at layer 1: the query form reads 0.31 for record r0.
    hover = cells.hovertext[1][1]
    assert f"likeliest: {figures.masked('r0')} (city), form in query, 0.310" in hover and "r0" not in hover.split()
    assert figures.masked("r0") == figures.masked("r0") != figures.masked("r1")
    everywhere = lens_result().readings.assign(position=1)
    first = everywhere.assign(position=0, prob=0.99)
    both = replace(lens_result(), readings=pd.concat([first, everywhere]), positions="all")
    assert "0.310" in figures.leakage_per_layer(both).data[0].hovertext[1][1]
    bad = replace(lens_result(), readings=lens_result().readings.assign(attribute=BAD))
    assert "<script>" not in figures.leakage_per_layer(bad).data[0].hovertext[1][1]


# Overlap


def scored(scores: dict[str, list[int]], *, d_mlp: int = 50) -> PrivacyNeurons:
    """Per language the flat indices of its neurons, strongest first; 3 layers."""
    table = torch.zeros(len(scores), 3, d_mlp)
    for row, indices in enumerate(scores.values()):
        for rank, index in enumerate(indices):
            table[row].view(-1)[index] = 1 - 0.01 * rank
    return replace(neurons(), languages=tuple(scores), scores=table)


def test_overlap_counts_exact_combinations() -> None:
    figure = figures.overlap(scored({"en": [0, 1, 2, 9], "fr": [0, 1, 7], "zh": [0, 60, 61]}), n_neurons=3)
    bars = figure.data[0]
    found = dict(zip([text.split("exactly<br>")[1] for text in bars.hovertext], bars.y, strict=True))
    assert found == {
        "Chinese (zh)": 2,
        "Chinese (zh)<br>English (en)<br>French (fr)": 1,
        "English (en)<br>French (fr)": 1,
        "English (en)": 1,
        "French (fr)": 1,
    }
    assert list(bars.y) == sorted(bars.y, reverse=True)
    assert (
        sum(count * (text.count("(")) for text, count in found.items()) == 9
    )  # three neurons in each of three languages
    dots = figure.data[-1]
    assert len(dots.x) == 1 + 3 + 2 + 1 + 1
    assert set(dots.marker.color) == {style.colour(code) for code in ("en", "fr", "zh")}
    assert list(figure.layout.yaxis2.ticktext) == ["Chinese (zh), 3", "English (en), 3", "French (fr), 3"]
    caption = figure.layout.meta["caption"]
    assert "The 3 MLP neurons" in caption and "of 150" in caption and "1 are in all languages" in caption
    assert "would share 0.06" in caption and "Not drawn" not in caption
    assert figure.layout.template == figures.TEMPLATE and axis_titles(figure) == {
        "neurons", "language, neurons", "exactly these languages"
    }  # fmt: skip


def test_overlap_takes_as_many_as_universal_ones_and_drops_what_has_no_score() -> None:
    figure = figures.overlap(scored({"en": [0, 1, 2, 3], "fr": [5]}))  # three universal neurons
    assert list(figure.layout.yaxis2.ticktext) == ["English (en), 3", "French (fr), 1"]


def test_overlap_draws_the_largest_and_counts_the_rest() -> None:
    codes = ["ar", "de", "en", "es", "fr"]
    every = [[code for bit, code in enumerate(codes) if number >> bit & 1] for number in range(1, 32)]
    members = {code: [index for index, group in enumerate(every) if code in group] for code in codes}
    figure = figures.overlap(scored(members), n_neurons=16)
    assert len(figure.data[0].x) == 24
    assert "Not drawn: 7 smaller combinations, 7 neurons together." in figure.layout.meta["caption"]


def test_overlap_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="two languages or more"):
        figures.overlap(scored({"en": [0]}))
    with pytest.raises(ValueError, match="n_neurons must be at least 1, got 0"):
        figures.overlap(scored({"en": [0], "fr": [1]}), n_neurons=0)
    with pytest.raises(ValueError, match="no neuron has a positive score"):
        figures.overlap(scored({"en": [], "fr": []}))


# Specificity


@dataclass(frozen=True)
class Specific:
    frame: pd.DataFrame
    sizes: dict[str, int]
    plant_language: str = "en"

    def matrix(self) -> pd.DataFrame:
        return self.frame


def specific(codes: tuple[str, ...] = ("en", "fr")) -> Specific:
    rows = [
        (one, query, 0.8, 0.8 * (0.1 if one == query else 1.1), 0.9 if one == query else -0.1, -0.2, 0.95)
        for one in codes
        for query in codes
    ]
    names = ["language", "query_language", "before", "after", "reduction", "low", "high"]
    frame = pd.DataFrame(rows, columns=names).assign(risen=0, n_subjects=8, n_probes=16, reason="")
    return Specific(frame, dict.fromkeys(codes, 40))


def test_specificity_is_a_matrix_around_zero() -> None:
    result = specific()
    undefined = result.frame.assign(
        reduction=result.frame.reduction.where(result.frame.index != 1),
        low=math.nan,
        high=math.nan,
        reason=["", "nothing was extracted before", "", ""],
    )
    figure = figures.specificity(Specific(undefined.iloc[:3], result.sizes))
    cells = figure.data[0]
    np.testing.assert_allclose(np.array(cells.z, dtype=float), [[0.9, math.nan], [-0.1, math.nan]])
    assert (cells.zmin, cells.zmax) == (-1, 1)
    assert (
        cells.hovertext[1][1].endswith("not measured")
        and "undefined (nothing was extracted before)" in cells.hovertext[0][1]
    )
    hover = figures.specificity(result).data[0].hovertext[0][0]
    for part in (
        "40 neurons of English (en) ablated, asked in English (en)",
        "extraction 80 % to 8 %",
        "90 % [\u221220, 95]",
        "8 people",
    ):
        assert part in hover
    notes = [note.text for note in figures.specificity(result).layout.annotations if note.name is None]
    assert notes[0].startswith("90 %<br>") and notes[1].startswith("\u221210 %<br>")
    assert [shape.x0 for shape in figure.layout.shapes] == [-0.49, 0.51]
    assert list(figure.layout.yaxis.ticktext) == ["English (en), 40", "French (fr), 40"]
    many = figures.specificity(specific(("en", "fr", "de", "es", "zh", "ja", "ru")))
    assert all("<br>" not in note.text for note in many.layout.annotations if note.name is None)
    assert "8 people and 16 questions per cell" in many.layout.meta["caption"]
    with pytest.raises(ValueError, match="no cells"):
        figures.specificity(Specific(result.frame.iloc[:0], {}))


# Dose and response


def test_dose_response_of_one_method_stands_beside_its_front() -> None:
    figure = figures.dose_response(growing())
    dose, cost = trace(figure, "chosen neurons"), trace(figure, "chosen neurons", 1)
    assert list(dose.x) == [10, 20, 40]
    np.testing.assert_allclose(dose.y, [100 / 6, 250 / 6, 400 / 6])
    np.testing.assert_allclose(cost.y, dose.y)
    assert (dose.xaxis, cost.xaxis) == ("x", "x2")
    assert trace(figure, "random neurons").marker.color == style.GREY
    result = growing()
    public: MitigationResult = replace(result, effects=result.effects[result.effects.group == "public"])
    with pytest.raises(ValueError, match="no private probes"):
        figures.dose_response(public)


# Views


@dataclass(frozen=True)
class Seen:
    """Two prompts of three tokens, three neurons in two layers; the activation tells which."""

    def to_frame(self) -> pd.DataFrame:
        rows = [
            (
                f"r0/{code}/0",
                code,
                position,
                token,
                layer,
                neuron,
                100 * (code == "fr") + 10 * position + layer + neuron / 10,
            )
            for code in ("en", "fr")
            for position, token in enumerate((BAD, MASK, "?"))
            for layer, neuron in ((0, 1), (2, 3), (2, 4))
        ]
        names = ["probe", "query_language", "position", "token", "layer", "neuron", "activation"]
        return pd.DataFrame(rows, columns=names)


def shown(view: figures.View) -> dict[str, Any]:
    """What a view is drawn from."""
    call = str(view).rpartition("CircuitsVis.render(")[2]
    found: dict[str, Any] = json.loads(call[call.index("{") : call.rindex("}") + 1])
    return found


def test_neuron_activations_are_a_view_that_loads_nothing() -> None:
    view = figures.neuron_activations(Seen())
    html = view._repr_html_()
    call = html.rpartition("CircuitsVis.render(")[2]
    assert html == str(view) == view.html and "TextNeuronActivations" in call and "unpkg.com" not in call
    assert call.count("</script>") == 1 and call.rstrip().endswith("</script>")
    found = shown(view)
    assert found["tokens"] == [[escape(BAD), "[subject 1/1]", "?"]] * 2
    np.testing.assert_allclose(found["activations"][0][2], [[20.1, 0], [22.3, 22.4]], rtol=1e-6)
    np.testing.assert_allclose(found["activations"][1][2], [[120.1, 0], [122.3, 122.4]], rtol=1e-6)
    assert found["firstDimensionLabels"] == ["0 (neurons 1)", "2 (neurons 3, 4)"]
    assert view.title == "activations of 3 neurons over 2 prompts" and len(repr(view)) < 200
    assert len(shown(figures.neuron_activations(Seen(), languages=["fr"]))["tokens"]) == 1
    with pytest.raises(ValueError, match="unknown language 'es'; use 'en', 'fr'"):
        figures.neuron_activations(Seen(), languages=["es"])


def test_the_mask_is_the_records_own() -> None:
    assert token_views.MASK == MASK


def test_leaking_tokens_take_the_largest_effect_over_layers() -> None:
    call = str(figures.leaking_tokens(sweep())).rpartition("CircuitsVis.render(")[2]
    assert "ColoredTokens" in call and "subject 2/2" in call
    assert "0.0, 0.0, 0.0, 1.0, 1.0" in call
    assert shown(figures.leaking_tokens(sweep(), layer=1))["values"] == [0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="no layer 9 in this sweep; it has 0 to"):
        figures.leaking_tokens(sweep(), layer=9)


# Files


def test_save_html_stands_alone(tmp_path: Path) -> None:
    path = figures.save(figures.before_after(mitigation()), tmp_path / "figure.html")
    page = path.read_text(encoding="utf-8")
    assert (
        page.startswith("<!DOCTYPE html>")
        and "<title>Private extraction before and after" in page
        and "cdn.plot.ly/" not in page[-50_000:]
    )
    view = figures.save(figures.neuron_activations(Seen()), tmp_path / "view.html").read_text(encoding="utf-8")
    assert "<title>activations of 3 neurons over 2 prompts</title>" in view


def test_save_refuses_other_files(tmp_path: Path) -> None:
    figure = figures.before_after(mitigation())
    with pytest.raises(ValueError, match=r"figure\.gif: save figures as \.html, \.png, \.svg or \.pdf"):
        figures.save(figure, tmp_path / "figure.gif")
    with pytest.raises(ValueError, match="a view has no picture; save as .html"):
        figures.save(figures.neuron_activations(Seen()), tmp_path / "view.png")
    assert [*tmp_path.iterdir()] == []


def test_save_without_kaleido_or_chromium_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures.before_after(mitigation())
    kaleido = pytest.importorskip("kaleido")
    from choreographer.errors import ChromeNotFoundError

    for raised, message in (
        (ChromeNotFoundError("x"), "no Chromium or Chrome to draw a picture with: install one"),
        (RuntimeError("closed at once"), r"Chromium did not draw the picture \(closed at once\)"),
    ):

        def fail(*args: Any, raised: Exception = raised, **options: Any) -> bytes:
            raise raised

        monkeypatch.setattr(kaleido, "calc_fig_sync", fail)
        with pytest.raises(OSError, match=message):
            figures.save(figure, tmp_path / "figure.png")
    there = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return there(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'xlmech\[images\]', or save as .html"):
        figures.save(figure, tmp_path / "figure.svg")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_save_draws_pictures_in_a_browser(tmp_path: Path) -> None:
    browser()
    pytest.importorskip("kaleido")
    figure = figures.leakage_by_language(leakage({"en": [1, 0], "ar": [1, 1], "zh": [0, 0]}))
    png = figures.save(figure, tmp_path / "figure.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    size = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    assert size == (1800, 2 * figure.layout.height)
    svg = figures.save(figure, tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "Arabic (ar)" in svg and "Private extraction by query language" in svg


@pytest.mark.slow
def test_a_view_shows_tokens_in_a_browser_and_no_script_of_theirs(tmp_path: Path) -> None:
    path = figures.save(figures.neuron_activations(Seen()), tmp_path / "view.html")
    found = visit(path, tmp_path / "net.json")
    assert [line for line in found.console if "WebGL" not in line] == [] and found.asked == []
    text = found.dom[found.dom.index('class="colored-tokens"') :]
    assert "<script" not in text
    shown_text = unescape(text).replace("\u00a0", " ")
    assert "[subject 1/1]" in shown_text and BAD in shown_text
