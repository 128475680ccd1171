"""Kinds of plot that more than one figure uses: heat map, dots with whiskers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xlmech.figures.style import GREY, GRID, INK, SCALE, label

Series = tuple[str, dict[str, Any], pd.DataFrame]
"""Name, marker, and rows by `query_language`: `value`, `low`, `high` (shares), `hover`, `note` (why there is no value)."""


def heatmap(
    values: list[list[float]],
    columns: Iterable[str],
    rows: Iterable[str],
    hover: list[list[str]],
    *,
    top: float,
    unit: str,
) -> go.Figure:
    """A heat map on positions 0, 1, ... with names; NaN is grey, unlike 0."""
    bar = {"title": {"text": unit}, "thickness": 14, "outlinewidth": 0, "nticks": 5}
    cells = {"z": values, "zmin": 0, "zmax": top, "colorscale": SCALE, "colorbar": bar, "xgap": 1, "ygap": 1}
    figure = go.Figure(go.Heatmap(**cells, hovertext=hover, hoverinfo="text"))
    figure.update_layout(plot_bgcolor=GRID)
    figure.update_xaxes(tickvals=list(range(len(values[0]))), ticktext=list(columns), showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(values))), ticktext=list(rows), showgrid=False)
    return figure.update_yaxes(autorange="reversed")


def dots(
    figure: go.Figure,
    series: Sequence[Series],
    queries: list[str],
    *,
    plant: str = "",
    col: int = 1,
    spread: float = 0.8,
    factor: float = 100.0,
) -> None:
    """A row per query language, and in it a dot with whiskers per series, or the reason why there is none.

    A series without any value in this panel is left out of it; its caption has to say so. `factor` leads from a value to its
    place on the axis; by default shares become percent.
    """
    for j, (name, marker, frame) in enumerate(series):
        columns = ["query_language", "value", "low", "high", "hover", "note"]
        rows = frame.reindex(columns=columns).set_index("query_language").reindex(queries)
        y = [i + spread * ((j + 0.5) / len(series) - 0.5) for i in range(len(queries))]
        look = {"size": 10, "line": {"color": INK, "width": 0.6}} | marker
        figure.add_scatter(
            x=factor * rows.value, y=y, error_x=_whiskers(rows, marker["color"], factor), mode="markers", marker=look,
            name=name, legendgroup=name, showlegend=col == 1, hovertext=rows.hover, hoverinfo="text", row=1, col=col,
        )  # fmt: skip
        if rows.value.notna().any():
            _say_why(figure, rows, y, col)
    for i in range(1, len(queries), 2):
        figure.add_hrect(i - 0.5, i + 0.5, fillcolor="#F6F6F6", line_width=0, layer="below", row=1, col=col)
    figure.update_yaxes(tickvals=list(range(len(queries))), ticktext=[label(code, plant) for code in queries])
    figure.update_yaxes(range=[len(queries) - 0.5, -0.5], showgrid=False)


def _whiskers(rows: pd.DataFrame, colour: str | list[str], factor: float) -> dict[str, Any]:
    """From `low` to `high`, in the colour of the dots where they have one only."""
    style = {"color": colour if isinstance(colour, str) else GREY, "thickness": 1.5, "width": 3}
    return style | {"array": factor * (rows.high - rows.value), "arrayminus": factor * (rows.value - rows.low)}


def _say_why(figure: go.Figure, rows: pd.DataFrame, y: Sequence[float], col: int) -> None:
    """At the panel's left edge, a word for every value that is missing."""
    axis = {"xref": f"x{col if col > 1 else ''} domain", "yref": f"y{col if col > 1 else ''}"}
    style = {"showarrow": False, "xanchor": "left", "font": {"size": 11, "color": "#666666"}}
    for place, value, note in zip(y, rows.value, rows.note, strict=True):
        if math.isnan(value):
            text = note if isinstance(note, str) else "not measured"
            figure.add_annotation(x=0.01, y=place, text=text, **style, **axis)
