"""Kinds of plot that several figures use: heat map, dots with whiskers, lines with bands, small multiples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.style import GREY, GRID, INK, SCALE, faded
from xlmech.figures.wording import label

ROOM = '<br><span style="color:rgba(0,0,0,0)">.</span>'
"""Last line of the title of a scale with a number at its end, which would touch the title; an empty one takes no room."""
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
    trace = cells(values, hovers, low=low, high=high, title=f"{title}{ROOM}", scale=scale)
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
