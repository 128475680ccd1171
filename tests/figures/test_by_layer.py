from __future__ import annotations

import math
from dataclasses import replace
from html import escape

import numpy as np
import pandas as pd
import pytest
from helpers.toy_figures import BAD, axis_titles, texts, trace
from helpers.toy_results import TOY, lens_result

from xlmech import figures
from xlmech.figures import by_layer, style
from xlmech.lens.logit import LensResult
from xlmech.metrics.intervals import mean_intervals


def test_lens_lines_bands_and_panels() -> None:
    result = lens_result()
    figure = figures.lens(result)
    # English, the planted language, has the first panel; French the second.
    query, plant, other = (
        trace(figure, name, place)
        for name, place in (("query-language", 1), ("training-language", 0), ("likeliest", 1))
    )
    assert query.xaxis == plant.xaxis == other.xaxis == "x2"
    assert plant.line.color == style.colour("en") and query.line.color == style.INK
    np.testing.assert_allclose(query.y, [0.1, 0.3])
    np.testing.assert_allclose(plant.y, [0.0, 0.2], atol=1e-12)
    np.testing.assert_allclose(other.y, [0.05, 0.1])
    assert [line.showlegend for line in (query, plant, other)] == [False, True, False]
    assert sum(line.showlegend for line in figure.data) == 3
    assert len([line for line in figure.data if line.name == "training-language form"]) == 1
    band = next(item for item in figure.data if item.fill == "toself" and item.xaxis == "x2")
    part = result.summary().query("query_language == 'fr' and form == 'query'")
    np.testing.assert_allclose(band.y, [*part.high, *part.low[::-1]])
    assert "0.300 [" in query.hovertext[1] and "French (fr), layer 1" in query.hovertext[1]
    labels = [note for note in figure.layout.annotations if note.name == "line"]
    assert [note.text for note in labels] == ["likeliest other form", "training-language form", "query-language form"]
    assert {note.xref for note in labels} == {"x2 domain"} and not figure.layout.showlegend
    assert axis_titles(figure) == {"layer", "probability (0 to 1)"}
    assert {"French (fr)", "<b>English (en)</b>"} <= set(texts(figure))
    assert "2 people and 2 questions per panel" in figure.layout.meta["caption"]
    assert "3 questions are left out" in figure.layout.meta["details"]


def test_lens_wraps_after_five_panels() -> None:
    one = lens_result().readings.query("query_language == 'fr'")
    readings = pd.concat([one.assign(query_language=code) for code in ("en", "zh", "es", "fr", "de", "ja")])
    figure = figures.lens(LensResult(readings=readings, plant_language="en", provenance=TOY))
    axes = list(figure.select_xaxes())
    assert len(axes) == 6
    assert [axis.title.text for axis in axes] == [None, "layer", "layer", "layer", "layer", "layer"]


def test_leakage_per_layer_adds_query_and_plant_forms() -> None:
    result = lens_result()
    figure = figures.leakage_per_layer(result)
    cells = figure.data[0]
    np.testing.assert_allclose(cells.z, [[0.2, 0.5], [0.1, 0.5]])
    assert list(figure.layout.yaxis.ticktext) == ["<b>English (en)</b>", "French (fr)"]
    assert axis_titles(figure) == {"layer", "query language"}
    assert cells.colorbar.title.text == "probability<br>(0 to 1)"
    assert "either form 0.500" in cells.hovertext[1][1] and "training-language form 0.200 [" in cells.hovertext[1][1]
    assert "training-language" not in cells.hovertext[0][1]
    partial = result.readings.query("not (query_language == 'fr' and layer == 1)")
    cells = figures.leakage_per_layer(LensResult(readings=partial, provenance=TOY)).data[0]
    assert math.isnan(cells.z[1][1]) and "not measured" in cells.hovertext[1][1]


def test_leakage_per_layer_names_the_record_by_its_id_or_code_and_its_form() -> None:
    assert (
        "likeliest: record r0 (city), form in query, 0.310"
        in figures.leakage_per_layer(lens_result()).data[0].hovertext[1][1]
    )
    named = replace(lens_result(), readings=lens_result().readings.assign(record=BAD))
    assert f"likeliest: record {escape(BAD)} (" in figures.leakage_per_layer(named).data[0].hovertext[1][1]
    cells = figures.leakage_per_layer(lens_result(), hide_ids=True).data[0]
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


