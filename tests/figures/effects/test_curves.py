from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.toy_figures import axis_titles, trace
from helpers.toy_results import growing, methods

from xlmech import figures
from xlmech.figures import style
from xlmech.mitigation.evaluate import MitigationResult


def test_trade_off_reductions_per_language_over_growing_sizes() -> None:
    figure = figures.trade_off(growing())
    english, overall = trace(figure, "English (training)"), trace(figure, "all languages")
    np.testing.assert_allclose(english.y, [25, 50, 75])
    # Of 120 leaking probes: 100, 70 and 40 are left.
    np.testing.assert_allclose(overall.y, [100 / 6, 250 / 6, 400 / 6])
    assert np.isnan(overall.error_y.array).all()
    french = trace(figure, "one language: French (fr)")
    assert english.line.color == style.colour("en") and french.line.color == style.faded(style.colour("fr"), 0.55)
    assert english.line.width > french.line.width
    for line in (english, french, overall):
        assert list(line.x) == [10, 20, 40]
    assert not [item for item in figure.data if "German" in (item.name or "")]
    assert "10 neurons" in english.hovertext[0] and "reduction 25 % [15, 35], 95 % interval" in english.hovertext[0]
    labels = [note.text for note in figure.layout.annotations if note.name == "line" and note.yref == "y"]
    assert labels == ["one language", "all languages", "English (training)"]
    assert not figure.layout.showlegend


def test_trade_off_has_the_interval_over_all_languages() -> None:
    rows = [(name, group, 0.2, 0.1, 0.35, "") for name in growing().sizes for group in ("private", "public")]
    overall = pd.DataFrame(rows, columns=["condition", "group", "reduction", "low", "high", "reason"])
    figure = figures.trade_off(replace(growing(), overall=overall))
    for name in ("all languages", "facts, all languages"):
        curve = trace(figure, name)
        ends = np.array(curve.y) - curve.error_y.arrayminus, np.array(curve.y) + curve.error_y.array
        wanted = ([10] * 3, [35] * 3) if name == "all languages" else ([65] * 3, [90] * 3)
        np.testing.assert_allclose(ends, wanted)
    assert "whiskers: 95 % interval over people" in figure.layout.meta["caption"]
    assert "all languages: 20 % [10, 35]" in trace(figure, "all languages").hovertext[0]


def test_trade_off_random_control_is_grey_and_no_point_of_the_curve() -> None:
    figure = figures.trade_off(growing())
    above, below = trace(figure, "random"), trace(figure, "random", 1)
    np.testing.assert_allclose(above.y, [100 - 118 / 1.2, 100 - 116 / 1.2])
    np.testing.assert_allclose(above.x, [10, 40])
    np.testing.assert_allclose(below.y, [100, 100])
    assert above.marker.color == below.marker.color == style.GREY
    bars = [item for item in figure.data if item.line.width == 9 and item.yaxis == "y"]
    np.testing.assert_allclose([bar.y for bar in bars], [[0, 5], [0, 5]], atol=1e-9)
    assert "random 40 ablated, reduction, all languages: 3 %<br>0 % to 5 % by language" in above.hovertext[1]


def test_trade_off_cost() -> None:
    figure = figures.trade_off(growing())
    kept, worst, rise = (trace(figure, name) for name in ("facts, all", "facts, worst", "worst language"))
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
    assert figure.layout.xaxis3.type == "log" and figure.layout.xaxis.matches == "x3"
    assert list(figure.layout.xaxis3.ticktext) == ["10<br>1 %", "20<br>2 %", "40<br>4 %"]
    for axis, low, high in (("yaxis", -1e-9, 100), ("yaxis2", 55, 100), ("yaxis3", 0, 3)):
        bottom, top = figure.layout[axis].range
        assert bottom < low and high < top
    caption = figure.layout.meta["caption"]
    for part in ("50 people and 100 questions", "50 people and 60 questions", "Nothing to reduce in German (de)."):
        assert part in caption


