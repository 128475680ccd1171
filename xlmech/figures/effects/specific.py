"""Is the effect of a language's neurons specific to that language?"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go

from xlmech.figures.effects.conditions import deed_of
from xlmech.figures.marks import matrix, small
from xlmech.figures.style import DIVERGING, finish
from xlmech.figures.wording import counts, interval, label, n_of, ordered, percent, reduction_text, rows_of


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
    caption = f"""A specific set is blue in its outlined cell, asked in the neurons' own language, and without colour in the
    rest of its row; orange: more is extracted. On {counts(frame)} per cell; hover for the 95 % interval over people."""
    details = """By how much fewer private values are extracted with one language's neurons ablated or turned down. Rows: the
    language of the neurons, and their number. Grey: nothing was extracted before."""
    return finish(
        figure, _finding(frame), caption, details=details, height=44 * len(sets), foot=110, left=150,
        need=270 + (84 if len(queries) <= 6 else 50) * len(queries),
    )  # fmt: skip


def _finding(frame: pd.DataFrame) -> str:
    """State how many sets reduce extraction in their own language, and in how many other cells they do, beyond chance."""
    own = frame.language == frame.query_language
    reduced = frame.low > 0
    n_own, n_others = int((own & reduced).sum()), int((~own & reduced).sum())
    if not n_own + n_others:
        return "No set of one language's neurons reduces extraction beyond chance, in any language"
    others = f"other languages' in {n_others} of {(~own).sum()} cells"
    return f"Own neurons reduce extraction in {n_own} of {own.sum()} languages, {others}"


def _hover(result: Matrix, language: str, query: str, row: Any) -> str:
    condition = f"{result.sizes.get(language, 0):,} neurons of {label(language)}"
    condition += f" {deed_of(result.mean_factors, language)}, asked in {label(query)}"
    if row is None:
        return f"{condition}<br>not measured"
    lines = [f"extraction {percent(row.before)} to {percent(row.after)}", f"reduction {reduction_text(row)}", n_of(row)]
    return "<br>".join([condition, *lines])
