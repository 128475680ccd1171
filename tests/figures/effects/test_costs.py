from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.toy_figures import axis_titles, texts, trace
from helpers.toy_results import TOY, mitigation

from xlmech import figures
from xlmech.mitigation.evaluate import MitigationResult


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
    figure = figures.cost(alone)
    assert "Public facts were not measured." in figure.layout.meta["details"]
    assert axis_titles(figure) == {"rise of neutral text's NLL (%)", "query language"}
    assert not any(item.xaxis == "x2" for item in figure.data)
    assert figure.layout.meta["title"] == "NLL rises by at most 5.0 %"


def test_a_panel_of_what_was_not_measured_is_not_drawn() -> None:
    result = replace(mitigation(), cost=mitigation().cost.iloc[:0])
    figure = figures.cost(result)
    assert axis_titles(figure) == {"public facts kept (% of those known before)", "query language"}
    assert "Neutral text was not measured." in figure.layout.meta["details"]
    nothing = replace(result, effects=result.effects[result.effects.group == "private"])
    assert figures.cost(nothing).layout.meta["title"] == "The cost was not measured"


@pytest.mark.parametrize(
    ("interval", "title"),
    [
        ((0.11, 0.02, 0.2), "Ablating 74 neurons keeps 89 % [80, 98] of public facts; NLL rises by at most 5.0 %"),
        (
            (0.16, -0.16, 0.6),
            "Ablating 74 neurons: no loss of public facts beyond chance is seen (84 % [40, 116] kept); "
            "NLL rises by at most 5.0 %",
        ),
    ],
)
def test_the_title_says_what_is_lost_beyond_chance(interval: tuple[float, float, float], title: str) -> None:
    frame = pd.DataFrame(
        [("universal", "public", *interval, "")], columns=["condition", "group", "reduction", "low", "high", "reason"]
    )
    assert figures.cost(replace(mitigation(), overall=frame)).layout.meta["title"] == title
    falls = replace(mitigation(), overall=frame, cost=mitigation().cost.assign(rise=-0.01))
    assert figures.cost(falls).layout.meta["title"].endswith("NLL rises in no language")
