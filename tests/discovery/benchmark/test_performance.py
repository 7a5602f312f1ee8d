"""Times, ratios and scores: by hand, against a transcription in plain loops, and what must hold for any times."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stepsmith.discovery.benchmark import (
    Reached,
    Target,
    Trial,
    apply_held_out,
    earliest,
    fastest,
    geometric_speedup,
    profile,
    ratios,
    score,
    time_to_target,
    workload_time,
)

INF, NAN = math.inf, math.nan
MISSED = Reached(INF, INF)

# Few different times, so that equal ones, ratios of exactly 4 and ratios on a point of the integral come up.
TIMES = st.sampled_from([1.0, 2.0, 3.0, 4.0, 4.1, 7.5, 16.0, 100.0, INF])
METRICS = st.sampled_from([0.0, 0.5, 1.0, INF, -INF, NAN])


def _tables(elements=TIMES, min_submissions=1, max_submissions=4):
    shapes = st.tuples(st.integers(min_submissions, max_submissions), st.integers(1, 4))
    return arrays(float, shapes, elements=elements)


def _trial(*evaluations):
    times, metrics = np.array(evaluations, float).reshape(-1, 2).T
    return Trial(times, metrics)


@pytest.mark.parametrize(
    ("evaluations", "target", "expected"),
    [
        ([(10, 0.5), (20, 0.8), (30, 0.9)], Target(0.8), Reached(1, 20.0)),
        ([(10, 0.5), (20, 0.8), (30, 0.1)], Target(0.5, falls=True), Reached(0, 10.0)),
        ([(10, 0.5), (20, 0.4)], Target(0.3, falls=True), MISSED),
        ([(10, 0.9), (20, 0.1)], Target(0.8), Reached(0, 10.0)),  # that it gets worse again does not matter
        ([(10, NAN), (20, 0.9)], Target(0.8), Reached(1, 20.0)),
        ([(10, NAN), (20, NAN)], Target(-1e9), MISSED),
        ([(10, INF), (20, 0.9)], Target(0.8), Reached(1, 20.0)),
        ([(10, -INF)], Target(0.8, falls=True), MISSED),
        ([], Target(0.0), MISSED),
    ],
)
def test_time_to_target(evaluations, target, expected):
    assert time_to_target(_trial(*evaluations), target) == expected


@given(st.lists(METRICS, max_size=5), st.booleans())
def test_time_to_target_is_the_first_in_a_loop(metrics, falls):
    expected = MISSED
    for index, metric in enumerate(metrics):
        if math.isfinite(metric) and (metric <= 0.5 if falls else metric >= 0.5):
            expected = Reached(index, 10.0 * index)
            break
    assert time_to_target(_trial(*((10 * i, metric) for i, metric in enumerate(metrics))), Target(0.5, falls)) == expected


def test_the_best_trial_by_evaluations_and_by_time():
    reached = [MISSED, Reached(7, 30.0), Reached(3, 50.0), Reached(3, 45.0)]
    assert earliest(reached) == Reached(3, 45.0)  # of equal evaluations the faster, in whatever order
    assert earliest(reached[::-1]) == Reached(3, 45.0)
    assert fastest(reached) == Reached(7, 30.0)
    assert earliest([]) == fastest([]) == earliest([MISSED]) == MISSED


@pytest.mark.parametrize(
    ("studies", "expected"),
    [
        ([[10], [30], [20]], 20.0),
        ([[10], [INF], [20]], 20.0),
        ([[10], [INF], [INF]], INF),
        ([[10], [20], [30], [40]], 25.0),
        ([[10], [20], [INF], [40]], 30.0),
        ([[10], [20], [INF], [INF]], INF),  # one of the two in the middle misses
        ([[10], [INF], [INF], [INF]], INF),
        ([[10, 5], [20, INF]], 12.5),
        ([[], [10], [20]], 20.0),  # a study without a trial has missed
        ([[]], INF),
        ([], INF),
    ],
)
def test_median_over_studies(studies, expected):
    trials = [[_trial((time if time < INF else 1.0, 1.0 if time < INF else 0.0)) for time in study] for study in studies]
    assert workload_time(trials, Target(0.5)) == expected


def test_choice_of_the_trial_changes_the_median():
    early, quick = _trial((10, 0.1), (40, 1.0)), _trial((5, 0.1), (10, 0.1), (20, 1.0))
    assert workload_time([[early, quick]], Target(1.0)) == 40.0
    assert workload_time([[early, quick]], Target(1.0), fastest) == 20.0


def test_scores_by_hand():
    times = np.array([[10.0, 100.0, INF, 5.0], [25.0, 60.0, INF, 20.0], [40.1, 40.0, INF, NAN]])
    expected = [[1.0, 2.5, INF, 1.0], [2.5, 1.5, INF, 4.0], [INF, 1.0, INF, INF]]
    np.testing.assert_array_equal(ratios(times), expected)
    taus = np.array([1.0, 1.5, 2.5, 4.0])
    np.testing.assert_array_equal(profile(ratios(times), taus), [[0.5, 0.5, 0.75, 0.75], [0, 0.25, 0.5, 0.75], [0.25] * 4])
    # A ratio between two of the 100 points, 1/33 apart, weighs from half way to the next: 2.5 is there from 49.5 of 99 on,
    # 1.5 from 16.5 on, and 4 only at the last point, whose weight is a half.
    by_hand = [(1 + 49.5 / 99 + 1) / 4, (49.5 / 99 + 82.5 / 99 + 0.5 / 99) / 4, 1 / 4]
    np.testing.assert_allclose(score(ratios(times)), by_hand, rtol=1e-12)


def test_max_ratio():
    times = np.array([[10.0], [25.0]])
    np.testing.assert_array_equal(ratios(times, 2.0), [[1.0], [INF]])
    np.testing.assert_allclose(score(np.array([[1.5]]), 2.0), [0.5], rtol=1e-12)
    for wrong in (1.0, NAN, INF, -4.0):
        with pytest.raises(ValueError, match="max_ratio is a number above 1"):
            ratios(times, wrong)
        with pytest.raises(ValueError, match="max_ratio is a number above 1"):
            score(times, wrong)


def test_times_of_nought():
    np.testing.assert_array_equal(ratios(np.array([[0.0], [0.0], [1.0]])), [[1.0], [1.0], [INF]])


@pytest.mark.parametrize(
    "call", [ratios, lambda times: apply_held_out(times, times, [0]), lambda times: geometric_speedup(times, times[0])]
)
def test_negative_times_are_refused(call):
    with pytest.raises(ValueError, match="times are 0 or more, got -1.0"):
        call(np.array([[-1.0]]))


def test_a_profile_needs_a_workload():
    with pytest.raises(ValueError, match="needs a workload"):
        score(np.empty((2, 0)))


@pytest.mark.parametrize(
    ("times", "variants", "expected"),
    [
        # The third misses the workload, so its time on the variant is no yardstick for the others.
        ([10, 20, INF], [50, 60, 5], [10, 20, INF]),
        # The first is a yardstick on the workload although it loses it by the variant.
        ([10, 50], [INF, 5], [INF, INF]),
        # Too slow on the variant is missed on the variant.
        ([10, 20], [41, 10], [INF, 20]),
        ([10, 20], [40, 10], [10, 20]),
        # Too slow on the workload: its time on the variant was the yardstick all the same.
        ([10, 41], [9, 2], [INF, INF]),
        ([10, NAN], [NAN, 1], [INF, INF]),
    ],
)
def test_order_of_the_held_out_rules(times, variants, expected):
    columns = (np.array(values, float)[:, None] for values in (times, variants))
    np.testing.assert_array_equal(apply_held_out(*columns, [0]), np.array(expected, float)[:, None])


def test_several_variants_of_a_workload():
    times = np.array([[10.0, 10.0, 10.0]] * 3)
    variants = np.array([[1.0, 1.0], [1.0, INF], [INF, 1.0]])
    expected = [[10.0, 10.0, 10.0], [10.0, INF, 10.0], [10.0, INF, 10.0]]
    np.testing.assert_array_equal(apply_held_out(times, variants, [1, 1]), expected)
    with pytest.raises(ValueError, match="2 held-out variants need one base workload each, got 1"):
        apply_held_out(times, variants, [1])


def _scores_in_loops(times, variants, base_of):
    """The protocol as facts, one number at a time."""
    times, variants = times.copy(), variants.copy()
    submissions = range(len(times))
    for s in submissions:
        for v, base in enumerate(base_of):
            if times[s, base] == INF:
                variants[s, v] = INF
    for table in (times, variants):
        for column in table.T:
            best = min(column)
            column[:] = [INF if value > 4 * best else value for value in column]
    for s in submissions:
        for v, base in enumerate(base_of):
            if variants[s, v] == INF:
                times[s, base] = INF
    best = [min(column) for column in times.T]
    scores = []
    for s in submissions:
        within = [[t < INF and t / b <= tau for t, b in zip(times[s], best, strict=True)] for tau in np.linspace(1, 4, 100)]
        rho = [sum(row) / len(row) for row in within]
        scores.append(sum((a + b) / 2 * (3 / 99) for a, b in zip(rho, rho[1:], strict=False)) / 3)
    return scores


@given(st.data())
def test_scores_are_those_of_plain_loops(data):
    times = data.draw(_tables())
    num_submissions, num_workloads = times.shape
    base_of = data.draw(st.lists(st.integers(0, num_workloads - 1), max_size=3))
    variants = data.draw(arrays(float, (num_submissions, len(base_of)), elements=TIMES))
    before = times.copy(), variants.copy()
    scores = score(ratios(apply_held_out(times, variants, base_of)))
    np.testing.assert_allclose(scores, _scores_in_loops(times, variants, base_of), atol=1e-12)
    np.testing.assert_array_equal((times, variants)[0], before[0])  # what is given stays as it was
    np.testing.assert_array_equal((times, variants)[1], before[1])


@given(_tables(), st.data())
def test_units_do_not_matter(times, data):
    # Powers of two scale floats exactly; each workload may have its own unit.
    units = 2.0 ** data.draw(arrays(float, times.shape[1], elements=st.integers(-20, 20).map(float)))
    np.testing.assert_array_equal(score(ratios(times * units)), score(ratios(times)))


@given(_tables(TIMES.filter(math.isfinite), max_submissions=1))
def test_alone_and_never_missed_is_a_score_of_one(times):
    np.testing.assert_allclose(score(ratios(apply_held_out(times, times, range(times.shape[1])))), [1.0], rtol=1e-12)


@given(_tables())
def test_missing_times_are_misses(times):
    absent = np.where(np.isinf(times), NAN, times)
    np.testing.assert_array_equal(ratios(absent), ratios(times))
    columns = range(times.shape[1])
    np.testing.assert_array_equal(apply_held_out(absent, absent, columns), apply_held_out(times, times, columns))
    np.testing.assert_array_equal(absent, np.where(np.isinf(times), NAN, times))  # what is given stays as it was


@given(_tables())
def test_faster_is_never_worse_for_oneself_nor_better_for_others(times):
    before = score(ratios(times))
    assert np.all((before >= 0) & (before <= 1 + 1e-12))
    better = times.copy()
    better[0] = better[0] / 2
    after = score(ratios(better))
    assert after[0] >= before[0] and np.all(after[1:] <= before[1:])


def test_speedup_by_hand():
    times, reference = np.array([[10.0, 40.0, 5.0], [10.0, INF, NAN], [INF, NAN, INF]]), np.array([20.0, 20.0, 40.0])
    np.testing.assert_allclose(geometric_speedup(times, reference), [2.0, 2.0, NAN])  # (2 * 1/2 * 8) ** (1/3), 20 / 10, nothing
    with_budgets = geometric_speedup(times, reference, np.array([100.0, 160.0, 80.0]))
    np.testing.assert_allclose(with_budgets, [2.0, (2 / 8 / 2) ** (1 / 3), (1 / 5 / 8 / 2) ** (1 / 3)])
    assert geometric_speedup(np.array([[INF]]), np.array([INF]), np.array([7.0])) == 1.0
    with pytest.raises(ValueError, match="above 0"):
        geometric_speedup(np.array([[0.0]]), np.array([1.0]))


@given(_tables(min_submissions=2, max_submissions=2))
def test_speedup_is_antisymmetric(times):
    forth, back = geometric_speedup(times, times[1])[0], geometric_speedup(times, times[0])[1]
    assert (math.isnan(forth) and math.isnan(back)) or forth * back == pytest.approx(1.0)
