"""Measure what sets of neurons share, against chance, and where in depth they lie. Runs no model.

There are two nulls. `set_overlap` compares with random sets of the same sizes in the same layers. `language_overlap` compares
with languages whose labels are permuted. p-values are of single comparisons: with many sets, some are small by chance.

    set_overlap({"universal": found.universal} | found.specific, lape_sets)     # privacy neurons and language neurons
    language_overlap(attributions, n_neurons=73)                                # languages and permuted labels
    layer_spread({"universal": found.universal} | found.specific)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from xlmech.metrics import intervals, resampling
from xlmech.metrics.similarity import jaccard
from xlmech.neurons.attribution.attribute import AttributionResult
from xlmech.neurons.evidence.subject_scores import SubjectScores, check_subjects
from xlmech.neurons.neuron_set import NeuronSet


def set_overlap(first: Mapping[str, NeuronSet], second: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Count the neurons that sets share, and compare with random sets of the same layers.

    The null draws as many neurons as one set has, within each layer. The number shared is then a sum of independent
    hypergeometric counts, whose distribution is exact. That two sets lie in the same layers is no overlap by this measure.

    Args:
        first: Sets by name, e.g. privacy neurons.
        second: Sets to compare each of them with, e.g. those of `lape`, or sets located on public facts.

    Returns:
        One row per pair: `first`, `second`, `n_first`, `n_second`, `shared`, `expected` (mean of the null), `ratio` (shared /
        expected, NaN where 0 are expected), `jaccard`, `p_more` (probability of at least as many by the null), `p_less` (of at
        most as many).

    Raises:
        ValueError: No sets on one side, or sets of different models.
    """
    if not first or not second:
        raise ValueError(f"{len(first)} and {len(second)} neuron sets: an overlap takes at least one on each side")
    return pd.DataFrame([_compare(a, b, first[a], second[b]) for a in first for b in second])


def _compare(first_name: str, second_name: str, first: NeuronSet, second: NeuronSet) -> dict[str, object]:
    shared = len(first & second)
    null = _null(first, second)
    expected = float(np.arange(len(null)) @ null)
    return {
        "first": first_name,
        "second": second_name,
        "n_first": len(first),
        "n_second": len(second),
        "shared": shared,
        "expected": expected,
        "ratio": shared / expected if expected else float("nan"),
        "jaccard": jaccard(first.neurons, second.neurons),
        "p_more": min(1.0, float(null[shared:].sum())),
        "p_less": min(1.0, float(null[: shared + 1].sum())),
    }


def _null(first: NeuronSet, second: NeuronSet) -> NDArray[np.float64]:
    """Compute the (count,) probability of sharing 0, 1, ... neurons if the first set is random within its layers."""
    second_layers = second.by_layer()
    total = np.ones(1)
    for layer, indices in first.by_layer().items():
        n, m = len(indices), len(second_layers.get(layer, ()))
        total = np.convolve(total, stats.hypergeom.pmf(np.arange(min(n, m) + 1), first.d_mlp, m, n))
    return np.pad(total, (0, min(len(first), len(second)) + 1 - len(total)))


