"""A found schedule against a transcription in NumPy; files that hold none."""

import jax
import numpy as np
import optax
import pytest

from stepsmith.schedules import load_recorded, recorded_peak, save_recorded
from stepsmith.schedules.autolrs.replay import Found, Piece, ReplayError, to_schedule

FOUND = Found(10, 0.2, (Piece(10, 0.3), Piece(40, 0.1), Piece(41, 0.05)))


def _expected(step):
    if step < 10:
        return 0.2 * (step + 1) / 10
    return 0.3 if step < 40 else 0.1 if step < 41 else 0.05


def test_the_schedule_equals_its_pieces_traced_or_not():
    schedule = to_schedule(FOUND)
    expected = [_expected(step) for step in range(120)]
    np.testing.assert_allclose([schedule(step) for step in range(120)], expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(np.arange(120)), expected, rtol=1e-6)


def test_a_cooldown_falls_to_zero_and_stays_there():
    schedule = to_schedule(FOUND._replace(cooldown=20, end=70))
    expected = [_expected(step) * min(1.0, max(0, 70 - step) / 20) for step in range(120)]
    np.testing.assert_allclose([schedule(step) for step in range(120)], expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(np.arange(120)), expected, rtol=1e-6)
    theirs = optax.join_schedules([to_schedule(FOUND), optax.linear_schedule(0.05, 0.0, 20)], [50])
    np.testing.assert_allclose([schedule(step) for step in range(120)], [theirs(step) for step in range(120)], rtol=1e-6, atol=1e-9)


def test_a_cooldown_that_begins_before_the_last_piece_is_refused():
    with pytest.raises(ReplayError, match="cooldown of 20 steps"):
        to_schedule(FOUND._replace(cooldown=20, end=61))


def test_without_a_warm_up_it_equals_optax():
    schedule = to_schedule(Found(0, 0.0, (Piece(0, 0.4), Piece(30, 0.2), Piece(60, 0.1))))
    theirs = optax.piecewise_constant_schedule(0.4, {30: 0.5, 60: 0.5})
    np.testing.assert_allclose([schedule(step) for step in range(100)], [theirs(step) for step in range(100)], rtol=1e-6)


def test_it_serves_an_optax_rule():
    rule = optax.sgd(to_schedule(FOUND))
    gradient = np.float32(1)
    state = rule.init(gradient)
    for step in range(12):
        update, state = rule.update(gradient, state)
        assert float(update) == pytest.approx(-_expected(step))


def test_saved_and_loaded_it_is_the_same(tmp_path):
    save_recorded(tmp_path / "schedule.json", to_schedule(FOUND), 100)
    again, peak = load_recorded(tmp_path / "schedule.json"), recorded_peak(tmp_path / "schedule.json")
    for step in range(100):
        assert peak * float(again(step / 100)) == pytest.approx(_expected(step), rel=1e-6)


@pytest.mark.parametrize("pieces", [(), (Piece(0, 0.1),), (Piece(10, 0.1), Piece(10, 0.2)), (Piece(10, float("nan")),), (Piece(10, -1.0),)])
def test_pieces_that_make_no_schedule_are_refused(pieces):
    with pytest.raises(ReplayError):
        to_schedule(FOUND._replace(pieces=pieces))
