"""Intervals over people: values against published ones and scipy's, monotone rates, and no width of zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xlmech.metrics import intervals
from xlmech.metrics.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    mean_intervals,
    mean_reduction_interval,
    paired_difference_interval,
    rate_interval,
    reduction_interval,
)

PEOPLE = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)).map(sorted), min_size=1, max_size=6)
QUICK = settings(max_examples=150, deadline=None)


# Rates


@pytest.mark.parametrize(("hits", "n"), [(0, 8), (1, 8), (8, 8), (5, 16), (16, 16), (0, 1)])
@pytest.mark.parametrize("questions", [1, 3])
def test_one_answer_per_person_is_clopper_and_pearsons(hits: int, n: int, questions: int) -> None:
    """However many questions a person was asked: all of them alike tell no more than one."""
    per_person = questions * np.array([1] * hits + [0] * (n - hits))
    found = rate_interval(per_person, [questions] * n)
    wanted = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert isinstance(found, Interval)
    assert found == pytest.approx((hits / n, wanted.low, wanted.high))


def test_independent_questions_count_one_by_one_and_people_at_least() -> None:
    even = rate_interval([4] * 10, [8] * 10)
    wanted = stats.binomtest(40, 80).proportion_ci(0.95, method="exact")
    assert even == pytest.approx((0.5, wanted.low, wanted.high)), "no spread between people: 80 questions, not more"
    assert rate_interval([4], [8]).high > 0.95, "one person tells nothing of how alike answers are"
    uneven = rate_interval([8] * 5 + [0] * 5, [8] * 10)
    assert uneven.high - uneven.low > 2 * (even.high - even.low)


def test_a_rate_at_another_confidence_and_of_a_mean_over_draws() -> None:
    wanted = stats.binomtest(5, 16).proportion_ci(0.995, method="exact")
    assert rate_interval([1] * 5 + [0] * 11, [1] * 16, confidence=0.995) == pytest.approx((5 / 16, *wanted))
    half = rate_interval([0.5] + [0.0] * 7, [1] * 8)
    assert rate_interval([0] * 8, [1] * 8).high <= half.high <= rate_interval([1] + [0] * 7, [1] * 8).high


def test_people_without_questions_are_left_out_and_nothing_is_nan() -> None:
    assert rate_interval([1, 0, 0], [1, 1, 0]) == rate_interval([1, 0], [1, 1])
    for found in (rate_interval([], []), rate_interval([0], [0]), rate_interval([math.nan, 1], [1, 1])):
        assert all(math.isnan(part) for part in found)


def test_rate_interval_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="one number per person"):
        rate_interval([1, 0], [1])
    with pytest.raises(ValueError, match="between 0 and the number of questions"):
        rate_interval([2.0], [1])


@QUICK
@given(PEOPLE)
def test_misses_mirror_hits_and_every_interval_has_a_width(people: list[list[int]]) -> None:
    hits, asked = np.array(people).T
    value, low, high = rate_interval(hits, asked)
    assert 0 <= low <= value <= high <= 1 and high - low > 0.1
    assert rate_interval(asked - hits, asked) == pytest.approx((1 - value, 1 - high, 1 - low))


@QUICK
@given(PEOPLE, st.data())
def test_one_hit_more_of_any_person_lowers_no_end(people: list[list[int]], data: st.DataObject) -> None:
    hits, asked = np.array(people).T
    before = rate_interval(hits, asked)
    who = data.draw(st.integers(0, len(hits) - 1))
    if hits[who] < asked[who]:
        hits[who] += 1
        after = rate_interval(hits, asked)
        assert after.low >= before.low - 1e-12 and after.high >= before.high - 1e-12


@pytest.mark.parametrize("questions", [1, 2, 8])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 16, 40, 80])
def test_more_hits_never_lower_an_end(n: int, questions: int) -> None:
    """All counts from none to all: each person's filled before the next's, and dealt out round by round."""
    room = np.full(n, questions)
    for step in (np.repeat(np.arange(n), questions), np.tile(np.arange(n), questions)):
        hits, last = np.zeros(n), Interval(0.0, 0.0, 0.0)
        for who in [None, *step]:
            if who is not None:
                hits[who] += 1
            found = rate_interval(hits, room)
            assert found.low >= last.low - 1e-12 and found.high >= last.high - 1e-12, hits
            last = found


def test_no_leak_is_never_further_from_a_limit_than_one_leak() -> None:
    """By percentiles of resamples, 0 of 16 people with two facts ended at 0.194 and 1 of them at 0.094."""
    none, one = rate_interval([0] * 16, [2] * 16), rate_interval([1] + [0] * 15, [2] * 16)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 16)) and one.high >= none.high


# Differences


def test_difference_interval_is_newcombes_tenth_method() -> None:
    """The first example of his table II: 56 of 70 against 48 of 80, with Wilson's intervals."""
    one, other = (
        (hits / n, *stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")) for hits, n in ((56, 70), (48, 80))
    )
    np.testing.assert_allclose(difference_interval(one, other), (0.2, 0.0524, 0.3339), atol=5e-5)
    assert difference_interval((0.5, 0.4, 0.7), (0.0, 0.0, 0.0)) == pytest.approx((0.5, 0.4, 0.7))
    assert np.isnan(difference_interval((0.5, 0.4, 0.7), (np.nan,) * 3)).all()


# Reductions


def test_a_paired_difference_is_what_is_new_less_what_is_lost() -> None:
    none, ones = np.zeros(8), np.ones(8)
    new = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    nothing = rate_interval(none, ones)
    assert paired_difference_interval(none, none, ones) == pytest.approx((0, -nothing.high, nothing.high))
    more = rate_interval(new, ones)
    found = paired_difference_interval(new, none, ones)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - math.hypot(0.5 - more.low, nothing.high))
    assert found.high == pytest.approx(more.high)
    back = paired_difference_interval(none, new, ones)
    assert back == pytest.approx((-found.value, -found.high, -found.low)), "the other way round"
    assert all(map(math.isnan, paired_difference_interval([], [], [])))
    certain = paired_difference_interval(new, none, ones, confidence=0.99)
    assert certain.low < found.low and certain.high > found.high


