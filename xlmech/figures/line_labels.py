"""Names of lines beside their ends, in the place of a legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from xlmech.figures.style import readable


def label_lines(figure: go.Figure, names: Mapping[str, str], *, panel: str | None = None) -> go.Figure:
    """Write the names of lines beside their ends, in their colours, in the place of a legend; labels keep a distance.

    Args:
        figure: Finished figure, whose y axes have ranges.
        names: Colour per name; each is the beginning of a trace's name, of which the last trace is labelled; names without a
            trace are left out.
        panel: The x axis of the only panel to label, as of `panel_to_label`.
    """
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    for (x, y), of_panel in _ends(figure, names, panel).items():
        for at, _, name in _placed(figure, y, of_panel, height):
            figure.add_annotation(
                text=name, font={"color": readable(names[name]), "size": 12}, showarrow=False, xref=f"{x} domain", yref=y,
                x=1.01, y=at, xanchor="left", yanchor="middle", name="line",
            )  # fmt: skip
    return figure


def panel_to_label(figure: go.Figure, names: Mapping[str, str], panels: Sequence[str], *, height: int) -> str | None:
    """Find the panel in which labels stand nearest to the ends of their lines.

    Args:
        figure: Figure of small multiples, whose y axes have ranges.
        names: As of `label_lines`; names without a trace are left out.
        panels: X axes of the panels that have room on their right.
        height: Of the plot, px.

    Returns:
        Its x axis; None with more than five names, and if no panel has the ends of all lines with labels near them: then a
        legend is clearer.
    """
    drawn = [name for name in names if any((trace.name or "").startswith(name) for trace in figure.data)]
    best, found = NEAR, None
    for panel in panels if len(drawn) <= MOST_LABELS else ():
        for (_, y), ends in _ends(figure, names, panel).items():
            low, high = figure.layout[y.replace("y", "yaxis")].range
            moved = max(abs(at - end) for at, end, _ in _placed(figure, y, ends, height))
            distance = moved / abs(high - low) * _panel_height(figure, y, height)
            if len(ends) == len(drawn) and distance < best:
                best, found = distance, panel
    return found


def with_room(places: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the x axes of the panels that have none on their right, by the places of `panels`."""
    columns = max(place["col"] for place in places)
    last = len(places) - 1
    return [f"x{i + 1 if i else ''}" for i, place in enumerate(places) if place["col"] == columns or i == last]


LABEL_HEIGHT = 16
"""Distance of two labels of lines, px."""
NEAR = 1.6 * LABEL_HEIGHT
"""Distance of a label from its line's end at which it is no longer seen to belong to it, px."""
MOST_LABELS = 5


def _ends(
    figure: go.Figure, names: Mapping[str, str], panel: str | None
) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """Return where the lines of each panel end, by its axes."""
    ends: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for name in names:
        traces = [trace for trace in figure.data if (trace.name or "").startswith(name) and trace.mode != "none"]
        if panel is not None:
            traces = [trace for trace in traces if (trace.xaxis or "x") == panel]
        if traces and len(known := [y for y in traces[-1].y if not math.isnan(y)]):
            axes = (traces[-1].xaxis or "x", traces[-1].yaxis or "y")
            ends.setdefault(axes, []).append((float(known[-1]), name))
    return ends


def _panel_height(figure: go.Figure, y: str, height: float) -> float:
    bottom, top = figure.layout[y.replace("y", "yaxis")].domain or (0, 1)
    return float(height * (top - bottom))


def _placed(
    figure: go.Figure, y: str, ends: Sequence[tuple[float, str]], height: float
) -> list[tuple[float, float, str]]:
    """Move labels up, or down where the panel ends, until none overlaps another; each with its line's end."""
    axis = figure.layout[y.replace("y", "yaxis")]
    low, high = axis.range  # of a logarithmic axis, exponents
    gap = LABEL_HEIGHT * abs(high - low) / _panel_height(figure, y, height)
    known = sorted((math.log10(end) if axis.type == "log" else end, name) for end, name in ends)
    heights: list[float] = []
    for end, _ in known:
        heights.append(max(end, heights[-1] + gap) if heights else end)
    most = max(low, high)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], most)
        most = heights[i] - gap
    return [(at, end, name) for at, (end, name) in zip(heights, known, strict=True)]
