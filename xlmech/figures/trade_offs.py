"""The trade-off: what a larger set of neurons reduces, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.marks import whiskers
from xlmech.figures.reductions import deeds, effect_hover, private_effects, random_name, with_deed
from xlmech.figures.style import GREY, INK, OTHERS, SETS, colour, faded, finish
from xlmech.figures.wording import bold_note, counts, label, language_name, ordered, percent, rows_of, signed_percent

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_RISE_COLOUR = "#AA4499"
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon", "hexagon", "star", "cross", "x")
_METHOD_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star", "hexagon", "cross")
_UPPER: dict[str, Any] = {"row": 1, "col": 1}
_LOWER: dict[str, Any] = {"row": 2, "col": 1}


def trade_off(result: MitigationResult) -> go.Figure:
    """Draw the reduction of private extraction (above) and its cost (below) over the number of ablated neurons.

    Every condition is a point of the curves but the control conditions, of which those of random neurons are grey. All is in
    percent: the reduction of what was extracted before, the public facts kept of those known before, the relative rise of
    neutral text's NLL. Neither which neurons the sets hold nor any other ability is shown. Of several methods, all
    languages together: the reduction over the number of neurons, and over the public facts lost, with the Pareto front.

    Args:
        result: Of sets of growing size, say `{"37": ..., "73": ..., "147": ...}`, or of several methods' by the names
            `method@37`, measured on the same probes; see `dose_response`.

    Raises:
        ValueError: No private probes, fewer than two sizes, or two sets of one size of one method.
    """
    if len({condition.rpartition("@")[0] for condition in result.chosen}) > 1:
        return dose_response(result)
    sizes, private = _curve_sizes(result), private_effects(result)
    public = with_deed(result, result.extraction[result.extraction.group == "public"])
    specs: list[list[dict[str, Any]]] = [[{}], [{"secondary_y": True}]]
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.64, 0.36], vertical_spacing=0.14, specs=specs)
    _draw_reductions(figure, result, private, sizes)
    _draw_cost(figure, result, public, sizes)
    _scale_x(figure, result, sizes)
    _scale_y(figure)
    random = "No random neurons were measured."
    if result.random:
        random = f"""Grey: {random_name(result)} of the same layers, all languages together (diamond) and from the lowest
        language to the highest (bar); the effect of choosing the neurons is the distance from it."""
    missing = _never_extracted(private)
    caption = f"""Above: by how much fewer private values are extracted, on {counts(private)} per query language; below: public
    facts still given in the query language's form, on {counts(public)}, and the relative rise of neutral text's NLL in its
    worst language, without interval. Whiskers: 95 % interval over people, cut at the panel's edge. Points of one size stand
    side by side. {random} A good size reduces much above, and costs nothing below.
    {f"Nothing to reduce in {', '.join(missing)}." if missing else ""}
    {bold_note(private.query_language, result.plant_language)}"""
    title = "Trade-off: reduction of private extraction, and its cost, by number of neurons"
    return finish(figure, title, caption, height=540, foot=78, legend=True, head=104).update_layout(margin_r=48)


def _draw_reductions(figure: go.Figure, result: MitigationResult, private: pd.DataFrame, sizes: dict[str, int]) -> None:
    """Draw the upper panel: all languages, each with its interval, and random neurons."""
    training = result.plant_language
    queries = ordered(private.query_language, training)
    shifts = _shifts(len(queries) + 2, sizes)
    overall = _pooled(private, sizes, "reduction", reduction=True).assign(low=math.nan, high=math.nan)
    _curve(figure, overall, shifts[0], "all languages", {"color": INK, "width": 3.5}, "circle", **_UPPER)
    for query, shift, symbol in zip(queries, shifts[1:], cycle(_SYMBOLS), strict=False):
        style = {"color": colour(query), "width": 3.5 if query == training else 1.5}
        _curve(figure, _reduction_of(private, query, sizes), shift, label(query, training), style, symbol, **_UPPER)
    random = _pooled(private, result.random, "reduction", reduction=True)
    _diamonds(figure, random, shifts[-1], random_name(result), **_UPPER)


def _draw_cost(figure: go.Figure, result: MitigationResult, public: pd.DataFrame, sizes: dict[str, int]) -> None:
    """Draw the lower panel: public facts kept, over all languages and in the worst, and the largest rise of NLL."""
    what = "public facts kept"
    shifts = _shifts(4, sizes)
    lower = _LOWER | {"legend": "legend2"}
    overall = _pooled(public, sizes, what, reduction=False).assign(low=math.nan, high=math.nan)
    _curve(figure, overall, shifts[0], f"{what}, all languages", {"color": INK, "width": 2.5}, "circle", **lower)
    style = {"color": INK, "width": 1.5, "dash": "dash"}
    _curve(figure, _worst_kept(public, sizes), shifts[1], f"{what}, worst language", style, "circle-open", **lower)
    style = {"color": _RISE_COLOUR, "width": 2, "dash": "dot"}
    rise = _largest_rise(with_deed(result, result.cost), sizes)
    _curve(figure, rise, shifts[2], "largest rise of NLL (right)", style, "square", secondary_y=True, **lower)
    _diamonds(figure, _pooled(public, result.random, what, reduction=False), shifts[3], random_name(result), **_LOWER)


def _shifts(n_curves: int, sizes: Mapping[str, int]) -> list[float]:
    """Compute the factors that set the points of one size side by side, over 0.62 of the least distance of sizes."""
    gap = min(math.log(after / before) for before, after in pairwise(sizes.values()))
    return [math.exp(0.62 * gap * ((i + 0.5) / n_curves - 0.5)) for i in range(n_curves)]


def _curve(
    figure: go.Figure, points: pd.DataFrame, shift: float, name: str, style: dict[str, Any], symbol: str, **place: Any
) -> None:
    """Draw a line through the points, with their whiskers."""
    figure.add_scatter(
        x=shift * points.neurons, y=100 * points.value, mode="lines+markers", line=style, name=name,
        error_y=whiskers(points, color=style["color"], thickness=1.2, width=2),
        marker={"color": style["color"], "symbol": symbol, "size": 8}, hovertext=points.hover, hoverinfo="text", **place,
    )  # fmt: skip


def _diamonds(figure: go.Figure, points: pd.DataFrame, shift: float, name: str, **place: Any) -> None:
    """Draw random neurons, called `name`: grey diamonds, on bars from the lowest language to the highest."""
    if points.empty:
        return
    x = shift * points.neurons
    for position, low, high in zip(x, points.low, points.high, strict=True):
        figure.add_scatter(
            x=[position, position], y=[100 * low, 100 * high], mode="lines", line={"color": faded(GREY, 0.35), "width": 9},
            showlegend=False, hoverinfo="skip", **place,
        )  # fmt: skip
    marker = {"color": GREY, "symbol": "diamond", "size": 10, "line": {"color": INK, "width": 0.6}}
    figure.add_scatter(
        x=x, y=100 * points.value, mode="markers", marker=marker, name=name, showlegend=place == _UPPER,
        hovertext=points.hover, hoverinfo="text", **place,
    )  # fmt: skip


def _scale_x(figure: go.Figure, result: MitigationResult, sizes: dict[str, int]) -> None:
    """Scale the shared axis: numbers of neurons, and the shares that they are of the model's."""
    drawn = [*sizes.values(), *result.random.values()]
    gap = math.log10(_shifts(1000, sizes)[-1])
    figure.update_xaxes(type="log", range=[math.log10(min(drawn)) - 1.2 * gap, math.log10(max(drawn)) + 1.2 * gap])
    ticks = [f"{n:,}<br>{100 * n / result.total_neurons:.2g} %" for n in sizes.values()]
    figure.update_xaxes(tickvals=list(sizes.values()), ticktext=ticks, showgrid=False)
    counted = f"neurons {deeds(result)} (number, and % of the model's {result.total_neurons:,})"
    figure.update_xaxes(title_text=counted, row=2)


