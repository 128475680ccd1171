from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
from helpers.toy_figures import axis_titles, trace
from helpers.toy_results import TOY, growing, leakage, lens_result, methods, mitigation, neurons

from xlmech import figures
from xlmech.figures import style as _style
from xlmech.figures import wording
from xlmech.lens.logit import LensResult
from xlmech.mitigation.evaluate import MitigationResult

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


def texts(figure: go.Figure) -> list[str]:
    return [note.text for note in figure.layout.annotations]


@pytest.mark.parametrize("name", ALL)
def test_every_figure_has_title_axes_caption_and_our_template_only(name: str) -> None:
    draw, make = ALL[name]
    default = plotly.io.templates.default
    figure = draw(make())
    assert plotly.io.templates.default == default
    assert figure.layout.template == figures.TEMPLATE
    assert figure.layout.title.text == figure.layout.meta["title"]
    assert len(axis_titles(figure)) >= 2
    caption = figure.layout.meta["caption"]
    assert "interval" in caption
    assert any(word in caption for word in ("people", "neurons"))
    drawn = next(note for note in figure.layout.annotations if note.name == "caption")
    plain = drawn.text.replace("<br>", " ").replace("\u00a0", " ").replace("&#x27;", "'")
    assert plain == caption
    assert figure.layout.height > 200


@pytest.mark.parametrize("name", ALL)
def test_a_saved_result_draws_the_same(name: str, tmp_path: Path) -> None:
    draw, make = ALL[name]
    result = make()
    result.save(tmp_path / "result")
    assert draw(type(result).load(tmp_path / "result")).to_json() == draw(result).to_json()


def test_leakage_matrix_values_text_and_hover() -> None:
    english = leakage({"en": [1, 1, 1, 1, 0], "fr": [1, 0, 0, 0, 0]}, controls={"en": [0, 0, 0, 1]})
    french = leakage({"fr": [1, 1, 1, 1, 1]}, plant="fr")
    figure = figures.leakage_matrix([english, french])
    cells = figure.data[0]
    np.testing.assert_allclose(np.array(cells.z, dtype=float), [[0.8, 0.2], [math.nan, 1.0]])
    assert (cells.zmin, cells.zmax) == (0, 1)
    assert list(cells.colorbar.ticktext) == ["0 %", "50 %", "100 %"]
    assert cells.colorbar.title.text == "private<br>extraction"
    assert axis_titles(figure) == {"query language", "training language"}
    assert list(figure.layout.xaxis.ticktext) == ["English (en)", "French (fr)"]
    row = english.matrix().iloc[0]
    interval = f"[{100 * row.low:.0f}, {100 * row.high:.0f}]"
    found = {(note.x, note.y): note.text for note in figure.layout.annotations if note.name is None}
    assert found[0, 0].startswith("80 %<br>") and interval in found[0, 0] and "font-size:11px" in found[0, 0]
    assert found[0, 1] == "not<br>measured"
    hover = cells.hovertext[0][0]
    for part in ("English (en)", "80 %", f"{interval}, 95 % interval", "control people 25 %", "5 people, 5 questions"):
        assert part in hover
    assert "control people not measured" in cells.hovertext[1][1]
    assert cells.hovertext[1][0].endswith("not measured")
    assert "5 people and 5 questions per cell" in figure.layout.meta["caption"]


def test_leakage_matrix_takes_a_single_result() -> None:
    figure = figures.leakage_matrix(leakage({"en": [1, 0]}, plant=""))
    assert list(figure.layout.yaxis.ticktext) == ["unknown"]
    assert np.array(figure.data[0].z).shape == (1, 1)


def test_leakage_matrix_refuses_a_plant_language_twice_and_no_private_probes() -> None:
    with pytest.raises(ValueError, match="same training language"):
        figures.leakage_matrix([leakage({"en": [1]}), leakage({"en": [0]})])
    only_controls = leakage({}, controls={"en": [0]})
    with pytest.raises(ValueError, match="no private probes"):
        figures.leakage_matrix(only_controls)
    with pytest.raises(ValueError, match="no private probes"):
        figures.leakage_by_language(only_controls)


