from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest
from helpers.toy_figures import axis_titles, texts, trace
from helpers.toy_results import leakage

from xlmech import figures
from xlmech.figures.marks import ROOM
from xlmech.leakage.above_controls import compare


def test_leakage_matrix_values_text_and_hover() -> None:
    english = leakage({"en": [1, 1, 1, 1, 0], "fr": [1, 0, 0, 0, 0]}, controls={"en": [0, 0, 0, 1]})
    french = leakage({"fr": [1, 1, 1, 1, 1]}, plant="fr")
    figure = figures.leakage_matrix([english, french])
    cells = figure.data[0]
    np.testing.assert_allclose(np.array(cells.z, dtype=float), [[0.8, 0.2], [math.nan, 1.0]])
    assert (cells.zmin, cells.zmax) == (0, 1)
    assert list(cells.colorbar.ticktext) == ["0 %", "50 %", "100 %"]
    assert cells.colorbar.title.text == f"extraction{ROOM}"
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
    assert "Training language: English (en)" in figure.layout.meta["caption"]
    assert "not measured" not in texts(figure)
    assert len(figures.leakage_by_language(leakage({"en": [1, 0]})).data) == 1


def title(figure: go.Figure) -> str:
    return str(figure.layout.meta["title"])


def test_titles_state_in_how_many_languages_data_leak() -> None:
    n = 20
    rates = {"en": [1.0] * n, "fr": [1.0] * 18 + [0.0] * 2, "zh": [0.0] * n}
    result = leakage(rates, controls={code: [0.0] * n for code in rates})
    leaking = [code for code, each in compare(result).languages.items() if each.judgement == "leaks"]
    assert sorted(leaking) == ["en", "fr"] == sorted(result.leaking_languages())
    shown = title(figures.leakage_by_language(result))
    assert shown == "Private data leak in 2 of 3 languages: 90 to 100 % of questions give the value"
    assert title(figures.leakage_matrix(result)) == "Data of English training text leak in French alone"
    french = leakage(rates, plant="fr", controls={code: [0.0] * n for code in rates})
    crossing = title(figures.leakage_matrix([result, french]))
    assert crossing == "Private data cross languages: they leak in 2 of 4 cells outside the training language"


def test_titles_claim_no_leak_that_is_not_beyond_chance() -> None:
    few = leakage({"en": [1, 0], "fr": [0, 0]}, controls={"en": [0, 0], "fr": [0, 1]})
    assert few.leaking_languages() == ()
    shown = title(figures.leakage_by_language(few))
    assert shown == "No leak beyond chance is seen in either language: 0 to 50 % of questions give the value"
    assert title(figures.leakage_matrix(few)) == "No leak beyond chance is seen outside the training language"
    alone = title(figures.leakage_by_language(leakage({"en": [1, 0], "fr": [0, 0]})))
    assert alone == "0 to 50 % of questions give private values; without control people, chance is not known"
