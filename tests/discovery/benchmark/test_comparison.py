"""The statistics of comparisons against plain loops and closed forms."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stepsmith.discovery.benchmark.comparison import (
    Pool,
    compare,
    draw_studies,
    holm,
    pool_of,
    target_of,
    times,
    two_sided,
)


def _pool(reached, entries=None):
    reached = np.asarray(reached, float)
    num_entries, num_workloads, _ = reached.shape
    names = tuple(entries or (f"e{i}" for i in range(num_entries)))
    workloads = tuple(f"w{i}" for i in range(num_workloads))
    steps, budgets = np.full(num_workloads, 10.0), np.full(num_workloads, 40.0)
    return Pool(names, workloads, workloads, reached, steps, budgets, np.ones((num_entries, num_workloads)))


def test_studies_are_drawn_evenly():
    studies = draw_studies(np.random.default_rng(0), 6, 20_000, 3)
    np.testing.assert_allclose(np.bincount(studies.ravel()) / studies.size, 1 / 6, atol=0.01)
    with pytest.raises(ValueError, match="a study of 5 trials needs a pool of as many, there are 4"):
        draw_studies(np.random.default_rng(0), 4, 1, 5)


def test_time_of_many_studies_is_the_median_over_all_of_them():
    costs = np.array([7.0, 3.0, np.inf, 12.0, 5.0, np.inf, 4.0])
    subsets = [min(subset) for subset in itertools.product(costs, repeat=3)]
    found = times(costs, draw_studies(np.random.default_rng(0), 7, 4001, 3))
    assert found == np.median(subsets)


def test_misses_in_the_middle_are_misses():
    costs = np.array([1.0, np.inf])
    assert times(costs, np.array([[0], [1], [1]])) == np.inf
    assert times(costs, np.array([[0], [1]])) == np.inf
    assert times(costs, np.array([[0], [0], [1]])) == 1.0
    assert times(np.array([1.0, 3.0]), np.array([[0], [1]])) == 2.0


def test_speedup_is_the_geometric_mean_and_a_miss_costs_two_budgets():
    pool = _pool([[[10.0], [20.0]], [[5.0], [np.inf]]], ("one", "other"))._replace(step_seconds=np.array([[1.0, 1.0], [1.0, 3.0]]))
    for seconds, missed in ((False, 800), (True, 2400)):  # the miss lies in the slower steps
        standings = {s.entry: s for s in compare(pool, "one", seconds, per_study=1, replicates=5)}
        assert standings["one"].speedup == 1.0 and standings["other"].speedup == pytest.approx(math.sqrt(2.0 * 200 / missed))


def test_who_did_no_step_has_the_slowest_ones_seconds():
    pool = _pool([[[10.0], [20.0]], [[np.inf], [np.inf]]])._replace(step_seconds=np.array([[2.0, 3.0], [np.inf, np.inf]]))
    np.testing.assert_array_equal(pool.limits(seconds=True), [[800.0, 1200.0]] * 2)
    other = next(s for s in compare(pool, "e0", seconds=True, per_study=1, replicates=5) if s.entry == "e1")
    assert other.speedup == pytest.approx(math.sqrt(10 * 10 * 2 / 1600 * 20 * 10 * 3 / 2400))
    nobody = pool._replace(reached=np.full((2, 2, 1), np.inf), step_seconds=np.full((2, 2), np.inf))
    assert [s.speedup for s in compare(nobody, "e0", seconds=True, per_study=1, replicates=5)] == [1.0, 1.0]


def test_a_competitor_that_is_twice_as_fast_is_found_so():
    slow = np.random.default_rng(1).integers(16, 40, (8, 20)).astype(float)
    pool = _pool([slow, slow / 2], ("slow", "fast"))
    fast, second = compare(pool, "slow")
    assert (fast.entry, second.entry) == ("fast", "slow")
    assert fast.speedup == pytest.approx(2.0) and fast.speedup_interval == (pytest.approx(2.0), pytest.approx(2.0))
    assert fast.score == 1.0 and second.score == pytest.approx(2 / 3, abs=0.01) and fast.reached == 8
    assert fast.p_value < 0.01 and math.isnan(second.p_value) and second.speedup == 1.0


def test_who_misses_a_held_out_variant_loses_its_base_in_the_score_alone():
    names = ("w", "w_meta", "x_meta")
    pool = _pool([[[10.0], [np.inf], [10.0]], [[20.0], [30.0], [30.0]]], ("quick", "steady"))._replace(workloads=names)
    for bases, ratios, scores in (
        (names, ([1, np.inf, 1], [2, 1, 3]), (2 / 3, (2 / 3 + 1 + 1 / 3) / 3)),
        (("w", "w", "x_meta"), ([np.inf, 1], [1, 3]), (1 / 2, (1 + 1 / 3) / 2)),
    ):
        found = {s.entry: s for s in compare(pool._replace(bases=bases), "quick", per_study=1, replicates=20)}
        scored = [name for name, base in zip(names, bases, strict=True) if name == base]
        for entry, ratio, score, steps in zip(("quick", "steady"), ratios, scores, ([100, np.inf, 100], [200, 300, 300]), strict=True):
            assert found[entry].ratios == dict(zip(scored, ratio, strict=True))
            assert found[entry].times == dict(zip(names, steps, strict=True))  # those that count for nothing too
            assert found[entry].score == pytest.approx(score, abs=0.01)
            assert found[entry].score_interval == (found[entry].score, found[entry].score)  # the rule holds in each draw
        assert (found["quick"].reached, found["steady"].reached) == (2, 3)
    assert found["steady"].speedup == pytest.approx(math.sqrt(1 / 2 * 1 / 3))  # over w and x_meta


def test_two_draws_of_the_same_rule_do_not_differ_more_often_than_stated():
    """Unpaired pools of one distribution: the interval of their ratio excludes 1 in about 5 of 100 cases, here at most 12."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        drawn = generator.lognormal(3.0, 0.4, (2, 8, 20))
        other = next(s for s in compare(_pool(drawn, ("a", "b")), "a", studies=25, replicates=100) if s.entry == "b")
        wrong += not other.speedup_interval[0] <= 1 <= other.speedup_interval[1]
    assert wrong <= 12


