"""Profiles, sampling rates and the schedules that optax lacks: closed forms, bounds, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith import schedules as s

PROFILES = {
    "constant": s.constant_profile(),
    "linear": s.linear_profile(),
    "cosine": s.cosine_profile(),
    "mirror_cosine": s.mirror_cosine_profile(),
    "square": s.square_profile(),
    "sqrt": s.sqrt_profile(),
    "polynomial": s.polynomial_profile(3),
    "exponential": s.exponential_profile(),
    "step": s.step_profile(),
    "rex": s.rex_profile(),
    "rex 0.9": s.rex_profile(0.9),
    "rex -1": s.rex_profile(-1),
    "inverse_square_root": s.inverse_square_root_profile(),
    "wsd": s.wsd_profile(),
    "wsd of rex": s.wsd_profile(s.rex_profile(), 0.1),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_falls_from_1_and_keeps_the_type(name):
    progress = jnp.linspace(0, 1, 301)
    values = PROFILES[name](progress)
    assert values.dtype == jnp.float32 and values.shape == (301,)
    assert values[0] == 1 and values.min() >= 0 and (jnp.diff(values) <= 1e-6).all()
    np.testing.assert_allclose(jax.jit(PROFILES[name])(progress), values, atol=1e-6)
    assert PROFILES[name](jnp.float16(0.5)).dtype == jnp.float16


@pytest.mark.parametrize("steps", [1, 2, 10, 1000, 12345])
def test_rex_at_the_middle_and_at_the_end(steps):
    schedule = s.rex(0.3, steps)
    np.testing.assert_allclose(schedule(steps / 2), 0.3 * 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(schedule(steps - 1), 0.3 * 2 / (steps + 1), rtol=1e-3)
    assert schedule(steps) == schedule(steps + 1) == schedule(10 * steps) == 0
    assert schedule(0) == jnp.float32(0.3)


def test_compiled_rex_is_exactly_0_from_the_end_on():
    def at_the_end(steps):
        return jax.jit(s.rex(0.3, steps))(jnp.int32(steps))

    assert [at_the_end(steps) for steps in range(3, 60, 4)] == [0] * len(range(3, 60, 4))


# Of z = 1/T at the last step, in float64; where the cosine falls to 0, 1 + cos(pi p) would lose its digits in float64 too.
LAST = {
    "rex": (s.rex_profile(), lambda z: z / (1 / 2 + z / 2)),
    "rex 0.9": (s.rex_profile(0.9), lambda z: z / (0.1 + 0.9 * z)),
    "linear": (s.linear_profile(), lambda z: z),
    "polynomial": (s.polynomial_profile(2), lambda z: z**2),
    "cosine": (s.cosine_profile(), lambda z: np.sin(np.pi * z / 2) ** 2),
    "mirror cosine": (s.mirror_cosine_profile(), lambda z: 2 * z - np.sin(np.pi * z / 2) ** 2),
    "square": (s.square_profile(), lambda z: 2 * z - z**2),
    "wsd": (s.wsd_profile(), lambda z: -np.expm1(np.log1p(-5 * z) / 2)),
    "wsd of rex": (s.wsd_profile(s.rex_profile(), 0.1), lambda z: 20 * z / (1 + 10 * z)),
}


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("steps", [10**6, 10**7, 2**25, 2**31 - 1])
def test_the_last_step_of_a_long_run_keeps_its_digits(name, steps):
    profile, expected = LAST[name]
    schedule = s.from_profile(profile, 1.0, steps)
    last = jnp.int32(steps - 1)
    for value in (schedule(steps - 1), jax.jit(schedule)(last), jax.vmap(schedule)(last[None])[0]):
        np.testing.assert_allclose(value, expected(1 / steps), rtol=2e-6)
    assert jax.jit(schedule)(jnp.int32(steps)) == 0 == schedule(float(steps))


def test_a_step_may_be_a_fraction_or_of_a_type_too_small_for_the_length():
    schedule = s.rex(1.0, 1000)
    np.testing.assert_allclose(schedule(999.5), 0.0005 / (1 / 2 + 0.0005 / 2), rtol=1e-5)
    np.testing.assert_allclose(schedule(jnp.int8(100)), 0.9 / 0.95, rtol=1e-6)
    np.testing.assert_allclose(schedule(jnp.uint32(999)), 2 / 1001, rtol=1e-6)
    assert schedule(-1) == 1


OPTAX = {
    "cosine": (s.cosine_profile(), lambda steps: optax.cosine_decay_schedule(0.3, steps)),
    "linear": (s.linear_profile(), lambda steps: optax.linear_schedule(0.3, 0.0, steps)),
    "exponential": (s.exponential_profile(-2), lambda steps: optax.exponential_decay(0.3, steps, np.exp(-2), end_value=0.3 * np.exp(-2))),
    "polynomial": (s.polynomial_profile(3), lambda steps: optax.polynomial_schedule(0.3, 0.0, 3, steps)),
    "one_cycle": (s.one_cycle_profile(), lambda steps: optax.cosine_onecycle_schedule(steps, 0.3)),
    "one_cycle of other settings": (
        s.one_cycle_profile(0.5, 10, 100),
        lambda steps: optax.cosine_onecycle_schedule(steps, 0.3, 0.5, 10, 100),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
@pytest.mark.parametrize("steps", [10, 1000])
def test_a_profile_read_every_iteration_is_optaxs_schedule(name, steps):
    profile, reference = OPTAX[name]
    at = jnp.arange(steps + 3)
    values, expected = jax.vmap(s.from_profile(profile, 0.3, steps))(at), jax.vmap(reference(steps))(at)
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 205])
def test_one_cycle_is_optaxs_at_any_length(steps):
    at = jnp.arange(steps + 3)
    expected = jax.vmap(optax.cosine_onecycle_schedule(steps, 0.2, 0.25, 5.0, 50.0))(at)
    np.testing.assert_array_equal(jax.vmap(s.one_cycle(0.2, steps, 0.25, 5.0, 50.0))(at), expected)


def test_one_cycle_at_a_sampling_rate():
    schedule = s.from_profile(s.one_cycle_profile(), 1.0, 100, s.at(0.3, 0.65))
    np.testing.assert_allclose([schedule(step) for step in (0, 29, 30, 64, 65, 100)], [0.04, 0.04, 1, 1, 0.5, 0.5], rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**6), st.floats(0, 1))
def test_rex_with_d_0_is_linear(steps, progress):
    step = int(progress * steps)
    value = s.rex(0.1, steps, d=0)(step)
    np.testing.assert_allclose(value, 0.1 * (steps - step) / steps, rtol=1e-6)
    np.testing.assert_allclose(value, optax.linear_schedule(0.1, 0.0, steps)(step), rtol=1e-6, atol=2e-8)  # which takes 1 - t/T in float32


@settings(deadline=None, max_examples=50)
@given(st.floats(-5, 0.999), st.floats(-5, 0.999), st.floats(0, 1))
def test_rex_stays_higher_for_a_larger_d(first, second, progress):
    low, high = sorted((first, second))
    assert s.rex_profile(low)(progress) <= s.rex_profile(high)(progress) + 1e-5


def test_the_paper_table_of_the_step_schedule():
    """Read at 50 and 75 %, the three profiles fall to what the framework says."""
    for profile, expected in (
        (s.linear_profile(), (1, 0.5, 0.25)),
        (s.rex_profile(), (1, 2 / 3, 0.4)),
        (s.step_profile(), (1, 0.1, 0.01**0.75)),
    ):
        schedule = s.from_profile(profile, 1.0, 300, s.at(0.5, 0.75))
        np.testing.assert_allclose([schedule(step) for step in (149, 150, 225)], expected, rtol=1e-5)


def test_a_noisy_boundary_is_not_missed():
    """0.1 * 30 is above 3 in floating point; the profile is read at step 3 all the same."""
    schedule = s.from_profile(s.linear_profile(), 1.0, 30, s.every(0.1))
    reads = 1 + np.flatnonzero(np.diff([schedule(step) for step in range(31)]))
    np.testing.assert_array_equal(reads, np.arange(3, 31, 3))


def test_inverse_square_root_after_its_warmup_is_the_transformers():
    schedule = s.with_warmup(s.inverse_square_root(0.4, 50), 50)
    steps = np.arange(1, 2000)
    np.testing.assert_allclose(jax.vmap(schedule)(steps), 0.4 * np.minimum(steps / 50, np.sqrt(50 / steps)), rtol=1e-5)


@pytest.mark.parametrize("name", s.COOLDOWNS)
def test_wsd_warms_up_holds_and_cools_down(name):
    schedule = s.wsd(0.3, 1000, warmup_steps=100, cooldown_fraction=0.1, cooldown=s.COOLDOWNS[name]())
    values = np.asarray(jax.vmap(schedule)(jnp.arange(1100)))
    np.testing.assert_allclose(values[:100], 0.3 * (0.01 + 0.99 * np.arange(100) / 100), rtol=1e-5)
    np.testing.assert_allclose(values[100:900], 0.3, rtol=1e-5)
    cooldown = np.asarray(s.COOLDOWNS[name]()(np.arange(100) / 100))
    np.testing.assert_allclose(values[900:1000], 0.3 * cooldown, rtol=1e-3, atol=1e-3 * 0.3)
    assert (values[1000:] == values[1000]).all() and values[1000] <= 0.3 * 0.011


@pytest.mark.parametrize("name", ["linear", "rex", "cosine"])
def test_a_warmup_joins_without_a_spike(name):
    schedule = s.with_warmup(s.create(name, 0.2, 50), 5, init_scale=0.1)
    values = np.asarray([schedule(step) for step in range(70)])
    np.testing.assert_allclose(values[:6], 0.2 * (0.1 + 0.9 * np.arange(6) / 5), rtol=1e-5)
    np.testing.assert_allclose(values[5:], [s.create(name, 0.2, 50)(step) for step in range(65)], rtol=1e-6)
    traced = jax.jit(lambda peak, step: s.with_warmup(s.create(name, peak, 50), 5, 0.1)(step))
    np.testing.assert_allclose([traced(0.2, step) for step in range(70)], values, rtol=1e-5, atol=1e-7)


def test_no_warmup_is_the_schedule_itself():
    schedule = s.rex(0.1, 10)
    assert s.with_warmup(schedule, 0) is schedule


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 100])
def test_step_decay_in_short_runs(steps):
    schedule = s.step_decay(1.0, steps)
    expected = [0.1 ** (int(step >= 0.5 * steps) + int(step >= 0.75 * steps)) for step in range(steps + 3)]
    np.testing.assert_allclose([schedule(step) for step in range(steps + 3)], expected, rtol=1e-6)


REFUSALS = {
    "rex d": (lambda: s.rex(0.1, 10, d=1), "d of REX must be below 1, got 1"),
    "rex nan": (lambda: s.rex_profile(float("nan")), "got nan"),
    "no steps": (lambda: s.rex(0.1, 0), "decay_steps must be at least 1 step, got 0"),
    "timescale": (lambda: s.inverse_square_root(0.1, 0), "timescale must be at least 1"),
    "profile timescale": (lambda: s.inverse_square_root_profile(0), "timescale must be above 0"),
    "gamma": (lambda: s.exponential_profile(1), "gamma .* at most 0, got 1"),
    "power": (lambda: s.polynomial_profile(0), "power .* above 0, got 0"),
    "one cycle": (lambda: s.one_cycle_profile(pct_start=1.0), r"rising share in \(0, 1\).*got 1.0, 25.0"),
    "one cycle's factor": (lambda: s.one_cycle(0.1, 10, div_factor=0.5), "factors of at least 1, got 0.3, 0.5"),
    "one cycle's steps": (lambda: s.one_cycle(0.1, 0), "decay_steps must be at least 1 step, got 0"),
    "cooldown": (lambda: s.wsd_profile(cooldown_fraction=0), "above 0 and at most 1, got 0"),
    "phases": (lambda: s.wsd(0.1, 100, 50, 0.6), "do not fit into 100 steps"),
    "warmup": (lambda: s.with_warmup(s.rex(0.1, 10), -1), "got -1"),
    "interval": (lambda: s.every(0.3), "1/n of the run, such as 0.1, got 0.3"),
    "no interval": (lambda: s.every(0.0), "got 0.0"),
    "shares": (lambda: s.at(0.75, 0.5), "ascending shares"),
    "no shares": (lambda: s.at(), "ascending shares"),
    "factor": (lambda: s.step_decay(0.1, 10, factor=2.0), r"in \[0, 1\], got"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_settings_out_of_bounds_are_refused(name):
    make, words = REFUSALS[name]
    with pytest.raises(s.ScheduleError, match=words):
        make()
