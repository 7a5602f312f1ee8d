"""Every schedule of the registry keeps its promises."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith import schedules

STEPS = 200
PEAK = 0.3
GAMMA = -3


class Row(NamedTuple):
    """What is promised of a schedule: its formula in float64, of t/T in [0, 1]; whether it never rises; optax's own, of peak and steps."""

    formula: object = None
    falls: bool = True
    optax: object = None


def _cosine(p):
    return (1 + np.cos(np.pi * p)) / 2


def _sgdr(p):
    return np.where(p < 1, _cosine(4 * p % 1), 0)


def _warmup_cosine(p):
    return np.where(p < 0.1, p / 0.1, _cosine((p - 0.1) / 0.9))


def _wsd(shape):
    return lambda p: np.where(p < 0.8, 1, shape(np.clip((p - 0.8) / 0.2, 0, 1)))


def _one_cycle(p):
    return np.where(p < 0.3, 0.04 + 0.96 * (1 - _cosine(p / 0.3)), 4e-6 + (1 - 4e-6) * _cosine((p - 0.3) / 0.7))


ROWS = {
    "constant": Row(np.ones_like, optax=lambda peak, steps: optax.constant_schedule(peak)),
    "linear": Row(lambda p: 1 - p, optax=lambda peak, steps: optax.linear_schedule(peak, 0.0, steps)),
    "cosine": Row(_cosine, optax=optax.cosine_decay_schedule),
    "rex": Row(lambda p: (1 - p) / (1 / 2 + (1 - p) / 2)),
    "step": Row(
        lambda p: np.where(p < 0.5, 1, np.where(p < 0.75, 0.1, 0.01)),
        optax=lambda peak, steps: optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, 3 * steps // 4: 0.1}),
    ),
    "exponential": Row(lambda p: np.exp(GAMMA * p), optax=lambda peak, steps: optax.exponential_decay(peak, steps, math.exp(GAMMA))),
    "polynomial": Row(lambda p: (1 - p) ** 2, optax=lambda peak, steps: optax.polynomial_schedule(peak, 0.0, 2, steps)),
    "inverse_square_root": Row(lambda p: (1 + p / 0.1) ** -0.5),
    "wsd": Row(_wsd(lambda u: 1 - np.sqrt(u))),
    "wsd_linear": Row(_wsd(lambda u: 1 - u)),
    "wsd_exponential": Row(_wsd(lambda u: 0.01**u)),
    "wsd_cosine": Row(_wsd(_cosine)),
    "wsd_mirror_cosine": Row(_wsd(lambda u: 2 * (1 - u) - _cosine(u))),
    "wsd_square": Row(_wsd(lambda u: 1 - u**2)),
    "one_cycle": Row(_one_cycle, falls=False, optax=lambda peak, steps: optax.cosine_onecycle_schedule(steps, peak)),
    "sgdr": Row(
        _sgdr,
        falls=False,
        optax=lambda peak, steps: optax.sgdr_schedule(
            [{"init_value": 0.0, "peak_value": peak, "warmup_steps": 0, "decay_steps": steps // 4}] * 4
        ),
    ),
    "warmup_cosine": Row(
        _warmup_cosine, falls=False, optax=lambda peak, steps: optax.warmup_cosine_decay_schedule(0.0, peak, steps // 10, steps)
    ),
}
SAMPLED = ("linear:iteration", "rex:50-75", "rex:1%", "cosine:33-66", "step:25-50-75", "one_cycle:10%", "wsd:5%")
RISING = ("sgdr:50-75", "sgdr:25-50-75", "warmup_cosine:33-66", "warmup_cosine:iteration")
ALL = (*schedules.names(), *SAMPLED)
# The rounding of u at the cooldown's first step is magnified by the square root.
ATOL = 5e-4 * PEAK


@functools.cache
def _values(name, steps=STEPS):
    """At each step of the run and as many after it."""
    return np.asarray(jax.jit(jax.vmap(schedules.create(name, PEAK, steps)))(jnp.arange(2 * steps + 2)))


def test_every_row_is_documented_and_covered_here():
    assert set(schedules.names()) == set(ROWS)
    assert all(row.summary and row.name == name for name, row in schedules.SCHEDULES.items())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [STEPS, 7, 1])
def test_stays_between_zero_and_the_peak_and_reaches_it(name, steps):
    values = _values(name, steps)
    assert values.shape == (2 * steps + 2,)
    assert values[:steps].min() >= 0 and values[steps:].min() >= -1e-7  # where division is by a reciprocal, optax's linear ends below 0
    assert values.max() <= PEAK * (1 + 1e-6)
    if steps == STEPS:
        np.testing.assert_allclose(values.max(), PEAK, rtol=1e-3)


@pytest.mark.parametrize("name", [*ALL, *RISING])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_never_jumps_up_at_the_end_or_after_it(name, warmup):
    for steps in (1, 2, 3, 7, STEPS):
        schedule = schedules.with_warmup(schedules.create(name, PEAK, steps), warmup)
        total = warmup + steps
        ends = jax.vmap(schedule)(jnp.array([total - 1, total, total + 1, 10 * total, 2**31 - 1]))
        assert (ends[1:] <= ends[0] + 1e-7).all() and (ends[1:] == ends[1]).all()


@pytest.mark.parametrize("name", [name for name in ALL if (row := ROWS.get(name.partition(":")[0])) and row.falls])
def test_never_rises(name):
    assert (np.diff(_values(name)) <= 1e-7).all()


@pytest.mark.parametrize("name", ROWS)
def test_equals_its_formula(name):
    expected = PEAK * ROWS[name].formula(np.arange(STEPS + 1) / STEPS)
    np.testing.assert_allclose(_values(name)[: STEPS + 1], expected, rtol=1e-4, atol=ATOL if name == "wsd" else 1e-6)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.optax])
