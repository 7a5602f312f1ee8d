"""Refinement: recorded norms, the refined schedule and the bound, against closed forms and loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith import schedules as s

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([-4.0])}
POSITIVE = st.floats(0.05, 20.0)


def _run(rule, steps, params=PARAMS):
    @jax.jit
    def advance(carry, _):
        params, state = carry
        updates, state = rule.update(params, state, params)  # the gradient of |w|^2/2
        return (optax.apply_updates(params, updates), state), params

    (_, state), path = jax.lax.scan(advance, (params, rule.init(params)), length=steps)
    return state, path


@pytest.mark.parametrize("place", ["alone", "chain", "masked", "injected"])
def test_records_the_norms_of_every_step(place):
    recorder = s.record_gradient_norms(50)
    rule = {
        "alone": lambda: optax.chain(recorder, optax.sgd(0.1)),
        "chain": lambda: optax.chain(optax.chain(recorder, optax.scale_by_adam()), optax.scale_by_learning_rate(0.1)),
        "masked": lambda: optax.chain(optax.masked(recorder, {"kernel": True, "bias": True}), optax.sgd(0.1)),
        "injected": lambda: optax.chain(recorder, optax.inject_hyperparams(optax.adamw)(learning_rate=s.rex(0.1, 50))),
    }[place]()
    state, path = _run(rule, 20)
    flat = np.concatenate([np.asarray(leaf, np.float64).reshape(20, -1) for leaf in jax.tree.leaves(path)], axis=1)
    norms = s.recorded_norms(state)
    np.testing.assert_allclose(norms.l2, np.sqrt((flat**2).sum(1)), rtol=1e-5)
    np.testing.assert_allclose(norms.l1, np.abs(flat).sum(1), rtol=1e-5)


def test_recording_changes_no_update_and_stops_when_full():
    plain, recording = optax.sgd(0.1), optax.chain(s.record_gradient_norms(5), optax.sgd(0.1))
    (state, path), (_, expected) = _run(recording, 8), _run(plain, 8)
    jax.tree.map(np.testing.assert_array_equal, path, expected)
    norms = s.recorded_norms(state)
    first = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(PARAMS)))
    np.testing.assert_allclose(norms.l2, first * 0.9 ** np.arange(5), rtol=1e-5)
    assert state[0].l2.dtype == state[0].l1.dtype == jnp.float32 and state[0].num_recorded == 5


def test_half_precision_gradients_are_summed_in_float32():
    gradients = jnp.full(40_000, 1.0, jnp.bfloat16)  # bfloat16 stops counting at 256
    rule = s.record_gradient_norms(1)
    updates, state = rule.update(gradients, rule.init(gradients))
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_allclose([state.l1[0], state.l2[0]], [40_000, 200], rtol=1e-6)


@pytest.mark.parametrize("rule", [optax.sgd(0.1), optax.chain(s.record_gradient_norms(3), s.record_gradient_norms(3))])
def test_norms_of_no_or_two_recorders_are_refused(rule):
    with pytest.raises(s.ScheduleError, match="must hold one record_gradient_norms, found [02]"):
        s.recorded_norms(rule.init(PARAMS))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("norm", [1e-15, 0.3, 1e20])
@pytest.mark.parametrize("steps", [2, 5, 1000])
def test_constant_norms_give_linear_decay(steps, norm, power):
    multipliers = s.refined_multipliers(np.full(steps, norm), power)
    np.testing.assert_allclose(multipliers, (steps - 1 - np.arange(steps)) / (steps - 1), rtol=1e-9, atol=1e-12)
    schedule = s.refine(np.full(steps, norm), 0.2, power=power)
    np.testing.assert_allclose([schedule(step) for step in (0, steps - 1, steps, 10 * steps)], [0.2, 0, 0, 0], atol=1e-7)


def _refined(norms, power, fraction):
    """The formulas in plain loops."""
    steps = len(norms)
    half = round(fraction * steps / 2)

    def norm(index):
        index = max(index, 0)
        return norms[index if index < steps else 2 * steps - 1 - index]

    smooth = [np.median([norm(index + offset) for offset in range(-half, half + 1)]) for index in range(steps)]
    weights = [value**-power for value in smooth]
    rates = [weights[index] * sum(weights[index + 1 :]) for index in range(steps)]
    return np.array(rates) / max(rates)


@settings(deadline=None, max_examples=50)
@given(st.lists(POSITIVE, min_size=2, max_size=60), st.sampled_from([1, 2]), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_refined_equals_the_formulas(norms, power, fraction):
    refined = s.refined_multipliers(norms, power, fraction)
    np.testing.assert_allclose(refined, _refined(norms, power, fraction), rtol=1e-9, atol=1e-12)
    assert refined.max() == 1 and refined[-1] == 0 and (refined >= 0).all()


def test_the_filter_removes_a_spike_and_rising_norms_give_a_warmup_when_they_fall():
    spiked = np.ones(100)
    spiked[40] = 1000.0
    np.testing.assert_allclose(s.refined_multipliers(spiked), s.refined_multipliers(np.ones(100)), atol=1e-12)
    falling = s.refined_multipliers(np.linspace(3, 1, 100))
    assert 0 < falling.argmax() < 99 and falling[0] < 0.6


def test_a_refined_schedule_replays_in_a_run_of_another_length():
    norms = np.linspace(2, 1, 100)
    table = s.refined_multipliers(norms)
    same, longer = s.refine(norms, 0.3), s.refine(norms, 0.3, decay_steps=1000)
    np.testing.assert_allclose(jax.jit(jax.vmap(same))(jnp.arange(100)), 0.3 * table, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([longer(10 * step) for step in range(0, 100, 9)], 0.3 * table[::9], rtol=1e-4, atol=1e-6)
    traced = jax.jit(lambda peak, step: s.refine(norms, peak)(step))
    np.testing.assert_allclose(traced(0.3, 7), 0.3 * table[7], rtol=1e-5)


def test_a_recorded_run_is_refined_and_trains_again():
    state, _ = _run(optax.chain(s.record_gradient_norms(60), optax.sgd(0.05)), 60)
    refined = s.refine(s.recorded_norms(state).l2, 0.1)
    _, path = _run(optax.sgd(refined), 60)
    assert float(optax.tree.norm(jax.tree.map(lambda leaf: leaf[-1], path))) < 0.2 * float(optax.tree.norm(PARAMS))


@pytest.mark.parametrize(
    ("norms", "settings_", "words"),
    [
        ([1.0], {}, "at least 2 finite gradient norms"),
        ([1.0, np.nan, 2.0], {}, "got 2 finite of 3"),
        ([1.0, 2.0], {"filter_fraction": 2.0}, "filter of 2 of the run"),
        ([1.0, 0.0, 0.0, 0.0], {}, "are 0 in places"),
    ],
)
def test_norms_that_cannot_be_refined_are_refused(norms, settings_, words):
    with pytest.raises(s.ScheduleError, match=words):
        s.refine(norms, **settings_)


def _bound(rates, norms, distance):
    """The bound in plain loops."""
    total, steps = sum(rates), len(rates)
    last = 0.0
    for k in range(steps - 1):
        if sum(rates[k + 1 :]) > 0:
            tail = sum(rate**2 * norm**2 for rate, norm in zip(rates[k:], norms[k:], strict=True)) / sum(rates[k:])
            last += rates[k] / sum(rates[k + 1 :]) * tail / 2
    return distance**2 / (2 * total), sum(rate**2 * norm**2 for rate, norm in zip(rates, norms, strict=True)) / (2 * total), last


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([1, 2, 7]), st.booleans(), POSITIVE, st.data())
def test_the_bound_equals_the_formula(steps, rests_at_the_end, distance, data):
    rates, norms = (data.draw(st.lists(POSITIVE, min_size=steps, max_size=steps)) for _ in range(2))
    if rests_at_the_end and steps > 2:
        rates[-2:] = 0.0, 0.0
    bound = s.last_iterate_bound(np.array(rates, np.float32), np.array(norms, np.float32), distance)
    np.testing.assert_allclose(bound, _bound(rates, norms, distance), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bound.total, sum(_bound(rates, norms, distance)), rtol=1e-4)


def test_the_bound_of_constant_rates_and_norms_in_closed_form():
    """distance^2/(2 T lr) + lr G^2/2 * (1 + sum_{j=1}^{T-1} 1/j)."""
    steps, rate, norm, distance = 50, 0.02, 3.0, 5.0
    harmonic = sum(1 / j for j in range(1, steps))
    expected = distance**2 / (2 * steps * rate) + rate * norm**2 / 2 * (1 + harmonic)
    bound = s.last_iterate_bound(np.full(steps, rate), np.full(steps, norm), distance)
    np.testing.assert_allclose(bound.total, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["constant", "linear", "rex", "wsd"])
def test_the_best_base_rate_minimises_the_bound(name):
    shape = jax.vmap(s.create(name, 1.0, 80))(jnp.arange(80))
    norms = jnp.linspace(4.0, 1.0, 80)
    best = s.best_base_rate(s.last_iterate_bound(shape, norms, 2.0))
    factors = best * jnp.geomspace(0.2, 5.0, 401)
    totals = jax.vmap(lambda factor: s.last_iterate_bound(factor * shape, norms, 2.0).total)(factors)
    assert int(totals.argmin()) in range(198, 203)
    unit = s.last_iterate_bound(shape, norms, 2.0)
    np.testing.assert_allclose(totals.min(), 2 * jnp.sqrt(unit.distance * (unit.gradients + unit.last)), rtol=1e-4)


def test_linear_decay_has_a_lower_bound_than_constant_and_the_refined_the_lowest():
    def best(shape, norms):
        bound = s.last_iterate_bound(shape, norms)
        return float(s.last_iterate_bound(s.best_base_rate(bound) * shape, norms).total)

    constant, linear = jnp.ones(200), 1 - jnp.arange(200) / 200
    assert best(linear, jnp.ones(200)) < best(constant, jnp.ones(200))
    np.testing.assert_allclose(best(linear, jnp.ones(200)), 2 / np.sqrt(200), rtol=0.02)  # D^2/T, G^2/3 and 2 G^2/3 for large T
    norms = np.linspace(5.0, 0.5, 200)
    refined = jnp.asarray(s.refined_multipliers(norms, filter_fraction=0.0), jnp.float32)
    assert best(refined, norms) < min(best(linear, norms), best(constant, norms))


def test_the_bound_has_finite_gradients_where_rates_end_at_0():
    gradient = jax.grad(lambda rates: s.last_iterate_bound(rates, jnp.ones(5)).total)(jnp.array([1.0, 0.5, 0.2, 0.0, 0.0]))
    assert jnp.isfinite(gradient).all()
