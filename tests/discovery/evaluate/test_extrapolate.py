"""Racing: lines through synthetic curves, the limits that follow from them, and what is set once and kept."""

import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepsmith.discovery import ConfigError, SearchConfig
from stepsmith.discovery.config import from_dict
from stepsmith.discovery.evaluate import Evaluation, Job, Status
from stepsmith.discovery.evaluate.extrapolate import (
    CHECKPOINTS,
    Calibration,
    Line,
    Race,
    at_checkpoints,
    checkpoint_chunks,
    chunk_limits,
    fit,
    limits,
)
from stepsmith.discovery.evaluate.job import evaluate_all
from stepsmith.discovery.evaluate.training_run import prepare
from stepsmith.discovery.language import load, parse
from stepsmith.discovery.search import RacingConfig

ON = RacingConfig(enabled=True, calibration=60)


def reference_line(x, y, needed):
    """numpy's weighted least squares, and the definition of the deviation."""
    weights = np.exp(-((y - needed) ** 2) / (2 * (0.5 * np.std(y)) ** 2))
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weights))
    count = weights.sum() ** 2 / (weights**2).sum()
    squares = (weights * (y - intercept - slope * x) ** 2).sum() / weights.sum()
    return intercept, slope, math.sqrt(squares * count / (count - 2))


@given(st.integers(0, 10_000), st.floats(0.3, 3.0), st.floats(0.0, 0.5), st.floats(-1.5, 0.0))
def test_the_line_is_that_of_weighted_least_squares(seed, slope, noise, needed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=80)
    y = slope * x + noise * generator.normal(size=80)
    line = fit(x, y, needed)
    if line is not None:
        np.testing.assert_allclose(line, reference_line(x, y, needed), rtol=1e-6, atol=1e-8)


def test_the_line_is_that_of_the_runs_near_what_is_needed():
    x = np.linspace(-3, 3, 400)
    bent = np.where(x < 0, 0.5 * x, 3 * x)
    slopes = [fitted.slope for needed in (-1.2, 6.0) if (fitted := fit(x, bent, needed)) is not None]
    assert slopes[0] < 1.5 < slopes[1]


@pytest.mark.parametrize(
    ("x", "y", "needed"),
    [
        (np.zeros(50), np.linspace(0, 1, 50), 0.5),
        (np.linspace(0, 1, 5), np.linspace(0, 1, 5), 0.5),
        (np.linspace(0, 1, 50), np.linspace(0, 1, 50), -40.0),
    ],
    ids=["all alike at the checkpoint", "too few", "none near"],
)
def test_no_line_where_nothing_can_be_foreseen(x, y, needed):
    assert fit(x, y, needed) is None


@given(st.builds(Line, st.floats(-3, 3), st.floats(0.05, 5), st.floats(0, 1)), st.floats(-5, 1), st.floats(0, 4))
def test_at_the_limit_the_prediction_less_the_deviations_is_what_is_needed(line, needed, confidence):
    limit = line.limit(needed, confidence)
    if limit is not None:
        assert line.intercept + line.slope * limit - confidence * line.deviation == pytest.approx(needed, abs=1e-9)


@pytest.mark.parametrize("slope", [0.0, -1.0, math.nan])
def test_no_limit_where_a_lower_training_loss_says_nothing_good(slope):
    assert Line(0.0, slope, 0.1).limit(0.0, 2.0) is None


@given(st.integers(1, 500))
def test_checkpoints_lie_inside_a_run_and_in_order(num_chunks):
    chunks = checkpoint_chunks(num_chunks)
    assert len(chunks) == len(CHECKPOINTS) and list(chunks) == sorted(chunks)
    assert chunks[0] >= 0 and (chunks[-1] < num_chunks - 1 or num_chunks < 3)


def test_limits_of_one_chunk_are_joined_to_the_lowest():
    assert chunk_limits((("a", 1.0, (0.0, -1.0, None, 1.0, None)),), "a", 1.0, 1) == np.float32(math.exp(-1))