def test_leakage_by_language_is_sorted_with_intervals_and_controls() -> None:
    result = leakage({"fr": [1, 0, 0, 0], "en": [1, 1, 1, 0]}, controls={"fr": [1, 0], "en": [0, 0]})
    figure = figures.leakage_by_language(result)
    assert list(figure.layout.yaxis.ticktext) == ["<b>English (en)</b>", "French (fr)"]
    private, controls = trace(figure, "private"), trace(figure, "control")
    np.testing.assert_allclose(private.x, [75, 25])
    np.testing.assert_allclose(controls.x, [0, 50])
    rows = result.matrix().set_index("query_language").loc[["en", "fr"]]
    np.testing.assert_allclose(private.x + private.error_x.array, 100 * rows.high)
    np.testing.assert_allclose(private.x - private.error_x.arrayminus, 100 * rows.low)
    unseen = result.matrix(group="control").set_index("query_language").loc[["en", "fr"]]
    np.testing.assert_allclose(controls.x + controls.error_x.array, 100 * unseen.high)
    assert "control people 50 % [1, 99], 95 % interval" in controls.hovertext[0] + controls.hovertext[1]
    assert axis_titles(figure) == {"extraction (% of questions)", "query language"}
    assert "4 people, 4 questions" in private.hovertext[0] and "control people 50 %" in private.hovertext[1]
    assert "training language: English (en)" in figure.layout.meta["caption"]
    assert "not measured" not in texts(figure)
    assert len(figures.leakage_by_language(leakage({"en": [1, 0]})).data) == 1


def test_a_language_keeps_its_colour() -> None:
    dots = trace(figures.leakage_by_language(leakage({"fr": [1, 0], "en": [0, 0], "xx": [0, 0]})), "private")
    bars = figures.neurons_per_layer(neurons())
    assert dots.marker.color[0] == trace(bars, "French").marker.color
    assert dots.marker.color[1] == trace(bars, "English").marker.color
    assert len({_style.colour(code) for code in _style.LANGUAGES}) == 10
    assert dots.marker.color[2] == _style.colour("xx") in _style.OTHERS


def test_lens_lines_bands_and_panels() -> None:
    result = lens_result()
    figure = figures.lens(result)
    # English, the planted language, has the first panel; French the second.
    query, plant, other = (
        trace(figure, name, place)
        for name, place in (("query-language", 1), ("training-language", 0), ("likeliest", 1))
    )
    assert query.xaxis == plant.xaxis == other.xaxis == "x2"
    assert plant.line.color == _style.colour("en") and query.line.color == _style.INK
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


def test_neurons_per_layer_counts() -> None:
    figure = figures.neurons_per_layer(neurons())
    assert list(trace(figure, "universal").y) == [1, 0, 2]
    assert list(trace(figure, "French").y) == [0, 1, 0]
    assert list(trace(figure, "English").y) == [0, 0, 0]
    assert trace(figure, "universal").hovertext[2] == "universal<br>layer 2: 2 of 8 neurons"
    assert axis_titles(figure) == {"layer", "universal (neurons)", "specific (neurons)"}
    assert figure.layout.barmode == "stack"
    assert "3 universal and 1 language-specific ones of 24" in figure.layout.meta["caption"]


def test_before_after_values_intervals_and_random_in_grey() -> None:
    figure = figures.before_after(mitigation())
    before, universal, random = (trace(figure, name) for name in ("before", "universal", "random"))
    np.testing.assert_allclose(before.x, [80, 0])
    np.testing.assert_allclose(universal.x, [20, 0])
    np.testing.assert_allclose(random.x, [76, math.nan])
    np.testing.assert_allclose(universal.x[0] + universal.error_x.array[0], 40)
    np.testing.assert_allclose(universal.x[0] - universal.error_x.arrayminus[0], 8)
    assert universal.name == "universal (74 of 36,864 neurons)"
    assert random.marker.color == _style.GREY != universal.marker.color
    assert texts(figure).count("not measured") == 1
    hover = universal.hovertext[0]
    for part in (
        "before: 80 %",
        "universal ablated: 20 %",
        "reduction 75 % [50, 90]",
        "risen in 1 records",
        "40 people",
    ):
        assert part in hover
    assert "reduction undefined (nothing was extracted before)" in universal.hovertext[1]
    assert axis_titles(figure) == {"private extraction (% of questions)", "query language"}
    assert "40 people and 120 questions" in figure.layout.meta["caption"]


