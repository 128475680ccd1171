from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from helpers.toy_figures import BAD, axis_titles, texts, trace
from helpers.toy_results import TOY, lens_result

from xlmech import figures
from xlmech.figures import style
from xlmech.lens.logit import LensResult


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
    assert axis_titles(figure) == {"layer", "probability (0 to 1)"}
    assert {"French (fr)", "<b>English (en)</b>"} <= set(texts(figure))
    assert "2 people and 2 questions per panel (3 left out" in figure.layout.meta["caption"]


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
