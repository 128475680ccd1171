"""Is a language's set of neurons specific to it? Reduction in every language, with every language's set off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import plotly.graph_objects as go

from xlmech.figures.style import GRID, INK, counts, finish, interval, label, ordered, percent, reduction_text, rows_of

if TYPE_CHECKING:
    import pandas as pd

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
