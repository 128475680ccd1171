"""Measure what an ablation reduces and what it costs, before and after, beside control conditions of the same size.

Give it held-out people and templates and, if the neurons were located in some languages only, the other languages too.
Otherwise the reduction is that of the training set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from xlmech.checks import check_choice, check_choices
from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.engine.record import ActivationMoments, activation_moments
from xlmech.leakage.measure import LeakageResult, candidate_forms, measure_leakage
from xlmech.mitigation import reduction as reductions
from xlmech.mitigation.conditions import (
    Condition,
    ablation_arguments,
    check_before,
    check_sets,
    control_conditions,
    is_control,
    is_random,
    named_sets,
)
from xlmech.mitigation.knowledge import base_knowledge
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.neutral_text import check_texts, cost_of, neutral_nll
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Result

_LATER = dict.fromkeys(("after_low", "after_high", "control"), float("nan")) | {
    "reason": "",
    "measure": reductions.EXTRACTION,
}
"""Columns of the effects that earlier versions did not write."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MitigationResult(Result):
    """Leakage, public facts, neutral text and base knowledge, before and after ablation.

    Attributes:
        effects: One row per (`condition`, `group`, `query_language`, `measure`). `measure` is `extraction` (share of probes),
            `exposure` (bits; above the mean of control people where `above_controls`) or `accuracy` (share of countries,
            group `base`). `before`; `after` with its interval `after_low` to `after_high`; `control` (the rate of control
            people before, NaN where they were not asked); `reduction` = 1 - after/before with its 95 % interval `low` to
            `high` (over subjects, and over draws if there are several), and the `reason` where one is NaN, else "";
            `risen` (records whose leakage rose), `n_subjects`, `n_probes`, `n_draws`; `held_out` (no neurons were chosen in
            the query language).
        cost: One row per (condition, query_language), random conditions excepted: `nll_before`, `nll_after` (nats per token of
            neutral text), `rise` (relative).
        sizes: Number of neurons per condition.
        total_neurons: Number of neurons of the model.
        plant_language: Training language of the model, "" where unknown.
        overall: Effects on extraction over all query languages together, one row per (condition, group). Empty where
            extraction was not measured, and in results of earlier versions.
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
        """Effects on extraction; columns that earlier versions did not write are filled as unknown."""
        frame = self.effects.assign(**{name: value for name, value in _LATER.items() if name not in self.effects})
        return frame[frame.measure == reductions.EXTRACTION]

    @property
    def chosen(self) -> dict[str, int]:
        """Number of neurons per condition, without control conditions."""
        return {name: size for name, size in self.sizes.items() if not is_control(name)}

    @property
    def random(self) -> dict[str, int]:
        """Number of neurons per condition of random neurons: those whose names start with `random`."""
        return {name: size for name, size in self.sizes.items() if is_random(name)}

    def to_frame(self) -> pd.DataFrame:
        """Return effects joined with cost, one row per condition, group, query language and measure."""
        return self.effects.merge(self.cost, on=["condition", "query_language"], how="left")

    def trade_off(self) -> pd.DataFrame:
        """Compare reduction and cost of all conditions, one row each.

        Returns:
            `condition`, `method` (of a name `method@size`, else ""), `neurons`, `reduction` (of private extraction, all query
            languages together), `lost` (share of the public facts known before), `rise` (largest of neutral text's NLL),
            `control`, and `front`: whether no other set reduces as much and loses no more public facts (Pareto). NaN where not
            measured; control conditions are never on the front.
        """
        rows = []
        for name, size in self.sizes.items():
            effects = self.extraction[self.extraction.condition == name]
            reduction, lost = (
                reductions.pooled_reduction(effects[effects.group == group]) for group in ("private", "public")
            )
            rise = self.cost[self.cost.condition == name].rise.max()
            rows.append((name, name.rpartition("@")[0], size, reduction, lost, rise, is_control(name)))
        frame = pd.DataFrame(rows, columns=["condition", "method", "neurons", "reduction", "lost", "rise", "control"])
        gains = frame.reduction.where(~frame.control)
        return frame.assign(front=reductions.pareto_front(gains, frame.lost))


def evaluate_mitigation(
    model: Any,
    probes: ProbeSet,
    neurons: NeuronSet | Mapping[str, NeuronSet],
    *,
    options: EvaluateOptions = EvaluateOptions(),
    before: LeakageResult | None = None,
    control_people: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    neutral: Mapping[str, Sequence[str]] | None = None,
    moments: ActivationMoments | None = None,
    seed: int = 0,
    progress: bool = True,
) -> MitigationResult:
    """Measure leakage and cost with each set of neurons ablated, and under control conditions of the same size.

    Args:
        model: Hooked model.
        probes: Probes of held-out private people; of public people, for what is lost; of control people, for exposure above
            chance.
        neurons: A set, or several by name.
        options: What is measured, how sets are ablated, and the control conditions.
        before: Leakage of these probes (or more) without ablation, if it is known already.
        control_people: Leakage of control people without ablation; by default those among the probes. Where private people
            reach no more than they do there is nothing to reduce (NaN, with the reason).
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        neutral: Texts by language whose likelihood is the cost; by default the language packs' `judging` sentences, by which no
            neurons are chosen. Give others if you chose neurons by these. A language without texts has no cost.
        moments: Mean and spread of activations for modes `mean` and `noise`; by default over the prompts of control people, or
            over the language packs' `choosing` sentences.
        seed: Seed of the first random draw; the next draws count on.
        progress: Whether to show progress bars.

    Returns:
        MitigationResult; its conditions are the sets' names (`neurons` for a single set) and the control conditions.

    Raises:
        ValueError: There are no probes or no neurons; `before` lacks a probe or a measure; a name is unknown; a set is of
            another model; exposure has fewer than two candidates; or there are too few random neurons to draw from.
    """
    sets = named_sets(neurons, options.control_conditions)
    matched = next(iter(sets)) if options.matched_set is None else options.matched_set
    check_choice("matched_set", matched, sets)
    evaluation = Evaluation(
        model=model, probes=probes, options=options, before=before, control_people=control_people,
        candidates=tuple(candidates or probes.records), neutral=neutral, moments=moments, seed=seed, progress=progress,
    )  # fmt: skip
    return evaluation.run(sets, {"": sets[matched]})


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Everything but the sets that `evaluate_mitigation` takes, checked; see there for the attributes."""

    model: Any
    probes: ProbeSet
    options: EvaluateOptions
    before: LeakageResult | None
    control_people: LeakageResult | None
    candidates: tuple[Record, ...]
    neutral: Mapping[str, Sequence[str]] | None
    moments: ActivationMoments | None = None
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        if not len(self.probes):
            raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
        check_choices("held-out language", self.options.held_out_languages, self.probes.languages)
        check_texts(self.neutral)
        if "exposure" in self.options.measures:
            for attribute, values in candidate_forms(self.probes, self.candidates).items():
                if len(values) < 2:
                    raise ValueError(
                        f"exposure ranks a value among others, and {attribute} has only {len(values)} candidate value; give "
                        "more records in candidates="
                    )

    def run(self, sets: Mapping[str, NeuronSet], matched: Mapping[str, NeuronSet]) -> MitigationResult:
        """Measure under the ablation of every set, and under the control conditions of the matched sets.

        Args:
            sets: Sets by name.
            matched: Sets that get control conditions, by what is appended to the names of these.
        """
        check_sets(self.model, sets.values())
        known = check_before(self.before, self.probes, self.options.measures) if self.before is not None else None
        conditions = self._conditions(sets, matched)
        before = self._measure(leakage=known)
        effects, cost, overall = [], [cost_of(before.nll, before.nll).assign(condition="").iloc[:0]], []
        for condition in conditions:
            after = []
            for neurons in condition.draws:
                with ablate(self.model, neurons, **condition.ablation):
                    after.append(self._measure(with_nll=not is_random(condition.name)))
            effects.append(self._effects(before, after).assign(condition=condition.name))
            if "extraction" in self.options.measures:
                overall.append(self._overall(before, after).assign(condition=condition.name))
            if not is_random(condition.name):
                cost.append(cost_of(before.nll, after[0].nll).assign(condition=condition.name))
        backend = backend_of(self.model)
        return MitigationResult(
            effects=pd.concat(effects, ignore_index=True),
            cost=pd.concat(cost[1:] or cost, ignore_index=True),
            sizes={condition.name: len(condition.draws[0]) for condition in conditions},
            total_neurons=backend.n_layers * backend.d_mlp,
            plant_language=before.leakage.plant_language,
            overall=pd.concat(overall, ignore_index=True) if overall else pd.DataFrame(),
            provenance=provenance(self.model, seed=self.seed),
        )

    def baseline_prompts(self) -> list[str]:
        """Return the prompts of control people, or else the language packs' `choosing` sentences."""
        prompts = [probe.prompt for probe in self.probes.filter(group="control")]
        return prompts or [text for code in self.probes.languages for text in packs.load_language(code).choosing]

    def _conditions(self, sets: Mapping[str, NeuronSet], matched: Mapping[str, NeuronSet]) -> list[Condition]:
        mode, moments = self.options.mode, self.moments
        if moments is None and (mode in ("mean", "noise") or "noise" in self.options.control_conditions):
            moments = activation_moments(self.model, self.baseline_prompts(), progress=self.progress)
        ablation = ablation_arguments(mode, factor=self.options.factor, moments=moments, seed=self.seed)
        conditions = [Condition(name=name, draws=(neurons,), ablation=ablation) for name, neurons in sets.items()]
        return conditions + control_conditions(
            self.model, self.probes, matched, self.options, moments=moments, seed=self.seed, progress=self.progress
        )

    def _measure(self, *, with_nll: bool = True, leakage: LeakageResult | None = None) -> _Measured:
        languages = self.probes.languages
        shared: dict[str, Any] = {"batch_size": self.options.batch_size, "progress": self.progress}
        nll = pd.Series(dtype=float)
        if with_nll:
            nll = neutral_nll(backend_of(self.model), languages, n_neutral=self.options.n_neutral, texts=self.neutral)
        if leakage is None:
            leakage = measure_leakage(
                self.model, self.probes, measures=self.options.measures, candidates=self.candidates, **shared
            )
        answers = base_knowledge(self.model, languages, **shared).answers if self.options.knowledge else None
        return _Measured(leakage=leakage, nll=nll, knowledge=answers)

    def _effects(self, before: _Measured, after: Sequence[_Measured]) -> pd.DataFrame:
        probes, frames = [measured.leakage.probes for measured in after], []
        if "extraction" in self.options.measures:
            people = self.control_people.probes if self.control_people is not None else None
            frames.append(reductions.extraction_effects(before.leakage.probes, probes, control_people=people))
        if "exposure" in self.options.measures:
            frames.append(reductions.exposure_effects(before.leakage.probes, probes))
        if before.knowledge is not None:
            answers = [measured.knowledge for measured in after if measured.knowledge is not None]
            frames.append(reductions.accuracy_effects(before.knowledge, answers))
        frame = pd.concat(frames, ignore_index=True)
        return frame.assign(held_out=frame.query_language.isin(list(self.options.held_out_languages)))

    def _overall(self, before: _Measured, after: Sequence[_Measured]) -> pd.DataFrame:
        """Effects on extraction per group, over all query languages together."""
        people = self.control_people
        rows = reductions.extraction_effects(
            before.leakage.probes.assign(query_language="all"),
            [measured.leakage.probes for measured in after],
            control_people=people.probes.assign(query_language="all") if people is not None else None,
        )
        return rows.drop(columns="query_language")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Measured:
    """Leakage, nats per token of neutral text by language, and answers on capitals, under one ablation."""

    leakage: LeakageResult
    nll: pd.Series
    knowledge: pd.DataFrame | None
