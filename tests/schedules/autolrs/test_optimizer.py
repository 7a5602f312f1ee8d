"""The Bayesian optimiser: its promises, and what it finds of standard functions beside the library bayesian-optimization."""

import importlib.util
import json
import statistics
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stepsmith.schedules.autolrs import optimizer as bayes
from stepsmith.schedules.autolrs.settings import Axis, BayesConfig, BayesError, ExpectedImprovement, LowerConfidenceBound

_spec = importlib.util.spec_from_file_location("bayes_library", Path(__file__).parents[2] / "benchmarks" / "bayes_library.py")
assert _spec is not None and _spec.loader is not None
library = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(library)

RATE = BayesConfig((Axis(1e-5, 1.0, log=True),), capacity=64)  # as the others: a process of a size and a box is compiled once
PLANE = BayesConfig((Axis(-5.0, 10.0), Axis(0.0, 15.0)), capacity=64)


def _run(function, config, evaluations, batch=1):
    state = bayes.init(config)
    while len(state.told.values) < evaluations:
        points, state = bayes.ask(config, state, batch)
        state = bayes.tell(config, state, points, [function(point) for point in points])
    return state


def test_the_same_seed_gives_the_same_asks():
    first, again = (_run(library.branin, PLANE, 8) for _ in range(2))
    np.testing.assert_array_equal(first.told.places, again.told.places)
    other = _run(library.branin, BayesConfig(PLANE.axes, capacity=64, seed=1), 8)
    assert not np.array_equal(first.told.places, other.told.places)


@pytest.mark.parametrize("acquisition", [LowerConfidenceBound(), ExpectedImprovement()])
def test_a_smooth_function_of_a_logarithm_is_solved_in_ten(acquisition):
    config = BayesConfig(RATE.axes, acquisition, capacity=64)
    found = bayes.best(config, _run(lambda point: (np.log10(point[0]) + 2.3) ** 2, config, 10))
    assert abs(np.log10(found.point[0]) + 2.3) < 0.1


def test_expected_improvement_is_the_integral():
    mean, deviation, lowest = 0.3, 0.7, 0.1
    draws = np.random.default_rng(0).normal(mean, deviation, 1_000_000)
    expected = np.maximum(lowest - draws, 0).mean()
    value = ExpectedImprovement()(jnp.asarray(mean), jnp.asarray(deviation), jnp.asarray(lowest))
    assert float(value) == pytest.approx(expected, rel=0.01)


def test_a_batch_is_spread_and_worth_nearly_as_much():
    state = _run(library.branin, PLANE, 8)
    points, _ = bayes.ask(PLANE, state, 4)
    shares = np.stack([axis.to_unit(column) for column, axis in zip(points.T, PLANE.axes, strict=True)], axis=1)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(shares) for b in shares[:i]]
    assert min(distances) > 0.02
    assert bayes.best(PLANE, _run(library.branin, PLANE, 32, batch=4)).value < 0.6  # the minimum is 0.398


def test_failures_are_avoided_and_never_break_the_minimum():
    def function(point):
        return np.nan if point[0] > 0.1 else (np.inf if point[0] > 0.05 else (np.log10(point[0]) + 3) ** 2)

    state = _run(function, RATE, 14)
    assert np.isnan(state.told.values).any()
    found = bayes.best(RATE, state)
    assert abs(np.log10(found.point[0]) + 3) < 0.2
    assert bayes.recommend(RATE, state).value < 0.1
    mean, _ = bayes.predict(RATE, state, [[0.5], [1e-3]])
    assert mean[0] > mean[1]


def test_failures_alone_are_an_error_and_asking_goes_on():
    state = bayes.tell(RATE, bayes.init(RATE), [[1e-3], [1e-2], [0.5]], [np.nan, np.inf, -np.inf])
    points, _ = bayes.ask(RATE, state)
    assert 1e-5 <= points[0, 0] <= 1
    for chosen in (bayes.best, bayes.recommend):
        with pytest.raises(BayesError, match="no value was told"):
            chosen(RATE, state)


def test_that_a_failure_is_bad_is_certain_whatever_noise_is_told():
    state = bayes.tell(RATE, bayes.init(RATE), *_parabola(-3, 6))
    failed = bayes.tell(RATE, state, [[0.3], [0.5]], [np.nan, np.inf], [np.inf, 1e300])
    mean, deviation = bayes.predict(RATE, failed, [[0.4]])
    assert mean[0] > 3
    assert deviation[0] < 1


def test_an_outlier_does_not_hide_the_rest():
    points = [[10.0**exponent] for exponent in (-4.5, -4, -3.5, -3, -2.5, -2, -1.5)]
    values = [(np.log10(p[0]) + 3) ** 2 for p in points]
    state = bayes.tell(RATE, bayes.init(RATE), [*points, [0.9]], [*values, 1e12])
    mean, _ = bayes.predict(RATE, state, points)
    np.testing.assert_allclose(mean, values, atol=0.3)


