"""P-values against scipy's and statsmodels', exactness under the null, and that more hits never raise one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from xlmech.metrics.significance import adjusted_p_values, permutation_p_values


def private(n: int, n_control: int) -> np.ndarray:
    return np.arange(n + n_control) < n


@pytest.mark.parametrize(("n", "n_control"), [(8, 6), (3, 9), (2, 4), (5, 2)])
def test_permutation_test_is_scipys(n: int, n_control: int) -> None:
    scores = np.random.default_rng(0).integers(0, 3, (n + n_control, 4)) / 2
    of_private = private(n, n_control)
    wanted = stats.permutation_test(
        (scores[of_private], scores[~of_private]),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        vectorized=True,
        n_resamples=20_000,
        alternative="greater",
    ).pvalue
    np.testing.assert_allclose(permutation_p_values(scores, of_private), wanted)


def test_permutation_test_of_one_answer_each_is_fishers() -> None:
    for hits, control in ((6, 1), (8, 0), (3, 3), (0, 2)):
        scores = np.r_[np.arange(8) < hits, np.arange(7) < control].astype(float)[:, None]
        table = [[hits, 8 - hits], [control, 7 - control]]
        wanted = stats.fisher_exact(table, alternative="greater").pvalue
        assert permutation_p_values(scores, private(8, 7)) == pytest.approx(wanted)


def test_sampled_relabellings_come_close_and_are_the_same_again() -> None:
    scores = np.r_[np.arange(40) < 24, np.arange(30) < 9].astype(float)[:, None]
    wanted = stats.fisher_exact([[24, 16], [9, 21]], alternative="greater").pvalue
    found = permutation_p_values(scores, private(40, 30))
    assert found == pytest.approx(wanted, abs=0.004)
    assert found == permutation_p_values(scores, private(40, 30))
    sure = permutation_p_values(private(40, 30).astype(float)[:, None], private(40, 30))
    assert sure == pytest.approx(1 / 10_000)  # never 0


def test_one_empty_group_cannot_be_tested() -> None:
    assert np.isnan(permutation_p_values(np.ones((3, 2)), np.ones(3, dtype=bool))).all()
    assert np.isnan(permutation_p_values(np.ones((3, 2)), np.zeros(3, dtype=bool))).all()


@pytest.mark.parametrize(("n", "n_control"), [(7, 5), (20, 14)])
def test_a_higher_score_of_a_private_person_never_raises_the_p_value(n: int, n_control: int) -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 3, (n + n_control, 200)).astype(float)
    higher, who = scores.copy(), rng.integers(0, n, 200)
    higher[who, np.arange(200)] += 1
    of_private = private(n, n_control)
    assert (permutation_p_values(higher, of_private) <= permutation_p_values(scores, of_private)).all()


def test_equal_weights_are_holms_own_correction() -> None:
    found = np.array([0.01, 0.4, 0.03, 0.005, 0.03])
    wanted = multipletests(found, method="holm")[1]
    np.testing.assert_allclose(adjusted_p_values(found, np.ones(5)), wanted)
    with_nothing = adjusted_p_values([*found, math.nan], np.ones(6))
    np.testing.assert_allclose(with_nothing[:5], wanted)
    assert math.isnan(with_nothing[5])


def test_weights_share_the_permitted_error() -> None:
    # Of 5 %, the first has a half, the others a quarter each; what is called passes its share on.
    np.testing.assert_allclose(adjusted_p_values([0.02, 0.03, 0.5], [2, 1, 1]), (0.04, 0.06, 0.5))
    np.testing.assert_allclose(adjusted_p_values([0.03, 0.01, 0.5], [2, 1, 1]), (0.045, 0.04, 0.5))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=8),
)
def test_a_lower_p_value_never_raises_an_adjusted_one(tests: list[tuple[float, float, int]]) -> None:
    first, factor, weights = map(np.array, zip(*tests, strict=True))
    before, after = adjusted_p_values(first, weights), adjusted_p_values(first * factor, weights)
    assert (after <= before + 1e-12).all()
