"""Figures in words: shares, intervals, differences, lists. In percent, with a true minus sign."""

from __future__ import annotations

import math
from collections.abc import Iterable

from xlmech.figures import language_name


def percent(share: float) -> str:
    """A share in percent; a figure that is not 0 is not rounded to it."""
    if math.isnan(share):
        return "not measured"
    return f"{number(share)} %"


def spread(low: float, high: float) -> str:
    """An interval in percent, without its unit."""
    if math.isnan(low) or math.isnan(high):
        return "interval not known"
    return f"{number(low)} to {number(high)}"


def span(low: float, high: float) -> str:
    """From the lowest to the highest of several shares, in percent without its unit; one number where they read alike."""
    lowest, highest = number(low), number(high)
    return lowest if lowest == highest else f"{lowest} to {highest}"


def counted(n: int, one: str, several: str) -> str:
    """A number with its noun: `1 person`, `1,200 people`."""
    return f"{n:,} {one if n == 1 else several}"


def points(share: float) -> str:
    """A difference of two shares."""
    return f"{number(share)} point{'' if number(abs(share)) == '1' else 's'}"


def number(share: float) -> str:
    """In percent; what is not 0 is not rounded to it."""
    text = f"{100 * share:.{1 if 0.0005 < abs(share) < 0.01 else 0}f}"
    return "0" if text == "-0" else text.replace("-", "\u2212")


def signed(share: float) -> str:
    """A relative change, in percent with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "\u2212")


def short_name(code: str) -> str:
    """A language's name without its code, where it has one."""
    return language_name(code).removesuffix(f" ({code})")


def plain(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def joined(parts: Iterable[str]) -> str:
    """A list of one or more in a sentence."""
    *first, last = list(parts)
    return f"{', '.join(first)} and {last}" if first else last