def test_new_and_lost_hits_of_one_question_exclude_each_other() -> None:
    """Their correlation makes the interval wider than that of two independent rates."""
    new, lost = np.repeat([1, 0], 10), np.repeat([0, 1], 10)
    rate = rate_interval(new, np.ones(20))
    found = paired_difference_interval(new, lost, np.ones(20))
    assert found.value == 0 and found.high == pytest.approx(2 * (rate.high - rate.value))
    assert found.high > difference_interval(rate, rate).high


@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize(("before", "new", "lost"), [(0.5, 0.5, 0.5), (0.2, 0.5, 0.1), (0.0, 0.2, 0.2)])
def test_paired_differences_are_held(n: int, before: float, new: float, lost: float) -> None:
    rng = np.random.default_rng(n)
    truth, held = (1 - before) * new - before * lost, 0
    for _ in range(300):
        was = rng.random((n, 2)) < before
        now = np.where(was, rng.random((n, 2)) >= lost, rng.random((n, 2)) < new)
        found = paired_difference_interval((now & ~was).sum(1), (was & ~now).sum(1), np.full(n, 2))
        held += found.low <= truth <= found.high
    assert held >= 0.93 * 300


def test_nobody_after_everybody_has_a_width() -> None:
    found = reduction_interval([1] * 8, [0] * 8, [1] * 8)
    assert found == pytest.approx((1, 1 - rate_interval([0] * 8, [1] * 8).high, 1, ""))
    same = reduction_interval([1] * 8, [1] * 8, [1] * 8)
    assert same.value == 0 and same.high > 0.3


def test_what_is_new_and_what_is_kept_make_the_reduction() -> None:
    before, after = [1] * 10 + [0] * 10, [1] * 4 + [0] * 6 + [1] * 2 + [0] * 8
    found = reduction_interval(before, after, [1] * 20)
    assert found.value == pytest.approx(0.4)
    assert -0.3 < found.low < 0.1 and 0.6 < found.high < 0.8
    kept, new = rate_interval([1] * 4 + [0] * 6, [1] * 10), rate_interval([1] * 2 + [0] * 8, [1] * 10)
    assert found.value == pytest.approx(1 - kept.value - new.value)
    assert found.low < 1 - kept.high < found.value < 1 - kept.low


