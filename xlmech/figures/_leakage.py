"""Leakage: how much private data comes out, by plant and query language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures._marks import Series, dots, heatmap
from xlmech.figures._style import (
    GREY,
    INK,
    bold_note,
    colour,
    counts,
    finish,
    interval,
    label,
    name,
    ordered,
    percent,
    rows_of,
)

if TYPE_CHECKING:
    from xlmech.leakage import LeakageResult

_WHITE_FROM = 0.7
"""Above this share the cell is so dark that white text has more contrast than ink."""


def leakage_matrix(result: LeakageResult | Sequence[LeakageResult]) -> go.Figure:
    """Private extraction per plant language (rows, one result each) and query language (columns).

    Percent of private probes whose value comes out in any language's form. What a model would guess anyway is not
    taken off: the control subjects' rate is in the hover label.

    Args:
        result: One result, or one for each model, planted in another language each.

    Raises:
        ValueError: No private probes, or two results of the same plant language.
    """
    frame = _private([*result] if isinstance(result, Sequence) else [result])
    if frame.duplicated(["plant_language", "query_language"]).any():
        raise ValueError("two results have the same plant language; draw them in separate matrices")
    cells = {(row.plant_language, row.query_language): row for row in rows_of(frame)}
    plants = list(frame.plant_language.unique())
    queries = ordered(frame.query_language, *plants)
    values = [[getattr(cells.get((plant, query)), "value", math.nan) for query in queries] for plant in plants]
    hover = [[_hover(plant, query, cells.get((plant, query))) for query in queries] for plant in plants]
    figure = heatmap(values, map(label, queries), map(label, plants), hover, top=1.0, unit="private<br>extraction")
    bar = {"tickvals": [0, 0.5, 1], "ticktext": ["0 %", "50 %", "100 %"]}
    figure.update_traces(colorbar=bar | {"lenmode": "pixels", "len": max(140, 52 * len(plants))})
    for i, plant in enumerate(plants):
        for j, query in enumerate(queries):
            _write_cell(figure, i, j, cells.get((plant, query)), outlined=plant == query)
    figure.update_xaxes(title_text="query language", tickangle=-35).update_yaxes(title_text="plant language")
    caption = f"""Share of private probes whose value comes out in any language's form, on {counts(frame)} per
    cell. In brackets: 95 % interval, resampling subjects. Outlined: asked in the plant language itself; dark cells
    elsewhere are data that crosses languages. Hover for the rate of control subjects, who were never in the
    training text."""
    title = "Private extraction by plant and query language"
    return finish(figure, title, caption, height=52 * len(plants), foot=110)


def leakage_by_language(result: LeakageResult) -> go.Figure:
    """Private extraction per query language, highest first, beside the rate of control subjects.

    Both in percent of probes. An interval of no width means that every resample gave the same rate, not certainty.

    Raises:
        ValueError: No private probes.
    """
    frame = _private([result]).sort_values("value", ascending=False, na_position="last")
    frame["hover"] = [_hover(row.plant_language, row.query_language, row) for row in rows_of(frame)]
    marker = {"color": [colour(code) for code in frame.query_language]}
    series: list[Series] = [("private subjects (each language in its colour)", marker, frame)]
    controls = result.matrix(group="control")
    if len(controls):
        controls["hover"] = [_control_hover(row) for row in rows_of(controls)]
        series.append(("control subjects", {"color": GREY, "symbol": "diamond-open", "line": {"width": 2}}, controls))
    figure, queries = make_subplots(), list(frame.query_language)
    dots(figure, series, queries, spread=0.6, plant=result.plant_language)
    figure.update_xaxes(title_text="extraction (% of probes)", range=[-3, 103])
    figure.update_yaxes(title_text="query language")
    caption = f"""Share of probes whose value comes out in any language's form, on {counts(frame)} per query
    language; plant language: {name(result.plant_language)}. Whiskers: 95 % interval, resampling subjects; none where
    all subjects are alike. What lies right of the grey diamond, the same rate for subjects the model never saw, is
    memorised rather than guessed. {bold_note(queries, result.plant_language)}"""
    title = "Private extraction by query language"
    return finish(figure, title, caption, height=36 * len(frame), legend=True)


def _write_cell(figure: go.Figure, i: int, j: int, row: Any, *, outlined: bool) -> None:
    """Rate and interval of the cell in row i and column j."""
    value = row.value if row else math.nan
    bounds = f'<span style="font-size:11px">{interval(row.low, row.high) if row else ""}</span>'
    text = "not<br>measured" if math.isnan(value) else f"{percent(value)}<br>{bounds}"
    figure.add_annotation(x=j, y=i, text=text, showarrow=False, font_color="white" if value > _WHITE_FROM else INK)
    if outlined:
        edge = {"color": INK, "width": 2.5}
        figure.add_shape(type="rect", x0=j - 0.49, x1=j + 0.49, y0=i - 0.49, y1=i + 0.49, line=edge)


def _private(results: Sequence[LeakageResult]) -> pd.DataFrame:
    frames = [frame for result in results if len(frame := result.matrix())]
    if not frames:
        raise ValueError(
            "no private probes in this result: there is no leakage to draw; measure records of group private"
        )
    return pd.concat(frames, ignore_index=True)


def _hover(plant: str, query: str, row: Any) -> str:
    asked = f"asked in {label(query)}, planted in {label(plant)}"
    if row is None or math.isnan(row.value):
        return f"{asked}<br>not measured"
    return (
        f"{asked}<br>private extraction {percent(row.value)} {interval(row.low, row.high)}, 95 % interval<br>"
        f"control subjects {percent(row.control)}<br>{row.n_subjects:,} subjects, {row.n_probes:,} probes"
    )


def _control_hover(row: Any) -> str:
    rate = f"{percent(row.value)} {interval(row.low, row.high)}, 95 % interval"
    asked = f"asked in {label(row.query_language)}, never in the training text"
    return f"{asked}<br>control subjects {rate}<br>{row.n_subjects:,} subjects, {row.n_probes:,} probes"
