"""Ablation in brief: how much less is extracted, and how specific a language's set is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xlmech.percent import counted, percent, share_text
from xlmech.storage.brief import Bar, Brief

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult
    from xlmech.mitigation.specificity import SpecificityResult


def mitigation_brief(result: MitigationResult) -> Brief | None:
    """Say what the first set does to private people's extraction, beside random neurons; None where neither was measured."""
    name = next(iter(result.chosen), "")
    frame = result.extraction
    private = frame[(frame.condition == name) & (frame.group == "private")]
    if private.empty:
        return None
    done = "turned down" if name in result.mean_factors else "ablated"
    sentence = f"{result.sizes[name]:,} of {result.total_neurons:,} neurons {done} ({name})"
    whole: list[Any] = []
    if len(result.overall):
        whole = list(
            result.overall[(result.overall.condition == name) & (result.overall.group == "private")].itertuples()
        )
    for row in whole:
        n = counted(row.n_subjects, "person", "people")
        sentence += f": reduction of extraction {share_text(row.reduction, row.low, row.high, row.reason)}, {n}"
        sentence += ", 95 % interval over people"
    for row in _random(result):
        sentence += f"; by random neurons {share_text(row.reduction, row.low, row.high, row.reason)}"
    rows: list[Any] = list(private.itertuples())
    return Brief(
        sentence=f"{sentence}.",
        caption="Extracted per query language after (bars, with 95 % intervals) and before (rings).",
        bars=tuple(
            Bar(
                label=str(row.query_language),
                value=row.after,
                low=row.after_low,
                high=row.after_high,
                mark=row.before,
                text=f"{percent(row.before)} \u2192 {share_text(row.after, row.after_low, row.after_high)}",
            )
            for row in rows
        ),
        end=1.0,
    )


def _random(result: MitigationResult) -> list[Any]:
    """Return the effect of random neurons that reduce most over all query languages; nothing if there are none."""
    if not len(result.overall):
        return []
    rows = result.overall[result.overall.condition.isin(list(result.random)) & (result.overall.group == "private")]
    known = rows.dropna(subset="reduction")
    return list(known.nlargest(1, "reduction").itertuples())


def specificity_brief(result: SpecificityResult) -> Brief | None:
    """Say which language's set reduces most beyond what it reduces elsewhere."""
    rows: list[Any] = list(result.specificity().itertuples())
    known = [row for row in rows if row.specificity == row.specificity]
    if not known:
        return None
    best = max(known, key=lambda row: row.specificity)
    n_people = result.probes.subject.nunique()
    return Brief(
        sentence=f"The set of {best.language} reduces extraction in its own language by "
        f"{share_text(best.specificity, best.low, best.high)} more than in any other: the most of {len(rows)} sets, "
        f"{counted(n_people, 'person', 'people')}, 95 % interval over people.",
        caption="Reduction in its own language beyond that in any other, per set.",
        bars=tuple(
            Bar(
                label=str(row.language),
                value=row.specificity,
                low=row.low,
                high=row.high,
                text=share_text(row.specificity, row.low, row.high, row.reason),
            )
            for row in rows
        ),
        end=1.0,
    )
