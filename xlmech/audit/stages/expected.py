"""How much each stage of an audit has to do: its items, and what each costs by formula.

The run's clock turns it into the time that is left, and a dry run into time, memory and disk before anything is loaded.
"""

from __future__ import annotations

from xlmech.audit.cost_model import CONDITIONS, Stage, operations
from xlmech.audit.plan import AuditPlan
from xlmech.audit.stages.gates import GateProbes, expected_items
from xlmech.data.probes import ProbeSet
from xlmech.models.shape import Shape

_ROUGH: dict[Stage, float] = {"leakage": 1.0, "lens": 1.0, "locate": 3.0, "gates": 3.0}
"""Costs of one item relative to each other, for models whose shape is not known."""


def expected_work(
    shape: Shape | None,
    plan: AuditPlan,
    *,
    measured: ProbeSet,
    n_lens: int,
    locating: ProbeSet,
    gates: GateProbes | None,
) -> dict[str, tuple[int, float]]:
    """Map each stage to its number of items, and the operations of one.

    Args:
        shape: Sizes of the model; None where they are not known, and costs are then relative to each other alone.
        plan: Of the audit.
        measured: Probes of held-out people.
        n_lens: Number of probes that the lens follows.
        locating: Probes that locate neurons.
        gates: What gates are learned from and measured on, None without gates.
    """
    costs = _ROUGH if shape is None else {stage: operations(shape, stage) for stage in _ROUGH}
    attributed = ("private", "public") if plan.locate.contrast else ("private",)
    n_ablated = sum(probe.record.group != "control" for probe in measured)
    work = {
        "leakage": (len(measured), costs["leakage"]),
        "lens": (n_lens, costs["lens"]),
        "locate": (sum(probe.record.group in attributed for probe in locating), costs["locate"]),
        "ablate": (CONDITIONS * n_ablated, costs["leakage"]),
    }
    if gates is not None:
        work |= dict(expected_items(gates, plan, learning=costs["gates"], leakage=costs["leakage"]))
    return work