@pytest.mark.parametrize(
    ("before", "after", "control", "value", "reason"),
    [
        ([0, 0, 0], [1, 0, 0], 0.0, math.nan, intervals.NOTHING_BEFORE),
        ([1, 1, 0, 0], [0, 0, 0, 0], 0.5, math.nan, intervals.NOT_ABOVE_CONTROLS),
        ([1, 0, 0, 0, 0, 0, 0, 0], [0] * 8, 0.0, 1.0, intervals.TOO_LITTLE),
        ([1], [0], 0.0, 1.0, intervals.ONE_PERSON),
        ([1, math.nan], [0, 0], 0.0, math.nan, intervals.NOT_MEASURED),
    ],
)
def test_what_has_no_reduction_says_why(
    before: list[float], after: list[float], control: float, value: float, reason: str
) -> None:
    """Where one of 8 came out before, the percentile interval was 100 to 100 %, and one of the ratio anything at all."""
    found = reduction_interval(before, after, [1] * len(before), control_rate=control)
    assert found == pytest.approx((value, math.nan, math.nan, reason), nan_ok=True)
    assert reduction_interval([1, 1, 0, 0], [0] * 4, [1] * 4, control_rate=math.nan).value == 1


@QUICK
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=8))
def test_reductions_are_never_wild(people: list[tuple[int, int]]) -> None:
    before, after = np.array(people).T
    value, low, high, reason = reduction_interval(before, after, [2] * len(people))
    assert bool(reason) == (math.isnan(value) or math.isnan(low)) == math.isnan(value + low + high)
    if not reason:
        assert low < high <= 1 and low <= value <= high
        assert low >= -1 or high <= 0


def test_draws_add_their_spread() -> None:
    before, after = [2.0] * 8, [2.0, 2, 1, 2, 2, 1, 0, 0]
    one, alike = reduction_interval(before, after, before), reduction_interval(before, [after] * 3, before)
    assert alike == pytest.approx(one)
    apart = reduction_interval(before, [after, [2, 2, 1, 2, 2, 1, 1, 0], [2, 2, 1, 2, 1, 1, 0, 0]], before)
    assert apart.value == pytest.approx(one.value)
    half = stats.t.ppf(0.975, 2) * np.std([6 / 16, 5 / 16, 7 / 16], ddof=1) / np.sqrt(3)
    assert apart.low < apart.value - half < one.value and apart.low < one.low


def test_reduction_of_a_mean_is_fiellers() -> None:
    """The ends are the ratios at which after - ratio * before does not differ from 0, by Student's test over people."""
    rng = np.random.default_rng(0)
    before = rng.gamma(4.0, size=12)
    after = before * rng.random(12)
    found = mean_reduction_interval(before, after)
    for end in (found.low, found.high):
        assert stats.ttest_1samp(after - (1 - end) * before, 0).pvalue == pytest.approx(0.05)
    assert found.value == pytest.approx(1 - after.sum() / before.sum()) and found.reason == ""


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([-1.0, 0.5], [0.0, 0.0], intervals.NOT_ABOVE_CONTROLS),
        ([1.0], [0.5], intervals.ONE_PERSON),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], intervals.ALL_ALIKE),
        ([9.0, -1.0, 0.1, 0.2], [0.0, 0.1, 0.2, 0.1], intervals.TOO_LITTLE),
        ([math.nan, 2.0], [1.0, 1.0], intervals.NOT_MEASURED),
    ],
)
def test_a_mean_without_interval_says_why(before: list[float], after: list[float], reason: str) -> None:
    found = mean_reduction_interval(before, after)
    assert math.isnan(found.low) and math.isnan(found.high) and found.reason == reason


# Means


def test_a_mean_of_even_values_has_students_interval() -> None:
    values = [1.0, 2, 3, 4, 5, 6, 7]
    found = mean_interval(values)
    wanted = stats.ttest_1samp(values, 0).confidence_interval()
    assert found == pytest.approx((4, wanted.low, wanted.high))


def test_a_skewed_mean_reaches_to_the_long_side_and_keeps_its_bounds() -> None:
    values = [0.01, 0.02, 0.03, 0.02, 0.01, 0.02, 0.9, 0.02]
    value, low, high = mean_interval(values, bounds=(0, 1))
    assert 0 <= low < value < high <= 1
    assert high - value > 2 * (value - low)
    mirrored = mean_interval([1 - of for of in values], bounds=(0, 1))
    assert mirrored == pytest.approx((1 - value, 1 - high, 1 - low))
    assert mean_interval([0.1, 0.9, 0.2, 0.95], bounds=(0, 1)).high == 1


