"""What deactivation buys and what it costs, for each set of neurons."""

from __future__ import annotations

import math
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.marks import Series, dots
from xlmech.figures.style import (
    GREY,
    GRID,
    INK,
    LANGUAGES,
    SETS,
    bold_note,
    colour,
    counts,
    finish,
    interval,
    label,
    ordered,
    percent,
    reduction_text,
    rows_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from xlmech.mitigation.evaluate import MitigationResult

_CONTROLS = ("circle", "diamond", "square", "x")
"""Symbols of the grey controls, in their order."""
_KEPT_TOP = 2.0
"""Facts newly right can make the share kept any number; the panel ends here at most."""


def before_after(result: MitigationResult) -> go.Figure:
    """Private extraction per query language before, and with each set of neurons deactivated.

    Percent of private probes. The intervals are those of the rates after, over people; the rate before has none here.

    Raises:
        ValueError: No private probes.
    """
    frame = private_effects(result)
    was = frame.drop_duplicates("query_language")
    hover = [effect_hover("", row) for row in rows_of(was)]
    was = was.assign(value=was.before, low=math.nan, high=math.nan, hover=hover)
    series: list[Series] = [("before", {"color": INK, "symbol": "circle-open", "line": {"width": 2}}, was)]
    for name, marker, part in _conditions(result, frame):
        series.append((name, marker, part.assign(value=part.after, low=part.after_low, high=part.after_high)))
    figure, queries = make_subplots(), ordered(was.query_language, result.plant_language)
    dots(figure, series, queries, plant=result.plant_language)
    figure.update_xaxes(title_text="private extraction (% of probes)", range=[-3, 103])
    figure.update_yaxes(title_text="query language")
    caption = f"""Share of private probes whose value comes out in any language's form, on {counts(frame)} per query
    language. Whiskers: 95 % interval of the rate, over subjects. Deactivation works where a filled dot lies well left
    of the ring, and the grey ones, random neurons of the same layers and other controls, do not.{_absent(series)}
    {bold_note(queries, result.plant_language)}"""
    title = "Private extraction before and after deactivation, by query language"
    return finish(figure, title, caption, height=(12 + 12 * len(series)) * len(was), legend=True)


def cost(result: MitigationResult) -> go.Figure:
    """What deactivation costs per query language: public facts kept (left), rise of neutral text's NLL (right).

    Both in percent. Other abilities are not shown, and the NLL has no interval.
    """
    public = result.extraction[result.extraction.group == "public"]
    kept, risen = [], []
    for name, marker, part in _conditions(result, public):
        note = ["none known before" if row.before == 0 else row.reason or "not measured" for row in rows_of(part)]
        bounds = {"value": 1 - part.reduction, "low": 1 - part.high, "high": 1 - part.low}
        kept.append((name, marker, part.assign(note=note, **bounds)))
    for name, marker, part in _conditions(result, result.cost):
        risen.append((name, marker, part.assign(value=part.rise, low=math.nan, high=math.nan)))
    queries = ordered([*result.effects.query_language, *result.cost.query_language], result.plant_language)
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    dots(figure, kept, queries, plant=result.plant_language)
    dots(figure, risen, queries, plant=result.plant_language, col=2)
    _mark_no_loss(figure, kept, risen)
    figure.update_xaxes(title_text="public facts kept (% of those known before)", col=1)
    figure.update_xaxes(title_text="rise of neutral text's NLL (%)", col=2)
    figure.update_yaxes(title_text="query language", col=1)
    caption = f"""Left: public facts still given in the query language's form, after / before, on {counts(public)} per
    query language; above 100 % facts are newly given; whiskers: 95 % interval, over subjects, cut at the panel's
    edge; none where too little is known for one.{_absent(kept)} Right: relative rise of the negative log-likelihood
    per token of neutral sentences, without interval; left of 0 % the text became likelier.{_absent(risen)} Black
    lines: no loss. The cost is what a set loses beyond the grey controls. {bold_note(queries, result.plant_language)}"""
    title = "Cost of deactivation: public facts kept, and fluency on neutral text"
    return finish(figure, title, caption, height=(12 + 12 * len(kept)) * len(queries), legend=True)


def private_effects(result: MitigationResult) -> pd.DataFrame:
    """The effects on the extraction of private probes.

    Raises:
        ValueError: There are none.
    """
    frame = result.extraction[result.extraction.group == "private"]
    if frame.empty:
        raise ValueError(
            "no private probes in this result: there is no leakage to draw; measure records of group private"
        )
    return frame


def effect_hover(condition: str, row: Any) -> str:
    """For a row of effects or of the cost; without a condition, as before any."""
    if hasattr(row, "nll_before"):
        change = f"NLL {row.nll_before:.3f} to {row.nll_after:.3f} nats per token, {100 * row.rise:+.1f} %"
        return f"{label(row.query_language)}, {escape(condition)} off<br>{change}"
    lines = [f"{label(row.query_language)}, before: {percent(row.before)}"]
    if condition:
        lines += [f"{escape(condition)} off: {percent(row.after)}", f"reduction {reduction_text(row)}"]
        lines += [f"risen in {row.risen:,} records"]
    return "<br>".join([*lines, f"{row.n_subjects:,} subjects, {row.n_probes:,} probes"])


def _conditions(result: MitigationResult, frame: pd.DataFrame) -> list[Series]:
    """Per condition: name with size, marker, rows with `hover`; controls are grey, a language has its own colour."""
    found, symbols = [], iter(cycle(_CONTROLS))
    for i, (name, size) in enumerate(result.sizes.items()):
        part = frame[frame.condition == name]
        hover = [effect_hover(name, row) for row in rows_of(part)]
        shade = colour(name) if name in LANGUAGES else SETS[i % len(SETS)]
        marker = {"color": shade} if name in result.chosen else {"color": GREY, "symbol": next(symbols)}
        text = f"{escape(name)} ({size:,} of {result.total_neurons:,} neurons)"
        found.append((text, marker, part.assign(hover=hover)))
    return found


def _mark_no_loss(figure: go.Figure, kept: list[Series], risen: list[Series]) -> None:
    """Lines at 100 % of the facts and 0 % of the rise, and scales on which these are seen."""
    values = [value for *_, part in kept for value in part.value.dropna()]
    bounds = [bound for *_, part in kept for bound in [*part.low.dropna(), *part.high.dropna()]]
    bottom, top = max(0.0, min([0.8, *values, *bounds])), min(_KEPT_TOP, max([1.05, *bounds]))
    rises = [0.0, 0.001, *(rise for *_, part in risen for rise in part.value.dropna())]
    spans = (bottom, max([top, *values])), (min(rises), max(rises))
    for col, (place, (low, high)) in enumerate(zip((1.0, 0.0), spans, strict=True), start=1):
        margin = 0.05 * (high - low)
        figure.add_vline(100 * place, line={"color": INK, "width": 1}, layer="above", col=col)
        figure.update_xaxes(range=[100 * (low - margin), 100 * (high + margin)], col=col)


def _absent(series: list[Series]) -> str:
    """The caption's sentence about series without any value."""
    names = [name.split(" (")[0] for name, _, part in series if not part.value.notna().any()]
    return f" Not measured: {', '.join(names)}." if names else ""


_DIVERGING = ((0, "#D55E00"), (0.5, "#FFFFFF"), (1, "#0072B2"))
_WHITE_FROM = 0.75
_ROOMY = 6
"""So many columns have room for the interval in the cell."""


class Matrix(Protocol):
    """A result with the reduction in every language by every language's set, as `SpecificityResult`."""

    @property
    def sizes(self) -> dict[str, int]:
        """Neurons per set."""

    @property
    def plant_language(self) -> str:
        """As of the model."""

    def matrix(self) -> pd.DataFrame:
        """`language`, `query_language`, `before`, `after`, `reduction`, `low`, `high`, `reason`, `n_subjects`, `n_probes`."""


def specificity(result: Matrix) -> go.Figure:
    """Reduction of private extraction per set of neurons (rows, one language's each) and query language (columns); percent.

    A set is specific where its own language's cell, outlined, is blue and the rest of its row is white. What the sets cost is
    not shown.

    Raises:
        ValueError: No cells.
    """
    frame = result.matrix()
    if frame.empty:
        raise ValueError("no cells in this specificity result: no set of neurons was deactivated")
    cells = {(row.language, row.query_language): row for row in rows_of(frame)}
    sets = ordered(frame.language, result.plant_language)
    queries = ordered(frame.query_language, result.plant_language)
    values = [[getattr(cells.get((one, query)), "reduction", math.nan) for query in queries] for one in sets]
    hover = [[_hover(one, query, cells.get((one, query)), result) for query in queries] for one in sets]
    bar = {"title": {"text": "reduction"}, "thickness": 14, "outlinewidth": 0, "tickvals": [-1, 0, 1]}
    bar |= {"ticktext": ["\u2212100 %", "0 %", "100 %"], "lenmode": "pixels", "len": 175}
    heat = {"z": values, "zmin": -1, "zmax": 1, "colorscale": _DIVERGING, "colorbar": bar, "xgap": 1, "ygap": 1}
    figure = go.Figure(go.Heatmap(**heat, hovertext=hover, hoverinfo="text"))
    for i, one in enumerate(sets):
        for j, query in enumerate(queries):
            _write(figure, i, j, cells.get((one, query)), own=one == query, roomy=len(queries) <= _ROOMY)
    figure.update_layout(plot_bgcolor=GRID)
    figure.update_xaxes(tickvals=list(range(len(queries))), ticktext=[label(code) for code in queries])
    names = [f"{label(one)}, {result.sizes.get(one, 0):,}" for one in sets]
    figure.update_yaxes(tickvals=list(range(len(sets))), ticktext=names, autorange="reversed", showgrid=False)
    figure.update_xaxes(title_text="query language", tickangle=-35, showgrid=False)
    figure.update_yaxes(title_text="neurons of")
    caption = f"""By how much fewer private probes give their value with one language's neurons off, on {counts(frame)} per cell;
    hover for the 95 % interval, over subjects. Rows: whose neurons, and how many. Outlined: asked in the neurons' own
    language. Blue: less comes out; orange: more. A set that is blue in other columns too is not specific to its language.
    Grey: nothing came out before."""
    title = "Specificity: reduction by each language's neurons, in every language"
    return finish(figure, title, caption, height=44 * len(sets), foot=110)


def _write(figure: go.Figure, i: int, j: int, row: Any, *, own: bool, roomy: bool) -> None:
    value = math.nan if row is None else row.reduction
    if not math.isnan(value):
        text = percent(value).replace("-", "\u2212")
        if roomy:
            text += f'<br><span style="font-size:11px">{interval(row.low, row.high)}</span>'
        shade = "white" if abs(value) > _WHITE_FROM else INK
        figure.add_annotation(x=j, y=i, text=text, showarrow=False, font_color=shade)
    if own:
        edge = {"color": INK, "width": 2.5}
        figure.add_shape(type="rect", x0=j - 0.49, x1=j + 0.49, y0=i - 0.49, y1=i + 0.49, line=edge)


def _hover(one: str, query: str, row: Any, result: Matrix) -> str:
    asked = f"{result.sizes.get(one, 0):,} neurons of {label(one)} off, asked in {label(query)}"
    if row is None:
        return f"{asked}<br>not measured"
    lines = [f"extraction {percent(row.before)} to {percent(row.after)}", f"reduction {reduction_text(row)}"]
    return "<br>".join([asked, *lines, f"{row.n_subjects:,} subjects, {row.n_probes:,} probes"])
