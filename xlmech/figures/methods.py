"""Several methods of choosing neurons: what each buys at growing size, what that costs, and which are not beaten."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.reductions import private_effects
from xlmech.figures.style import GREY, INK, OTHERS, SETS, counts, finish, percent, rows_of

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_SHADES = (*SETS[1:], *OTHERS)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star", "hexagon", "cross")


def dose_response(result: MitigationResult) -> go.Figure:
    """Reduction of private extraction over neurons (left) and over public facts lost (right), per method; percent.

    All query languages together, without intervals; `result.trade_off` is what is drawn.

    Args:
        result: Of sets of growing size, of one method or of several by the names `method@37`.

    Raises:
        ValueError: No private probes.
    """
    private_effects(result)
    points = result.trade_off().sort_values("neurons", kind="stable")
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    _draw_front(figure, points)
    order = list(dict.fromkeys(name.rpartition("@")[0] for name in result.chosen))
    for number, method in enumerate(order):
        part = points[(points.method == method) & ~points.control]
        shade = _SHADES[number % len(_SHADES)]
        look = {"color": shade, "symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 9}
        _draw(figure, part, method or "chosen neurons", "lines+markers", look)
    random = points[points.condition.isin(list(result.random))]
    if len(random):
        _draw(figure, random, "random neurons", "markers", {"color": GREY, "symbol": "x", "size": 9})
    figure.update_xaxes(title_text=f"neurons deactivated (of {result.total_neurons:,})", type="log", col=1)
    figure.update_xaxes(title_text="public facts lost (% of those known before)", zeroline=True, col=2)
    figure.update_yaxes(title_text="reduction of private extraction (%)", col=1)
    private = result.extraction[result.extraction.group == "private"]
    caption = f"""All query languages together, without intervals, on {counts(private)} per query language. Left: by how
    much fewer private probes give their value. Right: the same over the share of public facts that no longer come out
    in the query language's form; negative where facts came out anew. Rings: the Pareto front, sets that no other set
    beats in both. Its points were chosen on these very probes, so expect less of them elsewhere. Grey: random neurons."""
    title = "Dose and response: reduction of private extraction, and public facts lost"
    return finish(figure, title, caption, height=400, legend=True)


def _draw(figure: go.Figure, points: pd.DataFrame, name: str, mode: str, look: dict[str, Any]) -> None:
    """The same points in both panels."""
    hover = [_hover(row) for row in rows_of(points)]
    for col, x in ((1, points.neurons), (2, 100 * points.lost)):
        figure.add_scatter(
            x=x, y=100 * points.reduction, mode=mode, line={"color": look["color"], "width": 2}, marker=look,
            name=escape(name), legendgroup=name, showlegend=col == 1, hovertext=hover, hoverinfo="text", row=1, col=col,
        )  # fmt: skip


def _draw_front(figure: go.Figure, points: pd.DataFrame) -> None:
    """On the right, rings around the points that are not beaten, joined."""
    front = points[points.front].sort_values(["lost", "reduction"])
    ring = {"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}}
    figure.add_scatter(
        x=100 * front.lost, y=100 * front.reduction, mode="lines+markers", marker=ring, hoverinfo="skip",
        line={"color": INK, "width": 1, "dash": "dot"}, name="Pareto front", row=1, col=2,
    )  # fmt: skip


def _hover(row: Any) -> str:
    """One set in words."""
    rise = "not measured" if row.rise != row.rise else f"{100 * row.rise:+.1f} %"
    return (
        f"{escape(row.condition)}, {row.neurons:,} neurons<br>"
        f"reduction {percent(row.reduction)}, public facts lost {percent(row.lost)}<br>"
        f"largest rise of NLL {rise}"
    )
