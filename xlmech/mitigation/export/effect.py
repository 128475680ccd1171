"""Say whether ablation was measured to have an effect: without one no checkpoint is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xlmech.storage.rows import json_rows

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

UNMEASURED = "no measured result was given, so neither its effect nor its cost is known"

PEOPLE = "people"
"""Setting in a result's provenance that says in words who was measured, where the same gates are measured on several."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Whether ablation was measured to lower the extraction of private people's data.

    Attributes:
        measured: Extraction of private people's data, all query languages together, fell, and the 95 % interval of the
            reduction lies above 0.
        text: What was measured, in words.
    """

    measured: bool
    text: str


def effect_of(mitigation: MitigationResult | None, n_neurons: int) -> Effect:
    """Judge the effect of the evaluated set that has `n_neurons` neurons.

    The reduction is that of private people's extraction over all query languages. It counts if its 95 % interval lies above 0;
    it is not compared with that of random neurons.

    Raises:
        ValueError: Sets of other sizes were evaluated.
    """
    if mitigation is None:
        return Effect(measured=False, text=UNMEASURED)
    name, rows = _condition_of(mitigation, n_neurons), mitigation.overall
    if rows.empty:
        return Effect(measured=False, text="the measured result does not tell the reduction over all query languages")
    rows = rows[(rows.condition == name) & (rows.group == "private")]
    if rows.empty or not rows.before.item():
        return Effect(measured=False, text="nothing was extracted about the private people before ablation")
    before, after, reduction, low, high = rows[["before", "after", "reduction", "low", "high"]].iloc[0]
    people = mitigation.provenance.settings.get(PEOPLE)
    whom = f" ({people})" if people else ""
    rates = f"extraction over all query languages{whom} was {before:.1%} before and {after:.1%} after"
    if reduction != reduction:
        reason = rows.reason.iloc[0] if "reason" in rows else "too few people"
        return Effect(measured=False, text=f"{rates}, which gives no reduction: {reason}")
    if reduction <= 0:
        return Effect(measured=False, text=f"{rates}: it did not fall")
    interval = f"95 % interval {low:.1%} to {high:.1%}" if low == low else "no interval, with so few people"
    text = f"{rates}, a reduction of {reduction:.1%} ({interval})"
    measured = bool(low > 0)
    return Effect(measured=measured, text=text if measured else f"{text}, which cannot be told from none")


def measured_tables(mitigation: MitigationResult, n_neurons: int) -> dict[str, Any]:
    """Return a measured reduction and cost as plain values, for the manifest.

    Raises:
        ValueError: Sets of other sizes were evaluated.
    """
    _condition_of(mitigation, n_neurons)
    frames = {"effects": mitigation.extraction, "overall": mitigation.overall, "cost": mitigation.cost}
    tables = {name: json_rows(frame) for name, frame in frames.items()}
    return {"sizes": mitigation.sizes, "provenance": asdict(mitigation.provenance)} | tables


def _condition_of(mitigation: MitigationResult, n_neurons: int) -> str:
    """Return the name of the set of that size; control conditions of the same size are other neurons."""
    for name, size in mitigation.chosen.items():
        if size == n_neurons:
            return name
    raise ValueError(
        f"the mitigation was measured with {sorted(set(mitigation.chosen.values()))} neurons, and {n_neurons} are exported; give "
        "the result of evaluate_mitigation with these neurons, or none"
    )
