"""Write shares in percent, with their intervals, and counts with their nouns: one wording for results, figures and reports.

Percents have a true minus sign, and what is not 0 is not rounded to 0.
"""

from __future__ import annotations

import math


def number(share: float) -> str:
    """Write a share in percent without the sign; what is not 0 is not rounded to 0."""
    text = f"{100 * share:.{1 if 0.0005 < abs(share) < 0.0095 else 0}f}"
    return "0" if text == "-0" else text.replace("-", "\u2212")


def counted(n: int, singular: str, plural: str) -> str:
    """Write a number with its noun: `1 person`, `1,200 people`."""
    return f"{n:,} {singular if n == 1 else plural}"


def percent(share: float, missing: str = "not measured") -> str:
    """Write a share in percent."""
    return missing if math.isnan(share) else f"{number(share)} %"


def bounds(low: float, high: float, missing: str = "interval not known") -> str:
    """Write an interval of a share in words, in percent without the sign: `13 to 87`."""
    return missing if math.isnan(low) or math.isnan(high) else f"{number(low)} to {number(high)}"


def share_text(value: float, low: float, high: float, reason: str = "") -> str:
    """Write a share with its 95 % interval: `80 % (70 to 90)`, or why it is not defined."""
    if math.isnan(value):
        return f"not defined, {reason}" if reason else "not known"
    return f"{percent(value)} ({bounds(low, high, 'no interval')})"
