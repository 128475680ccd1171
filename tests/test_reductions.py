"""Rows of reductions from small frames with known sums."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.metrics import bootstrap_reduction
from xlmech.reductions import (
    accuracy_effects,
    exposure_effects,
    extraction_effects,
    pareto_front,
    reduction_of_draws,
    reduction_rows,
)


def probes(group: str, language: str, extracted: list[float], bits: list[float] | None = None) -> pd.DataFrame:
    """Two probes per subject, each of a record of its own."""
    rows = [
        {"probe": f"{group}{language}{i}", "record": f"{group}{i}", "subject": f"{group}{i // 2}", "group": group}
        | {"query_language": language, "extracted": value, "own_form": value / 2}
        | {"exposure_bits": bits[i] if bits else math.nan}
        for i, value in enumerate(extracted)
    ]
    return pd.DataFrame(rows)


def test_extraction_is_of_sums_and_public_facts_count_in_their_own_form() -> None:
    before = pd.concat([probes("private", "fr", [1, 1, 1, 0, 1, 0]), probes("public", "en", [1, 1])])
    after = pd.concat([probes("private", "fr", [0, 1, 0, 1, 1, 0]), probes("public", "en", [1, 0])])
    rows = extraction_effects(before, [after]).set_index("group")
    private = rows.loc["private"]
    assert (private.before, private.after, private.reduction, private.risen) == (4 / 6, 3 / 6, 0.25, 1)
    assert (private.reduction, private.low, private.high) == bootstrap_reduction([2, 1, 1], [1, 1, 1])
    assert (private.n_subjects, private.n_probes, private.n_draws) == (3, 6, 1)
    assert (rows.before["public"], rows.after["public"]) == (0.5, 0.25)
    assert set(rows.measure) == {"extraction"} and not rows.above_controls.any()


def test_draws_are_pooled() -> None:
    before = probes("private", "fr", [1, 1, 1, 1])
    draws = [probes("private", "fr", [1, 1, 1, 1]), probes("private", "fr", [1, 1, 0, 0])]
    row = extraction_effects(before, draws).iloc[0]
    assert (row.before, row.after, row.reduction, row.n_draws) == (1, 0.75, 0.25, 2)
    assert row.low < 0.25 < row.high
    risen = extraction_effects(probes("private", "fr", [0, 0]), [probes("private", "fr", [0, 1])] * 3).iloc[0]
    assert risen.risen == 1 and math.isnan(risen.reduction)


def test_exposure_is_above_the_control_subjects_of_the_language() -> None:
    def frame(private: list[float], control: list[float]) -> pd.DataFrame:
        nothing = [0.0] * 4
        parts = [probes("private", code, nothing, private) for code in ("fr", "sw")]
        return pd.concat([*parts, probes("control", "fr", nothing[:2], control)], ignore_index=True)

    rows = exposure_effects(frame([4, 4, 3, 5], [1, 2]), [frame([2, 2, 1, 3], [0.5, 0.5])]).set_index("query_language")
    assert set(rows.group) == {"private"} and set(rows.measure) == {"exposure_bits"}
    assert rows.above_controls.to_dict() == {"fr": True, "sw": False}
    assert (rows.before["fr"], rows.after["fr"], rows.reduction["fr"]) == (2.5, 1.5, 1 - 1.5 / 2.5)
    assert (rows.before["sw"], rows.after["sw"], rows.reduction["sw"]) == (4, 2, 0.5)


def test_no_exposure_above_chance_has_no_reduction() -> None:
    both = [probes("private", "fr", [0, 0], [1, 1]), probes("control", "fr", [0, 0], [2, 2])]
    row = exposure_effects(pd.concat(both), [pd.concat(both)]).iloc[0]
    assert row.before == -1
    assert math.isnan(row.reduction) and math.isnan(row.low) and math.isnan(row.high)


def test_accuracy_resamples_countries() -> None:
    answers = pd.DataFrame({"query_language": "fr", "country": ["FR", "DE", "IT", "ES"], "correct": [1.0, 1, 0, 1]})
    row = accuracy_effects(answers, [answers.assign(correct=[1.0, 0, 1, 1])]).iloc[0]
    assert (row.group, row.measure, row.query_language) == ("base", "accuracy", "fr")
    assert (row.before, row.after, row.reduction, row.risen) == (0.75, 0.75, 0, 1)
    assert (row.n_subjects, row.n_probes) == (4, 4)
    assert row.low < 0 < row.high


def test_rows_come_in_order_whatever_the_index() -> None:
    asked = pd.DataFrame({"subject": list("abab"), "record": list("abab"), "query_language": ["fr", "fr", "en", "en"]})
    asked.index = pd.Index([3, 1, 1, 0])
    rows = reduction_rows(asked, np.array([1.0, 1, 1, 0]), [np.array([0.0, 1, 0, 0])], by=["query_language"])
    assert rows.query_language.tolist() == ["fr", "en"]
    assert rows.reduction.tolist() == pytest.approx([0.5, 1])


def test_one_draw_is_a_plain_reduction() -> None:
    before, after = np.array([3.0, 2, 4]), np.array([[1.0, 2, 0]])
    assert reduction_of_draws(before, after, seed=5) == bootstrap_reduction(before, after[0], seed=5)


def test_reduction_of_draws_spans_draws_and_subjects() -> None:
    before = np.array([2.0, 2, 2, 2, 2, 2])
    alike = np.array([[2.0, 2, 1, 2, 2, 1]] * 3)
    value, low, high = reduction_of_draws(before, alike)
    assert value == pytest.approx(2 / 12)
    np.testing.assert_allclose((value, low, high), bootstrap_reduction(before, alike[0]), atol=0.02)
    apart = np.array([[2.0] * 6, [1.0] * 6])
    value, low, high = reduction_of_draws(before, apart)
    # Subjects do not differ, so only the draws do: both times the first, one of each, both times the second.
    np.testing.assert_allclose((value, low, high), (0.25, 0, 0.5))


def test_reduction_of_draws_without_anything_to_reduce_or_resample() -> None:
    assert np.isnan(reduction_of_draws(np.zeros(3), np.ones((2, 3)))).all()
    value, low, high = reduction_of_draws(np.array([4.0]), np.array([[1.0], [2.0]]))
    assert value == 1 - 1.5 / 4 and math.isnan(low) and math.isnan(high)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_pareto_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    found = pareto_front([gain for gain, _ in points], [loss for _, loss in points])
    for (gain, loss), on_front in zip(points, found, strict=True):
        beaten = any((g >= gain and c <= loss and (g, c) != (gain, loss)) for g, c in points)
        assert on_front == (not beaten)


def test_pareto_front_leaves_out_what_was_not_measured() -> None:
    nan = float("nan")
    assert pareto_front([0.9, 0.1, nan, 0.5], [nan, 0.0, 0.0, 0.2]).tolist() == [False, True, False, True]
