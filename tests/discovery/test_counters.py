"""What is shown of a search's counts, with numbers worked out by hand."""

import pytest

from stepsmith.discovery.counters import Counters
from stepsmith.discovery.run import winners_curse


def test_savings_and_speedups():
    counters = Counters(told=40, evaluated=30, cached=10, repeated=2, rejected=60, neutral=160, statements=500, redundant=400)
    assert counters.savings == pytest.approx({"invalid": 0.6, "redundant": 0.8, "cached": 0.25, "cached_with_neutral": 0.85})
    # 40 evaluations without the cache, 30 and 2 blocks more with it.
    assert counters.speedups == pytest.approx({"invalid": 2.5, "redundant": 5.0, "cached": 1.25})


def test_hits_that_are_evaluated_again_save_nothing():
    assert Counters(told=10, evaluated=6, cached=4, repeated=4).speedups["cached"] == 1.0
    assert Counters(told=10, evaluated=8, cached=2, repeated=12).speedups["cached"] == 0.5


def test_counts_of_nothing():
    assert set(Counters().savings.values()) == {0.0} and set(Counters().speedups.values()) == {1.0}


@pytest.mark.heavy
def test_a_run_stores_its_neutral_children(finished_run, stepsmith):
    status = finished_run.status()
    assert status["neutral"] > 0
    assert status["told"] == status["evaluated"] + status["cached"]
    assert status["savings"]["cached_with_neutral"] == (status["cached"] + status["neutral"]) / (status["told"] + status["neutral"])
    shown = f"; {status['savings']['cached_with_neutral']:.0%} with neutral children)"
    assert shown in stepsmith("status", finished_run.path)[1]


def test_winners_curse():
    """The median of what the finalists lose on new seeds against the search's first block; programs without a score have no say."""
    scores = {"a": [-1.0, -0.2], "b": [-0.5], "c": [-0.4], "d": []}
    assert winners_curse(scores, {"a": -0.7, "b": -0.4, "c": -0.5, "d": 0.0, "e": 9.0}) == pytest.approx(0.1)
    assert winners_curse(scores, {}) is None