def language_overlap(
    result: AttributionResult, *, n_neurons: int, n_permutations: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare the overlap of the languages' top neurons with that after permuting the languages within each subject.

    If the label makes no difference, permuting it within subjects changes nothing but noise. An overlap below the permuted one
    says that languages have specific neurons, beyond those that differ by chance. It does not say that languages share anything:
    `p_more` does, against random neurons of the same layers (`set_overlap`).

    Args:
        result: Attributions in two or more languages, of the same facts in each; a neuron that is not kept for a probe counts as
            0 there (see `track` of `attribute_neurons`).
        n_neurons: Number of neurons per language: those with the largest positive mean normalised attribution.
        n_permutations: Number of permutations of the labels.
        seed: Seed of the permutations.

    Returns:
        One row per pair of languages, and one for their mean (`all`, `all`): `first`, `second`, `jaccard`, `permuted` (mean under
        permuted labels), `low`, `high` (where 95 % of these lie), `p_less` (share of permutations, the observed labels included,
        with an overlap as small), `p_more` (NaN for the mean).

    Raises:
        ValueError: One language only, attributions that do not list their probes, or a number out of range.
    """
    if n_neurons < 1 or n_permutations < 1:
        raise ValueError(f"n_neurons and n_permutations must be 1 or more, got {n_neurons} and {n_permutations}")
    codes = result.languages
    if len(codes) < 2:
        raise ValueError(f"attributions in {', '.join(codes)} only: an overlap is one of two or more languages")
    check_subjects(result, "languages'")
    scores = SubjectScores.of(result, codes, 1.0)
    rng = np.random.default_rng(seed)
    chosen = _top_units(scores, np.arange(len(codes)), n_neurons)
    observed = _jaccards(chosen)
    orders = [
        rng.permuted(np.tile(np.arange(len(codes)), (scores.n_subjects, 1)), axis=1) for _ in range(n_permutations)
    ]
    permuted = np.stack([_jaccards(_top_units(scores, order, n_neurons)) for order in orders])
    pairs = [(a, b) for a, b in combinations(codes, 2)] + [("all", "all")]
    observed, permuted = np.append(observed, observed.mean()), np.column_stack([permuted, permuted.mean(1)])
    low, high = resampling.percentile_interval(permuted)
    frame = pd.DataFrame(pairs, columns=["first", "second"]).assign(
        jaccard=observed, permuted=permuted.mean(0), low=low, high=high,
        p_less=(1 + (permuted <= observed).sum(0)) / (1 + n_permutations),
    )  # fmt: skip
    n_layers, d_mlp = result.mean.shape[1:]
    sets = [NeuronSet(frozenset(divmod(unit, d_mlp) for unit in units), n_layers, d_mlp) for units in chosen]
    more = [set_overlap({"": a}, {"": b}).p_more.item() for a, b in combinations(sets, 2)]
    return frame.assign(p_more=[*more, float("nan")])


def _top_units(scores: SubjectScores, order: NDArray[np.intp], n_neurons: int) -> list[set[int]]:
    """List the top units of each language, with each subject's languages in the (subject, language) order given."""
    order = np.broadcast_to(order, (scores.n_subjects, scores.counts.shape[1]))
    rows = np.arange(scores.n_subjects)[:, None]
    sums, counts = scores.sums[rows, order].sum(0), scores.counts[rows, order].sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nan_to_num(sums / counts[:, None])
    best = np.argsort(-means, axis=1, kind="stable")[:, :n_neurons]
    return [set(scores.units[units[mean[units] > 0]].tolist()) for units, mean in zip(best, means, strict=True)]


def _jaccards(chosen: Sequence[set[int]]) -> NDArray[np.float64]:
    """Compute the (pair,) Jaccard overlap of every two sets; 0 where both are empty."""
    return np.nan_to_num([jaccard(first, second) for first, second in combinations(chosen, 2)])


def layer_spread(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Count the neurons of sets in each layer.

    Args:
        sets: By name; `{"universal": found.universal} | found.specific` of privacy neurons.

    Returns:
        One row per set and layer of the model: `name`, `layer`, `n` (neurons), `share` (of the set; NaN for an empty one),
        `enriched` (its share divided by that of neurons drawn from all layers alike: 1 is no preference).
    """
    rows = []
    for name, chosen in sets.items():
        counts = {layer: len(indices) for layer, indices in chosen.by_layer().items()}
        for layer in range(chosen.n_layers):
            share = counts.get(layer, 0) / len(chosen) if len(chosen) else float("nan")
            rows.append((name, layer, counts.get(layer, 0), share, share * chosen.n_layers))
    return pd.DataFrame(rows, columns=["name", "layer", "n", "share", "enriched"])


def depth_of(sets: Mapping[str, NeuronSet], *, against: str) -> pd.DataFrame:
    """Measure how deep sets lie, and test whether they lie deeper than one of them.

    Args:
        sets: Sets by name.
        against: Name of the set that the others are compared with, e.g. `universal`.

    Returns:
        One row per set: `name`, `n`, `mean_layer`, `low` and `high` (95 %, over the set's neurons; NaN where all lie in one
        layer), `median_layer`, `p` (two-sided Mann-Whitney test of its neurons' layers against those of `against`; NaN for that
        one and for empty sets).
        Neurons of one layer work together, so that the interval and p are those of more independent neurons than there are.

    Raises:
        ValueError: No such set.
    """
    if against not in sets:
        raise ValueError(f"no set {against!r} to compare with; there are {', '.join(sets) or 'none'}")
    rows, base = [], [layer for layer, _ in sets[against]]
    for name, chosen in sets.items():
        layers = [layer for layer, _ in chosen]
        value, low, high = intervals.mean_interval(layers)
        median = float(np.median(layers)) if layers else float("nan")
        tested = name != against and layers and base
        p = float(stats.mannwhitneyu(layers, base).pvalue) if tested else float("nan")
        rows.append((name, len(layers), value, low, high, median, p))
    return pd.DataFrame(rows, columns=["name", "n", "mean_layer", "low", "high", "median_layer", "p"])