def test_the_noise_that_is_told_decides_whom_to_believe():
    points = [[10.0**exponent] for exponent in np.linspace(-5, 0, 11)]
    values = np.array([(np.log10(p[0]) + 2) ** 2 for p in points])
    values[1] = -3.0  # a lucky draw
    certain, doubtful = np.zeros(11), np.zeros(11)
    doubtful[1] = 25.0
    believed, doubted = (bayes.tell(RATE, bayes.init(RATE), points, values, noise) for noise in (certain, doubtful))
    assert bayes.best(RATE, doubted).value == -3.0
    assert bayes.recommend(RATE, doubted).point[0] == pytest.approx(0.01)
    assert bayes.predict(RATE, doubted, points[1])[0] > 4
    assert bayes.predict(RATE, believed, points[1])[0] < -2


def test_noise_is_seen_through():
    generator = np.random.default_rng(0)
    state = _run(lambda point: (np.log10(point[0]) + 2.5) ** 2 + generator.normal(0, 0.5), RATE, 16)
    assert abs(np.log10(bayes.recommend(RATE, state).point[0]) + 2.5) < 0.7


def _parabola(lowest, num):
    exponents = np.linspace(-5, 0, num)
    return 10.0 ** exponents[:, None], (exponents - lowest) ** 2


def test_a_prior_leads_the_first_ask_and_is_outvoted_by_observations():
    old = bayes.tell(RATE, bayes.init(RATE), *_parabola(-3, 7))
    config = BayesConfig(RATE.axes, LowerConfidenceBound(0.0), num_initial=0, capacity=64)
    state = bayes.init(config, bayes.as_prior(old))
    first, _ = bayes.ask(config, state)
    assert abs(np.log10(first[0, 0]) + 3) < 0.5
    state = bayes.tell(config, state, *_parabola(-1, 11))
    assert abs(np.log10(bayes.ask(config, state)[0][0, 0]) + 1) < 0.5


def test_a_state_survives_json():
    state = bayes.tell(
        RATE,
        bayes.init(RATE, bayes.as_prior(bayes.tell(RATE, bayes.init(RATE), *_parabola(-3, 4)))),
        [[0.1], [0.2]],
        [1.0, np.nan],
        [0.5, 0.0],
    )
    again = bayes.from_json(json.loads(json.dumps(bayes.to_json(state), allow_nan=False)))
    points, more = (bayes.ask(RATE, s, 2)[0] for s in (state, again))
    np.testing.assert_array_equal(points, more)


@given(
    exponents=st.lists(st.floats(-5, 0), min_size=1, max_size=10),
    values=st.lists(st.floats(width=64), min_size=10, max_size=10),
    noise=st.floats(),
)
@settings(max_examples=25, deadline=None)
def test_whatever_is_told_the_next_ask_is_in_the_box(exponents, values, noise):
    points = np.clip(10.0 ** np.array(exponents), 1e-5, 1)[:, None]
    state = bayes.tell(RATE, bayes.init(RATE), points, values[: len(points)], np.full(len(points), noise))
    asked, _ = bayes.ask(RATE, state._replace(asked=10), 2)
    assert ((asked >= 1e-5) & (asked <= 1)).all()


def test_what_cannot_be_used_is_refused():
    with pytest.raises(BayesError, match="finite bounds"):
        Axis(1.0, 1.0)
    with pytest.raises(BayesError, match="above 0"):
        Axis(0.0, 1.0, log=True)
    for number in (0, 11):
        with pytest.raises(BayesError, match=f"1 to 10 axes can be searched, got {number}"):
            BayesConfig((Axis(0.0, 1.0),) * number)
    with pytest.raises(BayesError, match="outside its axis"):
        bayes.tell(RATE, bayes.init(RATE), [[2.0]], [0.0])
    with pytest.raises(BayesError, match="outside its axis"):
        bayes.tell(RATE, bayes.init(RATE), [[-1.0]], [0.0])
    with pytest.raises(BayesError, match="capacity of 64"):
        bayes.ask(RATE, bayes.init(RATE), 65)
    with pytest.raises(BayesError, match="no value was told"):
        bayes.recommend(RATE, bayes.init(RATE))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["branin", "noisy forrester"])
def test_not_worse_than_another_library(name):
    """Medians of five; tests/benchmarks/bayes_library.py has fifteen, six axes, and random points, which do as well on the noisy one."""
    ours, theirs = ([who(library.PROBLEMS[name], seed) for seed in range(5)] for who in (library.ours, library.theirs))
    assert statistics.median(ours) <= statistics.median(theirs)


def _ellipsoid(point):
    """Lowest 0, off the middle; the tenth axis weighs ten times the first."""
    return float(np.arange(1, 11) @ (np.asarray(point) - np.linspace(-3.0, 4.0, 10)) ** 2)


@pytest.mark.parametrize("batch", [1, 5])
def test_ten_axes_are_searched_one_point_at_a_time_or_several(batch):
    problem = library.Problem(_ellipsoid, (Axis(-5.12, 5.12),) * 10, 60)
    luckiest = min(library.at_random(problem, seed) for seed in range(10))
    assert statistics.median(library.ours(problem, seed, batch) for seed in range(3)) < luckiest / 2


def test_initial_points_are_spread_evenly():
    config = BayesConfig((Axis(0.0, 1.0),), num_initial=16, capacity=16)
    points, _ = bayes.ask(config, bayes.init(config), 16)
    assert stats.kstest(points[:, 0], "uniform").statistic < 0.1
