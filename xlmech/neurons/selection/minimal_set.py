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
        neurons: It; where none reaches the target, that of the largest reduction.
        reduction: Of extraction, by `neurons`, on the probes given.
        reached: Whether that is as much as wanted.
        tried: One row per length tried: `n`, `reduction`.
    """

    neurons: NeuronSet
    reduction: float
    reached: bool
    tried: pd.DataFrame


def fewest_neurons(
    model: Any,
    probes: ProbeSet,
    ranking: pd.DataFrame,
    *,
    target_reduction: float = 0.8,
    max_neurons: int | None = None,
    progress: bool = True,
) -> FewestNeurons:
    """The fewest neurons from a ranking's beginning that reduce extraction of the private answers as wanted.

    Lengths are doubled until one suffices, then bisected, as if a longer beginning never reduced less; where one does, a
    shorter one that suffices may be missed. Reduction is measured on the probes given: on those that chose the neurons it is
    too good, and the result is a set to evaluate on others.

    Args:
        model: Hooked model.
        probes: Private probes are taken from it.
        ranking: Neurons, best first, in columns `layer` and `neuron`: `verify_neurons(...).to_frame()`, or the rows of one kind
            of `PrivacyNeurons.chosen`.
        target_reduction: Wanted: 1 - after / before, of the number of probes whose value comes out in any form.
        max_neurons: Longest beginning tried; the whole ranking by default.
        progress: Whether to show progress bars.

    Returns:
        FewestNeurons; `.reached` says whether the target was reached.

    Raises:
        ValueError: No private probes, none whose value comes out, a ranking without neurons, or a number out of range.
    """
    if not 0 < target_reduction <= 1 or (max_neurons is not None and max_neurons < 1):
        raise ValueError(
            f"target_reduction must be in (0, 1] and max_neurons 1 or more, got {target_reduction} and {max_neurons}"
        )
    if not {"layer", "neuron"} <= set(ranking.columns) or ranking.empty:
        raise ValueError(f"a ranking needs rows, in columns layer and neuron; got {len(ranking)} of {list(ranking)}")
    private, order = probes.filter(group="private"), list(dict.fromkeys(pairs_of(ranking)))[:max_neurons]

    def extracted() -> float:
        leakage = measure_leakage(model, private, candidates=probes.records, progress=progress)
        return float(leakage.probes.extracted.sum())

    before, tried = extracted(), dict[int, float]()
    if not before:
        raise ValueError("none of the private values comes out: there is no leakage to reduce; see measure_leakage")

    def suffices(n: int) -> bool:
        if n not in tried:
            with ablate(model, neurons_of(model, order[:n])):
                tried[n] = 1 - extracted() / before
        return tried[n] >= target_reduction

    below, n = 0, 1
    while not suffices(n) and n < len(order):
        below, n = n, min(2 * n, len(order))
    if not suffices(n):
        n = max(sorted(tried), key=lambda length: tried[length])
    else:
        while n - below > 1:
            middle = (below + n) // 2
            below, n = (below, middle) if suffices(middle) else (middle, n)
    return FewestNeurons(
        neurons=neurons_of(model, order[:n]),
        reduction=tried[n],
        reached=suffices(n),
        tried=pd.DataFrame(sorted(tried.items()), columns=["n", "reduction"]),
    )
