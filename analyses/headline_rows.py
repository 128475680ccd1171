"""What the rows of `figures/headline.json` have in common."""

from __future__ import annotations

from typing import Any

import pandas as pd

from xlmech import MitigationResult

LEAKS = 0.2
"""A query language leaks if at least this share of the private facts is extracted before ablation."""
Row = dict[str, Any]


def row(
    figure: str,
    plant: str,
    query: str,
    found: tuple[float, float, float],
    goal: float,
    *,
    most: bool = False,
    regime: str = "held_out",
) -> Row:
    """Make one row of the table; with `most`, the goal is an upper bound.

    The regime is `given` for people whose answers chose the neurons or trained the gates, and `held_out` for others.
    """
    value, low, high = (round(float(number), 4) for number in found)
    met = bool(value <= goal if most else value >= goal)
    about = {"figure": figure, "plant_language": plant, "query_language": query, "regime": regime}
    return about | {"value": value, "low": low, "high": high, "goal": goal, "met": met}


def reductions(effects: pd.DataFrame, condition: str, group: str = "private") -> pd.DataFrame:
    """Select a condition's rows of one group, by query language."""
    chosen = effects[(effects.condition == condition) & (effects.group == group)]
    return chosen.set_index("query_language")


def interval(part: pd.Series) -> tuple[float, float, float]:
    return part.reduction, part.low, part.high


def leaking(result: MitigationResult, condition: str) -> pd.DataFrame:
    """Select a condition's effects on private facts, in the query languages that leak."""
    private = reductions(result.extraction, condition)
    return private[private.before >= LEAKS]


def kept(effects: pd.DataFrame, condition: str, group: str = "public") -> tuple[float, float, float]:
    """Return after / before over all query languages, and the mean of the languages' intervals.

    Both are weighted by the number of facts known before. The same people are asked in all languages, so the interval is no
    narrower than one of all languages together. NaN if a language has no interval.
    """
    part = reductions(effects, condition, group)
    known = part[part.reduction.notna()]
    weights = known.before * known.n_probes
    value, low, high = (
        float((weights * (1 - known[name])).sum(skipna=False) / weights.sum()) for name in ("reduction", "high", "low")
    )
    return value, low, high
