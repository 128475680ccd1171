"""Neurons in brief: how many were chosen or turned down, and in which layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xlmech.percent import percent
from xlmech.storage.brief import Brief, layer_bars

if TYPE_CHECKING:
    from xlmech.neurons.neuron_gates import NeuronGates
    from xlmech.neurons.privacy_neurons import PrivacyNeurons


def neurons_brief(result: PrivacyNeurons) -> Brief:
    """Say how many neurons were chosen of how many; no interval, since a number of chosen neurons is a choice."""
    n_layers, total = result.scores.shape[1], result.scores[0].numel()
    alone = len(result.languages) == 1
    main = result.specific[result.languages[0]] if alone else result.universal
    what = f"specific to {result.languages[0]}" if alone else "universal"
    counts = [0.0] * n_layers
    for layer, indices in main.by_layer().items():
        counts[layer] = float(len(indices))
    n = len(result.languages)
    return Brief(
        sentence=f"{len(main):,} of {total:,} neurons ({percent(len(main) / total)}) are {what}, chosen by the rule "
        f"'{result.rule}' from {n} {'language' if n == 1 else 'languages'}.",
        caption="Of these per layer.",
        bars=layer_bars(counts) if len(main) else (),
        columns=True,
    )


def gates_brief(result: NeuronGates) -> Brief:
    """Say how many neurons are turned down, and how far."""
    counts = [0.0] * result.n_layers
    for layer, indices in result.by_layer().items():
        counts[layer] = float(len(indices))
    total, mean = result.factors.numel(), f", to a mean factor of {result.mean_factor:.2f}" if len(result) else ""
    return Brief(
        sentence=f"{len(result):,} of {total:,} neurons ({percent(len(result) / total)}) are turned down{mean}; learned in "
        f"{len(result.history):,} steps.",
        caption="Of these per layer.",
        bars=layer_bars(counts) if len(result) else (),
        columns=True,
    )