def _scale_y(figure: go.Figure) -> None:
    """Add titles with units, scales that hold every point, and the lower panel's legend."""
    figure.add_hline(0, line={"color": INK, "width": 1}, layer="above", row=1)
    figure.update_yaxes(title_text="reduction of private<br>extraction (%)", range=_range(figure, "y", 0, 100), row=1)
    figure.update_yaxes(title_text="public facts<br>kept (%)", range=_range(figure, "y2", 80, 100), row=2)
    figure.update_yaxes(
        title={"text": "largest rise<br>of NLL (%)", "font": {"color": _RISE_COLOUR}}, tickfont={"color": _RISE_COLOUR},
        range=_range(figure, "y3", 0, 1), showgrid=False, tickmode="auto", nticks=4, row=2, secondary_y=True,
    )  # fmt: skip
    above = figure.layout.yaxis2.domain[1] + 0.01
    figure.update_layout(legend2={"orientation": "h", "x": 0, "y": above, "yref": "paper", "yanchor": "bottom"})


def _range(figure: go.Figure, axis: str, low: float, high: float) -> list[float]:
    """Return a range in percent from `low` to `high`, further for points, and for whiskers down to -50 %.

    Whiskers reach further down if little was extracted before, and would hide the points.
    """
    for trace in figure.data:
        if (trace.yaxis or "y") == axis:
            points = pd.Series(trace.y, dtype=float)
            lowest = points - pd.Series(trace.error_y.arrayminus, dtype=float)  # NaN without whiskers
            low = min([low, *points.dropna(), *lowest.clip(lower=-50.0).dropna()])
            high = max([high, *points.dropna()])
    margin = 0.06 * (high - low)
    return [low - margin, high + margin]


