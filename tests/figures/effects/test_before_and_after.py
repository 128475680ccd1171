from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.toy_figures import axis_titles, texts, trace
from helpers.toy_results import TOY, growing, mitigation

from xlmech import figures
from xlmech.figures import style
from xlmech.mitigation.evaluate import MitigationResult


def test_before_after_values_intervals_and_random_in_grey() -> None:
    figure = figures.before_after(mitigation())
    before, universal, random = (trace(figure, name) for name in ("before", "universal", "random"))
    np.testing.assert_allclose(before.x, [80, 0])
    np.testing.assert_allclose(universal.x, [20, 0])
    assert list(before.y) == list(universal.y) and list(random.y) != list(universal.y)
    (bar,) = [item for item in figure.data if item.mode == "lines" and item.line.width == 9]
    assert [(x, y) for x, y in zip(bar.x, bar.y, strict=True) if x is not None] == [
        (80, before.y[0]), (20, before.y[0]), (0, before.y[1]), (0, before.y[1])
    ]  # fmt: skip
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
    assert figures.before_after(alone).layout.meta["title"].startswith("Turning 74 neurons down")
    assert figures.before_after(result).layout.meta["title"].startswith("Ablating 74 neurons")


def over_all(
    reduction: float, low: float, high: float, *, random: float = 0.02, group: str = "private"
) -> MitigationResult:
    rows = [("universal", group, reduction, low, high, ""), ("random", group, random, random - 0.1, random + 0.1, "")]
    frame = pd.DataFrame(rows, columns=["condition", "group", "reduction", "low", "high", "reason"])
    return replace(mitigation(), overall=frame)


@pytest.mark.parametrize(
    ("interval", "title"),
    [
        ((0.36, 0.28, 0.44), "Ablating 74 neurons reduces extraction by 36 % [28, 44]"),
        (
            (0.29, -0.08, 0.6),
            "No change beyond chance is seen: ablating 74 neurons reduces extraction by 29 % [\u22128, 60]",
        ),
        ((-0.3, -0.5, -0.1), "Ablating 74 neurons raises extraction by 30 % [10, 50]"),
        ((0.36, math.nan, math.nan), "Ablating 74 neurons: extraction reduced by 36 %, interval not known"),
    ],
)
def test_the_title_says_no_more_than_the_interval(interval: tuple[float, float, float], title: str) -> None:
    shown = figures.before_after(over_all(*interval)).layout.meta["title"]
    random = "" if interval[2] < 0 else ", random neurons by 2 % [\u22128, 12]"
    assert shown == title + random


def test_the_title_without_overall_numbers_pools_the_languages() -> None:
    effects = mitigation().extraction.query("group == 'private' and condition == 'universal' and before > 0")
    share = 1 - (effects.after * effects.n_probes).sum() / (effects.before * effects.n_probes).sum()
    shown = figures.before_after(mitigation()).layout.meta["title"]
    assert (
        shown
        == f"Ablating 74 neurons: extraction reduced by {100 * share:.0f} %, interval not known, random neurons by 5 %"
    )
    nothing = mitigation().effects.assign(reduction=math.nan, reason="nothing was extracted before")
    shown = figures.before_after(replace(mitigation(), effects=nothing)).layout.meta["title"]
    assert shown == "Nothing to reduce: nothing was extracted before"


def test_the_title_of_several_sets_counts_those_beyond_chance() -> None:
    shown = figures.before_after(growing()).layout.meta["title"]
    assert shown.startswith("3 sets reduce extraction by 17 to 67 %, interval not known; random neurons by ")
    rows = [
        (name, "private", share, share - 0.3, share + 0.3, "")
        for name, share in (("10", 0.2), ("20", 0.4), ("40", 0.6))
    ]
    frame = pd.DataFrame(rows, columns=["condition", "group", "reduction", "low", "high", "reason"])
    shown = figures.before_after(replace(growing(), overall=frame)).layout.meta["title"]
    assert shown.startswith("3 sets reduce extraction by 20 to 60 %, 2 of them beyond chance; random")


def test_what_control_people_give_is_shaded() -> None:
    result = mitigation()
    assert not [item for item in figures.before_after(result).data if item.type == "bar"]
    effects = result.effects.assign(control=[0.1, 0.05, 0.0, 0.0, 0.1])
    figure = figures.before_after(replace(result, effects=effects))
    (level,) = [item for item in figure.data if item.type == "bar"]
    np.testing.assert_allclose(level.x, [10, 5])
    assert list(level.y) == [0, 1] and level.name == "control people (chance)" and level.orientation == "h"
    assert "Shaded: what control people give" in figure.layout.meta["details"]
