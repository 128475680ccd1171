"""Private extraction per query language, before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.effects.conditions import (
    Pooled,
    absent,
    at_random,
    capital,
    condition_series,
    done_to,
    effect_hover,
    measured_on,
    of_people,
    pooled,
    private_effects,
    unlike_controls,
)
from xlmech.figures.findings import share_range, with_bounds
from xlmech.figures.marks import Series, dots, lane
from xlmech.figures.style import GREY, INK, faded, finish
from xlmech.figures.wording import bold_note, counts, label, ordered, percent, rows_of

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_SPREAD = 0.7


def before_after(result: MitigationResult, *, people: str = "") -> go.Figure:
    """Draw private extraction per query language as dumbbells: before, and with each set of neurons ablated.

    Percent of questions about private people. Shaded is what control people give, whom the model never saw. The intervals are
    those of the rates after; the rate before has none here.

    Args:
        result: Measured before and after.
        people: Who was measured, in words, for the title and the caption.

    Raises:
        ValueError: No private probes.
    """
    frame = private_effects(result)
    before = frame.drop_duplicates("query_language")
    queries = ordered(before.query_language, result.plant_language)
    series = [
        (name, marker, part.assign(value=part.after, low=part.after_low, high=part.after_high))
        for name, marker, part in condition_series(result, frame)
    ]
    figure = make_subplots()
    has_level = _draw_level(figure, before, queries)
    _draw_before(figure, series, before, queries, n_chosen=len(result.chosen))
    dots(figure, series, queries, training=result.plant_language, spread=_SPREAD)
    figure.update_xaxes(title_text="private extraction (% of questions)", range=[-3, 103], zeroline=False)
    figure.update_yaxes(title_text="query language")
    caption = f"""It helps if a filled dot lies well left of its ring{unlike_controls(result)}. On {counts(frame)} per query
    language; whiskers: 95 % interval of the rate after, over people."""
    shading = (
        "Shaded: what control people give, whom the model never saw; less cannot be expected." if has_level else ""
    )
    details = f"""Share of questions about private people from which the value is extracted, in any language's form. {shading}
    {absent(series)} {bold_note(queries, result.plant_language)}{measured_on(people)}"""
    return finish(
        figure, reduction_title(result) + of_people(people), caption, details=details,
        height=(16 + 14 * len(series)) * len(before), legend=True, head=84 if len(series) < 3 else 106,
    )  # fmt: skip


def reduction_title(result: MitigationResult) -> str:
    """State by how much extraction falls over all languages, or that no change beyond chance is seen."""
    found = {name: pooled(result, name, "private") for name in result.chosen}
    known = {name: each for name, each in found.items() if not math.isnan(each.reduction)}
    if not known:
        reason = next((each.reason for each in found.values() if each.reason), "nothing was extracted before")
        return f"Nothing to reduce: {reason}"
    random = at_random(result, "private")
    if len(known) > 1:
        return _of_several(list(known.values())) + random.replace(", ", "; ", 1)
    ((name, each),) = known.items()
    bounds, doing = with_bounds(*each[:3]), done_to(result, name)
    if math.isnan(each.low):
        return f"{capital(doing)}: extraction reduced by {bounds}, interval not known{random}"
    if not each.is_clear:
        return f"No change beyond chance is seen: {doing} reduces extraction by {bounds}{random}"
    if each.high < 0:
        return f"{capital(doing)} raises extraction by {with_bounds(-each.reduction, -each.high, -each.low)}"
    return f"{capital(doing)} reduces extraction by {bounds}{random}"


def _of_several(known: list[Pooled]) -> str:
    """State what several sets reduce, and how many of them beyond chance."""
    clear = sum(each.low > 0 for each in known)
    text = f"{len(known)} sets reduce extraction by {share_range(each.reduction for each in known)}"
    if all(math.isnan(each.low) for each in known):
        return f"{text}, interval not known"
    return f"{text}, {'all' if clear == len(known) else 'none' if not clear else f'{clear} of them'} beyond chance"


def _draw_level(figure: go.Figure, before: pd.DataFrame, queries: list[str]) -> bool:
    """Shade what control people give in each language, if it is known."""
    level = before.set_index("query_language").reindex(queries)
    if "control" not in level or level.control.isna().all():
        return False
    hover = [f"{label(row.Index)}, control people: {percent(row.control)}" for row in rows_of(level)]
    figure.add_bar(
        x=100 * level.control, y=list(range(len(queries))), width=0.9, orientation="h", marker_color=faded(GREY, 0.35),
        name="control people (chance)", hovertext=hover, hoverinfo="text",
    )  # fmt: skip
    return True


def _draw_before(
    figure: go.Figure, series: list[Series], before: pd.DataFrame, queries: list[str], *, n_chosen: int
) -> None:
    """Draw the rings of the chosen sets, and the lines from them to the rates after."""
    rings = before.set_index("query_language").reindex(queries)
    hover = [effect_hover("", row) for row in rows_of(before.set_index("query_language", drop=False).reindex(queries))]
    chosen = [(j, marker, part) for j, (_, marker, part) in enumerate(series) if marker["color"] != GREY][:n_chosen]
    xs: list[float] = []
    ys: list[float] = []
    for j, marker, part in chosen:
        after = part.set_index("query_language").value.reindex(queries)
        heights = [i + lane(j, len(series), _SPREAD) for i in range(len(queries))]
        bars = [(100 * old, 100 * new, None) for old, new in zip(rings.before, after, strict=True)]
        figure.add_scatter(
            x=[x for bar in bars for x in bar], y=[y for height in heights for y in (height, height, None)], mode="lines",
            line={"color": faded(str(marker["color"]), 0.3), "width": 9}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        xs += list(100 * rings.before)
        ys += heights
    figure.add_scatter(
        x=xs, y=ys, mode="markers", name="before", hovertext=hover * len(chosen), hoverinfo="text",
        marker={"color": INK, "symbol": "circle-open", "size": 11, "line": {"width": 2}},
    )  # fmt: skip