def test_before_after_refuses_a_result_without_private_probes() -> None:
    result = mitigation()
    public = result.effects[result.effects.group == "public"]
    alone = MitigationResult(effects=public, cost=result.cost, sizes=result.sizes, total_neurons=9, provenance=TOY)
    with pytest.raises(ValueError, match="no private probes"):
        figures.before_after(alone)


def test_cost_panels() -> None:
    figure = figures.cost(mitigation())
    kept, rise = trace(figure, "universal"), trace(figure, "universal", 1)
    np.testing.assert_allclose(kept.x, [90, math.nan])
    np.testing.assert_allclose(kept.x[0] + kept.error_x.array[0], 100)
    np.testing.assert_allclose(kept.x[0] - kept.error_x.arrayminus[0], 80)
    np.testing.assert_allclose(rise.x, [5, math.nan])
    assert rise.xaxis == "x2" and not rise.showlegend
    assert "NLL 2.000 to 2.100 nats per token, +5.0 %" in rise.hovertext[0]
    # kept: fr unknown before, random not measured at all, as the caption says; rise: fr twice.
    assert texts(figure).count("none known before") == 1
    assert texts(figure).count("not measured") == 2
    assert "Not measured: random." in figure.layout.meta["caption"]
    assert all(note.xref.endswith("domain") for note in figure.layout.annotations if note.text == "not measured")
    assert [shape.x0 for shape in figure.layout.shapes if shape.type == "line"] == [100, 0]
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.xaxis2.range
    assert left < 80 < 100 < right and low < 0 < 5 < high
    wanted = {"public facts kept (% of those known before)", "rise of neutral text's NLL (%)", "query language"}
    assert axis_titles(figure) == wanted


def test_cost_without_public_probes_says_so() -> None:
    result = mitigation()
    private = result.effects[result.effects.group == "private"]
    alone = MitigationResult(effects=private, cost=result.cost, sizes=result.sizes, total_neurons=9, provenance=TOY)
    assert "on no questions per query language" in figures.cost(alone).layout.meta["caption"]


def test_before_after_of_an_earlier_version_has_no_whiskers() -> None:
    result = mitigation()
    effects = result.effects.drop(columns=["after_low", "after_high", "reason"])
    figure = figures.before_after(MitigationResult(**{**result.__dict__, "effects": effects}))
    dots = trace(figure, "universal")
    np.testing.assert_allclose(dots.x, [20, 0])
    assert np.isnan(dots.error_x.array).all()


def test_nothing_is_offered_that_uploads_the_data() -> None:
    assert {"sendChartToCloud", "sendDataToCloud"} <= set(_style.TEMPLATE.layout.modebar.remove)


def test_languages_have_one_order_and_captions_even_lines() -> None:
    assert wording.ordered(["zh", "fr", "en", "zh", "ar"], "fr", "sw") == ["fr", "ar", "zh", "en"]
    assert _style.wrapped("short") == ["short"]
    lines = _style.wrapped("word " * 30)
    assert len(lines) == 2 and abs(len(lines[0]) - len(lines[1])) <= 5
    assert figures.language_name("fr") == "French (fr)" and figures.language_name("xx") == "xx"


