"""Every schedule of the registry keeps its promises."""

import jax
import numpy as np
import pytest

from stepsmith import schedules

STEPS = 200


def _values(name: str, peak_value=0.3, steps: int = STEPS) -> np.ndarray:
    schedule = schedules.create(name, peak_value, steps)
    return np.asarray(jax.vmap(schedule)(np.arange(steps)) if name != "constant" else [schedule(step) for step in range(steps)])


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize("steps", [STEPS, 7])
def test_stays_between_zero_and_the_peak_and_reaches_it(name, steps):
    values = _values(name, steps=steps)
    assert values.shape == (steps,)
    assert values.min() >= 0
    assert values.max() <= 0.3 + 1e-6
    if steps == STEPS:
        np.testing.assert_allclose(values.max(), 0.3, rtol=1e-3)


@pytest.mark.parametrize("name", schedules.names())
def test_the_peak_may_be_traced(name):
    traced = jax.jit(lambda peak_value, step: schedules.create(name, peak_value, STEPS)(step))(0.3, 70)
    np.testing.assert_allclose(traced, schedules.create(name, 0.3, STEPS)(70), rtol=1e-5)


def _sgdr(t):
    return (1 + np.cos(np.pi * (4 * t % 1))) / 2


def _warmup_cosine(t):
    return np.where(t < 0.1, t / 0.1, (1 + np.cos(np.pi * (t - 0.1) / 0.9)) / 2)


FORMULAS = {
    "constant": np.ones_like,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + np.cos(np.pi * t)) / 2,
    "exponential": lambda t: 0.01**t,
    "polynomial": lambda t: (1 - t) ** 2,
    "sgdr": _sgdr,
    "warmup_cosine": _warmup_cosine,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_its_formula(name):
    expected = 0.3 * FORMULAS[name](np.arange(STEPS) / STEPS)
    np.testing.assert_allclose(_values(name), expected, rtol=1e-4, atol=1e-6)


def test_one_cycle_rises_for_three_tenths_and_then_falls():
    values = _values("one_cycle")
    top = int(values.argmax())
    assert top == 60
    assert (np.diff(values[:top]) > 0).all()
    assert (np.diff(values[top:]) < 0).all()


def test_every_row_is_documented_and_covered_here():
    assert set(schedules.names()) == {*FORMULAS, "one_cycle"}
    assert all(row.summary and row.name == name for name, row in schedules.SCHEDULES.items())


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'cosin'.*constant, linear, cosine"):
        schedules.create("cosin", 0.1, 10)
    with pytest.raises(ValueError, match="at least 1 step"):
        schedules.create("cosine", 0.1, 0)
