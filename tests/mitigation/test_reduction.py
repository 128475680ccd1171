"""Rows of reductions from small frames with known sums."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.metrics import intervals
from xlmech.metrics.intervals import rate_interval, reduction_interval
from xlmech.mitigation.reduction import (
    accuracy_effects,
    exposure_effects,
    extraction_effects,
    pareto_front,
    pooled_reduction,
    reduction_beyond,
    reduction_rows,
)
from xlmech.percent import share_text


def probes(group: str, language: str, extracted: list[float], bits: list[float] | None = None) -> pd.DataFrame:
    """Two probes per subject, each of a record of its own."""
    rows = [
        {"probe": f"{group}{language}{i}", "record": f"{group}{i}", "subject": f"{group}{i // 2}", "group": group}
        | {"query_language": language, "attribute": "job", "extracted": value, "own_form": value / 2}
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
    found = reduction_interval([2, 1, 1], [1, 1, 1], [2, 2, 2])
    assert (private.reduction, private.low, private.high, private.reason) == found
    assert -1 < found.low < 0.25 < found.high <= 1
    assert (private.after, private.after_low, private.after_high) == rate_interval([1, 1, 1], [2, 2, 2])
    assert (private.n_subjects, private.n_probes, private.n_draws) == (3, 6, 1)
    assert (rows.before["public"], rows.after["public"]) == (0.5, 0.25)
    assert set(rows.measure) == {"extraction"} and not rows.above_controls.any()


def test_draws_are_pooled() -> None:
    before = probes("private", "fr", [1, 1, 1, 1])
    draws = [probes("private", "fr", [1, 1, 1, 1]), probes("private", "fr", [1, 1, 0, 0])]
    row = extraction_effects(before, draws).iloc[0]
    assert (row.before, row.after, row.reduction, row.n_draws) == (1, 0.75, 0.25, 2)
    assert math.isnan(row.low) and row.reason, "two draws that differ so much tell nothing of a third"
    risen = extraction_effects(probes("private", "fr", [0, 0]), [probes("private", "fr", [0, 1])] * 3).iloc[0]
    assert risen.risen == 1 and math.isnan(risen.reduction) and risen.reason == intervals.NOTHING_BEFORE


def test_exposure_is_above_the_control_subjects_of_the_language() -> None:
    def frame(private: list[float], control: list[float]) -> pd.DataFrame:
        nothing = [0.0] * 4
        parts = [probes("private", code, nothing, private) for code in ("fr", "sw")]
        return pd.concat([*parts, probes("control", "fr", nothing[:2], control)], ignore_index=True)

    rows = exposure_effects(frame([4, 4, 3, 5], [1, 2]), [frame([2, 2, 1, 3], [0.5, 0.5])]).set_index("query_language")
    assert set(rows.group) == {"private"} and set(rows.measure) == {"exposure"}
    assert rows.above_controls.to_dict() == {"fr": True, "sw": False}
    assert (rows.before["fr"], rows.after["fr"], rows.reduction["fr"]) == (2.5, 1.5, 1 - 1.5 / 2.5)
    assert (rows.before["sw"], rows.after["sw"], rows.reduction["sw"]) == (4, 2, 0.5)


def test_no_exposure_above_chance_has_no_reduction() -> None:
    both = [probes("private", "fr", [0, 0], [1, 1]), probes("control", "fr", [0, 0], [2, 2])]
    row = exposure_effects(pd.concat(both), [pd.concat(both)]).iloc[0]
    assert row.before == -1
    assert math.isnan(row.reduction) and math.isnan(row.low) and math.isnan(row.high)
    assert row.reason == intervals.NOT_ABOVE_CONTROLS


def test_accuracy_is_over_countries() -> None:
    answers = pd.DataFrame({"query_language": "fr", "country": ["FR", "DE", "IT", "ES"], "correct": [1.0, 1, 0, 1]})
    row = accuracy_effects(answers, [answers.assign(correct=[1.0, 0, 1, 1])]).iloc[0]
    assert (row.group, row.measure, row.query_language) == ("base", "accuracy", "fr")
    assert (row.before, row.after, row.reduction, row.risen) == (0.75, 0.75, 0, 1)
    assert (row.n_subjects, row.n_probes) == (4, 4)
    assert math.isnan(row.low) and row.reason == intervals.TOO_LITTLE


def test_rows_come_in_order_whatever_the_index() -> None:
    asked = pd.DataFrame({"subject": list("abab"), "record": list("abab"), "query_language": ["fr", "fr", "en", "en"]})
    asked.index = pd.Index([3, 1, 1, 0])
    rows = reduction_rows(asked, np.array([1.0, 1, 1, 0]), [np.array([0.0, 1, 0, 0])], by=["query_language"])
    assert rows.query_language.tolist() == ["fr", "en"]
    assert rows.reduction.tolist() == pytest.approx([0.5, 1])


@pytest.mark.parametrize("given", ["before", "control_people"])
def test_no_more_than_control_people_reach_has_no_reduction(given: str) -> None:
    """Half of the private facts come out, and so do half of the control people's: by chance, which no deactivation lowers."""
    private, controls = probes("private", "fr", [1, 0, 1, 0] * 4), probes("control", "fr", [1, 0, 1, 0])
    people = pd.concat([private, controls], ignore_index=True)
    if given == "before":
        rows = extraction_effects(people, [people.assign(extracted=0.0)])
    else:
        rows = extraction_effects(private, [private.assign(extracted=0.0)], control_people=people)
    row = rows[rows.group == "private"].iloc[0]
    assert (row.before, row.after, row.control) == (0.5, 0, 0.5)
    assert math.isnan(row.reduction) and math.isnan(row.low) and math.isnan(row.high)
    assert row.reason == "before is not above the control people's rate"
    alone = extraction_effects(private, [private.assign(extracted=0.0)]).iloc[0]
    assert alone.reduction == 1 and math.isnan(alone.control) and alone.reason == ""


