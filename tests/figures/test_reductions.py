from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from helpers.toy_figures import axis_titles, texts, trace
from helpers.toy_results import TOY, mitigation

from xlmech import figures
from xlmech.figures import style
from xlmech.mitigation.evaluate import MitigationResult


def test_before_after_values_intervals_and_random_in_grey() -> None:
    figure = figures.before_after(mitigation())
    before, universal, random = (trace(figure, name) for name in ("before", "universal", "random"))
    np.testing.assert_allclose(before.x, [80, 0])
    np.testing.assert_allclose(universal.x, [20, 0])
    np.testing.assert_allclose(random.x, [76, math.nan])
    np.testing.assert_allclose(universal.x[0] + universal.error_x.array[0], 40)
    np.testing.assert_allclose(universal.x[0] - universal.error_x.arrayminus[0], 8)
    assert universal.name == "universal (74 of 36,864 neurons)"
    assert random.marker.color == style.GREY != universal.marker.color
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
    assert [control.marker.color for control in controls] == [style.GREY] * 3
    assert len({control.marker.symbol for control in controls}) == 3
    priced = figures.cost(MitigationResult(**{**plain.__dict__, "effects": effects, "sizes": sizes}))
    np.testing.assert_allclose(trace(priced, "universal").x, [90, math.nan])


@dataclass(frozen=True)
class Specific:
    frame: pd.DataFrame
    sizes: dict[str, int]
    mean_factors: dict[str, float] = field(default_factory=dict)
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


def test_gates_turn_down_and_are_not_called_ablated() -> None:
    result = replace(mitigation(), mean_factors={"universal": 0.9})
    drawn = figures.before_after(result)
    (gates,) = [item for item in drawn.data if "universal" in (item.name or "") and item.hovertext is not None]
    assert gates.name == "universal (74 of 36,864 neurons turned down)"
    assert "universal turned down: 20 %" in gates.hovertext[0] and "ablated" not in gates.hovertext[0]
    assert "random ablated: 76 %" in "".join(str(item.hovertext) for item in drawn.data)
    assert "universal turned down<br>NLL 2.000 to 2.100" in "".join(
        str(item.hovertext) for item in figures.cost(result).data
    )
    of_french = replace(specific(), mean_factors={"fr": 0.9})
    hovers = "".join(np.ravel(figures.specificity(of_french).data[0].hovertext))
    assert "neurons of French (fr) turned down, asked" in hovers and "neurons of English (en) ablated" in hovers


def test_a_figure_says_who_was_measured() -> None:
    for draw in (figures.before_after, figures.cost):
        meta = draw(mitigation(), people="given people, from whom the gates were learned").layout.meta
        assert meta["title"].endswith(" (given people)")
        assert meta["caption"].endswith(" Measured: given people, from whom the gates were learned.")
        assert "Measured:" not in draw(mitigation()).layout.meta["caption"]


def test_captions_name_control_conditions_only_where_there_are_some() -> None:
    result = mitigation()
    alone = replace(
        result,
        effects=result.effects[result.effects.condition == "universal"],
        cost=result.cost[result.cost.condition == "universal"],
        sizes={"universal": result.sizes["universal"]},
        mean_factors={"universal": 0.9},
    )
    for draw in (figures.before_after, figures.cost):
        assert "grey" in draw(result).layout.meta["caption"] and "grey" not in draw(alone).layout.meta["caption"]
    assert "no control condition was measured" in figures.before_after(alone).layout.meta["caption"]
    assert figures.before_after(alone).layout.meta["title"].startswith("Private extraction before and after turning")
    assert "after ablation" in figures.before_after(result).layout.meta["title"]
