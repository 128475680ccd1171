"""Curves over the number of neurons, as frames with one row per size.

Columns: `neurons` (their number), `value`, `low`, `high` (shares; NaN where not known) and `hover`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from xlmech.figures.reductions import effect_hover
from xlmech.figures.style import language_name, percent, rows_of

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_COLUMNS = ["neurons", "value", "low", "high", "hover"]


def curve_sizes(result: MitigationResult) -> dict[str, int]:
    """Condition -> number of neurons, growing; without the controls.

    Raises:
        ValueError: Fewer than two sizes, or two sets of one size.
    """
    sizes = dict(sorted(result.chosen.items(), key=lambda item: item[1]))
    if len(sizes) < 2:
        raise ValueError(
            f"a trade-off curve needs sets of at least two sizes, and this result has {sizes or 'none'}; evaluate "
            'several at once: evaluate_mitigation(model, probes, {"37": smaller, "73": larger})'
        )
    for (one, size), (other, same) in pairwise(sizes.items()):
        if size == same:
            raise ValueError(
                f"sets {one!r} and {other!r} both have {size} neurons, so they are not points of one curve; "
                "evaluate one set per size"
            )
    return sizes


def reduction_of(effects: pd.DataFrame, query: str, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Reduction in one query language, with its interval."""
    found = effects[effects.query_language == query].set_index("condition", drop=False)
    return _frame(
        (size, row.reduction, row.low, row.high, effect_hover(condition, row))
        if (row := _row(found, condition)) is not None
        else (size, math.nan, math.nan, math.nan, "")
        for condition, size in sizes.items()
    )


def pooled(effects: pd.DataFrame, sizes: Mapping[str, int], what: str, *, reduction: bool) -> pd.DataFrame:
    """Reduction, or share kept, of all probes of all query languages; `low` and `high` are the languages' extremes."""
    rows = []
    for condition, size in sizes.items():
        part = effects[(effects.condition == condition) & effects.reduction.notna()]
        before, after = (part.before * part.n_probes).sum(), (part.after * part.n_probes).sum()
        ratios = part.after / part.before
        found = [after / before if before else math.nan, ratios.min(), ratios.max()]
        if reduction:
            found = [1 - found[0], 1 - found[2], 1 - found[1]]
        spread = f"{percent(found[1])} to {percent(found[2])} by language"
        rows.append((size, *found, f"{escape(condition)} off, {what}, all languages: {percent(found[0])}<br>{spread}"))
    return _frame(rows)


def worst_kept(public: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Share of public facts kept in the language that keeps least, with its interval."""
    rows = []
    for condition, size in sizes.items():
        part = public[(public.condition == condition) & public.reduction.notna()]
        part = part.assign(kept=part.after / part.before).sort_values("kept", kind="stable")
        for row in rows_of(part.head(1)):
            hover = f"public facts kept {percent(row.kept)}<br>{effect_hover(condition, row)}"
            rows.append((size, row.kept, 1 - row.high, 1 - row.low, hover))
    return _frame(rows)


def largest_rise(cost: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Relative rise of neutral text's NLL in the language where it is largest."""
    rows = []
    for condition, size in sizes.items():
        part = cost[(cost.condition == condition) & cost.rise.notna()].sort_values("rise", kind="stable")
        rows += [(size, row.rise, math.nan, math.nan, effect_hover(condition, row)) for row in rows_of(part.tail(1))]
    return _frame(rows)


def never_leaked(private: pd.DataFrame) -> list[str]:
    """Names of the query languages without a curve: nothing came out before."""
    most = private.groupby("query_language", sort=False).before.max()
    return [language_name(code) for code in most[~(most > 0)].index]


def _row(found: pd.DataFrame, condition: str) -> Any:
    return next(iter(rows_of(found.loc[[condition]])), None) if condition in found.index else None


def _frame(rows: Any) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=_COLUMNS)
    return frame.assign(hover=[f"{row.neurons:,} neurons<br>{row.hover}" for row in rows_of(frame)])
