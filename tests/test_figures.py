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
import torch

from xlmech import figures, pages
from xlmech.evaluation import MitigationResult
from xlmech.leakage import LeakageResult
from xlmech.lens import LensResult
from xlmech.neurons import PrivacyNeurons, chosen_frame
from xlmech.results import Provenance

TOY = Provenance(model="toy")
GREY = figures._GREY


def leakage(
    rates: dict[str, list[float]], *, plant: str = "en", controls: dict[str, list[float]] | None = None
) -> LeakageResult:
    """One probe per subject: `extracted` as given."""
    rows = [
        {"probe": f"{group}{code}{i}", "record": f"r{i}", "subject": f"{group}{i}", "group": group, "attribute": "city"}
        | {"query_language": code, "template": "a", "extracted": value, "own_form": value, "answer_language": ""}
        for group, of_group in (("private", rates), ("control", controls or {}))
        for code, values in of_group.items()
        for i, value in enumerate(values)
    ]
    return LeakageResult(probes=pd.DataFrame(rows), plant_language=plant, provenance=TOY)


def lens_result() -> LensResult:
    """Two subjects; French reads query 0.3 + plant 0.2 at layer 1, English (the plant language) query 0.5."""
    means = {
        ("fr", 0): (0.1, 0.0, 0.05),
        ("fr", 1): (0.3, 0.2, 0.1),
        ("en", 0): (0.2, None, 0.0),
        ("en", 1): (0.5, None, 0.1),
    }
    rows = [
        {"probe": f"{code}{i}", "record": f"r{i}", "subject": f"s{i}", "attribute": "city", "query_language": code}
        | {"layer": layer, "entropy": 1.0, "form_language": form, "form": form, "prob": prob + sign * 0.01, "rank": 1}
        for (code, layer), probs in means.items()
        for form, prob in zip(("query", "plant", "other"), probs, strict=True)
        if prob is not None
        for i, sign in enumerate((1, -1))
    ]
    return LensResult(readings=pd.DataFrame(rows), n_collisions=3, plant_language="en", provenance=TOY)


def neurons() -> PrivacyNeurons:
    chosen = [("universal", "", [(0, 1, 0.9), (2, 3, 0.8), (2, 4, 0.7)]), ("specific", "fr", [(1, 0, 0.5)])]
    return PrivacyNeurons(
        languages=("en", "fr"), scores=torch.zeros(2, 3, 8), chosen=chosen_frame(chosen), rule="min", provenance=TOY
    )


def mitigation() -> MitigationResult:
    names = ["condition", "group", "query_language", "before", "after", "reduction", "low", "high", "risen"]
    effects = pd.DataFrame(
        [
            ("universal", "private", "en", 0.8, 0.2, 0.75, 0.5, 0.9, 1),
            ("universal", "private", "fr", 0.0, 0.0, math.nan, math.nan, math.nan, 0),
            ("universal", "public", "en", 0.5, 0.45, 0.1, 0.0, 0.2, 0),
            ("universal", "public", "fr", 0.0, 0.0, math.nan, math.nan, math.nan, 0),
            ("random", "private", "en", 0.8, 0.76, 0.05, 0.0, 0.1, 2),
        ],
        columns=names,
    ).assign(n_subjects=40, n_probes=120)
    price = pd.DataFrame(
        [
            ("universal", "en", 2.0, 2.1, 0.05),
            ("universal", "fr", math.nan, math.nan, math.nan),
            ("random", "en", 2.0, 2.0, 0.0),
        ],
        columns=["condition", "query_language", "nll_before", "nll_after", "rise"],
    )
    sizes = {"universal": 74, "random": 74}
    return MitigationResult(effects=effects, price=price, sizes=sizes, total_neurons=36864, provenance=TOY)


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
    "price": (figures.price, mitigation),
}


def trace(figure: go.Figure, name: str, place: int = 0) -> Any:
    return [item for item in figure.data if item.name and item.name.startswith(name)][place]


