"""Ablate a few neurons, each alone, and measure what every answer loses: the truth that attribution estimates."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import torch

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import run_forced
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.models.load import model_name
from xlmech.models.tokens import encode_probe
from xlmech.neurons.attribution.attribute import saturated_probes
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects
from xlmech.neurons.attribution.task import token_positions
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import AttributeOptions


@torch.no_grad()
def ablation_effects(
    model: Any, probes: ProbeSet, neurons: NeuronSet, *, options: AttributeOptions = AttributeOptions()
) -> pd.DataFrame:
    """Measure how far each answer's score falls when each of a few neurons alone is zeroed.

    The numbers are those of `attribute_neurons` with method `exact`, which takes all neurons of the model.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        probes: Probes whose answers are scored, in the query language's form.
        neurons: The neurons, each ablated alone.
        options: Positions, metric, `max_answer_tokens` and `whole_vocabulary` as of `attribute_neurons`; others are not read.

    Returns:
        One row per probe and neuron: `probe`, `query_language`, `layer`, `neuron`, `effect` (in the unit of the probe's metric,
        per answer token).

    Raises:
        ValueError: No probes, no neurons, or neurons of another model.
    """
    if not len(probes) or not len(neurons):
        raise ValueError(f"{len(probes)} probes and {len(neurons)} neurons: effects take one of each at least")
    backend = backend_of(model)
    neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    encode = partial(
        encode_probe, backend, max_answer_tokens=options.max_answer_tokens, subject=options.positions == "subject"
    )
    encoded = [encode(probe) for probe in probes]
    is_auto = options.metric == "auto"
    saturated = saturated_probes(backend, encoded) if is_auto else frozenset()
    base, pairs = zero_baseline(backend), list(neurons)
    frames = []
    for item in encoded:
        metric: Any = "log_odds" if item.id in saturated else "log_prob" if is_auto else options.metric
        effects = exact_effects(
            backend, run_forced(backend, item.prompt, item.answer, NEURON_HOOK, what=f"probe {item.id}"), base,
            positions=token_positions(item, options.positions), metric=metric, neurons=torch.tensor(pairs),
            whole_vocabulary=options.whole_vocabulary,
        )  # fmt: skip
        rows = neurons.to_frame().assign(effect=(effects / len(item.answer)).cpu().numpy())
        rows.insert(0, "query_language", item.probe.query_language)
        rows.insert(0, "probe", item.id)
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)