def test_trade_off_of_one_panel_s_data_says_what_is_missing() -> None:
    result = growing()
    chosen = result.effects[(result.effects.group == "private") & ~result.effects.condition.str.startswith("random")]
    sizes = {name: size for name, size in result.sizes.items() if not name.startswith("random")}
    changed = {"effects": chosen, "cost": result.cost.iloc[:0], "sizes": sizes}
    figure = figures.trade_off(MitigationResult(**{**result.__dict__, **changed}))
    assert "No random neurons were measured." in figure.layout.meta["caption"]
    assert "Not measured: public facts and neutral text." in figure.layout.meta["details"]
    assert not any(item.name == "random neurons" for item in figure.data)
    assert len(list(figure.select_yaxes())) == 1
    no_text = figures.trade_off(replace(result, cost=result.cost.iloc[:0]))
    assert len(list(no_text.select_yaxes())) == 2 and "Not measured: neutral text." in no_text.layout.meta["details"]


def test_titles_of_trade_offs_state_the_ends_and_no_more_than_the_interval() -> None:
    points = growing().trade_off().set_index("condition")
    ends = [
        f"{100 * value:.0f} %" for name in ("10", "40") for value in (points.reduction[name], 1 - points.lost[name])
    ]
    assert ends == ["17 %", "100 %", "67 %", "80 %"]
    shown = figures.trade_off(growing()).layout.meta["title"]
    assert shown == "10 neurons reduce extraction by 17 %, 40 by 67 %; they keep 100 % and 80 % of public facts"
    rows = [(name, "private", 0.3, -0.1, 0.6, "") for name in growing().sizes]
    overall = pd.DataFrame(rows, columns=["condition", "group", "reduction", "low", "high", "reason"])
    shown = figures.trade_off(replace(growing(), overall=overall)).layout.meta["title"]
    assert shown == "No change beyond chance is seen up to 40 neurons: extraction falls by 30 % [\u221210, 60]"
    best = methods().trade_off().query("not control and lost <= 0.05").sort_values("reduction").iloc[-1]
    assert (best.condition, best.reduction) == ("ours@10", pytest.approx(0.25))
    shown = figures.dose_response(methods()).layout.meta["title"]
    assert shown == "At 5 % of public facts lost or less, ours@10 reduces most: 25 %"


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
    assert random.marker.color == style.GREY
    np.testing.assert_allclose([random.x, random.y], [[10], [0]], atol=1e-9)
    assert axis_titles(figure) == {
        "neurons ablated (of 1,000)",
        "public facts lost (% of those known before)",
        "reduction of private extraction (%)",
    }
    assert "ours@40, 40 neurons<br>reduction 75 %, public facts lost 20 %" in trace(figure, "ours").hovertext[1]
    assert "rise of NLL +5.0 %" in trace(figure, "ours").hovertext[1]
    assert "rise of NLL not measured" in trace(figure, "depn").hovertext[1]
    labels = [note.text for note in figure.layout.annotations if note.name == "line"]
    assert labels == ["random neurons", "depn", "ours"] and not figure.layout.showlegend


def test_methods_without_private_probes_are_refused() -> None:
    result = methods()
    public = result.effects[result.effects.group == "public"]
    with pytest.raises(ValueError, match="no private probes"):
        figures.trade_off(MitigationResult(**{**result.__dict__, "effects": public}))


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


def test_gates_are_named_as_such() -> None:
    result = growing()
    factors = dict.fromkeys(result.sizes, 0.9)
    drawn = figures.trade_off(replace(result, mean_factors=factors))
    assert any("neurons turned down (number" in title for title in axis_titles(drawn))
    assert sum(item.name == "permuted gates" for item in drawn.data) == 2
    assert "Grey: permuted gates of the same layers" in drawn.layout.meta["caption"]
    mixed = figures.trade_off(replace(result, mean_factors={"40": 0.9}))
    assert any("neurons ablated or turned down (number" in title for title in axis_titles(mixed))
