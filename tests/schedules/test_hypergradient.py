"""Hypergradient descent against a float64 transcription, on quadratics, and its safeguards."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import schedules as s

CURVATURE = np.array([1.0, 0.3, 2.0])
START = np.array([1.0, -2.0, 0.5])
FREE = s.Bounds(lowest=1e-12, highest=1e6, change=1e6)
FORMS = {"additive": s.hypergradient_descent, "multiplicative": s.multiplicative_hypergradient_descent}


def _run(rule, steps, curvature=CURVATURE, start=START):
    """Rates and losses of a run on sum(curvature * w^2)/2."""
    curvature = jnp.asarray(curvature, jnp.float32)

    def advance(carry, _):
        params, state = carry
        updates, state = rule.update(curvature * params, state, params)
        return (optax.apply_updates(params, updates), state), (state.learning_rate, jnp.sum(curvature * params**2) / 2)

    params = jnp.asarray(start, jnp.float32)
    _, (rates, losses) = jax.jit(lambda: jax.lax.scan(advance, (params, rule.init(params)), length=steps))()
    return np.asarray(rates), np.asarray(losses)


def _transcription(form, momentum, rate, beta, steps, bounds=FREE):
    w, last, trace, rates = START.copy(), np.zeros(3), np.zeros(3), []
    for _ in range(steps):
        g = CURVATURE * w
        if form == "additive":
            proposed = rate + beta * g @ last
        else:
            length = np.linalg.norm(g) * np.linalg.norm(last)
            proposed = rate * (1 + beta * (g @ last / length if length > 0 else 0))
        proposed = min(max(proposed, rate / bounds.change), rate * bounds.change)
        rate = min(max(proposed, bounds.lowest), bounds.highest)
        trace = momentum * trace + g
        last = trace
        w = w - rate * last
        rates.append(rate)
    return np.array(rates)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("bounds", [FREE, s.Bounds(lowest=0.02, highest=0.2, change=1.05)])
def test_equals_the_equations(form, momentum, bounds):
    direction = optax.trace(momentum) if momentum else optax.identity()
    rates, _ = _run(FORMS[form](direction, 0.05, 0.02, bounds), 60)
    np.testing.assert_allclose(rates, _transcription(form, momentum, 0.05, 0.02, 60, bounds), rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", [optax.identity(), optax.scale_by_adam()])
def test_finds_a_better_rate_than_a_far_too_small_one(form, direction):
    beta = 0.02 if form == "multiplicative" else 1e-3
    rates, losses = _run(FORMS[form](direction, 1e-3, beta), 300)
    fixed = _run(FORMS[form](direction, 1e-3, 0.0), 300)[1]
    assert rates[-1] > 2e-3 and losses[-1] < 0.5 * fixed[-1]


@pytest.mark.parametrize("form", FORMS)
def test_lowers_a_rate_that_overshoots(form):
    """On a parabola of curvature 1 a rate above 2 diverges; the hypergradient takes it below."""
    rates, losses = _run(FORMS[form](optax.identity(), 2.2, 0.05), 200, curvature=[1.0], start=[1.0])
    assert rates[-1] < 2 and losses[-1] < 1e-6 * losses.max()
    fixed = _run(FORMS[form](optax.identity(), 2.2, 0.0), 200, curvature=[1.0], start=[1.0])[1]
    assert not fixed[-1] < fixed[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_beta_of_0_is_the_rule_itself(form):
    rates, losses = _run(FORMS[form](optax.scale_by_adam(), 0.01, 0.0), 30)
    np.testing.assert_allclose(rates, 0.01, rtol=1e-6)
    params, adam = jnp.asarray(START, jnp.float32), optax.adam(0.01)
    state = adam.init(params)
    for expected in losses:
        np.testing.assert_allclose(jnp.sum(CURVATURE * params**2) / 2, expected, rtol=1e-5)
        updates, state = adam.update(CURVATURE * params, state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [1e6, 1e30])
def test_the_rate_changes_within_its_bounds_however_large_beta_is(form, beta):
    bounds = s.Bounds(lowest=0.01, highest=0.3, change=1.2)
    rates, losses = _run(FORMS[form](optax.identity(), 0.1, beta, bounds), 200)
    ratios = rates[1:] / rates[:-1]
    assert rates.min() >= 0.01 * 0.9999 and rates.max() <= 0.3 * 1.0001
    assert ratios.max() <= 1.2001 and ratios.min() >= 1 / 1.2001
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_leaves_the_rate(form, bad):
    rule = FORMS[form](optax.identity(), 0.1, 0.5)
    gradient = jnp.array([1.0, 2.0])
    _, state = rule.update(gradient, rule.init(gradient))
    for hurt in (jnp.array([1.0, bad]), gradient):  # the second meets the direction that the first left
        _, state = rule.update(hurt, state)
        assert state.learning_rate == jnp.float32(0.1)
    _, state = rule.update(gradient, state)
    assert state.learning_rate > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_keeps_types_masks_traced_rates_and_is_found(form):
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}
    rule = optax.chain(
        optax.clip(10.0), optax.masked(FORMS[form](optax.scale_by_adam(mu_dtype=jnp.float32), 0.1, 0.01), {"a": True, "b": False})
    )
    state = rule.init(params)
    _, after = jax.jit(rule.update)(params, state, params)  # Adam's direction is float32 here, and the state's bfloat16
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    np.testing.assert_allclose(s.current_learning_rate(after), 0.1, rtol=1e-6)

    def second_rate(init_value):
        rule = FORMS[form](optax.identity(), init_value, 0.01)
        _, state = rule.update(params["b"], rule.init(params["b"]))
        return rule.update(params["b"], state)[1].learning_rate

    np.testing.assert_allclose(jax.jit(second_rate)(0.1), second_rate(0.1), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_value": 0.0}, "must lie in its bounds, 1e-08 to 10, got 0.0"),
        ({"init_value": float("nan")}, "got nan"),
        ({"beta": -1.0}, "beta must be finite and at least 0"),
        ({"bounds": s.Bounds(change=1.0)}, "factor above 1, got 1.0"),
        ({"bounds": s.Bounds(lowest=0.0)}, "must ascend from above 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, words):
    for make in FORMS.values():
        with pytest.raises(s.ScheduleError, match=words):
            make(optax.identity(), **{"init_value": 0.1, "beta": 0.1, **settings})
