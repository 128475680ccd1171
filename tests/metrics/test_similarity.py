"""Overlap of sets; the similarities of representations are tested with the analysis that uses them (tests/lens)."""

from __future__ import annotations

import math

import pytest

from xlmech.metrics.similarity import jaccard


def test_jaccard() -> None:
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard([1, 2, 2], (2, 1)) == 1, "members count once"
    assert jaccard({"a"}, {"b"}) == jaccard({"a"}, ()) == 0
    assert math.isnan(jaccard(set(), set()))


@pytest.mark.parametrize("other", [set(), {1}, {1, 2}, {5, 6, 7}])
def test_jaccard_is_symmetric(other: set[int]) -> None:
    assert jaccard({1, 2}, other) == jaccard(other, {1, 2})