def rising(start: dict[str, int], *, n_people: int = 8, n_layers: int = 6, positions: int = 1) -> LensResult:
    """Per language the layer from which its form is likely, 0.5 give or take a little; never, where there is none."""
    rows = [
        {"probe": f"{code}{i}", "record": f"r{i}", "subject": f"s{i}", "attribute": "city", "query_language": code}
        | {"layer": layer, "position": position, "entropy": 1.0, "form_language": code, "form": "query", "rank": 1}
        | {"prob": (0.5 if layer >= first and position == positions - 1 else 0.01) + 0.001 * i * (layer + 1)}
        for code, first in start.items()
        for layer in range(n_layers)
        for position in range(positions)
        for i in range(n_people)
    ]
    frame = pd.DataFrame(rows)
    return LensResult(readings=frame, plant_language="en", provenance=TOY, positions="all" if positions > 1 else "last")


def test_a_rise_is_one_that_stays_above_the_first_layer_by_the_interval() -> None:
    def result(curves: dict[str, list[list[float]]]) -> LensResult:
        rows = [
            {"probe": f"{code}{i}", "record": f"r{i}", "subject": f"s{i}", "attribute": "city", "query_language": code}
            | {"layer": layer, "form_language": code, "form": "query", "prob": prob, "rank": 1, "entropy": 1.0}
            for code, people in curves.items()
            for i, person in enumerate(people)
            for layer, prob in enumerate(person)
        ]
        return LensResult(readings=pd.DataFrame(rows), plant_language="en", provenance=TOY)

    steady = [[0.0, 0.0, 0.5, 0.6], [0.0, 0.02, 0.4, 0.5], [0.01, 0.0, 0.6, 0.7], [0.0, 0.0, 0.5, 0.65]]
    late = [[0.0, 0.5, 0.0, 0.6], [0.0, 0.4, 0.02, 0.5], [0.01, 0.6, 0.0, 0.7], [0.0, 0.5, 0.0, 0.65]]
    doubtful = [[0.0, 0.0, 0.0, 0.9], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    for curves, layer in ((steady, 2), (late, 3), (doubtful, None)):
        table = np.array(curves)
        change = table - table[:, :1]
        low = mean_intervals(change, np.ones_like(change), bounds=(-1, 1)).low
        above = [bool(value > 0) for value in low]
        wanted = next((i for i in range(len(above)) if all(above[i:])), None)
        assert by_layer.rises(result({"fr": curves}))["fr"] == wanted == layer
    several = result({"en": steady, "fr": late, "zh": doubtful})
    assert figures.lens(several).layout.meta["title"] == "Answers rise from layer 2 on; by layer 3 in 2 of 3 languages"
    ready = figures.leakage_per_layer(several).layout.meta["title"]
    assert ready == "Before layer 2 no answer is ready; from layer 3 on answers are likelier in 2 of 3 languages"
    both = result({"en": steady, "fr": steady})
    assert figures.lens(both).layout.meta["title"] == "Answers rise from layer 2 on, in both languages"
    none = figures.leakage_per_layer(result({"fr": doubtful})).layout.meta["title"]
    assert none == "After no layer is the answer likelier than after the first beyond chance, in French"


def test_positions_are_a_map_of_layer_and_token_per_language() -> None:
    result = rising({"en": 3, "fr": 2}, positions=4)
    longer = result.readings[result.readings.probe == "fr0"].assign(probe="fr99", subject="s99")
    longer = pd.concat(
        [
            longer.assign(position=longer.position + 2),
            longer.assign(position=longer.position - 2).query("position < 2 and position >= 0"),
        ]
    )
    result = replace(result, readings=pd.concat([result.readings, longer]))
    figure = figures.lens_positions(result)
    english, french = figure.data
    assert list(english.x) == list(french.x) == [-3, -2, -1, 0]  # one longer prompt of nine is too few for more columns
    assert list(english.y) == [0, 1, 2, 3, 4, 5]
    part = result.readings[(result.readings.query_language == "en") & (result.readings.layer == 4)]
    np.testing.assert_allclose(english.z[4], part.groupby("position").prob.mean())
    assert (english.zmin, english.zmax) == (0, french.zmax) and not english.showscale and french.showscale
    assert axis_titles(figure) == {"layer", "token"}
    assert french.colorbar.title.text == "probability<br>(0 to 1)"
    assert "English (en), layer 4, last token<br>query-language form 0.5" in english.hovertext[4][3]
    assert "1 token before the last" in english.hovertext[4][2]
    title = figure.layout.meta["title"]
    assert title.startswith(
        "The query-language form is likeliest at the token that predicts the answer, after layer 5 (0.5"
    )
    with pytest.raises(ValueError, match="only the last position was read; call logit_lens with positions='all'"):
        figures.lens_positions(lens_result())
    with pytest.raises(ValueError, match="unknown form 'plant'; use 'query'"):
        figures.lens_positions(result, form="plant")
