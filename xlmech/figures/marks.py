"""Kinds of plot that several figures use: heat map, dots with whiskers, lines with bands, small multiples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.style import GREY, GRID, INK, SCALE, faded, readable
from xlmech.figures.wording import label

Series = tuple[str, dict[str, Any], pd.DataFrame]
"""Name, marker, and rows by `query_language`: `value`, `low`, `high` (shares), `hover`, `note` (why there is no value)."""


def cells(
    values: Any, hover: list[list[str]], *, low: float, high: float, title: str, scale: Any = SCALE, **options: Any
) -> go.Heatmap:
    """Make the trace of a heat map; NaN is grey, unlike 0."""
    bar = {"title": {"text": title}, "thickness": 14, "outlinewidth": 0, "nticks": 5}
    return go.Heatmap(
        z=values, zmin=low, zmax=high, colorscale=scale, colorbar=bar, xgap=1, ygap=1, hovertext=hover, hoverinfo="text",
        **options,
    )  # fmt: skip


def heatmap(trace: go.Heatmap, columns: Sequence[str], rows: Sequence[str]) -> go.Figure:
    """Draw a heat map on positions 0, 1, ... with names."""
    figure = go.Figure(trace).update_layout(plot_bgcolor=GRID)
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=columns, showgrid=False)
    return figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, showgrid=False, autorange="reversed")


def matrix(
    rows: Mapping[tuple[str, str], Any],
    ys: Sequence[str],
    xs: Sequence[str],
    *,
    value: str,
    hover: Callable[[str, str, Any], str],
    text: Callable[[Any], str],
    low: float,
    high: float,
    title: str,
    white_from: float,
    scale: Any = SCALE,
) -> go.Figure:
    """Draw a heat map of languages by languages with a text in each cell; a cell of one language is outlined.

    Args:
        rows: The row of each cell by its (y, x) languages; cells without a row are None for `hover` and `text`.
        ys: Languages from the top down.
        xs: Languages from left to right.
        value: Name of the value in a row.
        hover: Writes a cell's hover label.
        text: Writes a cell's text.
        low: Least value of the scale.
        high: Greatest value of the scale.
        title: Title of the scale.
        white_from: Absolute value from which a cell is so dark that white text has more contrast.
        scale: Colours of the scale.
    """
    values = [[getattr(rows.get((y, x)), value, math.nan) for x in xs] for y in ys]
    hovers = [[hover(y, x, rows.get((y, x))) for x in xs] for y in ys]
    trace = cells(values, hovers, low=low, high=high, title=title, scale=scale)
    figure = heatmap(trace, list(map(label, xs)), list(map(label, ys)))
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            if shown := text(rows.get((y, x))):
                shade = "white" if abs(values[i][j]) > white_from else INK
                figure.add_annotation(x=j, y=i, text=shown, showarrow=False, font_color=shade)
            if y == x:
                edge = {"color": INK, "width": 2.5}
                figure.add_shape(type="rect", x0=j - 0.49, x1=j + 0.49, y0=i - 0.49, y1=i + 0.49, line=edge)
    return figure


def small(text: str) -> str:
    """Set a text in a small font."""
    return f'<span style="font-size:11px">{text}</span>'


def name_rows(figure: go.Figure, names: Sequence[str], **place: Any) -> None:
    """Name the rows 0, 1, ... of a plot from the top down."""
    axis = {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [len(names) - 0.5, -0.5]}
    figure.update_yaxes(**axis, showgrid=False, **place)


def whiskers(rows: pd.DataFrame, *, factor: float = 100.0, **look: Any) -> dict[str, Any]:
    """Make error bars from `low` to `high` around `value`."""
    return {"array": factor * (rows.high - rows.value), "arrayminus": factor * (rows.value - rows.low)} | look


def dots(
    figure: go.Figure,
    series: Sequence[Series],
    queries: list[str],
    *,
    training: str = "",
    col: int = 1,
    spread: float = 0.8,
    factor: float = 100.0,
) -> None:
    """Draw a row per query language, and in it a dot with whiskers per series, or the reason why there is none.

    A series without any value in this panel is left out of it; its caption has to say so. A value times `factor` is its
    position on the axis; by default shares become percent.
    """
    for j, (name, marker, frame) in enumerate(series):
        columns = ["query_language", "value", "low", "high", "hover", "note"]
        rows = frame.reindex(columns=columns).set_index("query_language").reindex(queries)
        y = [i + lane(j, len(series), spread) for i in range(len(queries))]
        shade = marker["color"] if isinstance(marker["color"], str) else GREY
        figure.add_scatter(
            x=factor * rows.value, y=y, error_x=whiskers(rows, factor=factor, color=shade, thickness=1.5, width=3),
            mode="markers", marker={"size": 10, "line": {"color": INK, "width": 0.6}} | marker, name=name,
            legendgroup=name, showlegend=col == 1, hovertext=rows.hover, hoverinfo="text", row=1, col=col,
        )  # fmt: skip
        if rows.value.notna().any():
            _note_missing(figure, rows, y, col)
    for i in range(1, len(queries), 2):
        figure.add_hrect(i - 0.5, i + 0.5, fillcolor="#F6F6F6", line_width=0, layer="below", row=1, col=col)
    name_rows(figure, [label(code, training) for code in queries])


def lane(number: int, n: int, spread: float) -> float:
    """Return the height of a series within the row of a query language."""
    return spread * ((number + 0.5) / n - 0.5)


def _note_missing(figure: go.Figure, rows: pd.DataFrame, y: Sequence[float], col: int) -> None:
    """Write at the panel's left edge why a value is missing."""
    axis = {"xref": f"x{col if col > 1 else ''} domain", "yref": f"y{col if col > 1 else ''}"}
    font = {"size": 11, "color": "#666666"}
    for height, value, note in zip(y, rows.value, rows.note, strict=True):
        if math.isnan(value):
            text = note if isinstance(note, str) else "not measured"
            figure.add_annotation(x=0.01, y=height, text=text, showarrow=False, xanchor="left", font=font, **axis)