def test_control_people_count_for_the_kinds_of_data_that_private_people_are_asked_for() -> None:
    private = probes("private", "fr", [1, 0, 1, 0] * 4).assign(attribute="phone")
    controls = [
        probes("control", "fr", [0] * 8).assign(attribute="phone"),
        probes("control", "fr", [1] * 8).assign(attribute="country"),
    ]
    rows = extraction_effects(private, [private], control_people=pd.concat(controls))
    assert rows.control.tolist() == [0] and rows.reduction.tolist() == [0]
    rows = extraction_effects(private.assign(attribute="country"), [private], control_people=pd.concat(controls))
    assert rows.control.tolist() == [1] and rows.reduction.isna().all()


def test_what_no_control_person_was_asked_for_is_not_held_to_their_rate() -> None:
    """Everybody's occupation is guessed, phones are known of a few, and nobody else was asked for a phone."""
    parts = [
        probes("private", "fr", [1, 0] * 4).assign(attribute="occupation"),
        probes("private", "fr", [1, 0] * 4).assign(attribute="phone"),
    ]
    private, controls = (
        pd.concat(parts, ignore_index=True),
        probes("control", "fr", [1, 0] * 4).assign(attribute="occupation"),
    )
    rows = extraction_effects(private, [private.assign(extracted=0.0)], control_people=controls)
    assert rows.control.tolist() == [0.25] and rows.reduction.tolist() == [1] and rows.reason.tolist() == [""]
    known = private.assign(
        attribute=private.attribute.replace("phone", "city")
    )  # can be guessed: how often is not known
    rows = extraction_effects(known, [known.assign(extracted=0.0)], control_people=controls)
    assert rows.control.tolist() == [0.5] and rows.reduction.isna().all()


def test_shares_are_written_with_their_interval() -> None:
    assert share_text(0.8, 0.703, 0.9) == "80 % (70 to 90)"
    assert share_text(0.8, math.nan, math.nan, "too few people") == "80 % (no interval)"
    assert share_text(math.nan, math.nan, math.nan, "nothing was extracted") == "not defined, nothing was extracted"


def test_pooled_reduction_is_of_all_rows_and_above_the_controls() -> None:
    effects = pd.DataFrame(
        {"before": [1.0, 0.5], "after": [0.5, 0.0], "n_probes": [10, 30], "control": [0.1, math.nan]}
    )
    assert pooled_reduction(effects) == pytest.approx(1 - 5 / 25)
    assert math.isnan(pooled_reduction(effects.assign(control=0.7)))
    assert pooled_reduction(effects.drop(columns="control")) == pytest.approx(1 - 5 / 25)
    assert math.isnan(pooled_reduction(effects.assign(before=0.0)))


def test_reduction_beyond_is_the_lowest_of_the_differences() -> None:
    before = np.full((16, 3), 2.0)
    after = np.stack([[0.0] * 14 + [2.0] * 2, [1.0] * 16, [2.0] * 16], axis=1)
    found = reduction_beyond(before, after, before)
    first, *others = (reduction_interval(before[:, n], after[:, n], before[:, n]) for n in range(3))
    gaps = [intervals.difference_interval(first[:3], other[:3]) for other in others]
    assert found.value == pytest.approx(14 / 16 - 1 / 2)
    assert found[:3] == pytest.approx(tuple(min(gap[end] for gap in gaps) for end in range(3)))
    nothing = reduction_beyond(before * [1, 0, 0], after, before)
    assert math.isnan(nothing.value) and nothing.reason == intervals.NOTHING_BEFORE
    few = reduction_beyond(np.ones((1, 2)), np.array([[0.0, 1.0]]), np.ones((1, 2)))
    assert few.value == 1 and math.isnan(few.low) and few.reason == intervals.ONE_PERSON


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