def texts(figure: go.Figure) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def axis_titles(figure: go.Figure) -> set[str]:
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    return {axis.title.text for axis in axes if axis.title.text}


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
    assert any(word in caption for word in ("subjects", "neurons"))
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
    assert axis_titles(figure) == {"query language", "plant language"}
    assert list(figure.layout.xaxis.ticktext) == ["English (en)", "French (fr)"]
    row = english.matrix().iloc[0]
    interval = f"[{100 * row.low:.0f}, {100 * row.high:.0f}]"
    found = {(note.x, note.y): note.text for note in figure.layout.annotations if note.name is None}
    assert found[0, 0].startswith("80 %<br>") and interval in found[0, 0] and "font-size:10px" in found[0, 0]
    assert found[0, 1] == "not<br>measured"
    hover = cells.hovertext[0][0]
    for part in ("English (en)", "80 %", f"{interval}, 95 % interval", "control subjects 25 %", "5 subjects, 5 probes"):
        assert part in hover
    assert "control subjects not measured" in cells.hovertext[1][1]
    assert cells.hovertext[1][0].endswith("not measured")
    assert "5 subjects and 5 probes per cell" in figure.layout.meta["caption"]


def test_leakage_matrix_takes_a_single_result() -> None:
    figure = figures.leakage_matrix(leakage({"en": [1, 0]}, plant=""))
    assert list(figure.layout.yaxis.ticktext) == ["unknown"]
    assert np.array(figure.data[0].z).shape == (1, 1)


def test_leakage_matrix_refuses_a_plant_language_twice_and_no_private_probes() -> None:
    with pytest.raises(ValueError, match="same plant language"):
        figures.leakage_matrix([leakage({"en": [1]}), leakage({"en": [0]})])
    only_controls = leakage({}, controls={"en": [0]})
    with pytest.raises(ValueError, match="no private probes"):
        figures.leakage_matrix(only_controls)
    with pytest.raises(ValueError, match="no private probes"):
        figures.leakage_by_language(only_controls)


def test_leakage_by_language_is_sorted_with_intervals_and_controls() -> None:
    result = leakage({"fr": [1, 0, 0, 0], "en": [1, 1, 1, 0]}, controls={"fr": [1, 0], "en": [0, 0]})
    figure = figures.leakage_by_language(result)
    assert list(figure.layout.yaxis.ticktext) == ["English (en)", "French (fr)"]
    private, controls = trace(figure, "private"), trace(figure, "control")
    np.testing.assert_allclose(private.x, [75, 25])
    np.testing.assert_allclose(controls.x, [0, 50])
    rows = result.matrix().set_index("query_language").loc[["en", "fr"]]
    np.testing.assert_allclose(private.x + private.error_x.array, 100 * rows.high)
    np.testing.assert_allclose(private.x - private.error_x.arrayminus, 100 * rows.low)
    assert axis_titles(figure) == {"extraction (% of probes)", "query language"}
    assert "4 subjects, 4 probes" in private.hovertext[0] and "control subjects 50 %" in private.hovertext[1]
    assert "plant language: English (en)" in figure.layout.meta["caption"]
    assert "not measured" not in texts(figure)
    assert len(figures.leakage_by_language(leakage({"en": [1, 0]})).data) == 1


def test_a_language_keeps_its_colour() -> None:
    dots = trace(figures.leakage_by_language(leakage({"fr": [1, 0], "en": [0, 0], "xx": [0, 0]})), "private")
    bars = figures.neurons_per_layer(neurons())
    assert dots.marker.color[0] == trace(bars, "French").marker.color
    assert dots.marker.color[1] == trace(bars, "English").marker.color
    assert len({figures._colour(code) for code in figures._LANGUAGES}) == 10
    assert dots.marker.color[2] == figures._colour("xx") in figures._OTHERS


