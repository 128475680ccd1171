"""Points of the curves of a trade-off: `neurons`, `value`, `low` and `high` (shares, NaN if not known), `hover`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from xlmech.figures.effects.conditions import effect_hover, pooled
from xlmech.figures.findings import with_bounds
from xlmech.figures.wording import language_name, percent, rows_of

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult


def curve_sizes(result: MitigationResult) -> dict[str, int]:
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


def reduction_of(effects: pd.DataFrame, query: str, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return the reduction in one query language, with its interval."""
    rows = {row.condition: row for row in rows_of(effects[effects.query_language == query])}
    return _frame(
        (size, row.reduction, row.low, row.high, effect_hover(condition, row))
        for condition, size in sizes.items()
        if (row := rows.get(condition))
    )


def over_all(
    result: MitigationResult,
    effects: pd.DataFrame,
    sizes: Mapping[str, int],
    what: str,
    *,
    reduction: bool,
    by_language: bool = False,
) -> pd.DataFrame:
    """Return the reduction, or the share kept, over all query languages.

    `low` and `high` are the 95 % interval, NaN in results of earlier versions, or the languages' extremes if `by_language`.
    """
    rows = []
    group = str(effects.group.iloc[0]) if len(effects) else "public"
    for condition, size in sizes.items():
        part = effects[(effects.condition == condition) & effects.reduction.notna()]
        value, low, high, _ = pooled(result, condition, group)
        if by_language:
            low, high = part.reduction.min(), part.reduction.max()
        if not reduction:
            value, low, high = 1 - value, 1 - high, 1 - low
        deed = ", ".join(part.deed.unique()) or "ablated"
        hover = f"{escape(condition)} {deed}, {what}, all languages: "
        if by_language:
            hover += f"{percent(value)}<br>{percent(low)} to {percent(high)} by language"
        else:
            hover += with_bounds(value, low, high)
        rows.append((size, value, low, high, hover))
    return _frame(rows)


def worst_kept(public: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return the share of public facts kept in the language that keeps least, with its interval."""
    rows = []
    for condition, size in sizes.items():
        part = public[(public.condition == condition) & public.reduction.notna()]
        part = part.assign(kept=part.after / part.before).sort_values("kept", kind="stable")
        for row in rows_of(part.head(1)):
            hover = f"public facts kept {percent(row.kept)}<br>{effect_hover(condition, row)}"
            rows.append((size, row.kept, 1 - row.high, 1 - row.low, hover))
    return _frame(rows)


def largest_rise(cost: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return the relative rise of neutral text's NLL in the language in which it is largest."""
    rows = []
    for condition, size in sizes.items():
        part = cost[(cost.condition == condition) & cost.rise.notna()].sort_values("rise", kind="stable").tail(1)
        rows += [(size, row.rise, math.nan, math.nan, effect_hover(condition, row)) for row in rows_of(part)]
    return _frame(rows)


def never_extracted(private: pd.DataFrame) -> list[str]:
    """Return the names of the query languages without a curve: nothing was extracted before."""
    most = private.groupby("query_language", sort=False).before.max()
    return [language_name(code) for code in most[~(most > 0)].index]


def _frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Make the points of a curve, one row per size: `value`, `low` and `high` are shares, NaN if not known."""
    frame = pd.DataFrame(list(rows), columns=["neurons", "value", "low", "high", "hover"])
    return frame.assign(hover=[f"{row.neurons:,} neurons<br>{row.hover}" for row in rows_of(frame)])


def range_of(figure: go.Figure, axis: str, low: float, high: float) -> list[float]:
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
