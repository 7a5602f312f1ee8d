"""A level of the funnel: learning rates tuned as AdamW's were, on other seeds than those that count."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepsmith.discovery.evaluate import Evaluation, Outcome, Status, Yardstick
from stepsmith.discovery.selection.levels import LevelConfig, SelectionConfig, make_level
from stepsmith.discovery.selection.placing import Placing, placing, promoted, tune, wanted
from stepsmith.tasks.reference import MAX_EXTENSION

LEVEL = make_level(LevelConfig("B", ("one", "two"), seeds=3, tuning_seeds=2), 1)
YARDSTICKS = {"one": Yardstick(-1.0, 0.5), "two": Yardstick(0.3, 2.0)}


def play(level, loss):
    """Answers all that a program is wanted to run; `loss(task, factor, seed)` is a validation loss or a status of failure."""
    runs, asked = {}, []
    while requests := wanted(level, runs):
        assert not set(requests) & set(asked), "asked twice"
        asked += requests
        for task, factor, seeds in requests:
            for seed in seeds:
                value = loss(task, factor, seed)
                failed = isinstance(value, Status)
                status, number = (value, None) if failed else (Status.OK, value)
                runs[task, factor, seed] = Evaluation(task, seed, factor, status, number, 10, 0.0)
                if failed:
                    break
    return runs, asked


@given(optimum=st.floats(-3.4, 3.4), noise=st.integers(0, 2**31))
def test_the_factor_is_the_best_of_a_grid_that_grows_until_the_best_is_inside(optimum, noise):
    def loss(task, factor, seed):
        return math.exp((math.log10(factor) - optimum) ** 2 + 0.001 * np.random.default_rng([noise, seed]).normal())

    runs, asked = play(LEVEL, loss)
    for task in LEVEL.config.tasks:
        factor = tune(LEVEL, task, runs).factor
        reachable = np.clip(optimum, -1 - MAX_EXTENSION / 2, 1 + MAX_EXTENSION / 2)
        assert abs(math.log10(factor) - reachable) < 0.26  # half a step of sqrt(10), and rounding
        tuned = {request.factor for request in asked if request.task == task and request.seeds == LEVEL.tuning_seeds}
        scored = [request.factor for request in asked if request.task == task and request.seeds == LEVEL.seeds]
        assert scored == [factor] and len(tuned) <= len(LEVEL.config.learning_rate_factors) + MAX_EXTENSION
    assert not set(LEVEL.tuning_seeds) & set(LEVEL.seeds)


def test_fitness_and_error_are_those_of_the_scoring_seeds():
    losses = {
        "one": {seed: 0.2 + 0.05 * k for k, seed in enumerate(LEVEL.seeds)},
        "two": {s: 1.5 - 0.2 * k for k, s in enumerate(LEVEL.seeds)},
    }

    def loss(task, factor, seed):
        return losses[task].get(seed, 9.0) if factor == 1.0 else 10.0

    runs, _ = play(LEVEL, loss)
    found = placing(LEVEL, runs, YARDSTICKS)
    table = np.log(np.array([[losses[task][seed] for seed in LEVEL.seeds] for task in ("one", "two")], np.float64))
    scores = ((table - [[-1.0], [0.3]]) / [[0.5], [2.0]]).mean(0)
    assert found.outcome.status is Status.OK
    np.testing.assert_allclose(found.outcome.scores, scores, rtol=1e-12)
    np.testing.assert_allclose(found.outcome.fitness, scores.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.outcome.error, scores.std(ddof=1) / math.sqrt(3), rtol=1e-12)
    assert [task["factor"] for task in found.tasks.values()] == [1.0, 1.0]
    np.testing.assert_allclose([task["log_loss"] for task in found.tasks.values()], table.mean(1), rtol=1e-12)


def test_a_factor_that_fails_is_passed_over():
    runs, _ = play(LEVEL, lambda task, factor, seed: Status.DIVERGED if factor > 0.5 else 1 / factor)
    assert {tune(LEVEL, task, runs).factor for task in LEVEL.config.tasks} == {0.316228}
    assert placing(LEVEL, runs, YARDSTICKS).outcome.status is Status.OK


def test_a_program_that_fails_at_every_factor_fails():
    runs, asked = play(LEVEL, lambda task, factor, seed: Status.NONFINITE if task == "one" else 1.0)
    found = placing(LEVEL, runs, YARDSTICKS)
    assert found.outcome == Outcome(Status.NONFINITE) and found.tasks["one"] == {"factor": None}
    factors = {request.factor for request in asked if request.task == "one"}
    assert min(factors) == 0.001 and len(factors) == 5 + MAX_EXTENSION  # it went on downwards, as AdamW's reference would


def test_a_failure_on_the_scoring_seeds_fails_the_program():
    runs, _ = play(
        LEVEL, lambda task, factor, seed: Status.DIVERGED if task == "two" and seed == LEVEL.seeds[1] else abs(math.log(factor)) + 1
    )
    assert placing(LEVEL, runs, YARDSTICKS).outcome.status is Status.DIVERGED


def test_a_single_factor_is_taken_as_it_is():
    level = make_level(LevelConfig("B", ("one",), learning_rate_factors=(0.5,)), 1)
    _, asked = play(level, lambda task, factor, seed: 1.0)
    assert {request.factor for request in asked} == {0.5}


def test_only_what_beats_the_bar_goes_on_and_at_most_so_many():
    level = make_level(LevelConfig("B", ("one",), promote=2, beats=0.5), 1)
    fitness = {"a": 0.4, "b": 0.5, "c": -1.0, "d": 0.1, "e": math.inf}
    placings = {
        name: Placing(Outcome(Status.OK, (value,)) if math.isfinite(value) else Outcome(Status.OOM), {}) for name, value in fitness.items()
    }
    assert promoted(level, placings) == ["c", "d"]
    assert promoted(level, {"b": placings["b"], "e": placings["e"]}) == []


def test_no_two_levels_share_a_seed():
    config = SelectionConfig(
        tuple(LevelConfig(name, ("one",), 400, 400) for name in "BCDEFGHIJK"), validation=LevelConfig("", ("one",), 400, 400)
    )
    levels = [make_level(config.validation, 0), *config.check().funnel]
    seeds = [seed for level in levels for seed in (*level.tuning_seeds, *level.seeds)]
    assert len(set(seeds)) == len(seeds) == 11 * 800
    assert min(seeds) > 1004 and max(seeds) < 300_000  # the references' seeds, and those of constant tuning


BAD = {
    "no tasks": (SelectionConfig((LevelConfig("B"),)), "'B': tasks must be one or more"),
    "a task twice": (SelectionConfig((LevelConfig("B", ("one", "one")),)), "different names"),
    "no name": (SelectionConfig((LevelConfig("", ("one",)),)), "different names"),
    "a name twice": (SelectionConfig((LevelConfig("B", ("one",)),) * 2), "different names"),
    "the validation's name": (SelectionConfig((LevelConfig("validation of x", ("one",)),)), "none of them 'validation'"),
    "no seeds": (SelectionConfig((LevelConfig("B", ("one",), seeds=0),)), "seeds must be 1 to 400, got 0"),
    "a factor of zero": (SelectionConfig((LevelConfig("B", ("one",), learning_rate_factors=(1.0, 0.0)),)), "numbers above 0"),
    "no factors": (SelectionConfig((LevelConfig("B", ("one",), learning_rate_factors=()),)), "one or more"),
    "beats nothing": (SelectionConfig((LevelConfig("B", ("one",), beats=math.nan),)), "beats must be a number"),
    "settings of no validation": (SelectionConfig(validation=LevelConfig(seeds=5)), "validation: tasks must be"),
    "one point": (SelectionConfig(points=1), "points must be 2 to 1000, got 1"),
    "too many levels": (SelectionConfig(tuple(LevelConfig(str(i), ("one",)) for i in range(11))), "at most 10 levels"),
}


@pytest.mark.parametrize(("config", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        config.check()
