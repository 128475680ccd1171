"""One audit from end to end: leakage, lens, location of neurons, ablation on held-out people.

The stages write their results to one folder, and figures are drawn from those results alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from xlmech.audit.cost_model import CONDITIONS, operations
from xlmech.audit.plan import AuditPlan
from xlmech.audit.stage_clock import Say, StageClock
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes, with_format
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.lens.logit import LensResult, logit_lens, readable_attributes
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.models.backends import backend_of
from xlmech.models.prompts import prompt_format
from xlmech.models.shape import shape_of
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.locate import check_probes, locate_privacy_neurons
from xlmech.options import EvaluateOptions


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """The results of one audit, and how long each stage took.

    Attributes:
        leakage: Before ablation: held-out private, public and control people.
        lens: Logit lens on private people; None if none was asked for, or nothing could be followed.
        neurons: Located on the other people.
        mitigation: Held-out people, before and after.
        wordings: Leakage of the same facts by several wordings or answers per question, None if the plan asks for neither.
        seconds: Per stage.
    """

    leakage: LeakageResult
    lens: LensResult | None
    neurons: PrivacyNeurons
    mitigation: MitigationResult
    wordings: LeakageResult | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write every result to its own folder, and `seconds.json`."""
        for name in ("leakage", "wordings", "lens", "neurons", "mitigation"):
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
            wordings=LeakageResult.load(folder / "wordings") if (folder / "wordings").is_dir() else None,
            seconds=json.loads((folder / "seconds.json").read_text(encoding="utf-8")),
        )


def run_audit(
    model: Any,
    records: Iterable[Record],
    plan: AuditPlan = AuditPlan(),
    *,
    say: Say = lambda _: None,
    clock: StageClock | None = None,
    progress: bool = True,
) -> Audit:
    """Measure leakage, read the layers, locate neurons, ablate them, and measure again.

    Args:
        model: Hooked model.
        records: Private records, and public and control ones if there are any.
        plan: What is measured.
        say: Called with one line per stage.
        clock: Times the stages; by default a new one that calls `say`.
        progress: Whether to show progress bars.

    Raises:
        ValueError: Too few people to hold any out, or what `prompt_format` and the stages raise.
    """
    clock = clock or StageClock(say)
    frame = prompt_format(model, plan.prompt, system=plan.system)
    clock.say(f"prompts: {frame.name} ({frame.reason})")
    probes, measured, locating = (with_format(part, frame) for part in select_probes(records, plan))
    lens_probes = _lens_probes(model, probes, plan)
    _expect(clock, model, plan, measured=measured, lens=lens_probes, locating=locating)
    n_people = len(measured.filter(group="private").subjects)
    with clock(f"leakage: {len(measured)} questions, {n_people} held-out private people"):
        leakage = measure_leakage(
            model, measured, candidates=probes.records, max_new_tokens=plan.max_new_tokens, progress=progress
        )
    wordings = _measure_wordings(model, probes, measured, plan, clock, progress) if plan.asks_more else None
    lens = None
    if len(lens_probes):
        with clock(f"lens: {len(lens_probes)} questions on {', '.join(lens_probes.attributes)}, every layer"):
            # The forms that the probes could be answered with; those of all twenty packs would take twice as long.
            read = dict.fromkeys((*lens_probes.languages, *filter(None, [leakage.plant_language])))
            lens = logit_lens(model, lens_probes, languages=tuple(read), progress=progress)
    with clock(f"locate: {len(locating)} questions about other people"):
        # That nothing leaks is a result of the leakage stage and stops no audit.
        options = plan.locate.updated(check_leakage=False)
        neurons = locate_privacy_neurons(model, locating, options=options, progress=progress)
    with clock(f"ablate {len(neurons.main)} neurons, and as many random ones, and measure again"):
        mitigation = measure_ablated(
            model,
            measured,
            {neurons.main_name: neurons.main},
            leakage,
            candidates=probes.records,
            seed=plan.seed,
            max_new_tokens=plan.max_new_tokens,
            progress=progress,
        )
    return Audit(
        leakage=leakage, lens=lens, neurons=neurons, mitigation=mitigation, wordings=wordings, seconds=clock.seconds
    )


def _measure_wordings(
    model: Any, probes: ProbeSet, measured: ProbeSet, plan: AuditPlan, clock: StageClock, progress: bool
) -> LeakageResult:
    """Measure the same facts with every wording and every answer per question that the plan asks for."""
    asked = worded_probes(probes, measured, plan)
    answers = f", {plan.n_samples} answers each" if plan.n_samples > 1 else ""
    with clock(f"wordings: {len(asked)} questions{answers}"):
        return measure_leakage(
            model,
            asked,
            candidates=probes.records,
            sampling=plan.sampling,
            max_new_tokens=plan.max_new_tokens,
            progress=progress,
        )


