"""Whether sets of neurons share more, or less, than they would by chance, and where in depth they lie. Runs no model.

Two questions, two nulls. Do two sets share more than sets of their sizes IN THEIR LAYERS would (`set_overlap`)? And do languages
share less than if it made no difference which language is asked (`language_overlap`)? p-values are of single comparisons: with
many sets, some are small by chance.

    set_overlap({"universal": found.universal} | found.specific, lape_sets)     # privacy neurons beside language neurons
    language_overlap(attributions, n_neurons=73)                                    # languages beside permuted labels
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
from xlmech.neurons.evidence.subject_scores import SubjectScores
from xlmech.neurons.neuron_set import NeuronSet


def set_overlap(first: Mapping[str, NeuronSet], second: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """How many neurons sets share, beside as many random neurons of the same layers.

    The null draws one set's neurons anew within each layer, as many as it has there: what is shared then is a sum of independent
    hypergeometric counts, whose distribution is exact. That two sets lie in the same layers is no overlap by this measure.

    Args:
        first: Sets by name, e.g. privacy neurons.
        second: Sets to compare each of them with, e.g. those of `lape`, or located on public facts.

    Returns:
        One row per pair: `first`, `second`, `n_first`, `n_second`, `shared`, `expected` (mean of the null), `ratio` (shared /
        expected, NaN where 0 are expected), `jaccard`, `p_more` (probability of at least as many by the null), `p_less` (of at
        most as many).

    Raises:
        ValueError: No sets on one side, or sets of different models.
    """
    if not first or not second:
        raise ValueError(f"{len(first)} and {len(second)} neuron sets: an overlap takes at least one on each side")
    rows = [_shared(a, b, first[a], second[b]) for a in first for b in second]
    return pd.DataFrame(rows)


def _shared(name: str, other: str, one: NeuronSet, two: NeuronSet) -> dict[str, object]:
    shared, null = len(one & two), _null(one, two)
    expected = float(np.arange(len(null)) @ null)
    return {
        "first": name,
        "second": other,
        "n_first": len(one),
        "n_second": len(two),
        "shared": shared,
        "expected": expected,
        "ratio": shared / expected if expected else float("nan"),
        "jaccard": jaccard(one.neurons, two.neurons),
        "p_more": min(1.0, float(null[shared:].sum())),
        "p_less": min(1.0, float(null[: shared + 1].sum())),
    }


def _null(one: NeuronSet, two: NeuronSet) -> NDArray[np.float64]:
    """(count,) probability of sharing 0, 1, ... neurons, one set's being random within its layers."""
    mine, theirs, total = one.by_layer(), two.by_layer(), np.ones(1)
    for layer, indices in mine.items():
        n, m = len(indices), len(theirs.get(layer, ()))
        total = np.convolve(total, stats.hypergeom.pmf(np.arange(min(n, m) + 1), one.d_mlp, m, n))
    return np.pad(total, (0, min(len(one), len(two)) + 1 - len(total)))


def language_overlap(
    found: AttributionResult, *, n_neurons: int, n_permutations: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Overlap of the languages' top neurons, beside that where each subject's languages are exchanged at random.

    Where the label makes no difference, exchanging it within every subject changes nothing but noise: an overlap below that says
    that languages have neurons of their own, beyond those that differ by chance. It does not say that they share anything; for
    that there is `p_more`, against random neurons of the same layers (`set_overlap`).

    Args:
        found: Attributions in two or more languages, of the same facts in each; a neuron that a probe does not keep counts as 0
            there (see `track` of `attribute_neurons`).
        n_neurons: Each language's neurons: so many, the largest by mean normalised attribution that are positive.
        n_permutations: Of the labels.
        seed: Of these.

    Returns:
        One row per pair of languages, and one for their mean (`all`, `all`): `first`, `second`, `jaccard`, `permuted` (mean under
        permuted labels), `low`, `high` (where 95 % of these lie), `p_less` (share of permutations, this one among them, with an
        overlap as small), `p_more` (NaN for the mean).

    Raises:
        ValueError: One language only, attributions that do not say whose probes they are, or a number out of range.
    """
    if n_neurons < 1 or n_permutations < 1:
        raise ValueError(f"n_neurons and n_permutations must be 1 or more, got {n_neurons} and {n_permutations}")
    if len(found.languages) < 2:
        raise ValueError(
            f"attributions in {', '.join(found.languages)} only: an overlap is one of two or more languages"
        )
    if found.probes.empty:
        raise ValueError(
            "attributions that do not say whose probes they are: an earlier version made them; attribute again"
        )
    scores, rng, codes = SubjectScores.of(found, found.languages, 1.0), np.random.default_rng(seed), found.languages
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
    n_layers, d_mlp = found.mean.shape[1:]
    sets = [NeuronSet(frozenset(divmod(unit, d_mlp) for unit in units), n_layers, d_mlp) for units in chosen]
    more = [set_overlap({"": a}, {"": b}).p_more.item() for a, b in combinations(sets, 2)]
    return frame.assign(p_more=[*more, float("nan")])


def _top_units(scores: SubjectScores, order: NDArray[np.intp], n_neurons: int) -> list[set[int]]:
    """Per language, its top units, each subject's languages in the (subject, language) order given."""
    order = np.broadcast_to(order, (scores.n_subjects, scores.counts.shape[1]))
    rows = np.arange(scores.n_subjects)[:, None]
    sums, counts = scores.sums[rows, order].sum(0), scores.counts[rows, order].sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nan_to_num(sums / counts[:, None])
    best = np.argsort(-means, axis=1, kind="stable")[:, :n_neurons]
    return [set(scores.units[units[mean[units] > 0]].tolist()) for units, mean in zip(best, means, strict=True)]


def _jaccards(chosen: Sequence[set[int]]) -> NDArray[np.float64]:
    """(pair,) Jaccard overlap of every two sets; 0 where both are empty."""
    return np.nan_to_num([jaccard(first, second) for first, second in combinations(chosen, 2)])


def layer_spread(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Where sets lie in depth.

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
    """How deep sets lie, and whether deeper than one of them.

    Args:
        sets: By name.
        against: The set that the others are compared with, e.g. `universal`.

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