def test_trade_off_reductions_per_language_over_growing_sizes() -> None:
    figure = figures.trade_off(growing())
    english, overall = trace(figure, "<b>English (en)</b>"), trace(figure, "all languages")
    np.testing.assert_allclose(english.y, [25, 50, 75])
    np.testing.assert_allclose(english.error_y.array, 10)
    np.testing.assert_allclose(english.error_y.arrayminus, 10)
    # Of 120 leaking probes: 100, 70 and 40 are left.
    np.testing.assert_allclose(overall.y, [100 / 6, 250 / 6, 400 / 6])
    assert overall.error_y.array is None or np.isnan(overall.error_y.array).all()
    assert (english.line.color, trace(figure, "French").line.color) == (_style.colour("en"), _style.colour("fr"))
    assert english.line.width > trace(figure, "French").line.width
    for line in (english, overall):
        np.testing.assert_allclose(np.array(line.x) / line.x[0], [1, 2, 4])
        assert 0.75 < line.x[0] / 10 < 1.35
    assert np.isnan(trace(figure, "German").y).all()
    assert "10 neurons" in english.hovertext[0] and "reduction 25 % [15, 35], 95 % interval" in english.hovertext[0]


def test_trade_off_random_control_is_grey_and_no_point_of_the_curve() -> None:
    figure = figures.trade_off(growing())
    above, below = trace(figure, "random"), trace(figure, "random", 1)
    np.testing.assert_allclose(above.y, [100 - 118 / 1.2, 100 - 116 / 1.2])
    np.testing.assert_allclose(np.array(above.x) / above.x[0], [1, 4])
    np.testing.assert_allclose(below.y, [100, 100])
    assert above.marker.color == below.marker.color == _style.GREY
    bars = [item for item in figure.data if item.line.width == 9 and item.yaxis == "y"]
    np.testing.assert_allclose([bar.y for bar in bars], [[0, 5], [0, 5]], atol=1e-9)
    assert "random 40 ablated, reduction, all languages: 3 %<br>0 % to 5 % by language" in above.hovertext[1]
    assert sum(item.name == "random neurons" and item.showlegend for item in figure.data) == 1


def test_trade_off_cost() -> None:
    figure = figures.trade_off(growing())
    kept, worst, rise = (trace(figure, name) for name in ("public facts kept, all", "public facts kept, w", "largest"))
    np.testing.assert_allclose(kept.y, [100, 95, 80])
    np.testing.assert_allclose(worst.y, [100, 90, 60])
    np.testing.assert_allclose(worst.error_y.array, 5)
    np.testing.assert_allclose(rise.y, [0.2, 1, 3])
    assert (kept.yaxis, worst.yaxis, rise.yaxis) == ("y2", "y2", "y3")
    assert "French (fr), 10 ablated" in rise.hovertext[0] and "English (en), 40 ablated" in rise.hovertext[2]
    assert "NLL 2.000 to 2.060 nats per token, +3.0 %" in rise.hovertext[2]


def test_trade_off_axes_and_caption() -> None:
    figure = figures.trade_off(growing())
    assert axis_titles(figure) == {
        "neurons ablated (number, and % of the model's 1,000)",
        "reduction of private<br>extraction (%)",
        "public facts<br>kept (%)",
        "largest rise<br>of NLL (%)",
    }
    assert figure.layout.xaxis2.type == "log" and figure.layout.xaxis.matches == "x2"
    assert list(figure.layout.xaxis2.ticktext) == ["10<br>1 %", "20<br>2 %", "40<br>4 %"]
    for axis, low, high in (("yaxis", -1e-9, 100), ("yaxis2", 55, 100), ("yaxis3", 0, 3)):
        bottom, top = figure.layout[axis].range
        assert bottom < low and high < top
    caption = figure.layout.meta["caption"]
    for part in (
        "50 people and 100 questions",
        "50 people and 60 questions",
        "Nothing to reduce in German (de).",
        "Bold",
    ):
        assert part in caption


