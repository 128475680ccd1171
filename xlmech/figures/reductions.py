"""What ablation reduces and what it costs, for each set of neurons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.marks import Series, dots, matrix, small
from xlmech.figures.style import DIVERGING, GREY, INK, LANGUAGES, SETS, colour, finish
from xlmech.figures.wording import (
    NO_PRIVATE,
    bold_note,
    counts,
    interval,
    label,
    n_of,
    ordered,
    percent,
    reduction_text,
    rows_of,
    signed_percent,
)

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult


def before_after(result: MitigationResult, *, people: str = "") -> go.Figure:
    """Draw private extraction per query language before, and with each set of neurons ablated.

    Percent of questions about private people. The intervals are those of the rates after; the rate before has none here.

    Args:
        result: Measured before and after.
        people: Who was measured, in words, for the title and the caption.

    Raises:
        ValueError: No private probes.
    """
    frame = private_effects(result)
    before = frame.drop_duplicates("query_language")
    hover = [effect_hover("", row) for row in rows_of(before)]
    before = before.assign(value=before.before, low=math.nan, high=math.nan, hover=hover)
    series: list[Series] = [("before", {"color": INK, "symbol": "circle-open", "line": {"width": 2}}, before)]
    for name, marker, part in _conditions(result, frame):
        series.append((name, marker, part.assign(value=part.after, low=part.after_low, high=part.after_high)))
    figure, queries = make_subplots(), ordered(before.query_language, result.plant_language)
    dots(figure, series, queries, training=result.plant_language)
    figure.update_xaxes(title_text="private extraction (% of questions)", range=[-3, 103])
    figure.update_yaxes(title_text="query language")
    caption = f"""Share of questions about private people from which the value is extracted, in any language's form, on
    {counts(frame)} per query language. Whiskers: 95 % interval of the rate, over people.
    {_doer(result)} helps if a filled dot lies well left of the ring{_unlike_controls(result)}.{_absent(series)}
    {bold_note(queries, result.plant_language)}{_measured_on(people)}"""
    title = f"Private extraction before and after {_doer(result).lower()}, by query language{_of(people)}"
    return finish(figure, title, caption, height=(12 + 12 * len(series)) * len(before), legend=True)


def cost(result: MitigationResult, *, people: str = "") -> go.Figure:
    """Draw what ablation costs per query language: public facts kept (left), rise of neutral text's NLL (right).

    Both in percent. Other abilities are not shown, and the NLL has no interval.

    Args:
        result: Measured before and after.
        people: Who was measured, in words, for the title and the caption.
    """
    public = with_deed(result, result.extraction[result.extraction.group == "public"])
    kept, risen = [], []
    for name, marker, part in _conditions(result, public):
        note = ["none known before" if row.before == 0 else row.reason or "not measured" for row in rows_of(part)]
        shares = {"value": 1 - part.reduction, "low": 1 - part.high, "high": 1 - part.low}
        kept.append((name, marker, part.assign(note=note, **shares)))
    for name, marker, part in _conditions(result, with_deed(result, result.cost)):
        risen.append((name, marker, part.assign(value=part.rise, low=math.nan, high=math.nan)))
    queries = ordered([*result.effects.query_language, *result.cost.query_language], result.plant_language)
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    dots(figure, kept, queries, training=result.plant_language)
    dots(figure, risen, queries, training=result.plant_language, col=2)
    _mark_no_loss(figure, kept, risen)
    figure.update_xaxes(title_text="public facts kept (% of those known before)", col=1)
    figure.update_xaxes(title_text="rise of neutral text's NLL (%)", col=2)
    figure.update_yaxes(title_text="query language", col=1)
    caption = f"""Left: public facts still given in the query language's form, after / before, on {counts(public)} per
    query language; above 100 % facts are newly given; whiskers: 95 % interval over people, cut at the panel's edge; none if
    too little is known for one.{_absent(kept)} Right: relative rise of the negative log-likelihood per token of neutral
    sentences, without interval; left of 0 % the text became likelier.{_absent(risen)} Black lines: no loss.
    {"The cost is what a set loses beyond the grey control conditions." if _has_controls(result) else ""}
    {bold_note(queries, result.plant_language)}{_measured_on(people)}"""
    title = f"Cost of {_doer(result).lower()}: public facts kept, and fluency on neutral text{_of(people)}"
    return finish(figure, title, caption, height=(12 + 12 * len(kept)) * len(queries), legend=True)


def _doer(result: MitigationResult) -> str:
    """Name what is done: ablation, or turning neurons down by gates."""
    return "Turning neurons down" if deeds(result) == "turned down" else "Ablation"


def _has_controls(result: MitigationResult) -> bool:
    return len(result.sizes) > len(result.chosen)


def _unlike_controls(result: MitigationResult) -> str:
    """Say what control conditions must not do; that there are none where there are none."""
    if not _has_controls(result):
        return "; no control condition was measured"
    return ", and the grey ones, random neurons of the same layers and other control conditions, do not"


def _of(people: str) -> str:
    """Return the end of a title that says who was measured; the part of the words before a comma is enough there."""
    return f" ({people.partition(',')[0]})" if people else ""


def _measured_on(people: str) -> str:
    return f" Measured: {people}." if people else ""


def with_deed(result: MitigationResult, frame: pd.DataFrame) -> pd.DataFrame:
    """Add to effects or cost a column `deed`: what is done to the neurons of a condition, `ablated` or `turned down`."""
    return frame.assign(deed=[_deed(result.mean_factors, str(name)) for name in frame.condition])


def _deed(mean_factors: Mapping[str, float], name: str) -> str:
    return "turned down" if name in mean_factors else "ablated"


def private_effects(result: MitigationResult) -> pd.DataFrame:
    """Return the effects on the extraction of private probes, with their `deed`.

    Raises:
        ValueError: There are none.
    """
    frame = result.extraction[result.extraction.group == "private"]
    if frame.empty:
        raise ValueError(NO_PRIVATE)
    return with_deed(result, frame)


def effect_hover(condition: str, row: Any) -> str:
    """Write the hover label of a row of effects or of the cost; without a condition, as before any."""
    if hasattr(row, "nll_before"):
        change = f"NLL {row.nll_before:.3f} to {row.nll_after:.3f} nats per token, {signed_percent(row.rise)}"
        return f"{label(row.query_language)}, {escape(condition)} {row.deed}<br>{change}"
    lines = [f"{label(row.query_language)}, before: {percent(row.before)}"]
    if condition:
        lines += [f"{escape(condition)} {row.deed}: {percent(row.after)}", f"reduction {reduction_text(row)}"]
        lines += [f"risen in {row.risen:,} records"]
    return "<br>".join([*lines, n_of(row)])


def _conditions(result: MitigationResult, frame: pd.DataFrame) -> list[Series]:
    """Name with size, marker and rows with `hover` per condition; control conditions are grey, a language has its colour."""
    series, symbols = [], cycle(("circle", "diamond", "square", "x"))
    for i, (name, size) in enumerate(result.sizes.items()):
        part = frame[frame.condition == name]
        hover = [effect_hover(name, row) for row in rows_of(part)]
        shade = colour(name) if name in LANGUAGES else SETS[i % len(SETS)]
        marker = {"color": shade} if name in result.chosen else {"color": GREY, "symbol": next(symbols)}
        done = " turned down" if name in result.mean_factors else ""
        text = f"{escape(name)} ({size:,} of {result.total_neurons:,} neurons{done})"
        series.append((text, marker, part.assign(hover=hover)))
    return series


def _mark_no_loss(figure: go.Figure, kept: list[Series], risen: list[Series]) -> None:
    """Draw lines at 100 % of the facts and 0 % of the rise, and choose scales on which these are seen."""
    values = [value for *_, part in kept for value in part.value.dropna()]
    ends = [end for *_, part in kept for end in [*part.low.dropna(), *part.high.dropna()]]
    # Facts that are newly right can make the share kept any number, so the intervals' ends are shown up to 200 %.
    shares = (max(0.0, min([0.8, *values, *ends])), max([min(2.0, max([1.05, *ends])), *values]))
    rises = [0.0, 0.001, *(rise for *_, part in risen for rise in part.value.dropna())]
    for col, no_loss, (low, high) in ((1, 100, shares), (2, 0, (min(rises), max(rises)))):
        margin = 0.05 * (high - low)
        figure.add_vline(no_loss, line={"color": INK, "width": 1}, layer="above", col=col)
        figure.update_xaxes(range=[100 * (low - margin), 100 * (high + margin)], col=col)


def _absent(series: list[Series]) -> str:
    """Return the caption's sentence about series without any value."""
    names = [name.split(" (")[0] for name, _, part in series if not part.value.notna().any()]
    return f" Not measured: {', '.join(names)}." if names else ""


