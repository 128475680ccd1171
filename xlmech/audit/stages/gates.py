"""Learn gates from the people who choose neurons, and measure them in two regimes that are never pooled.

GIVEN people are those from whom the gates were learned: their records are known, and they are asked with a question that taught
nothing. HELD-OUT people are those on whom neurons are measured too: none of their records was used. The first regime says what a
mitigation does for people whose records one has, the second what generalises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from xlmech.audit.plan import AuditPlan
from xlmech.audit.stage_clock import StageClock
from xlmech.audit.stages.ablation import measure_ablated
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.questions import with_format
from xlmech.data.records import Record
from xlmech.figures.wording import plain
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.selection.gate_training import NoGatesError
from xlmech.neurons.selection.learned_gates import check_suppressed, learn_gates
from xlmech.options import EvaluateOptions
from xlmech.report.run_results import GATES, GIVEN, GIVEN_KEPT, HELD_OUT, HELD_OUT_KEPT
from xlmech.storage.result import Result


@dataclass(frozen=True, kw_only=True)
class GateProbes:
    """What gates are learned from, and what they are measured on.

    Attributes:
        suppress: Given private people's answers that are to go, in the wordings that do not measure.
        keep: Given public people's answers, and private ones of kinds that are not suppressed, in the same wordings.
        given: Given private and public people, asked with the wording that measures; private ones for the suppressed kinds.
        held_out: Held-out people who are measured; private ones for the suppressed kinds.
        given_kept: Given private people, asked for the kinds that are kept; empty if all are suppressed.
        held_out_kept: Held-out private people, asked for these.
    """

    suppress: ProbeSet
    keep: ProbeSet
    given: ProbeSet
    held_out: ProbeSet
    given_kept: ProbeSet
    held_out_kept: ProbeSet

    def with_format(self, frame: PromptFormat) -> Self:
        """Ask the same questions in another prompt format."""
        return replace(self, **{name: with_format(getattr(self, name), frame) for name in self.__dataclass_fields__})


@dataclass(frozen=True, eq=False, kw_only=True)
class GateEffects:
    """Gates, and what they do in each regime.

    Attributes:
        gates: The gates.
        given: Given people, before and after.
        held_out: Held-out people, before and after.
        given_kept: Given private people's answers that are kept, before and after; None if all kinds are suppressed.
        held_out_kept: Those of held-out people.
    """

    gates: NeuronGates
    given: MitigationResult
    held_out: MitigationResult
    given_kept: MitigationResult | None = None
    held_out_kept: MitigationResult | None = None

    @property
    def regimes(self) -> dict[str, MitigationResult]:
        """What was measured, by the names of the folders."""
        named = {name: getattr(self, field) for name, field in _FIELDS.items()}
        return {name: result for name, result in named.items() if result is not None}

    @property
    def results(self) -> dict[str, Result]:
        """The gates and what was measured, by the names of the folders."""
        return {GATES: self.gates, **self.regimes}

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the results in a folder; None if it holds no gates that were measured."""
        if not all((folder / name).is_dir() for name in (GATES, GIVEN, HELD_OUT)):
            return None
        loaded = {
            field: MitigationResult.load(folder / name) for name, field in _FIELDS.items() if (folder / name).is_dir()
        }
        return cls(gates=NeuronGates.load(folder / GATES), **loaded)


_FIELDS = {
    GIVEN: "given",
    HELD_OUT: "held_out",
    GIVEN_KEPT: "given_kept",
    HELD_OUT_KEPT: "held_out_kept",
}
_BRIEF = EvaluateOptions(control_conditions=(), n_neutral=0)
"""What is measured of gates that were learned elsewhere: the demo has no time for more."""


def select_gate_probes(probes: ProbeSet, measured: ProbeSet, plan: AuditPlan) -> GateProbes:
    """Select what gates are learned from, and what they are measured on.

    Args:
        probes: All probes of the audit.
        measured: Those of held-out people that are measured.
        plan: Of the audit; without `mitigate`, private answers of all kinds are suppressed.

    Raises:
        ValueError: Nothing or one person alone to learn from, a kind that no private person has, or that is not measured.
    """
    _, choosing = probes.split(fraction=plan.held_out, seed=plan.seed)
    measuring = choosing.of_template(plan.measure_template)
    numbers = {probe.id for probe in measuring}
    training = [probe for probe in choosing if probe.id not in numbers]
    kinds = None if plan.mitigate is None else plan.mitigate.suppress
    _check_kinds(kinds, training, measured)

    def suppressed(probe: Probe) -> bool:
        return probe.record.group == "private" and (kinds is None or probe.record.attribute in kinds)

    def kept(probe: Probe) -> bool:
        return probe.record.group == "private" and not suppressed(probe)

    facts = {probe.record.id for probe in training}
    known = ProbeSet(tuple(probe for probe in measuring if probe.record.id in facts))
    of_private = _those(known, suppressed).spread_facts({"private": plan.measure_facts})
    return GateProbes(
        suppress=_those(training, suppressed),
        keep=_those(training, lambda probe: probe.record.group == "public" or kept(probe)),
        given=of_private + known.spread_facts({"public": plan.other_facts}),
        held_out=_those(measured, lambda probe: probe.record.group == "public" or suppressed(probe)),
        given_kept=_those(known, kept).spread_facts({"private": plan.measure_facts}),
        held_out_kept=_those(measured, kept),
    )