def _curve_sizes(result: MitigationResult) -> dict[str, int]:
    """Return the number of neurons per condition, growing; without the control conditions.

    Raises:
        ValueError: Fewer than two sizes, or two sets of one size.
    """
    sizes = dict(sorted(result.chosen.items(), key=lambda item: item[1]))
    if len(sizes) < 2:
        raise ValueError(
            f"a trade-off curve needs sets of at least two sizes, and this result has {sizes or 'none'}; evaluate "
            'several at once: evaluate_mitigation(model, probes, {"37": smaller, "73": larger})'
        )
    for (name, size), (next_name, next_size) in pairwise(sizes.items()):
        if size == next_size:
            raise ValueError(
                f"sets {name!r} and {next_name!r} both have {size} neurons, so they are not points of one curve; "
                "evaluate one set per size"
            )
    return sizes


def _reduction_of(effects: pd.DataFrame, query: str, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return the reduction in one query language, with its interval."""
    rows = {row.condition: row for row in rows_of(effects[effects.query_language == query])}
    return _frame(
        (size, row.reduction, row.low, row.high, effect_hover(condition, row))
        for condition, size in sizes.items()
        if (row := rows.get(condition))
    )


def _pooled(effects: pd.DataFrame, sizes: Mapping[str, int], what: str, *, reduction: bool) -> pd.DataFrame:
    """Return the reduction, or the share kept, over all query languages; `low` and `high` are the languages' extremes."""
    rows = []
    for condition, size in sizes.items():
        part = effects[(effects.condition == condition) & effects.reduction.notna()]
        before, after = (part.before * part.n_probes).sum(), (part.after * part.n_probes).sum()
        ratios = part.after / part.before
        value, low, high = after / before if before else math.nan, ratios.min(), ratios.max()
        if reduction:
            value, low, high = 1 - value, 1 - high, 1 - low
        deed = ", ".join(part.deed.unique()) or "ablated"
        hover = f"{escape(condition)} {deed}, {what}, all languages: {percent(value)}"
        rows.append((size, value, low, high, f"{hover}<br>{percent(low)} to {percent(high)} by language"))
    return _frame(rows)


def _worst_kept(public: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return the share of public facts kept in the language that keeps least, with its interval."""
    rows = []
    for condition, size in sizes.items():
        part = public[(public.condition == condition) & public.reduction.notna()]
        part = part.assign(kept=part.after / part.before).sort_values("kept", kind="stable")
        for row in rows_of(part.head(1)):
            hover = f"public facts kept {percent(row.kept)}<br>{effect_hover(condition, row)}"
            rows.append((size, row.kept, 1 - row.high, 1 - row.low, hover))
    return _frame(rows)


def _largest_rise(cost: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return the relative rise of neutral text's NLL in the language in which it is largest."""
    rows = []
    for condition, size in sizes.items():
        part = cost[(cost.condition == condition) & cost.rise.notna()].sort_values("rise", kind="stable").tail(1)
        rows += [(size, row.rise, math.nan, math.nan, effect_hover(condition, row)) for row in rows_of(part)]
    return _frame(rows)


def _never_extracted(private: pd.DataFrame) -> list[str]:
    """Return the names of the query languages without a curve: nothing was extracted before."""
    most = private.groupby("query_language", sort=False).before.max()
    return [language_name(code) for code in most[~(most > 0)].index]


def _frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Make the points of a curve, one row per size: `value`, `low` and `high` are shares, NaN if not known."""
    frame = pd.DataFrame(list(rows), columns=["neurons", "value", "low", "high", "hover"])
    return frame.assign(hover=[f"{row.neurons:,} neurons<br>{row.hover}" for row in rows_of(frame)])


def dose_response(result: MitigationResult) -> go.Figure:
    """Draw the reduction of private extraction over neurons (left) and over public facts lost (right), per method; percent.

    All query languages together, without intervals; `result.trade_off` is what is drawn.

    Args:
        result: Of sets of growing size, of one method or of several by the names `method@37`.

    Raises:
        ValueError: No private probes.
    """
    private = private_effects(result)
    points = result.trade_off().sort_values("neurons", kind="stable")
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    front = points[points.front].sort_values(["lost", "reduction"])
    ring = {"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}}
    figure.add_scatter(
        x=100 * front.lost, y=100 * front.reduction, mode="lines+markers", marker=ring, hoverinfo="skip",
        line={"color": INK, "width": 1, "dash": "dot"}, name="Pareto front", row=1, col=2,
    )  # fmt: skip
    methods = dict.fromkeys(name.rpartition("@")[0] for name in result.chosen)
    for method, shade, symbol in zip(methods, cycle((*SETS[1:], *OTHERS)), cycle(_METHOD_SYMBOLS), strict=False):
        part = points[(points.method == method) & ~points.control]
        look = {"color": shade, "symbol": symbol, "size": 9}
        _draw_method(figure, part, method or "chosen neurons", "lines+markers", look)
    random = points[points.condition.isin(list(result.random))]
    if len(random):
        _draw_method(figure, random, random_name(result), "markers", {"color": GREY, "symbol": "x", "size": 9})
    figure.update_xaxes(title_text=f"neurons {deeds(result)} (of {result.total_neurons:,})", type="log", col=1)
    figure.update_xaxes(title_text="public facts lost (% of those known before)", zeroline=True, col=2)
    figure.update_yaxes(title_text="reduction of private extraction (%)", col=1)
    caption = f"""All query languages together, without intervals, on {counts(private)} per query language. Left: by how much
    fewer private values are extracted. Right: the same over the share of public facts that are no longer given in the query
    language's form; negative if facts are newly given. Rings: the Pareto front, sets that no other set beats in both. Its
    points were chosen on these very questions, so expect less of them elsewhere. Grey: {random_name(result)}."""
    title = "Dose and response: reduction of private extraction, and public facts lost"
    return finish(figure, title, caption, height=400, legend=True)


def _draw_method(figure: go.Figure, points: pd.DataFrame, name: str, mode: str, look: dict[str, Any]) -> None:
    """Draw the same points in both panels."""
    hover = [
        f"{escape(row.condition)}, {row.neurons:,} neurons<br>"
        f"reduction {percent(row.reduction)}, public facts lost {percent(row.lost)}<br>"
        f"largest rise of NLL {signed_percent(row.rise)}"
        for row in rows_of(points)
    ]
    for col, x in ((1, points.neurons), (2, 100 * points.lost)):
        figure.add_scatter(
            x=x, y=100 * points.reduction, mode=mode, line={"color": look["color"], "width": 2}, marker=look,
            name=escape(name), legendgroup=name, showlegend=col == 1, hovertext=hover, hoverinfo="text", row=1, col=col,
        )  # fmt: skip
