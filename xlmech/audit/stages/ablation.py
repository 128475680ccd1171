"""Measure people again with neurons ablated or turned down by gates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.mitigation.export.effect import PEOPLE
from xlmech.neurons.ablation import Ablated
from xlmech.options import EvaluateOptions


def measure_ablated(
    model: Any,
    measured: ProbeSet,
    sets: Mapping[str, Ablated],
    leakage: LeakageResult,
    *,
    options: EvaluateOptions,
    people: str = "",
    control_people: LeakageResult | None = None,
    candidates: Iterable[Record],
    seed: int,
    progress: bool,
) -> MitigationResult:
    """Measure private and public people again, with each set of neurons ablated or each set of gates applied.

    Args:
        model: Hooked model.
        measured: Probes; those of control people are left out, and those that failed every time in `leakage`.
        sets: Sets of neurons and gates, by name.
        leakage: The same probes without ablation.
        options: What is measured, and the control conditions.
        people: Who is measured, in words, for the result's provenance.
        control_people: Leakage of control people; by default those in `leakage`.
        candidates: Records whose values are candidates.
        seed: Seed of the random draws.
        progress: Whether to show progress bars.
    """
    ids = set(leakage.probes.probe)
    kept = ProbeSet(tuple(probe for probe in measured if probe.record.group != "control" and probe.id in ids))
    found = evaluate_mitigation(
        model,
        kept,
        sets,
        options=options,
        before=leakage,
        control_people=control_people or leakage,
        candidates=candidates,
        seed=seed,
        progress=progress,
    )
    if not people:
        return found
    source = found.provenance
    return replace(found, provenance=replace(source, settings=source.settings | {PEOPLE: people}))
