"""Every figure has a title, axes, a caption and our template, and a saved result draws the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
import pytest
from helpers.toy_figures import assert_titled, axis_titles
from helpers.toy_results import growing, leakage, lens_result, methods, mitigation, neurons

from xlmech import figures

ALL: dict[str, tuple[Callable[[Any], go.Figure], Callable[[], Any]]] = {
    "matrix": (figures.leakage_matrix, lambda: leakage({"en": [1, 1, 0, 0], "fr": [0, 0, 0, 1]})),
    "by_language": (
        figures.leakage_by_language,
        lambda: leakage({"en": [1, 0], "fr": [0, 0]}, controls={"en": [0, 0]}),
    ),
    "lens": (figures.lens, lens_result),
    "per_layer": (figures.leakage_per_layer, lens_result),
    "neurons": (figures.neurons_per_layer, neurons),
    "before_after": (figures.before_after, mitigation),
    "cost": (figures.cost, mitigation),
    "trade_off": (figures.trade_off, growing),
    "methods": (figures.trade_off, methods),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_has_title_axes_caption_and_our_template_only(name: str) -> None:
    draw, make = ALL[name]
    default = plotly.io.templates.default
    figure = draw(make())
    assert plotly.io.templates.default == default
    assert figure.layout.template == figures.TEMPLATE
    assert_titled(figure)
    assert len(axis_titles(figure)) >= 2
    caption = figure.layout.meta["caption"]
    assert "interval" in caption
    assert any(word in caption for word in ("people", "neurons"))
    assert figure.layout.height > 200


@pytest.mark.parametrize("name", ALL)
def test_a_saved_result_draws_the_same(name: str, tmp_path: Path) -> None:
    draw, make = ALL[name]
    result = make()
    result.save(tmp_path / "result")
    assert draw(type(result).load(tmp_path / "result")).to_json() == draw(result).to_json()