def line_with_band(
    figure: go.Figure,
    frame: pd.DataFrame,
    name: str,
    colour: str,
    *,
    hover: list[str],
    place: dict[str, int],
    dash: str = "solid",
    alpha: float = 0.18,
    width: float = 2,
    rank: int = 1000,
) -> None:
    """Draw `value` over `layer` with a band from `low` to `high`; a name stands in the legend once."""
    first = all(trace.name != name for trace in figure.data)
    layers = frame.layer.tolist()
    figure.add_scatter(
        x=layers + layers[::-1], y=frame.high.tolist() + frame.low.tolist()[::-1], fill="toself", mode="none",
        fillcolor=faded(colour, alpha), hoverinfo="skip", showlegend=False, legendgroup=name, **place,
    )  # fmt: skip
    figure.add_scatter(
        x=layers, y=frame.value, mode="lines", line={"color": colour, "dash": dash, "width": width}, name=name,
        legendgroup=name, showlegend=first, legendrank=rank, hovertext=hover, hoverinfo="text", **place,
    )  # fmt: skip


def lines_on_top(figure: go.Figure) -> go.Figure:
    """Draw all bands below all lines, which they would cover."""
    figure.data = sorted(figure.data, key=lambda trace: trace.mode != "none")
    return figure


def panels(
    titles: Sequence[str], n_columns: int, *, gap: float = 0.0, spacing: float = 0.025, x_title: str = "layer"
) -> tuple[go.Figure, list[dict[str, int]]]:
    """Make empty panels with titles on one scale.

    Args:
        titles: One per panel.
        n_columns: Panels per row.
        gap: Vertical distance of panels, as a share of the figure's height per row.
        spacing: Horizontal distance of panels, as a share of the figure's width.
        x_title: Title of the x axes.

    Returns:
        The figure, and `row` and `col` of each panel.
    """
    n_rows, n_columns = -(-len(titles) // n_columns), min(n_columns, len(titles))
    places = [{"row": i // n_columns + 1, "col": i % n_columns + 1} for i in range(len(titles))]
    specs: Any = [
        [{} if row * n_columns + col < len(titles) else None for col in range(n_columns)] for row in range(n_rows)
    ]
    figure = make_subplots(
        n_rows, n_columns, subplot_titles=titles, shared_yaxes=True, specs=specs,
        horizontal_spacing=spacing, vertical_spacing=gap / n_rows,
    )  # fmt: skip
    for i, place in enumerate(places):
        figure.update_xaxes(title_text=x_title if i + n_columns >= len(titles) else None, **place)
    return figure.update_annotations(font_size=13), places


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
    """Move labels until they are a line's height apart, up, or down where the panel ends; each with its line's end."""
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
