from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers.toy_figures import assert_titled, patching, sweep

from xlmech import figures
from xlmech.figures import TEMPLATE

ALL: dict[str, tuple[Any, Any]] = {
    "patching": (figures.patching, patching),
    "positions": (figures.patching_positions, sweep),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_has_title_axes_and_caption(name: str) -> None:
    draw, make = ALL[name]
    figure = draw(make())
    assert figure.layout.template == TEMPLATE
    assert_titled(figure)
    titles = {axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()] if axis.title.text}
    assert "patched layer" in titles
    assert len(titles) == 2
    assert "interval" in figure.layout.meta["caption"]
    assert figure.to_json()


def test_patching_has_a_panel_per_kind_and_a_line_per_outcome() -> None:
    figure = figures.patching(patching())
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 4 + 2 + 4
    assert sum(bool(line.showlegend) for line in lines) == 4
    assert list(lines[0].y) == pytest.approx([0.03, 0.83, 0.13])
    assert list(lines[1].y) == pytest.approx([0.03, 0.13, 0.93])
    assert "layer 1, source's value, target language's form<br>0.830 [0.81" in lines[0].hovertext[1]
    assert "change +0.780" in lines[0].hovertext[1]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == len(lines)
    for low, value, high in zip(list(bands[0].y)[::-1][:3], lines[0].y, list(bands[0].y)[:3], strict=True):
        assert low < value < high
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:3] == [
        "French (fr) → Spanish (es)",
        "Spanish (es) → Spanish (es)<br>same language",
        "French (fr) → Spanish (es)<br>source of another attribute",
    ]
    caption = figure.layout.meta["caption"]
    assert "On 5 pairs of people per panel" in caption and "3 pairs are left out" in caption
    assert "a third person asked for another attribute" in caption
    assert "one layer at a time" in caption
    other = figures.patching(replace(patching(), layers="onward", direction="noising", position="subject"))
    wanted = (
        "The source's prompt is run with the target's activation (resid_post at the subject's tokens), from that layer"
    )
    assert wanted in other.layout.meta["caption"]
    assert figure.layout.showlegend
    cross = figures.patching(replace(patching(), outcomes=patching().outcomes.query("kind == 'cross_language'")))
    assert "Controls" not in cross.layout.meta["caption"]
    labels = [note.text for note in cross.layout.annotations if note.name == "line"]
    assert len(labels) == 4 and "source's value, source language's form" in labels and not cross.layout.showlegend


def test_patching_refuses_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="no head 3 in this result; it has -1"):
        figures.patching(patching(), head=3)
    heads = replace(patching(), outcomes=patching().outcomes.assign(head=2))
    with pytest.raises(ValueError, match=r"no head None in this result; it has 2 \(give head=\)"):
        figures.patching(heads)
    assert len(figures.patching(heads, head=2).data) == 20
    with pytest.raises(ValueError, match="no reading 'whole_value'"):
        figures.patching(patching(), reading="whole_value")


def test_positions_are_a_heat_map_without_the_name() -> None:
    figure = figures.patching_positions(sweep())
    (heat,) = figure.data
    # Head 1 goes the other way by half; head 0 is the stronger one.
    assert heat.z[0] == pytest.approx([0, 0, 0, 1, 0])
    assert heat.z[1] == pytest.approx([0, 0, 0, 0, 1])
    assert (heat.zmin, heat.zmax) == (-1, 1)
    labels = figure.layout.xaxis.ticktext
    assert list(labels) == ["0: &lt;bos&gt;", "1: Was\u00a0&lt;", "subject 1/2", "subject 2/2", "4: ?↵"]
    assert "layer 0, subject 2/2<br>normalised effect: 1.000" in heat.hovertext[0][3]
    edges = [shape.x0 for shape in figure.layout.shapes]
    assert edges == [0.5, 1.5, 3.5]
    (prob,) = figures.patching_positions(sweep(), value="source_in_target").data
    assert prob.z[0][3] == pytest.approx(0.51)
    assert prob.zmin == 0
    with pytest.raises(ValueError, match="unknown outcome 'target_in_target'"):
        figures.patching_positions(sweep(), value="target_in_target")


def test_bands_lie_below_all_lines() -> None:
    modes = [trace.mode for trace in figures.patching(patching()).data]
    assert modes == ["none"] * 10 + ["lines"] * 10


def test_titles_state_in_which_form_the_value_comes() -> None:
    result = patching()
    rows = result.summary().query("kind == 'cross_language' and change_low > 0.05")
    layers = {outcome: sorted(part.layer) for outcome, part in rows.groupby("outcome") if "source_in" in str(outcome)}
    assert layers == {"source_in_target": [1, 2], "source_in_source": [1, 2]}
    shown = figures.patching(result).layout.meta["title"]
    assert (
        shown
        == "The source's value comes in the target's form (layers 1 and 2), and in the source's form (layers 1 and 2)"
    )
    nothing = replace(result, outcomes=result.outcomes.assign(log_prob=result.outcomes.clean_log_prob))
    assert figures.patching(nothing).layout.meta["title"].endswith("is given in no language's form beyond chance")
    within = replace(result, outcomes=result.outcomes.query("kind == 'same_language'"))
    assert "no value crosses languages here" in figures.patching(within).layout.meta["title"]
    shown = figures.patching_positions(sweep()).layout.meta["title"]
    assert shown == "One pair: the normalised effect is largest at layer 0, token subject 2/2 (1.00)"