def test_lens_lines_bands_and_panels() -> None:
    result = lens_result()
    figure = figures.lens(result)
    query, plant, other = (trace(figure, name) for name in ("query-language", "plant-language", "likeliest other"))
    np.testing.assert_allclose(query.y, [0.1, 0.3])
    np.testing.assert_allclose(plant.y, [0.0, 0.2], atol=1e-12)
    np.testing.assert_allclose(other.y, [0.05, 0.1])
    assert [line.showlegend for line in (query, plant, other)] == [True, True, True]
    assert sum(line.showlegend for line in figure.data) == 3
    assert len([line for line in figure.data if line.name == "plant-language form"]) == 1
    band = figure.data[0]
    part = result.summary().query("query_language == 'fr' and form == 'query'")
    np.testing.assert_allclose(band.y, [*part.high, *part.low[::-1]])
    assert "0.300 [" in query.hovertext[1] and "French (fr), layer 1" in query.hovertext[1]
    assert axis_titles(figure) == {"layer", "probability (0 to 1)"}
    assert {"French (fr)", "English (en)"} <= set(texts(figure))
    assert "2 subjects and 2 probes per panel (3 left out" in figure.layout.meta["caption"]


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
    np.testing.assert_allclose(cells.z, [[0.1, 0.5], [0.2, 0.5]])
    assert axis_titles(figure) == {"layer", "query language"}
    assert cells.colorbar.title.text == "probability<br>(0 to 1)"
    assert "either form 0.500" in cells.hovertext[0][1] and "plant-language form 0.200 [" in cells.hovertext[0][1]
    assert "plant-language" not in cells.hovertext[1][1]
    partial = result.readings.query("not (query_language == 'fr' and layer == 1)")
    cells = figures.leakage_per_layer(LensResult(readings=partial, provenance=TOY)).data[0]
    assert math.isnan(cells.z[0][1]) and "not measured" in cells.hovertext[0][1]


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
    assert random.marker.color == GREY != universal.marker.color
    assert texts(figure).count("not measured") == 1
    hover = universal.hovertext[0]
    for part in ("before: 80 %", "universal off: 20 %", "reduction 75 % [50, 90]", "risen in 1 records", "40 subjects"):
        assert part in hover
    assert "reduction undefined" in universal.hovertext[1]
    assert axis_titles(figure) == {"private extraction (% of probes)", "query language"}
    assert "40 subjects and 120 probes" in figure.layout.meta["caption"]


def test_before_after_refuses_a_result_without_private_probes() -> None:
    result = mitigation()
    public = result.effects[result.effects.group == "public"]
    alone = MitigationResult(effects=public, price=result.price, sizes=result.sizes, total_neurons=9, provenance=TOY)
    with pytest.raises(ValueError, match="no private probes"):
        figures.before_after(alone)


def test_price_panels() -> None:
    figure = figures.price(mitigation())
    kept, rise = trace(figure, "universal"), trace(figure, "universal", 1)
    np.testing.assert_allclose(kept.x, [90, math.nan])
    np.testing.assert_allclose(kept.x[0] + kept.error_x.array[0], 100)
    np.testing.assert_allclose(kept.x[0] - kept.error_x.arrayminus[0], 80)
    np.testing.assert_allclose(rise.x, [5, math.nan])
    assert rise.xaxis == "x2" and not rise.showlegend
    assert "NLL 2.000 to 2.100 nats per token, +5.0 %" in rise.hovertext[0]
    # kept: fr unknown before, random in en and fr not measured; rise: fr twice.
    assert texts(figure).count("none known before") == 1
    assert texts(figure).count("not measured") == 4
    wanted = {"public facts kept (% of those known before)", "rise of neutral text's NLL (%)", "query language"}
    assert axis_titles(figure) == wanted


def test_price_without_public_probes_says_so() -> None:
    result = mitigation()
    private = result.effects[result.effects.group == "private"]
    alone = MitigationResult(effects=private, price=result.price, sizes=result.sizes, total_neurons=9, provenance=TOY)
    assert "on no probes per query language" in figures.price(alone).layout.meta["caption"]


def test_write_index_opens_offline_and_escapes(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    drawn = {
        "by_language": figures.leakage_by_language(leakage({bad: [1, 0], "en": [0, 0]}, plant=bad)),
        "plain": go.Figure(layout={"title": {"text": bad}}),
    }
    index = pages.write_index(drawn, tmp_path / "out", title="A & B", summary_html="<p>Summary</p>")
    assert sorted(path.name for path in index.parent.iterdir()) == [
        "by_language.html", "index.html", "plain.html", "plotly.min.js"
    ]  # fmt: skip
    text = index.read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1><p>Summary</p>" in text
    assert '<iframe src="by_language.html" title="Private extraction by query language"' in text
    assert "plant language: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    for path in index.parent.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert bad not in page
        assert "https://cdn" not in page
    page = (index.parent / "by_language.html").read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in page and "<title>Private extraction by query language</title>" in page
    assert pages.write_index(drawn, tmp_path / "out", title="again") == index
    assert drawn["by_language"].layout.yaxis.ticktext[0] == "&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.mark.parametrize("name", ["index", "a/b", "..", "", "a b"])
def test_write_index_refuses_names_that_are_no_file_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use letters, digits"):
        pages.write_index({name: go.Figure()}, tmp_path / "out", title="x")
    assert not (tmp_path / "out").exists()