def test_equals_optax(name):
    reference = ROWS[name].optax(PEAK, STEPS)
    expected = [reference(step) for step in range(0, STEPS, 3)]
    np.testing.assert_allclose(_values(name)[:STEPS:3], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_eager_jitted_and_mapped_agree_and_keep_float32(name):
    schedule = schedules.create(name, jnp.float32(PEAK), STEPS)
    steps = jnp.array([0, 1, 19, 70, 150, STEPS - 1, STEPS, STEPS + 1], jnp.int32)
    compiled = jax.jit(schedule)
    eager, mapped = [schedule(step) for step in steps], jax.vmap(schedule)(steps)
    jitted = jnp.stack([compiled(step) for step in steps])
    np.testing.assert_allclose(jitted, eager, rtol=1e-5, atol=ATOL if name == "wsd" else 1e-7)
    np.testing.assert_allclose(mapped, eager, rtol=1e-5, atol=ATOL if name == "wsd" else 1e-7)
    assert {value.dtype for value in (*eager, jitted, mapped)} == {jnp.dtype("float32")}
    np.testing.assert_allclose([schedule(int(step)) for step in steps], eager, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_peak_and_step_may_be_traced_and_compile_once(name):
    traces = []

    @jax.jit
    def rate(peak_value, step):
        traces.append(step)
        return schedules.create(name, peak_value, STEPS)(step)

    for peak_value, step in ((PEAK, 70), (PEAK, 71), (0.1, STEPS)):
        expected = schedules.create(name, peak_value, STEPS)(step)
        np.testing.assert_allclose(rate(jnp.float32(peak_value), jnp.int32(step)), expected, rtol=1e-5, atol=1e-7)
    assert len(traces) == 1


@pytest.mark.parametrize("name", ALL)
def test_trains_in_an_optax_rule(name):
    rule = optax.sgd(schedules.create(name, 0.1, 30))

    @jax.jit
    def run(params):
        def advance(carry, _):
            params, state = carry
            updates, state = rule.update(2 * params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(advance, (params, rule.init(params)), length=30)[0][0]

    params = run(jnp.ones(2))
    assert params.dtype == jnp.float32 and (jnp.abs(params) < 0.5).all()


def test_one_cycle_rises_for_three_tenths_and_then_falls():
    values = _values("one_cycle")[:STEPS]
    top = int(values.argmax())
    assert top == 60
    assert (np.diff(values[:top]) > 0).all()
    assert (np.diff(values[top:]) < 0).all()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(schedules.SAMPLINGS)), st.integers(1, 3000), st.data())
def test_a_sampled_schedule_is_the_profile_where_it_was_last_read(rate, steps, data):
    step = data.draw(st.integers(0, 2 * steps))
    reads = {"50-75": (50, 75), "33-66": (33, 66), "25-50-75": (25, 50, 75), "iteration": ()}
    percents = reads.get(rate) or range(int(rate.rstrip("%")), 101, int(rate.rstrip("%"))) if rate != "iteration" else ()
    read = [percent for percent in percents if percent == 100 or percent * steps <= 100 * (steps - 1)]  # the others fall behind the end
    last = max([percent for percent in read if percent * steps <= 100 * step], default=0) / 100
    progress = min(step / steps, 1) if rate == "iteration" else last
    expected = (1 - progress) / (1 - progress / 2)
    np.testing.assert_allclose(schedules.create(f"rex:{rate}", 1.0, steps)(step), expected, rtol=1e-4, atol=1e-6)


def test_a_run_of_one_step_is_at_the_peak_where_a_warmup_would_take_it_all():
    assert [float(schedules.create("warmup_cosine", 1.0, 1)(step)) for step in range(3)] == [1, 0, 0]


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(schedules.ScheduleError, match="'cosin'.*constant, linear, cosine"):
        schedules.create("cosin", 0.1, 10)
    with pytest.raises(schedules.ScheduleError, match="sampling rate '7%' of 'rex:7%'; known are 50-75, .*10%"):
        schedules.create("rex:7%", 0.1, 10)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        schedules.create("cosine", 0.1, 0)