def test_the_same_seed_gives_the_same_standings():
    pool = _pool(np.random.default_rng(2).integers(1, 41, (3, 4, 12)))
    first, again = (compare(pool, "e0", replicates=20) for _ in range(2))
    assert [s._replace(p_value=0) for s in first] == [s._replace(p_value=0) for s in again]


def test_holm_equals_a_reference():
    p_values = np.array([0.001, 0.04, 0.03, 0.5, 0.0])
    expected = np.maximum.accumulate([0.001 * 4, 0.03 * 3, 0.04 * 2, 0.5])
    np.testing.assert_allclose(holm(p_values, 4)[[0, 2, 1, 3]], expected)


def test_bootstrap_p_value_is_near_that_of_a_normal():
    drawn = np.random.default_rng(0).normal(1.5, 1.0, (20_000, 1))
    assert two_sided(drawn)[0] == pytest.approx(2 * stats.norm.cdf(-1.5), rel=0.1)


def test_the_target_is_reached_by_its_share_of_the_trials():
    generator = np.random.default_rng(3)
    curves = [[math.nan], *generator.random((19, 7)).tolist()]
    for share in (0.05, 0.4, 0.77):
        target = target_of(curves, share)
        assert sum(any(loss <= target for loss in curve) for curve in curves) == math.ceil(share * 20)


def test_a_variant_is_held_out_where_its_base_takes_part():
    names, numbers = ("w", "w_meta", "x_meta"), dict.fromkeys(("w", "w_meta", "x_meta"), 1)
    curves = {("a", name): [(1.0,)] for name in names}
    pool = pool_of(
        curves, dict.fromkeys(curves, 1.0), dict.fromkeys(names, 1.5), numbers, numbers, {"w": "w", "w_meta": "w", "x_meta": "x"}
    )
    assert pool.bases == ("w", "w", "x_meta") and pool.scored == ("w", "x_meta")


def test_curves_become_a_pool():
    curves = {("a", "w"): [(3.0, 1.0), (math.nan,)], ("b", "w"): [(1.0, 1.0), (2.0, 2.0)]}
    pool = pool_of(curves, {("a", "w"): 0.5, ("b", "w"): 0.25}, {"w": 1.5}, {"w": 10}, {"w": 2}, {"w": "w"})
    assert pool.entries == ("a", "b") and pool.workloads == ("w",)
    np.testing.assert_array_equal(pool.costs(seconds=False), [[[20.0, np.inf]], [[10.0, np.inf]]])
    np.testing.assert_array_equal(pool.costs(seconds=True), [[[10.0, np.inf]], [[2.5, np.inf]]])
    np.testing.assert_array_equal(pool.limits(seconds=True), [[10.0], [5.0]])
    assert pool_of({("a", "w"): [()]}, {("a", "w"): 0.5}, {"w": 1.5}, {"w": 10}, {"w": 2}, {"w": "w"}).reached == np.inf
