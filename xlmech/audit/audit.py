"""One audit from end to end: leakage, lens, location, deactivation, measured again on people who did not choose the neurons.

The stages write their results to one folder, and figures are drawn from those results alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from xlmech.audit.stage_clock import StageClock
from xlmech.data.probes import Probe, ProbeSet, build_probes
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.lens.logit import LensResult, followed_attributes, logit_lens
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.models.backends import backend_of
from xlmech.models.shape import CONDITIONS, Stage, shape_of
from xlmech.neurons.neuron_set import PrivacyNeurons
from xlmech.neurons.selection.locate import check_probes, locate_privacy_neurons
from xlmech.options import LocateOptions

_STAGES: tuple[Stage, ...] = ("leakage", "lens", "locate")
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """What an audit asks. The defaults are the demo's.

    Attributes:
        languages: Query languages; all that have a pack by default.
        attributes: Attributes asked for; those of the records by default.
        held_out: Share of each group's people who do not choose the neurons, and are measured.
        locate_template: Question template by which neurons are located.
        measure_template: Question template by which leakage is measured; the last (-1) was held out from planting.
        locate_facts: Largest number of facts per group that locate neurons, each asked in every language.
        measure_facts: Largest number of held-out private facts that are measured, each asked in every language.
        other_facts: The same for held-out public, and for control facts.
        lens_attributes: Attributes whose forms the lens follows; by default those that it can follow (`followed_attributes`).
        lens_facts: Largest number of private facts that the lens follows, each asked in every language.
        locate: How neurons are chosen.
        seed: Of every draw.
    """

    languages: tuple[str, ...] | None = None
    attributes: tuple[str, ...] | None = None
    held_out: float = 0.5
    locate_template: int = 0
    measure_template: int = -1
    locate_facts: int = 20
    measure_facts: int = 16
    other_facts: int = 8
    lens_attributes: tuple[str, ...] | None = None
    lens_facts: int = 8
    locate: LocateOptions = LocateOptions()
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """The results of one audit, and how long each stage took.

    Attributes:
        leakage: Before deactivation: held-out private, public and control people.
        lens: Logit lens on private people; None where none was asked for, or nothing could be followed.
        neurons: Located on the other people.
        mitigation: Held-out people, before and after.
        seconds: Per stage.
    """

    leakage: LeakageResult
    lens: LensResult | None
    neurons: PrivacyNeurons
    mitigation: MitigationResult
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write every result to its own folder, and `seconds.json`."""
        for name in ("leakage", "lens", "neurons", "mitigation"):
            result = getattr(self, name)
            if result is not None:
                result.save(folder / name)
        (folder / "seconds.json").write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Audit:
        """Read an audit written by `save`."""
        return cls(
            leakage=LeakageResult.load(folder / "leakage"),
            lens=LensResult.load(folder / "lens") if (folder / "lens").is_dir() else None,
            neurons=PrivacyNeurons.load(folder / "neurons"),
            mitigation=MitigationResult.load(folder / "mitigation"),
            seconds=json.loads((folder / "seconds.json").read_text(encoding="utf-8")),
        )


def run_audit(
    model: Any,
    records: Iterable[Record],
    plan: AuditPlan = AuditPlan(),
    *,
    say: Report = lambda _: None,
    clock: StageClock | None = None,
    progress: bool = True,
) -> Audit:
    """Measure, look inside, locate, deactivate, measure again.

    Args:
        model: Hooked model.
        records: Private records, and public and control ones if there are any.
        plan: What is asked.
        say: Called with one line per stage.
        clock: Times the stages, in the place of one of its own that calls `say`.
        progress: Whether to show progress bars.

    Raises:
        ValueError: Too few people to hold any out, or what the stages raise.
    """
    clock = clock or StageClock(say)
    probes, measured, chosen = ask(records, plan)
    lens_probes = _lens_probes(model, probes, plan)
    judged = ProbeSet(tuple(probe for probe in measured if probe.record.group != "control"))
    _expect(clock, model, measured, lens_probes, chosen, judged, plan)
    n_people = len(measured.filter(group="private").subjects)
    with clock(f"leakage: {len(measured)} questions, {n_people} held-out private people"):
        leakage = measure_leakage(model, measured, candidates=probes.records, progress=progress)
    lens = None
    if len(lens_probes):
        with clock(f"lens: {len(lens_probes)} questions on {', '.join(lens_probes.attributes)}, every layer"):
            lens = logit_lens(model, lens_probes, progress=progress)
    with clock(f"locate: {len(chosen)} questions about other people"):
        neurons = locate_privacy_neurons(
            model,
            chosen,
            options=plan.locate,
            check_leakage=False,  # that nothing leaks is a finding, which the leakage stage has made
            progress=progress,
        )
    there = set(leakage.probes.probe)
    judged = ProbeSet(tuple(probe for probe in judged if probe.id in there))  # without those set aside
    sets = {"universal": neurons.universal}
    before = LeakageResult(
        probes=leakage.probes[leakage.probes.group != "control"].reset_index(drop=True),
        plant_language=leakage.plant_language,
        provenance=leakage.provenance,
    )
    with clock(f"deactivate {len(neurons.universal)} neurons, and as many random ones, and ask again"):
        mitigation = evaluate_mitigation(
            model,
            judged,
            sets,
            before=before,
            control_people=leakage,
            candidates=probes.records,
            seed=plan.seed,
            progress=progress,
        )
    return Audit(leakage=leakage, lens=lens, neurons=neurons, mitigation=mitigation, seconds=clock.seconds)