@pytest.mark.parametrize(("task", "factor"), [("b", 1.0), ("a", 0.5)])
def test_limits_of_another_task_or_factor_do_not_count(task, factor):
    assert np.isinf(chunk_limits((("a", 1.0, (0.0,) * 5),), task, factor, 10)).all()


def program(birth, random, slow=1.0):
    """A run whose log loss falls linearly to a final one in [-3, 1], with noise; its fitness is that final loss."""
    final = random.uniform(-3, 1)
    curve = tuple(share**slow * final + random.gauss(0, 0.02) for share in CHECKPOINTS)
    return Calibration(birth, final, (("a", 1.0, final, curve),))


@pytest.fixture(scope="module")
def programs():
    random = Random(0)
    return [program(birth, random) for birth in range(200)]


def test_what_is_stopped_is_bad_and_what_is_good_is_not(programs):
    (task, factor, row), random = limits(programs, ON)[0], Random(1)
    assert (task, factor) == ("a", 1.0) and None not in row
    good_enough = np.quantile([p.fitness for p in programs], 0.3)
    fresh = [program(birth, random) for birth in range(2000)]
    stopped = [p for p in fresh if any(x > limit for x, limit in zip(p.runs[0][3], row, strict=True))]
    assert sum(p.fitness <= good_enough for p in stopped) < 0.05 * sum(p.fitness <= good_enough for p in fresh)
    clearly_bad = [p for p in fresh if p.fitness > good_enough + 0.5]
    assert sum(p in clearly_bad for p in stopped) > 0.95 * len(clearly_bad)


def test_more_confidence_and_more_to_keep_stop_less(programs):
    base, surer, more = (limits(programs, RacingConfig(True, **s))[0][2] for s in ({}, {"confidence": 4.0}, {"keep": 0.6}))
    assert all(b < s for b, s in zip(base, surer, strict=True)) and all(b < m for b, m in zip(base, more, strict=True))


def test_what_a_run_needs_is_what_the_worst_run_of_a_good_program_came_to():
    # Good in the mean of two tasks, and as bad on one of them as it is good on the other.
    random, finals = Random(2), {}
    rows = []
    for birth in range(100):
        finals[birth] = {"a": (x := random.uniform(-3, 1)), "b": -2 - x}
        runs = tuple((task, 1.0, final, tuple(share * final for share in CHECKPOINTS)) for task, final in finals[birth].items())
        rows.append(Calibration(birth, 0.0 if birth % 2 else 1.0, runs))
    found = limits(rows, RacingConfig(True, keep=0.5, confidence=0.0))
    assert [(task, factor) for task, factor, _ in found] == [("a", 1.0), ("b", 1.0)]
    for task, _, row in found:
        worst = max(finals[birth][task] for birth in finals if birth % 2)
        assert row == pytest.approx([share * worst for share in CHECKPOINTS], abs=1e-6)


def test_where_the_best_factor_counts_every_factor_needs_what_the_best_came_to():
    """Programs that need different rates: at the rate that a good one does not need it may be as bad as it likes."""
    random, rows, best = Random(3), [], []
    for birth in range(100):
        finals = {factor: random.uniform(-3, 1) for factor in (0.1, 1.0)}
        finals[(0.1, 1.0)[birth % 2]] += 2.0
        runs = tuple(("a", factor, final, tuple(share * final for share in CHECKPOINTS)) for factor, final in finals.items())
        failed_once = ("a", 10.0, -9.0, (-9.0,) * len(CHECKPOINTS))  # the other run with this factor is not among those that ended well
        rows.append(Calibration(birth, min(finals.values()), runs * 2 + (failed_once,)))
        best.append(min(finals.values()))
    found = limits(rows, RacingConfig(True, keep=0.5, confidence=0.0), best_factor=True)
    assert [(task, factor) for task, factor, _ in found] == [("a", 0.1), ("a", 1.0), ("a", 10.0)]
    for *_, row in found[:2]:
        assert row == pytest.approx([share * sorted(best)[49] for share in CHECKPOINTS], abs=1e-6)


