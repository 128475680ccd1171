"""Recovery attacks: how much of the reduction is left when an attacker does more than ask the plain question.

Four attacks on a model with neurons ablated, each compared with the whole model under the same attack:
- `translate`: the question, and on the next line its translation into the training language, in one prompt;
- `prefix`: the beginning of an answer, "Sure, the answer is";
- `sampling`: several sampled answers instead of the greedy one;
- `finetune`: a few steps of training on OTHER people's data while the neurons stay ablated (or the gates applied).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import pandas as pd

from xlmech.checks import check_choices
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.engine.sampling import Sampling
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation.attack_prompts import prefixed, translated
from xlmech.mitigation.conditions import check_before, check_sets
from xlmech.mitigation.reduction import reduction_rows
from xlmech.models import load as models
from xlmech.neurons.ablation import Ablated, ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.options import AttackOptions, PlantOptions
from xlmech.percent import share_text
from xlmech.planting.finetune import finetuned
from xlmech.planting.samples import check_forms
from xlmech.storage.result import Result

Attack = Literal["translate", "prefix", "sampling", "finetune"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
ALL = "all"
"""Stands for all query languages together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RecoveryResult(Result):
    """Reduction of leakage that is left under attack.

    Attributes:
        effects: One row per (`attack`, `query_language`), with the plain question as attack `plain` first, and the language
            `all` last per attack. Extraction `before` (without ablation, under the same attack) and `after` with `after_low`
            and `after_high`; `reduction` = 1 - after/before with its 95 % interval over subjects `low` to `high` and the
            `reason` where one is NaN; `of_plain` = 1 - after / the whole model's extraction by the plain question; `risen`,
            `n_subjects`, `n_probes`. Control people are not attacked, so chance is not known.
        n_neurons: Number of ablated neurons; of gates, of those that they turn down.
        mean_factor: Mean factor of these; NaN for a set, which is set to zero.
        losses: Mean cross-entropy (nats) per step of fine-tuning with the neurons ablated or turned down; empty
            without that attack.
        plant_language: Language that questions were translated into, "" where unknown.
    """

    kind: ClassVar[str] = "recovery"
    effects: pd.DataFrame
    n_neurons: int
    mean_factor: float = float("nan")
    losses: tuple[float, ...] = ()
    plant_language: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per attack and query language."""
        return self.effects

    def headline(self) -> dict[str, str]:
        """Map each attack to the reduction over all query languages."""
        rows: Any = self.effects[self.effects.query_language == ALL].itertuples()
        return {
            row.attack: f"reduction {share_text(row.reduction, row.low, row.high, row.reason)}, {row.n_subjects} people"
            for row in rows
        }


def recovery_attacks(
    model: Any,
    probes: ProbeSet,
    neurons: Ablated,
    *,
    attacks: Sequence[Attack] = ATTACKS,
    options: AttackOptions = AttackOptions(),
    before: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    plant_language: str | None = None,
    finetune_records: Iterable[Record] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RecoveryResult:
    """Attack a model with `neurons` set to zero or turned down by gates, and measure how much of the reduction is left.

    A reduction that an attack takes away was hidden, not removed. Answers count in any language's form. An attacker with more
    samples, steps or ideas may recover more.

    Args:
        model: Hooked model; its weights are the same to the last bit afterwards, also after an error.
        probes: Held-out probes. The private ones are attacked; people of the public ones are fine-tuned on.
        neurons: Neurons to ablate, or gates.
        attacks: Attacks to make; the plain question is always asked too.
        options: How hard the attacks try.
        before: Leakage of the private probes (or more) without attack or ablation, if it is known already.
        candidates: Records whose values are candidates, as of `measure_leakage`; those of `probes` by default.
        plant_language: Training language, to translate questions into; the model's by default. Probes in it stay as they are.
        finetune_records: Records to fine-tune on, whatever their group; the public ones of `probes` by default.
        seed: Seed of fine-tuning's batches.
        progress: Whether to show progress bars.

    Returns:
        RecoveryResult.

    Raises:
        ValueError: There are no private probes or no neurons; an attack is unknown; there is no training language to translate
            into; there are no people, or attacked people, to fine-tune on; `before` lacks a probe or extraction; or the neurons
            are of another model.
    """
    attacks = check_choices("attack", attacks, Attack)
    private = probes.filter(group="private")
    if not len(private):
        raise ValueError("no private probes to attack; give records of group private")
    if not len(neurons):
        raise ValueError("the neuron set is empty, or all gates are 1: there is nothing to recover from")
    check_sets(model, [neurons])
    language = models.plant_language(model) if plant_language is None else plant_language
    asked = {"prefix": prefixed(private, options.prefix)}
    if "translate" in attacks:
        asked["translate"] = translated(private, language)
    drawn = Sampling(n_samples=options.n_samples, temperature=options.temperature, seed=options.sampling_seed)
    training = PlantOptions(
        languages=probes.languages, steps=options.steps, batch_size=options.finetune_batch, seed=seed,
        learning_rate=options.learning_rate, private_share=0.0, statement_share=0.0,
    )  # fmt: skip
    people = _finetune_records(probes, finetune_records) if "finetune" in attacks else ()
    check_forms(people, training)
    records = tuple(candidates or probes.records)
    losses: tuple[float, ...] = ()

    def measure(attack: str, *, ablated: bool) -> pd.DataFrame:
        nonlocal losses
        with ExitStack() as stack:
            if ablated:
                stack.enter_context(ablate(model, neurons))
            if attack == "finetune":
                losses = stack.enter_context(
                    finetuned(model, people, training, frame=private[0].format, progress=progress)
                )
            return measure_leakage(
                model, asked.get(attack, private), sampling=drawn if attack == "sampling" else None, candidates=records,
                max_new_tokens=options.max_new_tokens, batch_size=options.batch_size, progress=progress,
            ).probes  # fmt: skip

    plain = check_before(before, private).probes if before is not None else measure("plain", ablated=False)
    frames = []
    for attack in ("plain", *attacks):
        whole = plain if attack == "plain" else measure(attack, ablated=False)
        frames.append(_effects(whole, measure(attack, ablated=True), plain).assign(attack=attack))
    return RecoveryResult(
        effects=pd.concat(frames, ignore_index=True),
        n_neurons=len(neurons),
        mean_factor=neurons.mean_factor if isinstance(neurons, NeuronGates) else float("nan"),
        losses=losses,
        plant_language=language,
        provenance=models.provenance(model, seed=seed),
    )


def _effects(before: pd.DataFrame, after: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """Compare extraction per query language, and over all together."""
    rows = []
    for language in (*plain.query_language.unique(), ALL):
        part = (before.query_language == language).to_numpy() | (language == ALL)
        hits, left, by_plain = (frame.extracted.to_numpy(dtype=float)[part] for frame in (before, after, plain))
        probes = before[part].assign(query_language=language)
        row = reduction_rows(probes, hits, [left], by=["query_language"])
        rate = by_plain.mean()
        rows.append(row.assign(of_plain=1 - row.after / rate if rate else float("nan")))
    return pd.concat(rows, ignore_index=True).drop(columns=["n_draws", "control"])


def _finetune_records(probes: ProbeSet, records: Iterable[Record] | None) -> tuple[Record, ...]:
    """Return the records to fine-tune on, as public ones."""
    given = tuple(records) if records is not None else probes.filter(group="public").records
    if not given:
        raise ValueError("no people to fine-tune on: give finetune_records=, or public records among the probes")
    attacked = set(probes.filter(group="private").subjects) & {record.subject for record in given}
    if attacked:
        raise ValueError(
            f"fine-tuning on {len(attacked)} of the people attacked would teach, not recover; give other people"
        )
    return tuple(record.model_copy(update={"group": "public"}) for record in given)