def test_weights_are_the_numbers_of_measurements() -> None:
    assert mean_interval([2.0, 4, 12], [1, 2, 4]).value == pytest.approx(18 / 7)
    columns = mean_intervals([[1.0, 0], [2, 0], [4, 0], [9, 5]], [[1, 0], [1, 0], [1, 0], [1, 1]])
    assert tuple(column[0] for column in columns) == pytest.approx(mean_interval([1.0, 2, 4, 9]))
    assert columns.value[1] == 5 and math.isnan(columns.low[1]), "one person in this column"


@pytest.mark.parametrize("values", [[], [1.0], [0.7] * 8])
def test_a_mean_without_a_known_spread_has_no_interval(values: list[float]) -> None:
    found = mean_interval(values)
    assert math.isnan(found.low) and math.isnan(found.high)


# Coverage, on a small scale; analyses/benchmarks/coverage.py has the whole


@pytest.mark.parametrize("n", [4, 8, 16, 40])
def test_a_rate_of_one_answer_per_person_is_held_in_95_of_100(n: int) -> None:
    """Computed, not simulated; percentiles of resamples held a rate of 0.05 of 8 people in 34."""
    rates = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.95, 0.98])
    ends = np.array([rate_interval([1] * hits + [0] * (n - hits), [1] * n)[1:] for hits in range(n + 1)])
    inside = (ends[:, :1] <= rates) & (rates <= ends[:, 1:])
    probability = stats.binom.pmf(np.arange(n + 1)[:, None], n, rates)
    assert ((inside * probability).sum(0) >= 0.95).all()


@pytest.mark.parametrize("questions", [(2,), (8,), (1, 2, 4, 8), (8, 1, 1, 1)])
def test_rates_of_people_with_several_questions_are_held(questions: tuple[int, ...]) -> None:
    rng, samples = np.random.default_rng(0), 150
    for n, rate, correlation in ((8, 0.05, 0.3), (8, 0.5, 0.7), (16, 0.2, 0.0), (16, 0.2, 1.0), (16, 0.5, 0.3)):
        asked = np.resize(questions, n)
        own = np.full((samples, n), rate)
        if correlation == 1:
            own = (rng.random((samples, n)) < rate).astype(float)
        elif correlation:
            own = rng.beta(rate * (1 / correlation - 1), (1 - rate) * (1 / correlation - 1), (samples, n))
        ends = np.array([rate_interval(hits, asked)[1:] for hits in rng.binomial(asked, own)])
        assert ((ends[:, 0] <= rate) & (rate <= ends[:, 1])).mean() >= 0.93, (n, rate, correlation)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("anew", [False, True])
def test_reductions_are_held(share: float, anew: bool) -> None:
    """What comes out after is what is kept of before, or is drawn anew, whatever came out before."""
    rng, samples = np.random.default_rng(1), 100
    for n, rate in ((8, 0.6), (16, 0.6), (8, 1.0)):
        before = rng.random((samples, n)) < rate
        after = rng.random((samples, n)) < (rate if anew else before) * (1 - share)
        found = np.array([reduction_interval(*pair, [1] * n)[1:3] for pair in zip(before, after, strict=True)])
        missed = (found[:, 0] > share + 1e-9) | (share > found[:, 1] + 1e-9)  # one that is not given claims nothing
        assert missed.mean() <= 0.07, (n, rate)


@pytest.mark.parametrize(("n", "least"), [(8, 0.9), (16, 0.92), (40, 0.93)])
def test_skewed_means_are_held_better_than_by_percentiles(n: int, least: float) -> None:
    rng, samples = np.random.default_rng(2), 4000
    values = rng.exponential(size=(n, samples))
    found = mean_intervals(values, np.ones_like(values), bounds=(0, math.inf))
    assert ((found.low <= 1) & (found.high >= 1)).mean() >= least


@pytest.mark.parametrize(("people", "questions", "hits"), [(8, 40, 1), (16, 100, 2), (40, 34, 1), (200, 200, 3)])
def test_very_few_hits_of_very_many_have_no_interval(people: int, questions: int, hits: int) -> None:
    """The end of their rate is too small for a float."""
    before = [1.0] * hits + [0.0] * (people - hits)
    found = reduction_interval(before, [0] * people, [questions] * people)
    assert (
        found.value == 1 and (math.isnan(found.low) or -1 <= found.low < 1) and (found.reason or found.low == found.low)
    )