class Matrix(Protocol):
    """A result with the reduction in every language by every language's set, as `SpecificityResult`."""

    @property
    def sizes(self) -> dict[str, int]:
        """Neurons per set."""

    @property
    def mean_factors(self) -> dict[str, float]:
        """Mean factor of the neurons that gates turn down, per set of gates."""

    @property
    def plant_language(self) -> str:
        """Training language of the model."""

    def matrix(self) -> pd.DataFrame:
        """`language`, `query_language`, `before`, `after`, `reduction`, `low`, `high`, `reason`, `n_subjects`, `n_probes`."""


def specificity(result: Matrix) -> go.Figure:
    """Draw the reduction of private extraction per set of neurons (rows, one language's each) and query language; percent.

    A set is specific if its own language's cell, outlined, is blue and the rest of its row is white. What the sets cost is
    not shown.

    Raises:
        ValueError: No cells.
    """
    frame = result.matrix()
    if frame.empty:
        raise ValueError("no cells in this specificity result: no set of neurons was ablated")
    rows = {(row.language, row.query_language): row for row in rows_of(frame)}
    sets = ordered(frame.language, result.plant_language)
    queries = ordered(frame.query_language, result.plant_language)

    def text(row: Any) -> str:
        if row is None or math.isnan(row.reduction):
            return ""
        bounds = f"<br>{small(interval(row.low, row.high))}" if len(queries) <= 6 else ""  # more columns have no room
        return percent(row.reduction) + bounds

    figure = matrix(
        rows, sets, queries, value="reduction", hover=partial(_hover, result), text=text, low=-1, high=1,
        title="reduction", white_from=0.75, scale=DIVERGING,
    )  # fmt: skip
    ticks = {"tickvals": [-1, 0, 1], "ticktext": ["\u2212100 %", "0 %", "100 %"]}
    figure.update_traces(colorbar=ticks | {"lenmode": "pixels", "len": 175})
    figure.update_yaxes(ticktext=[f"{label(language)}, {result.sizes.get(language, 0):,}" for language in sets])
    figure.update_xaxes(title_text="query language", tickangle=-35).update_yaxes(title_text="neurons of")
    caption = f"""By how much fewer private values are extracted with one language's neurons ablated or turned down, on
    {counts(frame)} per cell; hover for the 95 % interval over people. Rows: the language of the neurons, and their number.
    Outlined: asked in the neurons' own language. Blue: less is extracted; orange: more. A set that is blue in other columns
    too is not specific to its language. Grey: nothing was extracted before."""
    title = "Specificity: reduction by each language's neurons, in every language"
    return finish(figure, title, caption, height=44 * len(sets), foot=110)


def _hover(result: Matrix, language: str, query: str, row: Any) -> str:
    condition = f"{result.sizes.get(language, 0):,} neurons of {label(language)}"
    condition += f" {_deed(result.mean_factors, language)}, asked in {label(query)}"
    if row is None:
        return f"{condition}<br>not measured"
    lines = [f"extraction {percent(row.before)} to {percent(row.after)}", f"reduction {reduction_text(row)}", n_of(row)]
    return "<br>".join([condition, *lines])


def deeds(result: MitigationResult) -> str:
    """Say what is done to the neurons of the sets: ablated, or turned down by gates."""
    gates = [name in result.mean_factors for name in result.chosen]
    return "ablated" if not any(gates) else "turned down" if all(gates) else "ablated or turned down"


def random_name(result: MitigationResult) -> str:
    """Name the random control conditions: random neurons, or gates' factors at random neurons."""
    permuted = [name in result.mean_factors for name in result.random]
    return "permuted gates" if permuted and all(permuted) else "random neurons"
