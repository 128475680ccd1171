"""One audit from end to end: leakage, lens, location of neurons, ablation on held-out people.

The stages write their results to one folder, and figures are drawn from those results alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from xlmech.audit.plan import AuditPlan
from xlmech.audit.stage_clock import Say, StageClock
from xlmech.audit.stages.ablation import measure_ablated
from xlmech.audit.stages.expected import expected_work
from xlmech.audit.stages.gates import (
    GateEffects,
    GateProbes,
    learn_audited_gates,
    measure_gates,
    select_gate_probes,
)
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes, with_format
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.lens.logit import LensResult, logit_lens, readable_attributes
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.models.backends import backend_of
from xlmech.models.prompts import prompt_format
from xlmech.models.shape import shape_of
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.locate import check_probes, locate_privacy_neurons
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Result


@dataclass(frozen=True, eq=False, kw_only=True)
class Audit:
    """The results of one audit, and how long each stage took.

    Attributes:
        leakage: Before ablation: held-out private, public and control people.
        lens: Logit lens on private people; None if none was asked for, or nothing could be followed.
        neurons: Located on the other people.
        mitigation: Held-out people, before and after.
        wordings: Leakage of the same facts by several wordings or answers per question, None if the plan asks for neither.
        gates: Gates and what they do; None where there are none.
        seconds: Per stage.
        notes: What could not be measured and why, a sentence each; not saved.
    """

    leakage: LeakageResult
    lens: LensResult | None
    neurons: PrivacyNeurons
    mitigation: MitigationResult
    wordings: LeakageResult | None = None
    gates: GateEffects | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def results(self) -> dict[str, Result]:
        """Every result by the name of its folder."""
        named = {name: getattr(self, name) for name in ("leakage", "wordings", "lens", "neurons", "mitigation")}
        results = {name: result for name, result in named.items() if result is not None}
        return results | (self.gates.results if self.gates is not None else {})

    def save(self, folder: Path) -> None:
        """Write every result to its own folder, and `seconds.json`."""
        for name, result in self.results.items():
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
            gates=GateEffects.load(folder),
            seconds=json.loads((folder / "seconds.json").read_text(encoding="utf-8")),
        )


def run_audit(
    model: Any,
    records: Iterable[Record],
    plan: AuditPlan = AuditPlan(),
    *,
    gates: NeuronGates | None = None,
    checkpoint: Path | None = None,
    say: Say = lambda _: None,
    clock: StageClock | None = None,
    progress: bool = True,
) -> Audit:
    """Measure leakage, read the layers, locate neurons, ablate them, and measure again; with gates too if there are any.

    Args:
        model: Hooked model.
        records: Private records, and public and control ones if there are any.
        plan: What is measured.
        gates: Gates that were learned from the people who choose neurons by this plan, with other wordings than
            `measure_template`. They are measured without control conditions and neutral text.
        checkpoint: Folder for the state of gates in training, if the plan asks for some; see `learn_gates`.
        say: Called with one line per stage.
        clock: Times the stages; by default a new one that calls `say`.
        progress: Whether to show progress bars.

    Raises:
        ValueError: Too few people to hold any out, gates are given and the plan asks for others, or what `prompt_format` and the
            stages raise.
    """
    if gates is not None and plan.mitigate is not None:
        raise ValueError("gates are given, and plan.mitigate learns others; leave one of them out")
    clock = clock or StageClock(say)
    frame = prompt_format(model, plan.prompt, system=plan.system)
    clock.say(f"prompts: {frame.name} ({frame.reason})")
    probes, measured, locating = (with_format(part, frame) for part in select_probes(records, plan))
    lens_probes = _lens_probes(model, probes, plan)
    asked = None
    if gates is not None or plan.mitigate is not None:
        asked = select_gate_probes(probes, measured, plan)
    _expect(clock, model, plan, measured=measured, lens=lens_probes, locating=locating, gates=asked)
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
            options=EvaluateOptions(max_new_tokens=plan.max_new_tokens),
            candidates=probes.records,
            seed=plan.seed,
            progress=progress,
        )
    effects: GateEffects | None = None
    notes: tuple[str, ...] = ()
    if asked is not None:
        if gates is None:
            gates, reason = learn_audited_gates(
                model, asked, plan, clock=clock, checkpoint=checkpoint, progress=progress
            )
            notes = (f"no gates: {reason}",) if reason else ()
        if gates is not None:
            effects = measure_gates(
                model, gates, asked, leakage, plan, clock=clock, candidates=probes.records, progress=progress
            )
    return Audit(
        leakage=leakage,
        lens=lens,
        neurons=neurons,
        mitigation=mitigation,
        wordings=wordings,
        gates=effects,
        seconds=clock.seconds,
        notes=notes,
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
    return effects_table(audit.mitigation, audit.leakage)


def effects_table(mitigation: MitigationResult, leakage: LeakageResult) -> pd.DataFrame:
    """Return a measurement in one table, as `table`; control people are those of `leakage`."""
    effects, cost = mitigation.extraction, mitigation.cost
    name = next(iter(mitigation.chosen))
    private = effects[effects.group == "private"].set_index("query_language")
    frame = private[private.condition == name][["before", "after", "reduction", "low", "high", "reason"]]
    random = private[private.condition.isin(list(mitigation.random))].reduction
    frame = frame.join(random.groupby(level=0).max().rename("random"))
    public = effects[(effects.group == "public") & (effects.condition == name)].set_index("query_language")
    frame["public_kept"] = 1 - public.reduction
    frame["nll_rise"] = cost[cost.condition == name].set_index("query_language").rise
    frame.insert(1, "control", leakage.matrix().set_index("query_language").control)
    return frame.reset_index()


def followed_probes(probes: ProbeSet, plan: AuditPlan) -> ProbeSet:
    """Select private questions of the kinds that the plan's lens asks for; a model's lens may be able to follow fewer."""
    wanted = probes.attributes if plan.lens_attributes is None else {*plan.lens_attributes} & {*probes.attributes}
    return probes.filter(group="private", attributes=wanted).of_template(plan.measure_template)


def _lens_probes(model: Any, probes: ProbeSet, plan: AuditPlan) -> ProbeSet:
    """Private facts that the lens can follow; none if every form looks like the training language's."""
    private = followed_probes(probes, plan)
    if plan.lens_attributes is None:
        private = private.filter(attributes=readable_attributes(model, private))
    chosen = private.spread_facts({"private": plan.lens_facts})
    return chosen if readable_attributes(model, chosen) else ProbeSet(())


def _expect(
    clock: StageClock,
    model: Any,
    plan: AuditPlan,
    *,
    measured: ProbeSet,
    lens: ProbeSet,
    locating: ProbeSet,
    gates: GateProbes | None,
) -> None:
    """Tell the clock how much each stage has to do; models whose shape is not known get rough costs."""
    shape = None
    with suppress(AttributeError, ValueError):
        shape = shape_of(backend_of(model).model.original_model.config)
    clock.expect(expected_work(shape, plan, measured=measured, n_lens=len(lens), locating=locating, gates=gates))
