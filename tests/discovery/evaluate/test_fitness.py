"""The fitness formula against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from stepsmith.discovery.evaluate import Evaluation, Outcome, Status, Yardstick, outcome


def ran(task, loss, status=Status.OK, seed=0):
    return Evaluation(task, seed, 1.0, status, loss, 200, 0.01)


ONE = {"a": Yardstick(log_loss=math.log(0.2), scale=0.5)}
TWO = {**ONE, "b": Yardstick(log_loss=-1.0, scale=2.0)}


@pytest.mark.parametrize(
    ("evaluations", "yardsticks", "expected"),
    [
        ([ran("a", 0.2)], ONE, 0.0),
        ([ran("a", 0.2 * math.e)], ONE, 2.0),  # (log 0.2 + 1 - log 0.2) / 0.5
        ([ran("a", 0.2 / math.e)], ONE, -2.0),
        ([ran("a", 0.2 * math.e), ran("b", 1.0)], TWO, (2.0 + 0.5) / 2),
        ([ran("b", 1.0), ran("a", 0.2 * math.e)], TWO, (2.0 + 0.5) / 2),
        # geometric mean of 0.1 and 0.4 is 0.2; the arithmetic mean, 0.25, would give 0.446
        ([ran("a", 0.1), ran("a", 0.4, seed=1)], ONE, 0.0),
        # tasks weigh alike, however many seeds each has
        ([ran("a", 0.2), ran("a", 0.2, seed=1), ran("a", 0.2, seed=2), ran("b", math.e)], TWO, 0.5),
    ],
)
def test_hand_numbers(evaluations, yardsticks, expected):
    scored = outcome(evaluations, yardsticks)
    assert scored.status is Status.OK
    assert scored.fitness == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [0.0, 1e-30, 1e-7, 1e-6])
def test_losses_are_floored(loss):
    assert outcome([ran("a", loss)], ONE).fitness == pytest.approx((math.log(1e-6) - math.log(0.2)) / 0.5)


def test_just_above_the_floor_counts():
    assert outcome([ran("a", 1.1e-6)], ONE).fitness > outcome([ran("a", 1e-6)], ONE).fitness


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_one_failure_fails_the_program(status):
    assert outcome([ran("a", 0.1), ran("b", None, status)], TWO) == Outcome(status)
    assert Outcome(status).fitness == math.inf and Outcome(status).error is None


def test_the_first_failure_names_the_status():
    runs = [ran("a", 0.1), ran("a", None, Status.DIVERGED, seed=1), ran("b", None, Status.OOM)]
    assert outcome(runs, TWO).status is Status.DIVERGED


def test_learning_rate_factors_are_averaged():
    runs = [ran("a", 0.1)._replace(learning_rate_factor=3.0), ran("a", 0.4)]
    assert outcome(runs, ONE, runs=2).fitness == pytest.approx(0.0, abs=1e-12)


def test_the_best_learning_rate_factor_counts_where_it_is_asked_for():
    def at(factor, loss, task="a", status=Status.OK, seed=0):
        return Evaluation(task, seed, factor, status, loss, 200, 0.01)

    runs = [at(0.1, 0.2), at(1.0, 0.1), at(0.1, 0.2, seed=1), at(1.0, 0.3, seed=1), at(10.0, None, status=Status.DIVERGED)]
    better = outcome(runs, ONE, 5, best_factor=True)  # the geometric mean of 0.1 and 0.3 is 0.173
    assert better.status is Status.OK and better.fitness == pytest.approx(math.log(math.sqrt(0.03) / 0.2) / 0.5)
    assert outcome(runs, ONE, 9, best_factor=True) == Outcome(Status.STOPPED)  # at a hurdle, the next task was not tried
    stopped = [at(factor, None, "b", status) for factor, status in ((0.1, Status.STOPPED), (1.0, Status.NONFINITE))]
    assert outcome(runs + stopped, TWO, 9, best_factor=True) == Outcome(Status.STOPPED)  # on that task


def test_fewer_runs_than_asked_for_are_a_stop():
    assert outcome([ran("a", 0.1)], ONE, runs=2) == Outcome(Status.STOPPED)
    assert outcome([ran("a", None, Status.DIVERGED)], ONE, runs=2) == Outcome(Status.DIVERGED)


def test_blocks_of_seeds_join_to_a_mean_with_its_standard_error():
    scores = (1.0, 2.0, 6.0)
    joined = Outcome(Status.OK, scores[:1]).joined(Outcome(Status.OK, scores[1:2])).joined(Outcome(Status.OK, scores[2:]))
    assert joined.fitness == pytest.approx(np.mean(scores)) and joined.error == pytest.approx(stats.sem(scores))


def test_a_failure_on_a_later_block_is_a_failure():
    assert Outcome(Status.OK, (1.0,)).joined(Outcome(Status.DIVERGED)) == Outcome(Status.DIVERGED)
    assert Outcome(Status.NONFINITE).joined(Outcome(Status.OK, (1.0,))) == Outcome(Status.NONFINITE)
