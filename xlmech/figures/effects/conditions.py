"""What the figures of effects share: conditions with their colours, hover labels, and what is found over all languages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from xlmech.figures.findings import with_bounds
from xlmech.figures.marks import Series
from xlmech.figures.style import GREY, LANGUAGES, SETS, colour
from xlmech.figures.wording import NO_PRIVATE, label, n_of, percent, reduction_text, rows_of, signed_percent

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult


class Pooled(NamedTuple):
    """Reduction over all query languages, with its 95 % interval (NaN if not known) and the reason why one is not known."""

    reduction: float
    low: float
    high: float
    reason: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves no change out."""
        return self.low > 0 or self.high < 0


def pooled(result: MitigationResult, condition: str, group: str) -> Pooled:
    """Return the reduction of a condition over all query languages; without interval from results of earlier versions."""
    if len(result.overall):
        frame = result.overall
        for row in rows_of(frame[(frame.condition == condition) & (frame.group == group)]):
            return Pooled(row.reduction, row.low, row.high, row.reason)
    frame = result.extraction
    part = frame[(frame.condition == condition) & (frame.group == group) & frame.reduction.notna()]
    before, after = (part.before * part.n_probes).sum(), (part.after * part.n_probes).sum()
    return Pooled(1 - after / before if before else math.nan, math.nan, math.nan)


def done_to(result: MitigationResult, condition: str) -> str:
    """Say what is done to the neurons of a condition: `ablating 73 neurons`, `turning 1,777 neurons down`."""
    n = f"{result.sizes[condition]:,} neuron{'s' * (result.sizes[condition] != 1)}"
    return f"turning {n} down" if condition in result.mean_factors else f"ablating {n}"


def at_random(result: MitigationResult, group: str) -> str:
    """Return the end of a title that says by how much random neurons reduce, "" if they were not measured."""
    sizes = set(result.chosen.values())
    for name in sorted(result.random, key=lambda name: result.random[name] not in sizes):
        found = pooled(result, name, group)
        if not math.isnan(found.reduction):
            return f", {random_name(result)} by {with_bounds(*found[:3])}"
    return ""


def capital(text: str) -> str:
    """Begin a sentence."""
    return text[:1].upper() + text[1:]


def doer(result: MitigationResult) -> str:
    """Name what is done: ablation, or turning neurons down by gates."""
    return "Turning neurons down" if deeds(result) == "turned down" else "Ablation"


def has_controls(result: MitigationResult) -> bool:
    """Whether control conditions were measured."""
    return len(result.sizes) > len(result.chosen)


def unlike_controls(result: MitigationResult) -> str:
    """Say what control conditions must not do; that there are none where there are none."""
    if not has_controls(result):
        return "; no control condition was measured"
    return ", and the grey ones, random neurons of the same layers and other control conditions, do not"


def of_people(people: str) -> str:
    """Return the end of a title that says who was measured; the part of the words before a comma is enough there."""
    return f" ({people.partition(',')[0]})" if people else ""


def measured_on(people: str) -> str:
    """Return the sentence of a caption that says who was measured."""
    return f" Measured: {people}." if people else ""


def with_deed(result: MitigationResult, frame: pd.DataFrame) -> pd.DataFrame:
    """Add to effects or cost a column `deed`: what is done to the neurons of a condition, `ablated` or `turned down`."""
    return frame.assign(deed=[deed_of(result.mean_factors, str(name)) for name in frame.condition])


def deed_of(mean_factors: Mapping[str, float], name: str) -> str:
    """Say what is done to the neurons of a condition."""
    return "turned down" if name in mean_factors else "ablated"


def private_effects(result: MitigationResult) -> pd.DataFrame:
    """Return the effects on the extraction of private probes, with their `deed`.

    Raises:
        ValueError: There are none.
    """
    frame = result.extraction[result.extraction.group == "private"]
    if frame.empty:
        raise ValueError(NO_PRIVATE)
    return with_deed(result, frame)


def effect_hover(condition: str, row: Any) -> str:
    """Write the hover label of a row of effects or of the cost; without a condition, as before any."""
    if hasattr(row, "nll_before"):
        change = f"NLL {row.nll_before:.3f} to {row.nll_after:.3f} nats per token, {signed_percent(row.rise)}"
        return f"{label(row.query_language)}, {escape(condition)} {row.deed}<br>{change}"
    lines = [f"{label(row.query_language)}, before: {percent(row.before)}"]
    if condition:
        lines += [f"{escape(condition)} {row.deed}: {percent(row.after)}", f"reduction {reduction_text(row)}"]
        lines += [f"risen in {row.risen:,} records"]
    return "<br>".join([*lines, n_of(row)])


def condition_series(result: MitigationResult, frame: pd.DataFrame) -> list[Series]:
    """Name with size, marker and rows with `hover` per condition; control conditions are grey, a language has its colour."""
    series, symbols = [], cycle(("circle", "diamond", "square", "x"))
    for i, (name, size) in enumerate(result.sizes.items()):
        part = frame[frame.condition == name]
        hover = [effect_hover(name, row) for row in rows_of(part)]
        shade = colour(name) if name in LANGUAGES else SETS[i % len(SETS)]
        marker = {"color": shade} if name in result.chosen else {"color": GREY, "symbol": next(symbols)}
        done = " turned down" if name in result.mean_factors else ""
        text = f"{escape(name)} ({size:,} of {result.total_neurons:,} neurons{done})"
        series.append((text, marker, part.assign(hover=hover)))
    return series


def absent(series: list[Series]) -> str:
    """Return the caption's sentence about series without any value."""
    names = [name.split(" (")[0] for name, _, part in series if not part.value.notna().any()]
    return f" Not measured: {', '.join(names)}." if names else ""


def deeds(result: MitigationResult) -> str:
    """Say what is done to the neurons of the sets: ablated, or turned down by gates."""
    gates = [name in result.mean_factors for name in result.chosen]
    return "ablated" if not any(gates) else "turned down" if all(gates) else "ablated or turned down"


def random_name(result: MitigationResult) -> str:
    """Name the random control conditions: random neurons, or gates' factors at random neurons."""
    permuted = [name in result.mean_factors for name in result.random]
    return "permuted gates" if permuted and all(permuted) else "random neurons"
