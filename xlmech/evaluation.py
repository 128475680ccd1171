"""What deactivation buys and what it costs, beside a random control of the same size in the same layers.

Give it people, and templates, that did not choose the neurons; otherwise the reduction is of the training set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from xlmech import languages as packs
from xlmech import metrics
from xlmech.ablation import ablate
from xlmech.answers import sequence_nll
from xlmech.backends import backend_of
from xlmech.leakage import LeakageResult, measure_leakage
from xlmech.models import provenance
from xlmech.neurons import NeuronSet
from xlmech.probes import ProbeSet
from xlmech.results import Result
from xlmech.runner import BATCH_SIZE, encode_prompt


@dataclass(frozen=True, eq=False, kw_only=True)
class MitigationResult(Result):
    """Leakage, public facts and neutral text, before and after.

    Attributes:
        effects: One row per (`condition`, `group`, `query_language`): extraction `before` and `after`, `reduction` = 1 -
            after/before with `low` and `high` (95 %, resampling subjects; NaN where nothing leaked), `risen` (records whose
            leakage rose), `n_subjects`, `n_probes`.
        price: One row per (condition but `random`, query_language): `nll_before`, `nll_after` (nats per token of neutral
            text), `rise` (relative).
        sizes: Number of neurons per condition.
        total_neurons: Of the model.
        plant_language: As of the model.
    """

    kind: ClassVar[str] = "mitigation"
    effects: pd.DataFrame
    price: pd.DataFrame
    sizes: dict[str, int]
    total_neurons: int
    plant_language: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Effects and price side by side, one row per condition, group and query language."""
        return self.effects.merge(self.price, on=["condition", "query_language"], how="left")


def evaluate_mitigation(
    model: Any,
    probes: ProbeSet,
    neurons: NeuronSet | Mapping[str, NeuronSet],
    *,
    before: LeakageResult | None = None,
    random_control: bool = True,
    n_neutral: int = packs.N_NEUTRAL,
    seed: int = 0,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> MitigationResult:
    """Measure leakage and price with each set of neurons deactivated, and with random ones of the first set's layers.

    Args:
        model: Hooked model.
        probes: Held-out private probes, and public ones to see what is lost.
        neurons: A set, or several by name.
        before: Leakage of the same probes without deactivation, where it is known already.
        random_control: Also deactivate as many random neurons in the same layers as the first set has.
        n_neutral: Neutral sentences per language for the price; 0 for none.
        seed: Of the random control.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        MitigationResult; conditions are the sets' names (`neurons` for a single one) and `random`.

    Raises:
        ValueError: No probes, no neurons, or `before` of other probes.
    """
    sets = dict(neurons) if isinstance(neurons, Mapping) else {"neurons": neurons}
    for name, chosen in sets.items():
        if not len(chosen):
            raise ValueError(f"neuron set {name!r} is empty: there is nothing to evaluate")
    if random_control and sets:
        sets["random"] = next(iter(sets.values())).random_like(seed=seed)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    before = before if before is not None else measure_leakage(model, probes, candidates=probes.records, **options)
    if before.probes.probe.tolist() != [probe.id for probe in probes]:
        raise ValueError("`before` was measured on other probes; measure it on the same ones, in the same order")
    languages = probes.languages
    nll_before = neutral_nll(model, languages, n_neutral=n_neutral)
    effects, price = [], []
    for name, chosen in sets.items():
        with ablate(model, chosen):
            after = measure_leakage(model, probes, candidates=probes.records, **options)
            if name != "random":
                nll_after = neutral_nll(model, languages, n_neutral=n_neutral)
                price.append(_price(nll_before, nll_after).assign(condition=name))
        effects.append(_effects(before.probes, after.probes).assign(condition=name))
    backend = backend_of(model)
    return MitigationResult(
        effects=pd.concat(effects, ignore_index=True),
        price=pd.concat(price, ignore_index=True),
        sizes={name: len(chosen) for name, chosen in sets.items()},
        total_neurons=backend.n_layers * backend.d_mlp,
        plant_language=before.plant_language,
        provenance=provenance(model, seed=seed),
    )


def neutral_nll(model: Any, languages: Sequence[str], *, n_neutral: int = packs.N_NEUTRAL) -> pd.Series:
    """Nats per token of the language packs' neutral sentences, per language."""
    backend, found = backend_of(model), {}
    for code in languages:
        sentences = packs.load_language(code).neutral[:n_neutral]
        tokens = [encode_prompt(backend, sentence, what=f"neutral sentence in {code}") for sentence in sentences]
        totals, counts = sequence_nll(backend, tokens)
        found[code] = float(totals.sum() / sum(counts)) if counts else float("nan")
    return pd.Series(found, name="nll")


def _effects(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Per group and query language; public facts count where they come out in the query language's own form."""
    joined = before.assign(
        was=np.where(before.group == "public", before.own_form, before.extracted),
        now=np.where(after.group == "public", after.own_form, after.extracted),
    )
    rows = []
    for (group, language), frame in joined.groupby(["group", "query_language"], sort=False):
        by_subject = frame.groupby("subject")[["was", "now"]].sum()
        reduction, low, high = metrics.bootstrap_reduction(by_subject.was, by_subject.now)
        by_record = frame.groupby("record")[["was", "now"]].mean()
        rows.append(
            {
                "group": group,
                "query_language": language,
                "before": frame.was.mean(),
                "after": frame.now.mean(),
                "reduction": reduction,
                "low": low,
                "high": high,
                "risen": int((by_record.now > by_record.was).sum()),
                "n_subjects": len(by_subject),
                "n_probes": len(frame),
            }
        )
    return pd.DataFrame(rows)


def _price(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    frame = pd.DataFrame({"nll_before": before, "nll_after": after, "rise": after / before - 1})
    return frame.rename_axis("query_language").reset_index()
