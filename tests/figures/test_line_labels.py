from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
import pytest

from xlmech.figures import line_labels, marks
from xlmech.figures.style import BLUE, INK, finish

NAMES = {"one": BLUE, "two": INK}


def drawn(*ends: Sequence[float]) -> go.Figure:
    """Panels whose lines, one per name, end at these heights between 0 and 1."""
    figure, places = marks.panels([str(i) for i in range(len(ends))], 2)
    for of_panel, place in zip(ends, places, strict=True):
        for name, end in zip(("one", "two", *map(str, range(9))), of_panel, strict=False):
            figure.add_scatter(x=[0, 1], y=[0 * end, end], mode="lines", name=name, **place)
    return figure.update_yaxes(range=[0, 1])


def test_the_panel_is_labelled_whose_lines_end_farthest_apart() -> None:
    figure = drawn([0.1, 0.9], [0.5, 0.49], [0.3, 0.4])
    assert line_labels.with_room([{"row": 1, "col": 1}, {"row": 1, "col": 2}, {"row": 2, "col": 1}]) == ["x2", "x3"]
    panel = line_labels.panel_to_label(figure, NAMES, ["x2", "x3"], height=200)
    assert panel == "x3"
    labelled = line_labels.label_lines(finish(figure, "Title", "Caption", height=200), NAMES, panel=panel)
    notes = [note for note in labelled.layout.annotations if note.name == "line"]
    assert [(note.text, note.xref, note.yref, note.font.color) for note in notes] == [
        ("one", "x3 domain", "y3", BLUE), ("two", "x3 domain", "y3", INK)
    ]  # fmt: skip
    assert notes[1].y - notes[0].y == pytest.approx(line_labels.LABEL_HEIGHT / 100)


@pytest.mark.parametrize("ends", [[0.5, math.nan], [0.5, 0.5, 0.5], [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]])
def test_no_panel_is_labelled_where_a_legend_is_clearer(ends: list[float]) -> None:
    names = dict.fromkeys(("one", "two", "0", "1", "2", "3")[: len(ends)], INK)
    assert line_labels.panel_to_label(drawn(ends), names, ["x"], height=200) is None


def test_labels_stay_within_the_panel() -> None:
    figure = line_labels.label_lines(finish(drawn([1.0, 0.99]), "Title", "Caption", height=200), NAMES)
    heights = {note.text: note.y for note in figure.layout.annotations if note.name == "line"}
    assert heights == pytest.approx({"one": 1.0, "two": 1 - line_labels.LABEL_HEIGHT / 200})
