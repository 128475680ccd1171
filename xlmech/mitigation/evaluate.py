"""Measure what an ablation reduces and what it costs, before and after, beside control conditions of the same size.

Give it held-out people, templates and languages; else the reduction is that of what located the neurons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from xlmech.checks import check_choices
from xlmech.data import languages as packs
from xlmech.data.candidates import candidate_forms
from xlmech.data.probes import ProbeSet
from xlmech.data.prompt_format import PLAIN, TEXT
from xlmech.data.records import Record
from xlmech.engine.record import ActivationMoments, activation_moments
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation import reduction as reductions
from xlmech.mitigation.brief import mitigation_brief
from xlmech.mitigation.conditions import (
    Condition,
    ablation_arguments,
    check_before,
    check_sets,
    control_conditions,
    is_control,
    is_random,
    mean_factors,
    named_sets,
)
from xlmech.mitigation.fluency import cost_of, neutral_nll
from xlmech.mitigation.knowledge import base_knowledge
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.neurons.ablation import Ablated, ablate
from xlmech.neurons.attribution.neutral_text import check_texts
from xlmech.options import EvaluateOptions
from xlmech.percent import share_text
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
        sizes: Number of neurons per condition; of gates, of those that they turn down.
        mean_factors: Mean factor of the neurons that are turned down, per condition of gates.
        total_neurons: Number of neurons of the model.
        plant_language: Training language of the model, "" where unknown.
        overall: Effects on extraction over all query languages together, one row per (condition, group). Empty where
            extraction was not measured, and in results of earlier versions.
        answers: Extraction of private probes one by one, under each set but no control condition: `condition`, `probe`, `record`,
            `query_language`, `before`, `after`. Empty as `overall` is.
        prompt: Prompt format of the questions, as of `PromptFormat.to_dict`; empty in results of earlier versions.
    """

    kind: ClassVar[str] = "mitigation"
    _brief = mitigation_brief
    effects: pd.DataFrame
    cost: pd.DataFrame
    sizes: dict[str, int]
    mean_factors: dict[str, float] = field(default_factory=dict)
    total_neurons: int
    plant_language: str = ""
    overall: pd.DataFrame = field(default_factory=pd.DataFrame)
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)
    prompt: dict[str, Any] = field(default_factory=dict)

    @property
    def extraction(self) -> pd.DataFrame:
        """Effects on extraction; columns that earlier versions did not write are filled as unknown."""
        frame = self.effects.assign(**{name: value for name, value in _LATER.items() if name not in self.effects})
        return frame[frame.measure == reductions.EXTRACTION]

    def headline(self) -> dict[str, str]:
        """Map each condition to its size and its reduction of private extraction over all query languages."""
        shown = {
            name: f"{size:,} neurons{' turned down' if name in self.mean_factors else ''}"
            for name, size in self.sizes.items()
        }
        rows: Any = self.overall.itertuples()
        for row in rows:
            if row.group == "private":
                reduction = share_text(row.reduction, row.low, row.high, row.reason)
                shown[row.condition] += f", reduction of extraction {reduction}, {row.n_subjects} people"
        return shown

    @property
    def chosen(self) -> dict[str, int]:
        """Number of neurons per condition, without control conditions."""
        return {name: size for name, size in self.sizes.items() if not is_control(name)}

    @property
    def random(self) -> dict[str, int]:
        """Number of neurons per condition of random neurons: those whose names start with `random`, and permuted gates."""
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
    neurons: Ablated | Mapping[str, Ablated],
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
        neurons: A set or gates, or several by name.
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
        MitigationResult; its conditions are the sets' names (`neurons` for a single set, `gates` for single gates) and the
        control conditions.

    Raises:
        ValueError: There are no probes or no neurons; `before` lacks a probe or a measure; a name is unknown; a set is of
            another model; exposure has fewer than two candidates; there are too few random neurons to draw from; or a mode or
            a control condition does not fit gates.
    """
    backend, candidates = backend_of(model), tuple(candidates or probes.records)
    sets = named_sets(neurons, options.control_conditions)
    check_sets(model, sets.values(), options.mode)
    _check(probes, options, candidates, neutral)
    if moments is None and (options.mode in ("mean", "noise") or "noise" in options.control_conditions):
        moments = activation_moments(model, baseline_prompts(probes), progress=progress)
    ablation = ablation_arguments(options.mode, factor=options.factor, moments=moments, seed=seed)
    conditions = [Condition(name=name, draws=(of_name,), ablation=ablation) for name, of_name in sets.items()]
    conditions += control_conditions(model, probes, sets, options, moments=moments, seed=seed, progress=progress)
    shared: dict[str, Any] = {"batch_size": options.batch_size, "progress": progress}

    def measure(leakage: LeakageResult | None = None, *, with_nll: bool = True) -> _Measured:
        nll = pd.Series(dtype=float)
        if with_nll:
            nll = neutral_nll(backend, probes.languages, n_neutral=options.n_neutral, texts=neutral)
        if leakage is None:
            leakage = measure_leakage(
                model,
                probes,
                measures=options.measures,
                candidates=candidates,
                max_new_tokens=options.max_new_tokens,
                **shared,
            )
        answers = None
        with_capitals = [code for code in probes.languages if packs.find_language(code).capital]
        if options.knowledge and with_capitals:
            answers = base_knowledge(model, with_capitals, prompt=frame, **shared).answers
        return _Measured(leakage=leakage, nll=nll, knowledge=answers)

    frame = next((probe.format for probe in probes if probe.format != TEXT), PLAIN)
    first = measure(check_before(before, probes, options.measures) if before is not None else None)
    effects, overall, answers = [], [], []
    cost = [cost_of(first.nll, first.nll).assign(condition="").iloc[:0]]
    for condition in conditions:
        after = []
        for of_draw in condition.draws:
            with ablate(model, of_draw, **condition.ablation):
                after.append(measure(with_nll=not is_random(condition.name)))
        rows = _effects(first, after, control_people)
        held_out = rows.query_language.isin(options.held_out_languages)
        effects.append(rows.assign(held_out=held_out, condition=condition.name))
        if "extraction" in options.measures:
            overall.append(_overall(first, after, control_people).assign(condition=condition.name))
            if not is_control(condition.name):
                rows = reductions.private_answers(first.leakage.probes, after[0].leakage.probes)
                answers.append(rows.assign(condition=condition.name))
        if not is_random(condition.name):
            cost.append(cost_of(first.nll, after[0].nll).assign(condition=condition.name))
    return MitigationResult(
        effects=pd.concat(effects, ignore_index=True),
        cost=pd.concat(cost[1:] or cost, ignore_index=True),
        sizes={condition.name: len(condition.draws[0]) for condition in conditions},
        mean_factors=mean_factors({condition.name: condition.draws[0] for condition in conditions}),
        total_neurons=backend.n_layers * backend.d_mlp,
        plant_language=first.leakage.plant_language,
        overall=pd.concat(overall, ignore_index=True) if overall else pd.DataFrame(),
        answers=pd.concat(answers, ignore_index=True) if answers else pd.DataFrame(),
        prompt=frame.to_dict(),
        provenance=provenance(
            model, seed=seed, settings={"prompt": probes[0].format.name, "max_new_tokens": options.max_new_tokens}
        ),
    )


def _check(
    probes: ProbeSet,
    options: EvaluateOptions,
    candidates: tuple[Record, ...],
    neutral: Mapping[str, Sequence[str]] | None,
) -> None:
    if not len(probes):
        raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
    check_choices("held-out language", options.held_out_languages, probes.languages)
    check_texts(neutral)
    if "exposure" in options.measures:
        for attribute, values in candidate_forms(probes, candidates).items():
            if len(values) < 2:
                raise ValueError(
                    f"exposure ranks a value among others, and {attribute} has only {len(values)} candidate value; give "
                    "more records in candidates="
                )


def baseline_prompts(probes: ProbeSet) -> list[str]:
    """Return the prompts of control people, or if there are none the language packs' `choosing` sentences."""
    prompts = [probe.prompt for probe in probes.filter(group="control")]
    return prompts or [text for code in probes.languages for text in packs.find_language(code).choosing]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Measured:
    """Leakage, nats per token of neutral text by language, and answers on capitals, under one ablation."""

    leakage: LeakageResult
    nll: pd.Series
    knowledge: pd.DataFrame | None


def _effects(before: _Measured, after: Sequence[_Measured], control_people: LeakageResult | None) -> pd.DataFrame:
    probes, frames = [measured.leakage.probes for measured in after], []
    if "extracted" in probes[0]:
        people = control_people.probes if control_people is not None else None
        frames.append(reductions.extraction_effects(before.leakage.probes, probes, control_people=people))
    if "exposure_bits" in probes[0]:
        frames.append(reductions.exposure_effects(before.leakage.probes, probes))
    if before.knowledge is not None:
        answers = [measured.knowledge for measured in after if measured.knowledge is not None]
        frames.append(reductions.accuracy_effects(before.knowledge, answers))
    return pd.concat(frames, ignore_index=True)


def _overall(before: _Measured, after: Sequence[_Measured], control_people: LeakageResult | None) -> pd.DataFrame:
    people = control_people.probes if control_people is not None else None
    return reductions.overall_effects(before.leakage.probes, [one.leakage.probes for one in after], people)
