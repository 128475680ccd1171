"""What ablation costs: public facts, and fluency on neutral text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.effects.conditions import (
    absent,
    capital,
    condition_series,
    done_to,
    has_controls,
    measured_on,
    of_people,
    pooled,
    with_deed,
)
from xlmech.figures.findings import share_range, with_bounds
from xlmech.figures.marks import Series, dots
from xlmech.figures.style import INK, finish
from xlmech.figures.wording import bold_note, counts, ordered, rows_of, signed_percent

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult


def cost(result: MitigationResult, *, people: str = "") -> go.Figure:
    """Draw what ablation costs per query language: public facts kept (left), rise of neutral text's NLL (right).

    Both in percent; a panel of what was not measured is not drawn. Other abilities are not shown, and the NLL has no interval.

    Args:
        result: Measured before and after.
        people: Who was measured, in words, for the title and the caption.
    """
    public = with_deed(result, result.extraction[result.extraction.group == "public"])
    kept, risen = _kept(result), _risen(result)
    queries = ordered([*result.effects.query_language, *result.cost.query_language], result.plant_language)
    drawn = [panel for panel, series in (("kept", kept), ("risen", risen)) if _has_values(series)] or ["kept"]
    figure = make_subplots(1, len(drawn), shared_yaxes=True, horizontal_spacing=0.04)
    if "kept" in drawn:
        dots(figure, kept, queries, training=result.plant_language)
        _mark_facts(figure, kept)
    if "risen" in drawn:
        dots(figure, risen, queries, training=result.plant_language, col=len(drawn))
        _mark_rise(figure, risen, len(drawn))
    figure.update_yaxes(title_text="query language", col=1)
    facts = f"""{"Left: public" if len(drawn) == 2 else "Public"} facts still given in the query language's form, after / before,
    on {counts(public)} per query language; whiskers: 95 % interval over people, cut at the panel's edge."""
    nll = f"""{"Right: relative" if len(drawn) == 2 else "Relative"} rise of the negative log-likelihood per token of neutral
    sentences, without interval."""
    said = " ".join(text for panel, text in (("kept", facts), ("risen", nll)) if panel in drawn)
    controls = "The cost is what a set loses beyond the grey control conditions." if has_controls(result) else ""
    caption = f"Black lines: no loss. {controls} {said}"
    unseen = {"kept": "Public facts were not measured.", "risen": "Neutral text was not measured."}
    details = f"""Above 100 % facts are newly given; left of 0 % the text became likelier. No whiskers: too little is known for
    an interval.{absent(kept)}{absent(risen)} {" ".join(text for panel, text in unseen.items() if panel not in drawn)}
    {bold_note(queries, result.plant_language)}{measured_on(people)}"""
    return finish(
        figure, _title(result) + of_people(people), caption, details=details, height=(12 + 12 * len(kept)) * len(queries),
        legend=True, need=150 + 245 * len(drawn),
    )  # fmt: skip


def _kept(result: MitigationResult) -> list[Series]:
    """Return the shares of public facts kept, per condition."""
    public = with_deed(result, result.extraction[result.extraction.group == "public"])
    kept = []
    for name, marker, part in condition_series(result, public):
        note = ["none known before" if row.before == 0 else row.reason or "not measured" for row in rows_of(part)]
        shares = {"value": 1 - part.reduction, "low": 1 - part.high, "high": 1 - part.low}
        kept.append((name, marker, part.assign(note=note, **shares)))
    return kept


def _risen(result: MitigationResult) -> list[Series]:
    """Return the rises of neutral text's NLL, per condition."""
    return [
        (name, marker, part.assign(value=part.rise, low=math.nan, high=math.nan))
        for name, marker, part in condition_series(result, with_deed(result, result.cost))
    ]


def _has_values(series: list[Series]) -> bool:
    return any(part.value.notna().any() for *_, part in series)


def _title(result: MitigationResult) -> str:
    """State what is kept of public facts over all languages, and the largest rise of neutral text's NLL."""
    found = {name: pooled(result, name, "public") for name in result.chosen}
    known = {name: each for name, each in found.items() if not math.isnan(each.reduction)}
    rise = result.cost[result.cost.condition.isin(list(result.chosen))].rise.max()
    nll = "" if math.isnan(rise) else f"NLL rises by at most {signed_percent(rise).lstrip('+')}"
    nll = "NLL rises in no language" if rise <= 0 else nll
    if len(known) != 1:
        facts = (
            f"{share_range(1 - each.reduction for each in known.values())} of public facts are kept" if known else ""
        )
        return capital("; ".join(filter(None, [facts, nll]))) or "The cost was not measured"
    ((name, each),) = known.items()
    kept = with_bounds(1 - each.reduction, 1 - each.high, 1 - each.low)
    doing = done_to(result, name)
    if each.low > 0 or math.isnan(each.low):
        facts = f"{capital(doing)} keeps {kept} of public facts"
    else:
        facts = f"{capital(doing)}: no loss of public facts beyond chance is seen ({kept} kept)"
    return "; ".join(filter(None, [facts, nll]))


def _mark_facts(figure: go.Figure, kept: list[Series]) -> None:
    """Draw the line of no loss at 100 % of the facts, and choose a scale on which it is seen."""
    values = [value for *_, part in kept for value in part.value.dropna()]
    ends = [end for *_, part in kept for end in [*part.low.dropna(), *part.high.dropna()]]
    # Facts that are newly right can make the share kept any number, so the intervals' ends are shown up to 200 %.
    low, high = max(0.0, min([0.8, *values, *ends])), max([min(2.0, max([1.05, *ends])), *values])
    _mark(figure, 100, low, high, 1)
    figure.update_xaxes(title_text="public facts kept (% of those known before)", col=1)


def _mark_rise(figure: go.Figure, risen: list[Series], col: int) -> None:
    """Draw the line of no loss at 0 % of the rise, and choose a scale on which it is seen."""
    rises = [0.0, 0.001, *(rise for *_, part in risen for rise in part.value.dropna())]
    _mark(figure, 0, min(rises), max(rises), col)
    figure.update_xaxes(title_text="rise of neutral text's NLL (%)", col=col)


def _mark(figure: go.Figure, no_loss: float, low: float, high: float, col: int) -> None:
    margin = 0.05 * (high - low)
    figure.add_vline(no_loss, line={"color": INK, "width": 1}, layer="above", col=col)
    figure.update_xaxes(range=[100 * (low - margin), 100 * (high + margin)], col=col)
