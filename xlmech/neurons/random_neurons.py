"""Random neurons that match a set: by layer, or by layer and by how strongly they are active."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import mean_over_tokens
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.neurons.neuron_set import Neuron, NeuronSet


def mean_magnitudes(model: Any, probes: ProbeSet, *, progress: bool = True) -> Float[torch.Tensor, "layer neuron"]:
    """Average |activation| over the tokens of the probes' prompts, without the special tokens in front.

    Returns:
        (layer, neuron) means.

    Raises:
        ValueError: No probes.
    """
    if not len(probes):
        raise ValueError("no probes to read activations at; see build_probes, and the filters applied to its result")
    prompts = [probe.prompt for probe in probes]
    return mean_over_tokens(
        backend_of(model), prompts, NEURON_HOOK, torch.abs, progress="magnitudes" if progress else ""
    )


def random_neurons(
    like: NeuronSet,
    *,
    magnitudes: Float[torch.Tensor, "layer neuron"] | None = None,
    bins: int = 10,
    n_neurons: int | None = None,
    seed: int = 0,
) -> NeuronSet:
    """Draw as many random neurons in every layer as `like` has, none of them in it: the control condition of a set.

    Args:
        like: Set to match.
        magnitudes: (layer, neuron) `mean_magnitudes`: the draw then matches every quantile bin of each layer's magnitudes.
        bins: Number of bins, equally full.
        n_neurons: Number of neurons; that of `like` by default. More are drawn in rounds that each match `like`, the last one
            cut at random.
        seed: Seed of the draw.

    Raises:
        ValueError: An empty set, a bin with too few others, magnitudes of another shape, `bins` or `n_neurons` below 1.
    """
    n_neurons = len(like) if n_neurons is None else n_neurons
    if not len(like):
        raise ValueError("the set to match is empty: there is nothing to draw")
    if n_neurons < 1 or not 1 <= bins <= like.d_mlp:
        raise ValueError(f"n_neurons must be 1 or more and bins from 1 to {like.d_mlp}, got {n_neurons} and {bins}")
    shape = (like.n_layers, like.d_mlp)
    if magnitudes is not None and tuple(magnitudes.shape) != shape:
        raise ValueError(
            f"magnitudes of shape {tuple(magnitudes.shape)}, neurons of a model of {shape}; both must be of one"
        )
    bin_of = np.zeros(shape, dtype=int)
    if magnitudes is not None:
        bin_of = magnitudes.cpu().argsort(1).argsort(1).numpy() * bins // like.d_mlp
    rng, n_rounds = np.random.default_rng(seed), -(-n_neurons // len(like))
    rounds: list[list[Neuron]] = [[] for _ in range(n_rounds)]
    for layer, indices in like.by_layer().items():
        for number in np.unique(bin_of[layer, indices]):
            members = np.flatnonzero(bin_of[layer] == number)
            n_chosen, others = int(np.isin(members, indices).sum()), np.setdiff1d(members, indices)
            if len(others) < n_chosen * n_rounds:
                raise ValueError(
                    f"layer {layer}: {n_chosen * n_rounds} random neurons to draw from {len(others)} that match and are not in "
                    "the set; use fewer bins, a smaller set or a smaller n_neurons"
                )
            taken = rng.permutation(others)[: n_chosen * n_rounds].reshape(n_rounds, n_chosen)
            for drawn, indices_drawn in zip(rounds, taken.tolist(), strict=True):
                drawn += [(layer, index) for index in indices_drawn]
    order = [drawn[index] for drawn in rounds for index in rng.permutation(len(drawn))]
    return NeuronSet(frozenset(order[:n_neurons]), like.n_layers, like.d_mlp, like.model)
