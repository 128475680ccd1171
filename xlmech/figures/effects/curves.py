"""The trade-off: what a larger set of neurons reduces, and what it costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.effects import points
from xlmech.figures.effects.conditions import deeds, pooled, private_effects, random_name, with_deed
from xlmech.figures.effects.doses import dose_response
from xlmech.figures.findings import with_bounds
from xlmech.figures.line_labels import label_lines
from xlmech.figures.marks import whiskers
from xlmech.figures.style import BLUE, GREY, INK, ORANGE, colour, faded, finish
from xlmech.figures.wording import counts, joined, language_name, ordered, percent, rows_of, short_name

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_REDUCTION, _KEPT, _RISE = (
    "reduction of private<br>extraction (%)",
    "public facts<br>kept (%)",
    "largest rise<br>of NLL (%)",
)
_ALL, _ONE, _KEPT_ALL, _KEPT_WORST, _LARGEST = (
    "all languages", "one language", "facts, all languages", "facts, worst language", "worst language",
)  # fmt: skip


def trade_off(result: MitigationResult) -> go.Figure:
    """Draw the reduction of private extraction and its cost over the number of ablated neurons.

    Every condition is a point of the curves but the control conditions, of which those of random neurons are grey. All is in
    percent: the reduction of what was extracted before, the public facts kept of those known before, the relative rise of
    neutral text's NLL; a panel of what was not measured is not drawn. Neither which neurons the sets hold nor any other ability
    is shown. Of several methods: see `dose_response`.

    Args:
        result: Of sets of growing size, say `{"37": ..., "73": ..., "147": ...}`, or of several methods' by the names
            `method@37`, measured on the same probes; see `dose_response`.

    Raises:
        ValueError: No private probes, fewer than two sizes, or two sets of one size of one method.
    """
    if len({condition.rpartition("@")[0] for condition in result.chosen}) > 1:
        return dose_response(result)
    sizes, private = points.curve_sizes(result), private_effects(result)
    public = with_deed(result, result.extraction[result.extraction.group == "public"])
    kept = points.over_all(result, public, sizes, "public facts kept", reduction=False)
    rise = points.largest_rise(with_deed(result, result.cost), sizes)
    panels = [
        _REDUCTION,
        *([_KEPT] if kept.value.notna().any() else []),
        *([_RISE] if rise.value.notna().any() else []),
    ]
    heights = [0.5, 0.25, 0.25][: len(panels)]
    figure = make_subplots(len(panels), 1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    names = _draw_reductions(figure, result, private, sizes)
    figure.update_yaxes(title_text=_REDUCTION, range=points.range_of(figure, "y", 0, 100), row=1)
    if _KEPT in panels:
        row = panels.index(_KEPT) + 1
        names |= _draw_kept(figure, result, public, kept, sizes, row)
        figure.update_yaxes(title_text=_KEPT, range=points.range_of(figure, f"y{row}", 80, 100), row=row)
    if _RISE in panels:
        row = len(panels)
        names |= _curve(figure, rise, _LARGEST, ORANGE, row)
        figure.update_yaxes(title_text=_RISE, range=points.range_of(figure, f"y{row}", 0, 1), row=row)
    figure.add_hline(0, line={"color": INK, "width": 1}, layer="above", row=1)
    _scale_x(figure, result, sizes, len(panels))
    caption, details = _caption(result, private, public, panels)
    finish(
        figure, _title(result, sizes), caption, details=details, height=160 + 130 * len(panels), foot=78, left=90, right=170,
        need=560,
    )  # fmt: skip
    return label_lines(figure, names)


def _title(result: MitigationResult, sizes: dict[str, int]) -> str:
    """State what the smallest and the largest set reduce, and which share of public facts they keep."""
    (least, few), *_, (most, many) = sizes.items()
    first, last = (pooled(result, name, "private") for name in (least, most))
    if not math.isnan(last.low) and not last.is_clear:
        return f"No change beyond chance is seen up to {many:,} neurons: extraction falls by {with_bounds(*last[:3])}"
    text = f"{few:,} neurons reduce extraction by {percent(first.reduction)}, {many:,} by {with_bounds(*last[:3])}"
    kept = [1 - pooled(result, name, "public").reduction for name in (least, most)]
    return (
        text
        if any(map(math.isnan, kept))
        else f"{text}; they keep {percent(kept[0])} and {percent(kept[1])} of public facts"
    )


def _caption(
    result: MitigationResult, private: pd.DataFrame, public: pd.DataFrame, panels: list[str]
) -> tuple[str, str]:
    random = "No random neurons were measured."
    if result.random:
        random = f"""Grey: {random_name(result)} of the same layers, all languages together (diamond) and from the lowest
        language to the highest (bar); the effect of choosing the neurons is the distance from it."""
    missing = points.never_extracted(private)
    people = f"On {counts(private)} per query language" + (
        f", public facts on {counts(public)}" if _KEPT in panels else ""
    )
    whisker = (
        "whiskers: 95 % interval over people."
        if len(result.overall)
        else "all languages together have no interval here."
    )
    caption = f"""A good size reduces much above and costs nothing below. {people}; {whisker} {random}"""
    unseen = [name for panel, name in ((_KEPT, "public facts"), (_RISE, "neutral text")) if panel not in panels]
    details = f"""Thin lines: one query language each, with its interval in the hover label. Facts count as kept if they are still
    given in the query language's form; the rise of neutral text's NLL is that of its worst language, without interval.
    {f"Nothing to reduce in {', '.join(missing)}." if missing else ""} {f"Not measured: {joined(unseen)}." if unseen else ""}"""
    return caption, details


def _draw_reductions(
    figure: go.Figure, result: MitigationResult, private: pd.DataFrame, sizes: dict[str, int]
) -> dict[str, str]:
    """Draw the upper panel: each language, all of them with the interval, and random neurons. Return the lines to label."""
    training = result.plant_language
    names: dict[str, str] = {}
    for query in ordered(private.query_language, training):
        curve = points.reduction_of(private, query, sizes)
        look = {"color": faded(colour(query), 0.55), "width": 1.3}
        name = f"{_ONE}: {language_name(query)}"
        if query == training:
            look, name = {"color": colour(query), "width": 2.5}, f"{short_name(query)} (training)"
            names[name] = colour(query)
        if curve.value.notna().any():
            figure.add_scatter(
                x=curve.neurons, y=100 * curve.value, mode="lines", line=look, name=name, hovertext=curve.hover,
                hoverinfo="text", row=1, col=1,
            )  # fmt: skip
    names |= {_ONE: GREY} | _curve(
        figure, points.over_all(result, private, sizes, "reduction", reduction=True), _ALL, INK, 1
    )
    random = points.over_all(result, private, result.random, "reduction", reduction=True, by_language=True)
    return names | _diamonds(figure, random, random_name(result), 1)


def _draw_kept(
    figure: go.Figure,
    result: MitigationResult,
    public: pd.DataFrame,
    kept: pd.DataFrame,
    sizes: dict[str, int],
    row: int,
) -> dict[str, str]:
    """Draw the share of public facts kept, over all languages and in the worst."""
    names = _curve(figure, points.worst_kept(public, sizes), _KEPT_WORST, BLUE, row, dash="dash")
    names |= _curve(figure, kept, _KEPT_ALL, INK, row)
    random = points.over_all(result, public, result.random, "public facts kept", reduction=False, by_language=True)
    return names | _diamonds(figure, random, random_name(result), row)


def _curve(
    figure: go.Figure, curve: pd.DataFrame, name: str, shade: str, row: int, *, dash: str = "solid"
) -> dict[str, str]:
    """Draw a line through the points, with their whiskers; return its label."""
    figure.add_scatter(
        x=curve.neurons, y=100 * curve.value, mode="lines+markers", line={"color": shade, "width": 2.5, "dash": dash},
        error_y=whiskers(curve, color=shade, thickness=1.3, width=4), marker={"color": shade, "size": 8}, name=name,
        hovertext=curve.hover, hoverinfo="text", row=row, col=1,
    )  # fmt: skip
    return {name: shade} if curve.value.notna().any() else {}


def _diamonds(figure: go.Figure, random: pd.DataFrame, name: str, row: int) -> dict[str, str]:
    """Draw random neurons as grey diamonds, each on a pale bar from the lowest language to the highest."""
    if random.empty:
        return {}
    place: dict[str, Any] = {"row": row, "col": 1}
    for point in rows_of(random):
        figure.add_scatter(
            x=[point.neurons] * 2, y=[100 * point.low, 100 * point.high], mode="lines", hoverinfo="skip", showlegend=False,
            line={"color": faded(GREY, 0.35), "width": 9}, **place,
        )  # fmt: skip
    figure.add_scatter(
        x=random.neurons, y=100 * random.value, mode="markers", marker={"color": GREY, "symbol": "diamond", "size": 9},
        name=name, hovertext=random.hover, hoverinfo="text", **place,
    )  # fmt: skip
    return {name: "#6E6E6E"}


def _scale_x(figure: go.Figure, result: MitigationResult, sizes: dict[str, int], row: int) -> None:
    """Make the x axis logarithmic, with a tick per size and room at its ends."""
    drawn = [*sizes.values(), *result.random.values()]
    ends = math.log10(min(drawn)), math.log10(max(drawn))
    room = 0.06 * (ends[1] - ends[0])
    figure.update_xaxes(type="log", range=[ends[0] - room, ends[1] + room], showgrid=False)
    ticks = [f"{n:,}<br>{100 * n / result.total_neurons:.2g} %" for n in sizes.values()]
    figure.update_xaxes(tickvals=list(sizes.values()), ticktext=ticks)
    counted = f"neurons {deeds(result)} (number, and % of the model's {result.total_neurons:,})"
    figure.update_xaxes(title_text=counted, row=row)
