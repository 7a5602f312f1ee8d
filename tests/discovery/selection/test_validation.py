"""The course of a search on validation tasks: who led it, and when it began to overfit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepsmith.discovery.language import load
from stepsmith.discovery.ledger import BirthRow
from stepsmith.discovery.search.strategy import Candidate, init, measured_again, tell_best
from stepsmith.discovery.selection.validation import CurvePoint, Improvement, improvements, meta_overfitting, thinned


def births(told):
    return [BirthRow(index, h, None, "", "", 0, index, fitness, "ok", False) for index, (h, fitness) in enumerate(told)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(-5, 5).map(float))), max_size=30))
def test_the_leaders_are_those_of_the_search_itself(told):
    program, state, expected = load("sgd"), init(0), []
    for index, (name, fitness) in enumerate(told):
        before = state.best
        value = math.inf if fitness is None else fitness
        state = tell_best(measured_again(state, {name: value}), Candidate(index, program, name, None, "", program), value)
        if state.best is not None and math.isfinite(state.best.fitness) and (before is None or state.best.hash != before.hash):
            expected.append(state.best.birth)
    # A failure told again of the leader is the one thing the ledger tells otherwise: it keeps no number of it.
    if not any(fitness is None for _, fitness in told):
        assert [one.birth for one in improvements(births(told))] == expected


def test_improvements_come_in_the_order_of_telling_and_failures_never_lead():
    rows = births([("a", 1.0), ("b", None), ("c", 0.5), ("a", 0.4), ("c", 0.9), ("d", 0.3)])
    shuffled = [rows[index] for index in (5, 3, 1, 0, 2, 4)]
    assert improvements(shuffled) == [
        Improvement(0, 0, "a", 1.0),
        Improvement(2, 2, "c", 0.5),
        Improvement(3, 3, "a", 0.4),
        Improvement(5, 5, "d", 0.3),
    ]


@given(st.integers(0, 60), st.integers(2, 30))
def test_thinning_keeps_the_ends_and_no_more_than_asked(size, most):
    found = [Improvement(told, told, str(told), -told) for told in range(size)]
    kept = thinned(found, most)
    assert len(kept) == min(size, most) == len(set(kept))
    assert kept == sorted(kept) and kept[:1] == found[:1] and kept[-1:] == found[-1:]


def curve(values, error=0.1):
    return [CurvePoint(10 * index, "", -index, value, error) for index, value in enumerate(values)]


CURVES = {
    "still improving": ([3, 2, 1, 0], None),
    "clearly worse after the third": ([3, 2, 1, 4], 20),
    "worse, and then best": ([3, 1, 2, 0], None),
    "worse by no more than chance": ([1.0, 0.8, 0.9], None),
    "fails in the end": ([1.0, 0.5, math.inf], 10),
    "fails at first": ([math.inf, 1.0, 0.5], None),
    "always fails": ([math.inf, math.inf], None),
    "one point": ([1.0], None),
    "none": ([], None),
}


@pytest.mark.parametrize(("values", "after"), CURVES.values(), ids=CURVES.keys())
def test_meta_overfitting_is_dated_by_the_best_point_on_the_validation_tasks(values, after):
    assert meta_overfitting(curve(values), 3) == after


def test_without_an_error_nothing_is_said():
    assert meta_overfitting(curve([0.0, 5.0], error=None), 1) is None


def test_a_flat_curve_raises_a_false_alarm_in_less_than_one_case_in_twenty():
    rng = np.random.default_rng(0)
    for points, seeds in ((5, 3), (20, 3), (20, 8)):
        scores = rng.normal(size=(2_000, points, seeds))
        means, errors = scores.mean(2), scores.std(2, ddof=1) / math.sqrt(seeds)
        alarms = [
            meta_overfitting([CurvePoint(t, "", 0.0, m, e) for t, (m, e) in enumerate(zip(*row, strict=True))], seeds)
            for row in zip(means.tolist(), errors.tolist(), strict=True)
        ]
        assert np.mean([alarm is not None for alarm in alarms]) < 0.05
