"""The fewest neurons that stop a leak: the shortest beginning of a ranking that reduces extraction as wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from xlmech.data.probes import ProbeSet
from xlmech.leakage.measure import measure_leakage
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.verify import neurons_of, pairs_of


@dataclass(frozen=True, eq=False, kw_only=True)
class FewestNeurons:
    """The shortest beginning of a ranking that reduces extraction as wanted.

    Attributes:
        neurons: Its neurons; where no beginning reaches the target, those of the largest reduction.
        reduction: Of extraction, by `neurons`, on the probes given.
        reached: Whether that is as much as wanted.
        tried: One row per length tried: `n_neurons`, `reduction`.
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
    """Find the fewest neurons from a ranking's beginning that reduce extraction of the private answers as wanted.

    Lengths are doubled until one suffices, then bisected. This assumes that reduction does not fall as the set grows; if it
    does, a smaller set that suffices may be overlooked. Reduction is measured on the probes given: on those that selected the
    neurons it is too good, and the result is a set to evaluate on others.

    Args:
        model: Hooked model.
        probes: Private probes are taken from it.
        ranking: Neurons, best first, in columns `layer` and `neuron`: `verify_neurons(...).to_frame()`, or the rows of one kind
            of `PrivacyNeurons.chosen`.
        target_reduction: Wanted: 1 - after / before, of the number of probes whose value is extracted in any form.
        n_neurons: Longest beginning tried; the whole ranking by default.
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
    private, order = probes.filter(group="private"), list(dict.fromkeys(pairs_of(ranking)))[:n_neurons]

    def n_extracted() -> float:
        leakage = measure_leakage(model, private, candidates=probes.records, progress=progress)
        return float(leakage.probes.extracted.sum())

    before, reductions = n_extracted(), dict[int, float]()
    if not before:
        raise ValueError("none of the private values is extracted: there is no leakage to reduce; see measure_leakage")

    def suffices(length: int) -> bool:
        if length not in reductions:
            with ablate(model, neurons_of(model, order[:length])):
                reductions[length] = 1 - n_extracted() / before
        return reductions[length] >= target_reduction

    too_short, length = 0, 1
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
