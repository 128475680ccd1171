"""Words in which titles state what is found, no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from xlmech.figures.wording import interval, joined, number, percent, short_name

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def spelled(n: int) -> str:
    """Write a small number as a word: `ten`."""
    return _WORDS[n] if n < len(_WORDS) else f"{n:,}"


def in_languages(found: Collection[str], asked: Collection[str], *, other: bool = False) -> str:
    """Say in how many of the languages something is found: `in all ten languages`, `in 8 of 10 languages`, `in French`.

    Args:
        found: Languages in which it is found.
        asked: All languages.
        other: Whether these are the other languages, than the training language.
    """
    more = "other " if other else ""
    if len(asked) == 1 or (len(found) == 1 and len(found) < len(asked)):
        alone = "" if len(asked) == 1 else " alone"
        return f"in {short_name(next(iter(found or asked)))}{alone}"
    if len(found) == len(asked):
        return f"in both {more}languages" if len(asked) == 2 else f"in all {spelled(len(asked))} {more}languages"
    return f"in {len(found)} of {len(asked)} {more}languages"


def in_none(asked: Collection[str]) -> str:
    """Say that something is found in none of the languages: `in any of ten languages`, `in either language`, `in French`."""
    if len(asked) < 3:
        return "in either language" if len(asked) == 2 else in_languages(asked, asked)
    return f"in any of {spelled(len(asked))} languages"


def layer_runs(layers: Iterable[int]) -> str:
    """Write layers as runs: `layer 5`, `layers 5 to 9 and 12`."""
    numbers = sorted(set(map(int, layers)))
    runs: list[list[int]] = []
    for layer in numbers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = [text for run in runs for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return f"layer{'s' if len(numbers) > 1 else ''} {joined(texts)}"


def share_range(values: Iterable[float]) -> str:
    """Write shares as a range in percent: `38 to 100 %`, or `38 %`."""
    known = sorted(value for value in values if not math.isnan(value))
    if not known:
        return "not measured"
    low, high = number(known[0]), number(known[-1])
    return percent(known[0]) if low == high else f"{low} to {high} %"


def with_bounds(value: float, low: float, high: float) -> str:
    """Write a share with its interval in brackets: `36 % [28, 44]`."""
    return f"{percent(value)} {interval(low, high)}".strip()
