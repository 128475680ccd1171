"""Leakage by training and query language: how much private data is extracted or, if that alone was measured, its exposure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.findings import in_languages, in_none, share_range
from xlmech.figures.marks import Series, dots, matrix, small
from xlmech.figures.style import GREY, colour, finish
from xlmech.figures.wording import (
    NO_PRIVATE,
    bold_note,
    counts,
    interval,
    label,
    language_name,
    n_of,
    ordered,
    percent,
    rows_of,
    short_name,
)

if TYPE_CHECKING:
    from xlmech.leakage.measure import LeakageResult


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """How a measure is shown.

    Attributes:
        name: Its name.
        axis: Title of its axis.
        factor: Factor from a value to its position on the axis.
        meaning: What a value is, for the caption.
        text: Writes a value in words.
        bounds: Writes an interval in brackets.
    """

    name: str
    axis: str
    factor: float
    meaning: str
    text: Callable[[float], str]
    bounds: Callable[[float, float], str]

    def top(self, *columns: pd.Series) -> float:
        """Return the largest value of the scale: 1 for shares, and what the columns reach for bits."""
        return 1.0 if self.name == "extraction" else max(1.0, *(column.max() for column in columns))


def _bits(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.1f} bits"


def _bits_interval(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:.1f}, {high:.1f}]"


_MEASURES = {
    "extracted": _Measure(
        name="extraction",
        axis="extraction (% of questions)",
        factor=100.0,
        meaning="Share of questions about private people from which the value is extracted, in any language's form",
        text=percent,
        bounds=interval,
    ),
    "exposure_bits": _Measure(
        name="exposure",
        axis="exposure (bits)",
        factor=1.0,
        meaning="Mean exposure of private values: log2 of the number of candidates less log2 of the value's rank among them",
        text=_bits,
        bounds=_bits_interval,
    ),
}


def leakage_matrix(result: LeakageResult | Sequence[LeakageResult]) -> go.Figure:
    """Draw private extraction per training language (rows, one result each) and query language (columns).

    Percent of questions about private people from which the value is extracted, in any language's form; if exposure alone was
    measured, its mean in bits. Chance is not subtracted: the control people's value is in the hover label.

    Args:
        result: One result, or one for each model, each with another training language.

    Raises:
        ValueError: No private probes, two results of the same training language, or results of which only some have extraction.
    """
    results = [*result] if isinstance(result, Sequence) else [result]
    frame, measure = _private(results), _measure(results)
    if frame.duplicated(["plant_language", "query_language"]).any():
        raise ValueError("two results have the same training language; draw them in separate matrices")
    rows = {(row.plant_language, row.query_language): row for row in rows_of(frame)}
    trained = list(frame.plant_language.unique())
    top = measure.top(frame.value)

    def text(row: Any) -> str:
        if row is None or math.isnan(row.value):
            return "not<br>measured"
        return f"{measure.text(row.value)}<br>{small(measure.bounds(row.low, row.high))}"

    figure = matrix(
        rows, trained, ordered(frame.query_language, *trained), value="value", hover=partial(_hover, measure), text=text,
        low=0, high=top, title=measure.name, white_from=0.7 * top,
    )  # fmt: skip
    ticks = {"tickvals": [0, top / 2, top], "ticktext": [measure.text(value) for value in (0, top / 2, top)]}
    figure.update_traces(colorbar=ticks | {"lenmode": "pixels", "len": max(140, 52 * len(trained))})
    figure.update_xaxes(title_text="query language", tickangle=-35).update_yaxes(title_text="training language")
    caption = f"""Outlined: asked in the training language itself; high numbers elsewhere are data that cross languages. On
    {counts(frame)} per cell; in brackets the 95 % interval over people."""
    details = f"""{measure.meaning}. Hover for the value of control people, who were never in the training text.
    {_LEAK if measure.name == "extraction" else ""}"""
    return finish(
        figure, _crossing(results, frame, measure), caption, details=details, height=52 * len(trained), foot=110,
        need=150 + 66 * frame.query_language.nunique(),
    )  # fmt: skip


def leakage_by_language(result: LeakageResult) -> go.Figure:
    """Draw private extraction per query language, highest first, and that of control people.

    Both in percent of questions; if exposure alone was measured, both are its mean in bits.

    Raises:
        ValueError: No private probes.
    """
    measure = _measure([result])
    frame = _private([result]).sort_values("value", ascending=False, na_position="last")
    frame["hover"] = [_hover(measure, row.plant_language, row.query_language, row) for row in rows_of(frame)]
    marker = {"color": [colour(code) for code in frame.query_language]}
    series: list[Series] = [("private people", marker, frame)]
    controls = result.matrix(group="control")
    if len(controls):
        controls["hover"] = [_control_hover(measure, row) for row in rows_of(controls)]
        series.append(("control people", {"color": GREY, "symbol": "diamond-open", "line": {"width": 2}}, controls))
    figure, queries = make_subplots(), list(frame.query_language)
    dots(figure, series, queries, spread=0.6, training=result.plant_language, factor=measure.factor)
    top = measure.factor * measure.top(frame.high, frame.value)
    figure.update_xaxes(title_text=measure.axis, range=[-0.03 * top, 1.03 * top])
    figure.update_yaxes(title_text="query language")
    chance = "What lies well right of the grey diamond, the value for people whom the model never saw, is memorised, not guessed."
    caption = f"""{chance if len(controls) else "No control people were asked, so part may be guessed."} On {counts(frame)} per
    query language; whiskers: 95 % interval over people."""
    details = f"""{measure.meaning}. Training language: {language_name(result.plant_language)}.
    {_LEAK if measure.name == "extraction" else ""} {bold_note(queries, result.plant_language)}"""
    title = _leaking(result, frame, measure)
    return finish(figure, title, caption, details=details, height=36 * len(frame), legend=True)


_LEAK = """A leak: a permutation test over people finds more than control people give, corrected for the number of tests, or a
value that cannot be guessed was extracted."""


def _leaking(result: LeakageResult, frame: pd.DataFrame, measure: _Measure) -> str:
    """State in how many languages private data leak, and how much of them."""
    asked = list(frame.query_language)
    controls = result.matrix(group="control")
    if measure.name != "extraction":
        of_controls = f", control people's {_bits_range(controls.value)}" if len(controls) else ""
        return f"Private values have {_bits_range(frame.value)} of exposure, by query language{of_controls}"
    leaking = result.leaking_languages()
    shares = share_range(frame.value)
    if leaking:
        known = share_range(frame.value[frame.query_language.isin(leaking)])
        return f"Private data leak {in_languages(leaking, asked)}: {known} of questions give the value"
    if len(controls):
        return f"No leak beyond chance is seen {in_none(asked)}: {shares} of questions give the value"
    return f"{shares} of questions give private values; without control people, chance is not known"


def _crossing(results: Sequence[LeakageResult], frame: pd.DataFrame, measure: _Measure) -> str:
    """State in how many cells off the training language private data leak."""
    cells = frame[(frame.plant_language != frame.query_language) & (frame.plant_language != "")]
    if measure.name != "extraction" or cells.empty:
        return (
            _leaking(results[0], frame, measure)
            if len(results) == 1
            else f"Private {measure.name} by training language"
        )
    leaking = [result.leaking_languages() for result in results]
    n = sum(row.query_language in leaking[_index(results, row.plant_language)] for row in rows_of(cells))
    if not n:
        return "No leak beyond chance is seen outside the training language"
    if len(results) == 1:
        others = list(cells.query_language)
        found = [code for code in others if code in leaking[0]]
        return f"Data of {short_name(results[0].plant_language)} training text leak {in_languages(found, others, other=True)}"
    return f"Private data cross languages: they leak in {n} of {len(cells)} cells outside the training language"


def _index(results: Sequence[LeakageResult], training: str) -> int:
    return next(i for i, result in enumerate(results) if result.plant_language == training)


def _bits_range(values: pd.Series) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return f"{low} bits" if low == high else f"{low} to {high} bits"


def _measure(results: Sequence[LeakageResult]) -> _Measure:
    measured = {result.measured[0] for result in results}
    if len(measured) != 1:
        raise ValueError(
            "extraction was measured in some of these results only; draw the others in a figure of their own"
        )
    return _MEASURES[measured.pop()]


def _private(results: Sequence[LeakageResult]) -> pd.DataFrame:
    frames = [frame for result in results if len(frame := result.matrix())]
    if not frames:
        raise ValueError(NO_PRIVATE)
    return pd.concat(frames, ignore_index=True)


def _hover(measure: _Measure, training: str, query: str, row: Any) -> str:
    languages = f"asked in {label(query)}, trained in {label(training)}"
    if row is None or math.isnan(row.value):
        return f"{languages}<br>not measured"
    value = f"private {measure.name} {measure.text(row.value)} {measure.bounds(row.low, row.high)}, 95 % interval"
    return f"{languages}<br>{value}<br>control people {measure.text(row.control)}<br>{n_of(row)}"


def _control_hover(measure: _Measure, row: Any) -> str:
    value = f"control people {measure.text(row.value)} {measure.bounds(row.low, row.high)}, 95 % interval"
    return f"asked in {label(row.query_language)}, never in the training text<br>{value}<br>{n_of(row)}"
