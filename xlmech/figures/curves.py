"""Curves over the number of neurons, as frames with one row per size.

Columns: `neurons` (their number), `value`, `low`, `high` (shares; NaN if not known) and `hover`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from xlmech.figures.reductions import effect_hover
from xlmech.figures.style import language_name, percent, rows_of

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
        if (row := rows.get(condition)) is not None
        else (size, math.nan, math.nan, math.nan, "")
        for condition, size in sizes.items()
    )


def pooled(effects: pd.DataFrame, sizes: Mapping[str, int], what: str, *, reduction: bool) -> pd.DataFrame:
    """Return the reduction, or the share kept, over all query languages; `low` and `high` are the languages' extremes."""
    rows = []
    for condition, size in sizes.items():
        part = effects[(effects.condition == condition) & effects.reduction.notna()]
        before, after = (part.before * part.n_probes).sum(), (part.after * part.n_probes).sum()
        ratios = part.after / part.before
        value, low, high = after / before if before else math.nan, ratios.min(), ratios.max()
        if reduction:
            value, low, high = 1 - value, 1 - high, 1 - low
        of_languages = f"{percent(low)} to {percent(high)} by language"
        hover = f"{escape(condition)} ablated, {what}, all languages: {percent(value)}<br>{of_languages}"
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
    frame = pd.DataFrame(list(rows), columns=["neurons", "value", "low", "high", "hover"])
    return frame.assign(hover=[f"{row.neurons:,} neurons<br>{row.hover}" for row in rows_of(frame)])
