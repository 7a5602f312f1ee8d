"""The fitness formula against numbers worked out by hand."""

import math

import pytest

from stepsmith.discovery.evaluate import Evaluation, Outcome, Status, Yardstick, outcome


def ran(task, loss, status=Status.OK, seed=0):
    return Evaluation(task, seed, status, loss, 200, 0.01)


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
    assert outcome([ran("a", 0.1), ran("b", None, status)], TWO) == Outcome(status, math.inf)


def test_the_first_failure_names_the_status():
    runs = [ran("a", 0.1), ran("a", None, Status.DIVERGED, seed=1), ran("b", None, Status.OOM)]
    assert outcome(runs, TWO).status is Status.DIVERGED
