"""Dose and response of one or several methods: the reduction over neurons, and over public facts lost."""

from __future__ import annotations

from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.effects.conditions import deeds, private_effects, random_name
from xlmech.figures.line_labels import label_lines
from xlmech.figures.style import GREY, INK, OTHERS, SETS, finish
from xlmech.figures.wording import counts, percent, plain, rows_of, signed_percent

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_METHOD_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star", "hexagon", "cross")
_MOST_LABELS = 8
_CHEAP = 0.05
"""Share of public facts lost that the title allows."""


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
    names = {}
    without_method = [name for name in result.chosen if not name.rpartition("@")[0]]
    unnamed = "gates" if all(name in result.mean_factors for name in without_method) else "chosen neurons"
    for method, shade, symbol in zip(methods, cycle((*SETS[1:], *OTHERS)), cycle(_METHOD_SYMBOLS), strict=False):
        part = points[(points.method == method) & ~points.control]
        look = {"color": shade, "symbol": symbol, "size": 9}
        name = escape(method or unnamed)
        _draw_method(figure, part, name, "lines+markers", look)
        names[name] = shade
    random = points[points.condition.isin(list(result.random))]
    if len(random):
        _draw_method(figure, random, random_name(result), "markers", {"color": GREY, "symbol": "x", "size": 9})
        names[random_name(result)] = "#6E6E6E"
    figure.update_xaxes(title_text=f"neurons {deeds(result)} (of {result.total_neurons:,})", type="log", dtick=1, col=1)
    figure.update_xaxes(title_text="public facts lost (% of those known before)", zeroline=True, col=2)
    low, high = min(0.0, 100 * points.reduction.min()), max(10.0, 100 * points.reduction.max())
    figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.08 * (high - low)])
    figure.update_yaxes(title_text="reduction of private extraction (%)", col=1)
    direct = len(names) <= _MOST_LABELS
    caption = f"""High and far left in the right panel: much is reduced and little lost; rings: the Pareto front, sets that no
    other set beats in both. On {counts(private)} per query language, all together, without interval. Grey:
    {random_name(result)}."""
    details = """Left: by how much fewer private values are extracted. Right: the same over the share of public facts that are no
    longer given in the query language's form; negative if facts are newly given. The front's points were chosen on these very
    questions, so expect less of them elsewhere."""
    finish(
        figure, _title(points), caption, details=details, height=400, legend=not direct, left=70, right=170 if direct else 24,
        need=640,
    )  # fmt: skip
    return label_lines(figure, names) if direct else figure


def _title(points: pd.DataFrame) -> str:
    """State the largest reduction of a set that loses few public facts; without interval, since the set is picked by it."""
    cheap = points[~points.control & (points.lost <= _CHEAP) & points.reduction.notna()]
    if cheap.empty:
        return f"No set loses {percent(_CHEAP)} of public facts or less"
    best = rows_of(cheap.nlargest(1, "reduction"))[0]
    return f"At {percent(_CHEAP)} of public facts lost or less, {plain(best.condition)} reduces most: {percent(best.reduction)}"


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
            name=name, legendgroup=name, showlegend=col == 1, hovertext=hover, hoverinfo="text", row=1, col=col,
        )  # fmt: skip