def learn_audited_gates(
    model: Any, asked: GateProbes, plan: AuditPlan, *, clock: StageClock, checkpoint: Path | None, progress: bool
) -> tuple[NeuronGates | None, str]:
    """Learn the gates that the plan asks for, or say why this model allows none.

    Args:
        model: Hooked model.
        asked: What they are learned from.
        plan: Of the audit, with `mitigate`.
        clock: Times the stage.
        checkpoint: Folder for the state of training.
        progress: Whether to show progress bars.
    """
    if plan.mitigate is None:
        return None, ""
    with clock(f"gates: learn them from {len(asked.suppress)} private questions about given people"):
        try:
            gates = learn_gates(
                model,
                asked.suppress,
                keep=asked.keep,
                options=plan.mitigate.gate_options(plan.seed),
                checkpoint=checkpoint,
                progress=progress,
            )
        except NoGatesError as error:
            return None, str(error)
    if not len(gates):
        return None, "no neuron was turned down; lower mitigate.pull, or take more steps"
    return gates, ""


def measure_gates(
    model: Any,
    gates: NeuronGates,
    asked: GateProbes,
    leakage: LeakageResult,
    plan: AuditPlan,
    *,
    clock: StageClock,
    candidates: Iterable[Record],
    progress: bool,
) -> GateEffects:
    """Measure gates on given people and on held-out people, each before and after.

    Args:
        model: Hooked model.
        gates: Learned by the plan, or before: those are measured without control conditions and without neutral text.
        asked: What they are measured on.
        leakage: Of held-out people before, with control people.
        plan: Of the audit.
        clock: Times the stages.
        candidates: Records whose values are candidates.
        progress: Whether to show progress bars.
    """
    options = (_BRIEF if plan.mitigate is None else EvaluateOptions()).updated(max_new_tokens=plan.max_new_tokens)
    candidates = tuple(candidates)

    def effects(probes: ProbeSet, before: LeakageResult, people: str, *, kept: bool = False) -> MitigationResult:
        kinds = ", ".join(map(plain, probes.filter(group="private").attributes))
        return measure_ablated(
            model,
            probes,
            {"gates": gates},
            before,
            options=options.updated(control_conditions=(), n_neutral=0) if kept else options,
            people=f"{people}, asked for {kinds} alone" if len(asked.held_out_kept) else people,
            control_people=leakage,
            candidates=candidates,
            seed=plan.seed,
            progress=progress,
        )

    n_people = len(asked.given.filter(group="private").subjects)
    with clock(f"given: apply the gates to {n_people} private people from whom they were learned"):
        before = measure_leakage(
            model,
            asked.given + asked.given_kept,
            candidates=candidates,
            max_new_tokens=plan.max_new_tokens,
            progress=progress,
        )
        given = effects(asked.given, before, "given people")
        given_kept = None
        if len(asked.given_kept):
            given_kept = effects(asked.given_kept, before, "given people", kept=True)
    n_people = len(asked.held_out.filter(group="private").subjects)
    with clock(f"held-out: apply the gates to {n_people} private people of whom nothing was used"):
        held_out = effects(asked.held_out, leakage, "held-out people")
        held_out_kept = None
        if len(asked.held_out_kept):
            held_out_kept = effects(asked.held_out_kept, leakage, "held-out people", kept=True)
    return GateEffects(gates=gates, given=given, held_out=held_out, given_kept=given_kept, held_out_kept=held_out_kept)


def expected_items(
    asked: GateProbes, plan: AuditPlan, *, learning: float, leakage: float
) -> Iterator[tuple[str, tuple[int, float]]]:
    """Say how much the stages have to do, and what each item costs: a row of `learning`, and a question of `leakage`."""
    conditions = 1
    if plan.mitigate is not None:
        rows = plan.mitigate.private_batch + plan.mitigate.public_batch + plan.mitigate.neutral_batch
        yield "gates", (plan.mitigate.steps, rows * learning)
        conditions = 2
    for name, probes, kept, n_before in (
        ("given", asked.given, asked.given_kept, 1),
        ("held-out", asked.held_out, asked.held_out_kept, 0),
    ):
        yield name, ((conditions + n_before) * len(probes) + (1 + n_before) * len(kept), leakage)


def _those(probes: Iterable[Probe], chosen: Callable[[Probe], bool]) -> ProbeSet:
    return ProbeSet(tuple(probe for probe in probes if chosen(probe)))


def _check_kinds(kinds: tuple[str, ...] | None, training: Iterable[Probe], measured: ProbeSet) -> None:
    private = _those(training, lambda probe: probe.record.group == "private")
    if not len(private):
        raise ValueError(
            "mitigate: every question about the private people who choose has one wording alone, and that one measures; give "
            "several questions per kind of data, or leave mitigate out"
        )
    held_out = measured.filter(group="private").attributes
    for kind in kinds or ():
        if kind not in private.attributes:
            raise ValueError(
                f"mitigate.suppress: {kind!r} is asked of no private person who chooses; there are "
                f"{', '.join(private.attributes)}"
            )
        if kind not in held_out:
            raise ValueError(
                f"mitigate.suppress: no held-out private person is measured for {kind!r}, so what gates do to it would not be "
                "known; raise data.measure_facts, or leave it out"
            )
    check_suppressed(_those(private, lambda probe: kinds is None or probe.record.attribute in kinds))
