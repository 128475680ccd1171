"""Leakage by plant and query language: how much private data comes out or, where that alone was measured, how exposed it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.marks import Series, dots, heatmap
from xlmech.figures.style import (
    GREY,
    INK,
    bold_note,
    colour,
    counts,
    finish,
    interval,
    label,
    language_name,
    ordered,
    percent,
    rows_of,
)

if TYPE_CHECKING:
    from xlmech.leakage.measure import LeakageResult

_WHITE_FROM = 0.7
"""Above this part of the scale the cell is so dark that white text has more contrast than ink."""


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """How what was measured is shown.

    Attributes:
        what: Its name.
        axis: Title of its axis.
        factor: From a value to its place on the axis.
        mean: What a value is, for the caption.
        text: A value in words.
        bounds: An interval in brackets.
    """

    what: str
    axis: str
    factor: float
    mean: str
    text: Callable[[float], str]
    bounds: Callable[[float, float], str]


def _bits(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.1f} bits"


def _bits_interval(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:.1f}, {high:.1f}]"


_UNITS = {
    "extracted": _Unit(
        what="extraction",
        axis="extraction (% of probes)",
        factor=100.0,
        mean="Share of private probes whose value comes out in any language's form",
        text=percent,
        bounds=interval,
    ),
    "exposure_bits": _Unit(
        what="exposure",
        axis="exposure (bits)",
        factor=1.0,
        mean="Mean exposure of private probes: log2 of the number of candidates less log2 of the value's rank among them",
        text=_bits,
        bounds=_bits_interval,
    ),
}


def _unit(results: Sequence[LeakageResult]) -> _Unit:
    measured = {result.measured[0] for result in results}
    if len(measured) != 1:
        raise ValueError(
            "extraction was measured in some of these results only; draw the others in a figure of their own"
        )
    return _UNITS[measured.pop()]


def leakage_matrix(result: LeakageResult | Sequence[LeakageResult]) -> go.Figure:
    """Private extraction per plant language (rows, one result each) and query language (columns).

    Percent of private probes whose value comes out in any language's form; where exposure alone was measured, its mean in
    bits. What a model would guess anyway is not taken off: the control subjects' figure is in the hover label.

    Args:
        result: One result, or one for each model, planted in another language each.

    Raises:
        ValueError: No private probes, two results of the same plant language, or results of which only some have extraction.
    """
    results = [*result] if isinstance(result, Sequence) else [result]
    frame, unit = _private(results), _unit(results)
    if frame.duplicated(["plant_language", "query_language"]).any():
        raise ValueError("two results have the same plant language; draw them in separate matrices")
    cells = {(row.plant_language, row.query_language): row for row in rows_of(frame)}
    plants = list(frame.plant_language.unique())
    queries = ordered(frame.query_language, *plants)
    values = [[getattr(cells.get((plant, query)), "value", math.nan) for query in queries] for plant in plants]
    hover = [[_hover(unit, plant, query, cells.get((plant, query))) for query in queries] for plant in plants]
    top = 1.0 if unit.what == "extraction" else max(1.0, frame.value.max())
    figure = heatmap(values, map(label, queries), map(label, plants), hover, top=top, unit=f"private<br>{unit.what}")
    bar = {"tickvals": [0, top / 2, top], "ticktext": [unit.text(value) for value in (0, top / 2, top)]}
    figure.update_traces(colorbar=bar | {"lenmode": "pixels", "len": max(140, 52 * len(plants))})
    for i, plant in enumerate(plants):
        for j, query in enumerate(queries):
            _write_cell(figure, unit, i, j, cells.get((plant, query)), top=top, outlined=plant == query)
    figure.update_xaxes(title_text="query language", tickangle=-35).update_yaxes(title_text="plant language")
    caption = f"""{unit.mean}, on {counts(frame)} per
    cell. In brackets: 95 % interval, over subjects. Outlined: asked in the plant language itself; dark cells
    elsewhere are data that crosses languages. Hover for the same figure of control subjects, who were never in the
    training text."""
    title = f"Private {unit.what} by plant and query language"
    return finish(figure, title, caption, height=52 * len(plants), foot=110)


def leakage_by_language(result: LeakageResult) -> go.Figure:
    """Private extraction per query language, highest first, beside that of control subjects.

    Both in percent of probes; where exposure alone was measured, both are its mean in bits.

    Raises:
        ValueError: No private probes.
    """
    unit, frame = _unit([result]), _private([result]).sort_values("value", ascending=False, na_position="last")
    frame["hover"] = [_hover(unit, row.plant_language, row.query_language, row) for row in rows_of(frame)]
    marker = {"color": [colour(code) for code in frame.query_language]}
    series: list[Series] = [("private subjects (each language in its colour)", marker, frame)]
    controls = result.matrix(group="control")
    if len(controls):
        controls["hover"] = [_control_hover(unit, row) for row in rows_of(controls)]
        series.append(("control subjects", {"color": GREY, "symbol": "diamond-open", "line": {"width": 2}}, controls))
    figure, queries = make_subplots(), list(frame.query_language)
    dots(figure, series, queries, spread=0.6, plant=result.plant_language, factor=unit.factor)
    top = 1.0 if unit.what == "extraction" else max(1.0, frame.high.max(), frame.value.max())
    figure.update_xaxes(title_text=unit.axis, range=[-0.03 * unit.factor * top, 1.03 * unit.factor * top])
    figure.update_yaxes(title_text="query language")
    caption = f"""{unit.mean}, on {counts(frame)} per query
    language; plant language: {language_name(result.plant_language)}. Whiskers: 95 % interval, over subjects. What lies right of
    the grey diamond, the same figure for subjects the model never saw, is memorised rather than guessed.
    {bold_note(queries, result.plant_language)}"""
    title = f"Private {unit.what} by query language"
    return finish(figure, title, caption, height=36 * len(frame), legend=True)


def _write_cell(figure: go.Figure, unit: _Unit, i: int, j: int, row: Any, *, top: float, outlined: bool) -> None:
    """Value and interval of the cell in row i and column j."""
    value = row.value if row else math.nan
    bounds = f'<span style="font-size:11px">{unit.bounds(row.low, row.high) if row else ""}</span>'
    text = "not<br>measured" if math.isnan(value) else f"{unit.text(value)}<br>{bounds}"
    colour = "white" if value > _WHITE_FROM * top else INK
    figure.add_annotation(x=j, y=i, text=text, showarrow=False, font_color=colour)
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


def _hover(unit: _Unit, plant: str, query: str, row: Any) -> str:
    asked = f"asked in {label(query)}, planted in {label(plant)}"
    if row is None or math.isnan(row.value):
        return f"{asked}<br>not measured"
    return (
        f"{asked}<br>private {unit.what} {unit.text(row.value)} {unit.bounds(row.low, row.high)}, 95 % interval<br>"
        f"control subjects {unit.text(row.control)}<br>{row.n_subjects:,} subjects, {row.n_probes:,} probes"
    )


def _control_hover(unit: _Unit, row: Any) -> str:
    rate = f"{unit.text(row.value)} {unit.bounds(row.low, row.high)}, 95 % interval"
    asked = f"asked in {label(row.query_language)}, never in the training text"
    return f"{asked}<br>control subjects {rate}<br>{row.n_subjects:,} subjects, {row.n_probes:,} probes"
