"""What deactivation buys and what it costs, beside controls of the same size.

Give it people, templates and, if neurons were chosen in some languages only, languages that did not choose the neurons;
otherwise the reduction is of the training set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import pandas as pd

from xlmech.checks import check_choice, check_choices
from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.record import ActivationMoments, activation_moments
from xlmech.leakage.measure import LeakageResult, Measure, candidate_forms, measure_leakage
from xlmech.mitigation import reduction as reductions
from xlmech.mitigation.conditions import (
    Condition,
    Control,
    check_sets,
    control_conditions,
    how_of,
    is_control,
    is_random,
    named_sets,
)
from xlmech.mitigation.knowledge import base_knowledge
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.neurons.ablation import Mode, ablate
from xlmech.neurons.attribution.neutral_text import check_texts, cost_of, neutral_nll
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.result import Result

_LATER = dict.fromkeys(("after_low", "after_high", "control"), float("nan")) | {
    "reason": "",
    "measure": reductions.EXTRACTION,
}
"""Columns of the effects that earlier versions did not write."""
_COLUMN_OF = {"extraction": "extracted", "exposure": "exposure_bits"}


@dataclass(frozen=True, eq=False, kw_only=True)
class MitigationResult(Result):
    """Leakage, public facts, neutral text and base knowledge, before and after.

    Attributes:
        effects: One row per (`condition`, `group`, `query_language`, `measure`): `before`, `after` with its interval in
            `after_low` and `after_high`, `control` (what control people reach before, NaN where they were not asked),
            `reduction` = 1 - after/before with `low` and `high` (95 %, over subjects, and draws where a control has several)
            and the `reason` where one of them is NaN ("" elsewhere), `risen` (records whose leakage rose), `n_subjects`,
            `n_probes`, `n_draws`, `held_out` (the query language chose no neurons). `measure` is `extraction` (share of
            probes), `exposure` (bits; above the control subjects' mean where `above_controls`) or `accuracy` (share of
            countries, group `base`).
        cost: One row per (condition but random ones, query_language): `nll_before`, `nll_after` (nats per token of neutral
            text), `rise` (relative).
        sizes: Number of neurons per condition.
        total_neurons: Of the model.
        plant_language: As of the model.
        overall: The effects on extraction once more, all query languages together: one row per (condition, group). Empty in
            results of earlier versions, and where extraction was not measured.
    """

    kind: ClassVar[str] = "mitigation"
    effects: pd.DataFrame
    cost: pd.DataFrame
    sizes: dict[str, int]
    total_neurons: int
    plant_language: str = ""
    overall: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def extraction(self) -> pd.DataFrame:
        """The effects on extraction; columns that results of earlier versions do not hold are filled as not known."""
        frame = self.effects.assign(**{name: value for name, value in _LATER.items() if name not in self.effects})
        return frame[frame.measure == reductions.EXTRACTION]

    @property
    def chosen(self) -> dict[str, int]:
        """Number of neurons per condition that is no control."""
        return {name: size for name, size in self.sizes.items() if not is_control(name)}

    @property
    def random(self) -> dict[str, int]:
        """Number of neurons per control of random neurons: every condition whose name starts with `random`."""
        return {name: size for name, size in self.sizes.items() if is_random(name)}

    def to_frame(self) -> pd.DataFrame:
        """Effects and cost side by side, one row per condition, group, query language and measure."""
        return self.effects.merge(self.cost, on=["condition", "query_language"], how="left")

    def trade_off(self) -> pd.DataFrame:
        """One row per condition: what it buys, what it costs, and whether another set beats it.

        Returns:
            `condition`, `method` (of a name `method@count`, else ""), `neurons`, `reduction` (of private extraction, all query
            languages together), `lost` (share of the public facts known before), `rise` (largest of neutral text's NLL),
            `control`, and `front`: no other set reduces as much and loses no more public facts (Pareto). NaN where not
            measured; controls are never on the front.
        """
        rows = []
        for name, size in self.sizes.items():
            part = self.extraction[self.extraction.condition == name]
            method = name.rpartition("@")[0]
            gain, loss = (reductions.pooled_reduction(part[part.group == group]) for group in ("private", "public"))
            rise = self.cost[self.cost.condition == name].rise.max()
            rows.append((name, method, size, gain, loss, rise, is_control(name)))
        frame = pd.DataFrame(rows, columns=["condition", "method", "neurons", "reduction", "lost", "rise", "control"])
        gains = frame.reduction.where(~frame.control)
        return frame.assign(front=reductions.pareto_front(gains, frame.lost))


def evaluate_mitigation(
    model: Any,
    probes: ProbeSet,
    neurons: NeuronSet | Mapping[str, NeuronSet],
    *,
    measures: Sequence[Measure] = ("extraction",),
    controls: Sequence[Control] = ("random",),
    n_random: int = 1,
    like: str | None = None,
    mode: Mode = "zero",
    factor: float = 0.0,
    moments: ActivationMoments | None = None,
    before: LeakageResult | None = None,
    control_people: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    neutral: Mapping[str, Sequence[str]] | None = None,
    n_neutral: int = packs.N_NEUTRAL,
    knowledge: bool = False,
    held_out_languages: Collection[str] = (),
    seed: int = 0,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> MitigationResult:
    """Measure leakage and cost with each set of neurons deactivated, and with controls of one set's size.

    Args:
        model: Hooked model.
        probes: Held-out private probes, public ones to see what is lost, and control ones for exposure above chance.
        neurons: A set, or several by name.
        measures: `extraction`, `exposure` or both.
        controls: `random` (as many other neurons of the same layers), `random_magnitude` (also as active, by
            `mean_magnitudes`), `noise` (the set's own neurons replaced by Gaussian noise of their mean and spread).
        n_random: Draws of each random control, pooled in one condition: its interval is over draws and subjects.
        like: Name of the set that the controls match; the first by default.
        mode: How sets and random neurons are deactivated, as of `ablate`.
        factor: Of mode `scale`.
        moments: Mean and spread of modes `mean` and `noise`; by default those over the prompts of the control probes, or over
            the language packs' sentences that do not judge.
        before: Leakage of the same probes without deactivation, where it is known already.
        control_people: Leakage without deactivation that has control people, by default those among the probes: where private
            people reach no more than they do, there is nothing to reduce (NaN, with the reason).
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        neutral: Texts by language for the cost; by default the language packs' `judging` sentences, the half that chooses
            no neurons. Give others where you have chosen neurons by these. A language without any has no cost.
        n_neutral: Most neutral texts per language; 0 for none.
        knowledge: Also measure what the base model knew (`base_knowledge`), as rows of group `base`.
        held_out_languages: Query languages that did not choose the neurons; only marks their rows.
        seed: Of the controls' first draw; the following ones count on.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        MitigationResult; conditions are the sets' names (`neurons` for a single one) and the controls'.

    Raises:
        ValueError: No probes, no neurons, `before` of other probes or without a measure, an unknown measure, control, mode, set
            or language, a set of another model, exposure among fewer than two candidates, or what `random_neurons` refuses.
    """
    measures = check_choices("measure", measures, Measure)
    sets = named_sets(neurons, controls)
    if like is not None:
        check_choice("set in like=", like, sets)
    check_choice("mode", mode, Mode)
    check_sets(model, sets.values())
    asked = Asked(
        model=model, probes=probes, measures=tuple(measures), candidates=tuple(candidates or probes.records),
        neutral=neutral, n_neutral=n_neutral, knowledge=knowledge, held_out_languages=held_out_languages, seed=seed,
        batch_size=batch_size, progress=progress, control_people=control_people,
    )  # fmt: skip
    if moments is None and (mode in ("mean", "noise") or "noise" in controls):
        moments = activation_moments(model, asked.quiet_texts(), progress=progress)
    how = how_of(mode, factor=factor, moments=moments, seed=seed)
    conditions = [Condition(name=name, draws=(chosen,), how=how) for name, chosen in sets.items()]
    wanted = sets[like] if like is not None else next(iter(sets.values()))
    conditions += control_conditions(
        model, probes, wanted, controls, n_random=n_random, how=how, moments=moments, seed=seed, progress=progress
    )
    return asked.result(conditions, before)


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What is measured before and under every condition; arguments as of `evaluate_mitigation`."""

    model: Any
    probes: ProbeSet
    measures: tuple[Measure, ...]
    candidates: tuple[Record, ...]
    neutral: Mapping[str, Sequence[str]] | None
    n_neutral: int
    knowledge: bool
    held_out_languages: Collection[str]
    seed: int
    batch_size: int
    progress: bool
    control_people: LeakageResult | None = None

    def __post_init__(self) -> None:
        if not len(self.probes):
            raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
        if not self.measures:
            raise ValueError(f"nothing to measure; use {', '.join(map(repr, get_args(Measure)))}")
        check_choices("held-out language", self.held_out_languages, self.probes.languages)
        check_texts(self.neutral)
        if "exposure" in self.measures:
            for attribute, values in candidate_forms(self.probes, self.candidates).items():
                if len(values) < 2:
                    raise ValueError(
                        f"exposure ranks a value among others, and {attribute} has only {len(values)} candidate value; give "
                        "more records in candidates="
                    )

    def quiet_texts(self) -> list[str]:
        """Prompts about control subjects, or where there are none the packs' sentences that do not judge."""
        prompts = [probe.prompt for probe in self.probes.filter(group="control")]
        return prompts or [text for code in self.probes.languages for text in packs.load_language(code).choosing]

    def result(self, conditions: Sequence[Condition], before: LeakageResult | None) -> MitigationResult:
        """All conditions measured, and compared with none of them."""
        first = self._measured(nll=True, leakage=self._checked(before) if before is not None else None)
        effects, cost, overall = [], [], []
        for condition in conditions:
            found = []
            for chosen in condition.draws:
                with ablate(self.model, chosen, **condition.how):
                    found.append(self._measured(nll=not is_random(condition.name)))
            effects.append(self._effects(first, found).assign(condition=condition.name))
            if "extraction" in self.measures:
                overall.append(_overall(first, found, self.control_people).assign(condition=condition.name))
            if not is_random(condition.name):
                cost.append(cost_of(first.nll, found[0].nll).assign(condition=condition.name))
        nothing = cost_of(first.nll, first.nll).assign(condition="").iloc[:0]
        backend = backend_of(self.model)
        return MitigationResult(
            effects=pd.concat(effects, ignore_index=True),
            cost=pd.concat(cost or [nothing], ignore_index=True),
            sizes={condition.name: len(condition.draws[0]) for condition in conditions},
            total_neurons=backend.n_layers * backend.d_mlp,
            plant_language=first.leakage.plant_language,
            overall=pd.concat(overall, ignore_index=True) if overall else pd.DataFrame(),
            provenance=provenance(self.model, seed=self.seed),
        )

    def _checked(self, before: LeakageResult) -> LeakageResult:
        if before.probes.probe.tolist() != [probe.id for probe in self.probes]:
            raise ValueError("`before` was measured on other probes; measure it on the same ones, in the same order")
        missing = [name for name in self.measures if _COLUMN_OF[name] not in before.probes]
        if missing:
            raise ValueError(
                f"`before` has no {missing[0]}; measure it with measures={self.measures!r}, or leave it out"
            )
        return before

    def _measured(self, *, nll: bool, leakage: LeakageResult | None = None) -> _State:
        options: dict[str, Any] = {"batch_size": self.batch_size, "progress": self.progress}
        languages, found = self.probes.languages, pd.Series(dtype=float)
        if nll:
            found = neutral_nll(self.model, languages, n_neutral=self.n_neutral, texts=self.neutral)
        leakage = leakage or measure_leakage(
            self.model, self.probes, measures=self.measures, candidates=self.candidates, **options
        )
        known = base_knowledge(self.model, languages, **options).answers if self.knowledge else None
        return _State(leakage=leakage, nll=found, known=known)

    def _effects(self, before: _State, found: Sequence[_State]) -> pd.DataFrame:
        frames, afters = [], [state.leakage.probes for state in found]
        if "extraction" in self.measures:
            known = self.control_people.probes if self.control_people is not None else None
            frames.append(reductions.extraction_effects(before.leakage.probes, afters, control_people=known))
        if "exposure" in self.measures:
            frames.append(reductions.exposure_effects(before.leakage.probes, afters))
        if before.known is not None:
            answers = [state.known for state in found if state.known is not None]
            frames.append(reductions.accuracy_effects(before.known, answers))
        frame = pd.concat(frames, ignore_index=True)
        return frame.assign(held_out=frame.query_language.isin(list(self.held_out_languages)))


@dataclass(frozen=True, eq=False, kw_only=True)
class _State:
    """What was measured once: leakage, nats per token of neutral text by language, answers on capitals."""

    leakage: LeakageResult
    nll: pd.Series
    known: pd.DataFrame | None


def _overall(before: _State, found: Sequence[_State], control_people: LeakageResult | None) -> pd.DataFrame:
    """Effects on extraction per group, over all query languages together."""
    together = before.leakage.probes.assign(query_language="all")
    controls = control_people.probes.assign(query_language="all") if control_people is not None else None
    rows = reductions.extraction_effects(together, [state.leakage.probes for state in found], control_people=controls)
    return rows.drop(columns="query_language")