def _lens_probes(model: Any, probes: ProbeSet, plan: AuditPlan) -> ProbeSet:
    """Private facts that the lens follows; none where it can tell no form from the plant language's."""
    wanted = probes.attributes if plan.lens_attributes is None else {*plan.lens_attributes} & {*probes.attributes}
    asked = of_template(probes.filter(group="private", attributes=wanted), plan.measure_template)
    if plan.lens_attributes is None:
        asked = asked.filter(attributes=followed_attributes(model, asked))
    found = spread_facts(asked, {"private": plan.lens_facts})
    return found if followed_attributes(model, found) else ProbeSet(())


def _expect(
    clock: StageClock,
    model: Any,
    measured: ProbeSet,
    lens: ProbeSet,
    chosen: ProbeSet,
    judged: ProbeSet,
    plan: AuditPlan,
) -> None:
    """Tell the clock how much each stage has to do, as far as the formulas know the architecture."""
    try:
        shape = shape_of(getattr(backend_of(model).model, "original_model", None).config)  # type: ignore[union-attr]
        costs = {stage: shape.operations(stage) for stage in _STAGES}
    except (AttributeError, ValueError):
        costs = {"leakage": 1.0, "lens": 1.0, "locate": 3.0}
    n_located = sum(probe.record.group in ("private", "public")[: 1 + bool(plan.locate.contrast)] for probe in chosen)
    clock.expect(
        {
            "leakage": (len(measured), costs["leakage"]),
            "lens": (len(lens), costs["lens"]),
            "locate": (n_located, costs["locate"]),
            "deactivate": (CONDITIONS * len(judged), costs["leakage"]),
        }
    )


def ask(records: Iterable[Record], plan: AuditPlan) -> tuple[ProbeSet, ProbeSet, ProbeSet]:
    """All probes of an audit, those that are measured, and those that locate neurons (other people's).

    Raises:
        ValueError: Whatever `build_probes` refuses, too few people, or nothing to locate universal neurons with.
    """
    probes = build_probes(records, plan.languages, attributes=plan.attributes)
    held_out, locating = probes.split(fraction=plan.held_out, seed=plan.seed)
    measured, chosen = _measured(held_out, plan), _locating(locating, plan)
    check_probes(chosen.filter(group="private"), chosen.filter(group="public"), plan.locate.contrast)
    return probes, measured, chosen


def of_template(probes: ProbeSet, template: int) -> ProbeSet:
    """The probes of one template; negative numbers count from each attribute's last.

    Raises:
        ValueError: No attribute has so many templates.
    """
    counts: dict[tuple[str, str], int] = {}
    for probe in probes:
        key = probe.record.attribute, probe.query_language
        counts[key] = max(counts.get(key, 0), probe.template + 1)
    if counts and not -min(counts.values()) <= template < max(counts.values()):
        raise ValueError(
            f"no question template {template}: there are 0 to {max(counts.values()) - 1}, or -1 for the last"
        )
    wanted = {key: template if template >= 0 else count + template for key, count in counts.items()}
    return ProbeSet(
        tuple(probe for probe in probes if probe.template == wanted[probe.record.attribute, probe.query_language])
    )


def table(audit: Audit) -> pd.DataFrame:
    """The audit in one table: per query language, leakage before and after, the random control, and the cost.

    Rates are shares; `reduction` has its 95 % interval over held-out people in `low` and `high`, and `reason` says why one of
    them is NaN; `random` is the largest reduction by random neurons.
    """
    effects, cost = audit.mitigation.extraction, audit.mitigation.cost
    name = next(iter(audit.mitigation.chosen))
    private = effects[effects.group == "private"].set_index("query_language")
    found = private[private.condition == name][["before", "after", "reduction", "low", "high", "reason"]]
    controls = private[private.condition.isin(list(audit.mitigation.random))].reduction
    found = found.join(controls.groupby(level=0).max().rename("random"))
    public = effects[(effects.group == "public") & (effects.condition == name)].set_index("query_language")
    found["public_kept"] = 1 - public.reduction
    found["nll_rise"] = cost[cost.condition == name].set_index("query_language").rise
    found.insert(1, "control", audit.leakage.matrix().set_index("query_language").control)
    return found.reset_index()


def _measured(held_out: ProbeSet, plan: AuditPlan) -> ProbeSet:
    asked = of_template(held_out, plan.measure_template)
    limits = {"private": plan.measure_facts, "public": plan.other_facts, "control": plan.other_facts}
    return spread_facts(asked, limits)


def _locating(locating: ProbeSet, plan: AuditPlan) -> ProbeSet:
    asked = of_template(locating, plan.locate_template)
    return spread_facts(asked, dict.fromkeys(("private", "public", "control"), plan.locate_facts))


def spread_facts(probes: ProbeSet, limits: dict[Any, int]) -> ProbeSet:
    """At most so many facts of each group, the same in every language, spread over people and attributes."""
    parts: list[Probe] = []
    for group, limit in limits.items():
        of_group = probes.filter(group=group)
        facts = _spread(of_group.records, limit)
        parts += [probe for probe in of_group if probe.record.id in facts]
    return ProbeSet(tuple(parts))


def _spread(records: Sequence[Record], n: int) -> set[str]:
    """Ids of at most `n` records, dealt so that people and attributes come up equally often."""
    subjects = {subject: number for number, subject in enumerate(dict.fromkeys(record.subject for record in records))}
    attributes = {name: number for number, name in enumerate(dict.fromkeys(record.attribute for record in records))}

    def turn(record: Record) -> tuple[int, int]:
        number = subjects[record.subject]
        return (attributes[record.attribute] - number) % len(attributes), number

    return {record.id for record in sorted(records, key=turn)[:n]}
