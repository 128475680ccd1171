"""What sets share beside chance: exact nulls against drawing, and languages whose labels matter or do not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from helpers.toy_attribution import made
from scipy import stats

from xlmech.neurons.evidence.overlap import depth_of, language_overlap, layer_spread, set_overlap
from xlmech.neurons.neuron_set import NeuronSet

ONE = NeuronSet(frozenset({(0, 0), (0, 1), (0, 2), (1, 5)}), 3, 8, "m")
TWO = NeuronSet(frozenset({(0, 1), (0, 2), (0, 3), (1, 6), (2, 0)}), 3, 8, "m")


def test_the_null_is_that_of_drawing_within_layers() -> None:
    row = set_overlap({"a": ONE}, {"b": TWO}).iloc[0]
    assert (row.n_first, row.n_second, row.shared) == (4, 5, 2)
    assert row.jaccard == pytest.approx(2 / 7)
    assert row.expected == pytest.approx(3 * 3 / 8 + 1 / 8) and row.ratio == pytest.approx(2 / row.expected)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(20000):
        first = rng.choice(8, 3, replace=False)
        drawn.append(np.isin(first, [1, 2, 3]).sum() + (rng.integers(8) == 6))
    assert row.p_more == pytest.approx(np.mean(np.array(drawn) >= 2), abs=0.01)
    assert row.p_less == pytest.approx(np.mean(np.array(drawn) <= 2), abs=0.01)


def test_one_layer_is_the_hypergeometric_test() -> None:
    one, two = (NeuronSet(frozenset((0, n) for n in range(size)), 1, 50) for size in (10, 20))
    row = set_overlap({"a": one}, {"b": two}).iloc[0]
    assert row.p_more == pytest.approx(stats.hypergeom.sf(9, 50, 20, 10))
    assert row.p_less == 1.0
    swapped = set_overlap({"b": two}, {"a": one}).iloc[0]
    assert swapped.p_more == pytest.approx(row.p_more), "whichever set is drawn"


def test_sets_of_other_layers_or_empty_share_nothing() -> None:
    apart = NeuronSet(frozenset({(2, 3)}), 3, 8, "m")
    empty = NeuronSet(frozenset(), 3, 8, "m")
    rows = set_overlap({"a": ONE, "none": empty}, {"apart": apart, "none": empty})
    assert rows.shared.tolist() == [0, 0, 0, 0] and rows.p_more.tolist() == [1, 1, 1, 1]
    assert rows.ratio.isna().all() and math.isnan(rows.jaccard.iloc[3])
    with pytest.raises(ValueError, match="1 and 0 neuron sets: an overlap takes at least one on each side"):
        set_overlap({"a": ONE}, {})
    with pytest.raises(ValueError, match="neuron sets of different models"):
        set_overlap({"a": ONE}, {"b": NeuronSet(frozenset(), 4, 8, "m")})


def test_languages_that_share_everything_overlap_as_permuted_ones_do() -> None:
    shared = made({(0, 1): [0.5] * 5, (0, 2): [0.4] * 5})
    found = language_overlap(shared, n_neurons=3, n_permutations=50)
    row = found.iloc[0]
    assert (row.jaccard, row.permuted, row.low, row.high, row.p_less) == (1, 1, 1, 1, 1)
    assert row.p_more == pytest.approx(set_overlap_of_same(), rel=1e-9)
    assert found["first"].tolist() == ["en", "all"] and math.isnan(found.p_more.iloc[1])


def set_overlap_of_same() -> float:
    """Three neurons in layers 0, 0 and 1 of eight, all shared."""
    return float(stats.hypergeom.pmf(2, 8, 2, 2) * stats.hypergeom.pmf(1, 8, 1, 1))


def test_languages_with_neurons_of_their_own_overlap_less_than_permuted_ones() -> None:
    """Each has one of its own, larger than what they share; with the labels mixed up, what they share is larger."""
    rows, probes = [], []
    for subject in range(40):
        for number, code in enumerate(("en", "fr")):
            probe = f"{subject}/{code}"
            probes.append((probe, str(subject), code, 0))
            rows += [(probe, 1, 7, 1.0), (probe, 0, number, 0.5), (probe, 0, 2, 0.35)]
    found = dataclasses.replace(
        made({}),
        top=pd.DataFrame(rows, columns=["probe", "layer", "neuron", "effect"]),
        probes=pd.DataFrame(probes, columns=["probe", "subject", "query_language", "template"]),
    )
    row = language_overlap(found, n_neurons=2, n_permutations=500).iloc[0]
    assert row.jaccard == pytest.approx(1 / 3) and row.high == 1
    unmixed = 2 * stats.binom.cdf(11, 40, 0.5)  # fewer than 0.3 of the subjects exchanged, or kept
    assert row.p_less == pytest.approx(unmixed, abs=0.015) and row.p_less < 0.05
    assert row.permuted == pytest.approx(1 - 2 / 3 * unmixed, abs=0.02)


def test_where_sets_lie() -> None:
    sets = {"universal": ONE, "fr": TWO, "none": NeuronSet(frozenset(), 3, 8, "m")}
    frame = layer_spread(sets).set_index(["name", "layer"])
    assert frame.n["universal"].tolist() == [3, 1, 0] and frame.share["universal"].tolist() == [0.75, 0.25, 0]
    assert frame.enriched["universal"].tolist() == [2.25, 0.75, 0] and frame.share["none"].isna().all()
    depth = depth_of(sets, against="universal").set_index("name")
    assert depth.mean_layer["universal"] == 0.25 and depth.median_layer["fr"] == 0
    assert depth.low["fr"] <= depth.mean_layer["fr"] == 0.6 <= depth.high["fr"]
    assert depth.p["fr"] == stats.mannwhitneyu([0, 0, 0, 1, 2], [0, 0, 0, 1]).pvalue
    assert math.isnan(depth.p["universal"]) and math.isnan(depth.p["none"]) and depth.n["none"] == 0
    with pytest.raises(ValueError, match="no set 'zh' to compare with; there are universal, fr, none"):
        depth_of(sets, against="zh")


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n_neurons and n_permutations must be 1 or more, got 0 and 1000"):
        language_overlap(made({}), n_neurons=0)
    with pytest.raises(ValueError, match="attributions in en only: an overlap is one of two or more languages"):
        language_overlap(made({}, codes=("en",)), n_neurons=1)
    with pytest.raises(ValueError, match="do not list their probes"):
        language_overlap(dataclasses.replace(made({}), probes=pd.DataFrame()), n_neurons=1)