def test_trade_off_of_one_panel_s_data_says_what_is_missing() -> None:
    result = growing()
    chosen = result.effects[(result.effects.group == "private") & ~result.effects.condition.str.startswith("random")]
    sizes = {name: size for name, size in result.sizes.items() if not name.startswith("random")}
    changed = {"effects": chosen, "cost": result.cost.iloc[:0], "sizes": sizes}
    figure = figures.trade_off(MitigationResult(**{**result.__dict__, **changed}))
    assert "No random neurons were measured." in figure.layout.meta["caption"]
    assert "on no questions" in figure.layout.meta["caption"]
    assert not any(item.name == "random neurons" for item in figure.data)
    assert len(trace(figure, "largest").y) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"10": 10, "random": 20}, "sets of at least two sizes.*evaluate several at once"),
        ({"random": 20}, "this result has none"),
        ({"10": 10, "20": 10, "40": 40}, "'10' and '20' both have 10 neurons.*one set per size"),
    ],
)
def test_trade_off_refuses_what_is_no_curve(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.trade_off(MitigationResult(**{**growing().__dict__, "sizes": sizes}))


def test_trade_off_refuses_a_result_without_private_probes() -> None:
    result = growing()
    public = result.effects[result.effects.group == "public"]
    with pytest.raises(ValueError, match="no private probes"):
        figures.trade_off(MitigationResult(**{**result.__dict__, "effects": public}))


def test_trade_off_of_several_methods_marks_the_front() -> None:
    figure = figures.trade_off(methods())
    for name, reductions, lost in (("ours", [25, 75], [0, 20]), ("depn", [12.5, 75], [0, 40])):
        left, right = trace(figure, name), trace(figure, name, 1)
        np.testing.assert_allclose(left.x, [10, 40])
        np.testing.assert_allclose(right.x, lost, atol=1e-9)
        np.testing.assert_allclose([left.y, right.y], [reductions] * 2)
        assert left.line.color == right.line.color
    assert trace(figure, "ours").line.color != trace(figure, "depn").line.color
    front = trace(figure, "Pareto")
    np.testing.assert_allclose([front.x, front.y], [[0, 20], [25, 75]], atol=1e-9)
    assert front.xaxis == "x2"
    random = trace(figure, "random neurons", 1)
    assert random.marker.color == _style.GREY
    np.testing.assert_allclose([random.x, random.y], [[10], [0]], atol=1e-9)
    assert axis_titles(figure) == {
        "neurons ablated (of 1,000)",
        "public facts lost (% of those known before)",
        "reduction of private extraction (%)",
    }
    assert "ours@40, 40 neurons<br>reduction 75 %, public facts lost 20 %" in trace(figure, "ours").hovertext[1]
    assert "rise of NLL +5.0 %" in trace(figure, "ours").hovertext[1]
    assert "rise of NLL not measured" in trace(figure, "depn").hovertext[1]
    assert sum(item.showlegend is not False for item in figure.data) == 4


def test_methods_without_private_probes_are_refused() -> None:
    result = methods()
    public = result.effects[result.effects.group == "public"]
    with pytest.raises(ValueError, match="no private probes"):
        figures.trade_off(MitigationResult(**{**result.__dict__, "effects": public}))


def test_figures_show_extraction_only_and_every_control_in_grey() -> None:
    plain = mitigation()
    bits = plain.effects.assign(measure="exposure", before=3.0, after=1.0)
    noise = plain.effects[plain.effects.condition == "universal"].assign(condition="noise")
    matched = plain.effects[plain.effects.condition == "random"].assign(condition="random_magnitude")
    effects = pd.concat([plain.effects.assign(measure="extraction"), noise.assign(measure="extraction"), bits])
    effects = pd.concat([effects, matched.assign(measure="extraction")], ignore_index=True)
    sizes = plain.sizes | {"random_magnitude": 74, "noise": 74}
    figure = figures.before_after(MitigationResult(**{**plain.__dict__, "effects": effects, "sizes": sizes}))
    np.testing.assert_allclose(trace(figure, "before").x, [80, 0])
    np.testing.assert_allclose(trace(figure, "universal").x, [20, 0])
    controls = [trace(figure, name) for name in ("random (", "random_magnitude", "noise")]
    assert [control.marker.color for control in controls] == [_style.GREY] * 3
    assert len({control.marker.symbol for control in controls}) == 3
    priced = figures.cost(MitigationResult(**{**plain.__dict__, "effects": effects, "sizes": sizes}))
    np.testing.assert_allclose(trace(priced, "universal").x, [90, math.nan])
