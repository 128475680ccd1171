"""Ranks against scipy's and a sorted list, exposure against its closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xlmech.metrics.ranking import exposure_bits, rank

QUICK = settings(max_examples=150, deadline=None)


@QUICK
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_rank_is_scipys(scores: list[int], data: Any) -> None:
    index = data.draw(st.integers(0, len(scores) - 1))
    wanted = stats.rankdata([-score for score in scores], method="average")[index]
    assert rank(torch.tensor(scores, dtype=torch.float64), index) == wanted


@given(st.permutations(range(8)))
def test_rank_is_the_place_in_the_sorted_list(scores: list[int]) -> None:
    ordered = sorted(scores, reverse=True)
    assert [rank(torch.tensor(scores), index) for index in range(8)] == [ordered.index(score) + 1 for score in scores]


def test_rank_of_what_is_infinite_or_not_a_number() -> None:
    infinite = torch.tensor([-torch.inf, 0.0, -torch.inf])
    assert [rank(infinite, index) for index in range(3)] == [2.5, 1, 2.5]
    assert math.isnan(rank(torch.tensor([torch.nan, 1.0, 2.0]), 0))


@pytest.mark.parametrize(
    ("place", "n", "bits"), [(1, 64, 6), (64, 64, 0), (2, 64, 5), (1.5, 24, 4), (4, 2, -1), (1, 1, 0)]
)
def test_exposure(place: float, n: int, bits: float) -> None:
    assert exposure_bits(place, n) == pytest.approx(bits, abs=1e-12)


def test_exposure_of_an_uninformed_model_averages_as_carlini_says() -> None:
    found = np.mean([exposure_bits(place, 1000) for place in range(1, 1001)])
    assert found == pytest.approx(1 / math.log(2), abs=0.01)