@pytest.mark.parametrize("rows", [[], [Calibration(0, None, ())] * 30], ids=["nothing", "failures"])
def test_without_a_good_program_there_are_no_limits(rows):
    assert limits(rows, ON) == ()


def observed(race, first, last):
    """Shows a race births of which every third fails; whether each call set the limits."""
    answers = []
    for birth in range(first, last):
        p = program(birth, Random(birth))
        run = Evaluation("a", 5, 1.0, Status.OK, math.exp(p.runs[0][2]), 200, 0.01, p.runs[0][3])
        failed = birth % 3 == 2
        answers.append(race.observe(birth, math.inf if failed else p.fitness, () if failed else (run,), birth + 8))
    return answers


def test_limits_are_set_once_and_hold_for_later_births():
    race = Race(ON, {})
    assert race.calibrating and race.limits_of(10) == ()
    assert observed(race, 0, 70) == [False] * 59 + [True] + [False] * 10
    assert not race.calibrating
    assert race.limits_of(59 + 7) == () != race.limits_of(59 + 8)


@pytest.mark.parametrize("cut", [0, 30, 59, 60, 65])
def test_a_race_that_is_saved_and_read_goes_on_as_if_it_were_not(cut):
    whole, first = Race(ON, {}), Race(ON, {})
    observed(whole, 0, 70)
    observed(first, 0, cut)
    rest = Race(ON, json.loads(json.dumps(first.to_json())))
    observed(rest, max(cut - 3, 0), 70)  # a resumed run evaluates births again
    assert json.dumps(rest.to_json()) == json.dumps(whole.to_json())
    assert rest.limits_of(100) == whole.limits_of(100) != ()


def test_a_race_that_is_off_keeps_nothing():
    race = Race(RacingConfig(calibration=60), {})
    assert not any(observed(race, 0, 70)) and not race.calibrating
    assert race.to_json() == {} and race.limits_of(100) == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"calibration": 19}, "racing.calibration must be 20 to 10000, got 19"),
        ({"calibration": 10_001}, "racing.calibration must be 20 to 10000, got 10001"),
        ({"keep": 0.0}, "racing.keep must be above 0 and at most 1, got 0.0"),
        ({"keep": math.nan}, "racing.keep must be above 0 and at most 1, got nan"),
        ({"confidence": -1.0}, "racing.confidence must be 0 to 100, got -1.0"),
        ({"confidence": math.inf}, "racing.confidence must be 0 to 100, got inf"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_named(settings, words):
    with pytest.raises(ConfigError) as caught:
        from_dict(SearchConfig, {"racing": settings})
    assert str(caught.value) == words


SLOW = "def train(w, g, lr):\n    update = w * -0.02\n    update = update + g * 0.001\n    return update\n"


def test_a_worker_stops_a_run_that_diverges_slowly_and_no_good_one():
    prepared = {"digits_mlp": prepare("digits_mlp", "linear")}
    jobs = {
        name: Job(0, text, (0, 1), curves=True) for name, text in {"slow": parse(SLOW).to_json(), "good": load("adamw").to_json()}.items()
    }
    free = {name: evaluate_all(prepared, {}, job) for name, job in jobs.items()}
    good = free["good"][0]
    assert len(free["good"]) == 2 and len(good.curve) == len(CHECKPOINTS)
    row = tuple(max(e.curve[i] for e in free["good"]) + 0.3 for i in range(len(CHECKPOINTS)))
    raced = {
        name: evaluate_all(prepared, {}, Job(0, job.program, (0, 1), limits=(("digits_mlp", 1.0, row),))) for name, job in jobs.items()
    }
    assert [(e.status, e.loss, e.curve) for e in raced["good"]] == [(Status.OK, e.loss, ()) for e in free["good"]]
    assert [(e.status, e.loss) for e in raced["slow"]] == [(Status.STOPPED, None)]
    assert raced["slow"][0].steps < min(e.steps for e in free["slow"])


def test_the_points_of_a_curve_are_those_of_the_checkpoints():
    curve = np.exp(-np.arange(10.0))
    assert at_checkpoints(curve.tolist()) == (0.0, -1.0, -3.0, -4.0, -6.0)