def measure_ablated(
    model: Any,
    measured: ProbeSet,
    sets: Mapping[str, NeuronSet],
    leakage: LeakageResult,
    *,
    candidates: Iterable[Record],
    seed: int,
    max_new_tokens: int,
    progress: bool,
) -> MitigationResult:
    """Measure held-out private and public people again, with each set of neurons ablated.

    Probes that failed every time in `leakage` are left out.
    """
    ids = set(leakage.probes.probe)
    kept = ProbeSet(tuple(probe for probe in measured if probe.record.group != "control" and probe.id in ids))
    return evaluate_mitigation(
        model,
        kept,
        sets,
        options=EvaluateOptions(max_new_tokens=max_new_tokens),
        before=leakage,
        control_people=leakage,
        candidates=candidates,
        seed=seed,
        progress=progress,
    )


def select_probes(records: Iterable[Record], plan: AuditPlan) -> tuple[ProbeSet, ProbeSet, ProbeSet]:
    """Select all probes of an audit, those that are measured, and those of other people that locate neurons.

    Raises:
        ValueError: Whatever `build_probes` refuses, too few people, or nothing to locate neurons with.
    """
    probes = build_probes(records, plan.languages, attributes=plan.attributes, kinds=plan.kinds)
    held_out, others = probes.split(fraction=plan.held_out, seed=plan.seed)
    measured = held_out.of_template(plan.measure_template).spread_facts(
        {"private": plan.measure_facts, "public": plan.other_facts, "control": plan.other_facts}
    )
    locating = others.of_template(plan.locate_template).spread_facts(
        {"private": plan.locate_facts, "public": plan.locate_facts, "control": plan.locate_facts}
    )
    check_probes(locating.filter(group="private"), locating.filter(group="public"), plan.locate.contrast)
    worded_probes(probes, measured, plan)
    return probes, measured, locating


def worded_probes(probes: ProbeSet, measured: ProbeSet, plan: AuditPlan) -> ProbeSet:
    """Select the measured facts in the wordings that the plan names, `measure_template` among them.

    Raises:
        ValueError: A template that some attribute does not have.
    """
    facts = {probe.record.id for probe in measured}
    of_facts = ProbeSet(tuple(probe for probe in probes if probe.record.id in facts))
    if plan.wordings == "all":
        return of_facts
    kept = {probe.id for probe in measured}
    for number in plan.wordings or ():
        kept |= {probe.id for probe in of_facts.of_template(int(number))}
    return ProbeSet(tuple(probe for probe in of_facts if probe.id in kept))


def table(audit: Audit) -> pd.DataFrame:
    """Return the audit in one table: leakage before and after, the random control, and the cost, per query language.

    Rates are shares; `reduction` has its 95 % interval over held-out people in `low` and `high`, and `reason` says why one of
    them is NaN; `random` is the largest reduction by random neurons.
    """
    effects, cost = audit.mitigation.extraction, audit.mitigation.cost
    name = next(iter(audit.mitigation.chosen))
    private = effects[effects.group == "private"].set_index("query_language")
    frame = private[private.condition == name][["before", "after", "reduction", "low", "high", "reason"]]
    random = private[private.condition.isin(list(audit.mitigation.random))].reduction
    frame = frame.join(random.groupby(level=0).max().rename("random"))
    public = effects[(effects.group == "public") & (effects.condition == name)].set_index("query_language")
    frame["public_kept"] = 1 - public.reduction
    frame["nll_rise"] = cost[cost.condition == name].set_index("query_language").rise
    frame.insert(1, "control", audit.leakage.matrix().set_index("query_language").control)
    return frame.reset_index()


def _lens_probes(model: Any, probes: ProbeSet, plan: AuditPlan) -> ProbeSet:
    """Private facts that the lens can follow; none if every form looks like the training language's."""
    wanted = probes.attributes if plan.lens_attributes is None else {*plan.lens_attributes} & {*probes.attributes}
    private = probes.filter(group="private", attributes=wanted).of_template(plan.measure_template)
    if plan.lens_attributes is None:
        private = private.filter(attributes=readable_attributes(model, private))
    chosen = private.spread_facts({"private": plan.lens_facts})
    return chosen if readable_attributes(model, chosen) else ProbeSet(())


def _expect(
    clock: StageClock, model: Any, plan: AuditPlan, *, measured: ProbeSet, lens: ProbeSet, locating: ProbeSet
) -> None:
    """Tell the clock how much each stage has to do; models whose shape is not known get rough costs."""
    try:
        shape = shape_of(backend_of(model).model.original_model.config)
        leakage, of_lens, locate = (
            operations(shape, "leakage"),
            operations(shape, "lens"),
            operations(shape, "locate"),
        )
    except (AttributeError, ValueError):
        leakage, of_lens, locate = 1.0, 1.0, 3.0
    attributed = ("private", "public") if plan.locate.contrast else ("private",)
    n_ablated = sum(probe.record.group != "control" for probe in measured)
    clock.expect(
        {
            "leakage": (len(measured), leakage),
            "lens": (len(lens), of_lens),
            "locate": (sum(probe.record.group in attributed for probe in locating), locate),
            "ablate": (CONDITIONS * n_ablated, leakage),
        }
    )
