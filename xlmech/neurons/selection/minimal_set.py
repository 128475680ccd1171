"""Find the fewest neurons, from the top of a ranking, whose ablation reduces extraction to a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from xlmech.data.probes import ProbeSet
from xlmech.leakage.measure import measure_leakage
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet, pairs_of
from xlmech.neurons.selection.verify import neurons_of


@dataclass(frozen=True, eq=False, kw_only=True)
class FewestNeurons:
    """The fewest neurons from the top of a ranking that reach a reduction of extraction.

    Attributes:
        neurons: The smallest set that reaches the target; if none does, the set with the largest reduction.
        reduction: Reduction of extraction by `neurons`, on the probes given.
        reached: Whether `reduction` reaches the target.
        tried: One row per number tried: `n_neurons`, `reduction`.
    """

    neurons: NeuronSet
    reduction: float
    reached: bool
    tried: pd.DataFrame


def fewest_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    ranking: pd.DataFrame,
    target_reduction: float = 0.8,
    n_neurons: int | None = None,
    progress: bool = True,
) -> FewestNeurons:
    """Find the fewest neurons from the top of a ranking that reduce extraction of the private answers to a target.

    The number is doubled until it suffices, then bisected. This assumes that reduction does not fall as the set grows; if it
    does, a smaller sufficient set may be missed. Reduction is measured on the probes given. On probes that selected the neurons
    it is too high: evaluate the set on held-out people.

    Args:
        model: Hooked model.
        probes: Private probes are taken from it.
        ranking: Neurons, best first, in columns `layer` and `neuron`: `verify_neurons(...).to_frame()`, or the rows of one kind
            of `PrivacyNeurons.chosen`.
        target_reduction: Target of 1 - after / before, of the number of probes whose value is extracted in any form.
        n_neurons: Largest number tried; the whole ranking by default.
        progress: Whether to show progress bars.

    Returns:
        FewestNeurons; `.reached` says whether the target was reached.

    Raises:
        ValueError: No private probes, none whose value is extracted, a ranking without neurons, or a number out of range.
    """
    if not 0 < target_reduction <= 1 or (n_neurons is not None and n_neurons < 1):
        raise ValueError(
            f"target_reduction must be in (0, 1] and n_neurons 1 or more, got {target_reduction} and {n_neurons}"
        )
    if not {"layer", "neuron"} <= set(ranking.columns) or ranking.empty:
        raise ValueError(f"a ranking needs rows, in columns layer and neuron; got {len(ranking)} of {list(ranking)}")
    private = probes.filter(group="private")
    order = list(dict.fromkeys(pairs_of(ranking)))[:n_neurons]

    def n_extracted() -> float:
        leakage = measure_leakage(model, private, candidates=probes.records, progress=progress)
        return float(leakage.probes.extracted.sum())

    before = n_extracted()
    reductions = dict[int, float]()
    if not before:
        raise ValueError("none of the private values is extracted: there is no leakage to reduce; see measure_leakage")

    def suffices(length: int) -> bool:
        if length not in reductions:
            with ablate(model, neurons_of(model, order[:length])):
                reductions[length] = 1 - n_extracted() / before
        return reductions[length] >= target_reduction

    too_short = 0
    length = 1
    while not suffices(length) and length < len(order):
        too_short, length = length, min(2 * length, len(order))
    if not suffices(length):
        length = max(sorted(reductions), key=lambda tried: reductions[tried])
    else:
        while length - too_short > 1:
            middle = (too_short + length) // 2
            too_short, length = (too_short, middle) if suffices(middle) else (middle, length)
    return FewestNeurons(
        neurons=neurons_of(model, order[:length]),
        reduction=reductions[length],
        reached=suffices(length),
        tried=pd.DataFrame(sorted(reductions.items()), columns=["n_neurons", "reduction"]),
    )
