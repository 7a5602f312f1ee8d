"""Self-tuning: responses against exact derivatives and closed forms on quadratics, where tuning leads, and the safeguards."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import schedules as s
from stepsmith.tasks import get, train

CURVATURE, START = np.array([1.0, 0.3, 0.5, 0.05]), np.array([1.0, -2.0, 0.5, 3.0])
SEEDS = 8


def _exact(seed=0):
    """Responses alone, not shortened."""
    return s.SelfTuningConfig(step_size=0.0, memory=float("inf"), trust=1e9, seed=seed)


def _scan(direction, steps, rate, config, decay=None, gradient=None, held_out=None, **bounds):
    gradient = (lambda w: jnp.asarray(CURVATURE, jnp.float32) * w) if gradient is None else gradient
    rule = s.self_tuning(direction, rate, decay, config, **bounds)

    def advance(carry, _):
        params, state = carry
        extra = {} if held_out is None else {"held_out": held_out(params)}
        updates, state = rule.update(gradient(params), state, params, **extra)
        return (optax.apply_updates(params, updates), state), jnp.stack([state.learning_rate, state.weight_decay])

    start = jnp.asarray(START, jnp.float32)
    (params, state), rates = jax.lax.scan(advance, (start, rule.init(start)), length=steps)
    return params, state, rates.T


def _run(direction, steps, rate, config=None, **settings):
    """Parameters, the state and the rates and decays of each step, on a quadratic with its minimum at 0 where no gradient is given."""
    return jax.jit(lambda: _scan(direction, steps, rate, _exact() if config is None else config, **settings))()


def _mean_response(index, direction, steps, rate, **settings):
    def response(seed):
        return _scan(direction, steps, rate, _exact(seed), **settings)[1].tuned[index].response

    return np.mean(jax.jit(jax.vmap(response))(jnp.arange(SEEDS)), axis=0)


@pytest.mark.parametrize("steps", [1, 10, 40])
def test_the_response_to_the_rate_is_that_of_gradient_descent(steps):
    """w_T = (1 - r c)^T w_0, whose derivative by log r is -T r c (1 - r c)^(T-1) w_0."""
    rate = 0.1
    expected = -steps * rate * CURVATURE * (1 - rate * CURVATURE) ** (steps - 1) * START
    np.testing.assert_allclose(_mean_response(0, optax.identity(), steps, rate), expected, rtol=0.1, atol=0.03)


@pytest.mark.parametrize("name", ["trace", "adam"])
def test_the_response_passes_through_the_rules_own_state(name):
    direction = {"trace": optax.trace(0.9), "adam": optax.scale_by_adam()}[name]

    def end(log_rate):
        rule = optax.chain(direction, optax.scale(-jnp.exp(log_rate)))

        def advance(carry, _):
            params, state = carry
            updates, state = rule.update(jnp.asarray(CURVATURE, jnp.float32) * params, state, params)
            return (params + updates, state), None

        start = jnp.asarray(START, jnp.float32)
        return jax.lax.scan(advance, (start, rule.init(start)), length=30)[0][0]

    expected = jax.jvp(end, (jnp.log(0.02),), (1.0,))[1]
    np.testing.assert_allclose(_mean_response(0, direction, 30, 0.02), expected, rtol=0.1, atol=0.03)


def test_the_response_to_the_decay_is_that_of_the_ridge_solution():
    """At rest w = c t/(c + l), whose derivative by log l is -l w/(c + l)."""
    target, decay = np.array([1.0, 2.0, 3.0, 4.0]), 0.1

    def gradient(w):
        return jnp.asarray(CURVATURE * (w - target), jnp.float32)

    solution = CURVATURE * target / (CURVATURE + decay)
    settings = {"decay": decay, "gradient": gradient, "held_out": gradient}
    params, state, _ = _run(optax.identity(), 800, 0.1, **settings)
    np.testing.assert_allclose(s.self_tuned_params(state, params), solution, rtol=0.02)
    response = _mean_response(1, optax.identity(), 800, 0.1, **settings)
    np.testing.assert_allclose(response, -decay * solution / (CURVATURE + decay), rtol=0.2)


def test_the_parameters_to_evaluate_are_those_of_the_rate_itself():
    """Perturbed and taken back, a run whose rate is kept is that of plain gradient descent, where the perturbations do not add up."""
    params, state, _ = _run(optax.identity(), 10, 0.1)
    np.testing.assert_allclose(s.self_tuned_params(state, params), START * (1 - 0.1 * CURVATURE) ** 10, rtol=0.02)
    assert not np.allclose(params, s.self_tuned_params(state, params), rtol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_rate_that_is_far_too_small_grows(name):
    direction, rate = {"sgd": (optax.identity(), 0.01), "adam": (optax.scale_by_adam(), 0.001)}[name]
    _, fixed, _ = _run(direction, 150, rate)
    params, state, rates = _run(direction, 150, rate, s.SelfTuningConfig())
    assert rates[0, -1] > 5 * rate
    kept = START if name == "adam" else START * (1 - rate * CURVATURE) ** 150
    assert _loss(s.self_tuned_params(state, params)) < 0.2 * _loss(kept)
    assert fixed.learning_rate == np.float32(rate)


def _loss(params):
    return float(np.sum(CURVATURE * np.asarray(params) ** 2))


def test_a_rate_that_makes_training_swing_falls():
    _, _, rates = _run(optax.identity(), 60, 1.95, s.SelfTuningConfig(step_size=0.05))
    assert rates[0, -1] < 1.5


def test_the_decay_finds_the_best_of_the_held_out_loss():
    """The held-out minimum is half of the training's: w = t/(1 + l) is best at l = 1."""
    target = np.array([1.0, 2.0, 3.0, 4.0])
    for first in (0.1, 10.0):
        _, _, rates = _run(
            optax.identity(),
            1500,
            0.05,
            s.SelfTuningConfig(step_size=0.01),
            decay=first,
            gradient=lambda w: jnp.asarray(w - target, jnp.float32),
            held_out=lambda w: jnp.asarray(w - target / 2, jnp.float32),
            bounds=s.Bounds(lowest=0.05, highest=0.05),
            weight_decay_bounds=s.Bounds(lowest=1e-3, highest=1e2),
        )
        assert np.median(rates[1, -300:]) == pytest.approx(1.0, rel=0.25)


def test_the_rate_stays_in_its_bounds_and_changes_slowly():
    bounds = s.Bounds(lowest=0.02, highest=0.05, change=1.02)
    for first in (0.02, 0.05):
        rates = _run(optax.identity(), 100, first, s.SelfTuningConfig(step_size=1.0), bounds=bounds)[2][0]
        assert rates.min() >= 0.02 - 1e-6 and rates.max() <= 0.05 + 1e-6
        assert np.abs(np.diff(np.log(rates))).max() <= np.log(1.02) + 1e-5


def test_the_response_is_kept_short_and_finite():
    config = s.SelfTuningConfig(trust=0.02)
    params, state, _ = _run(optax.identity(), 200, 0.3, config)
    length = np.linalg.norm(state.tuned[0].response) * config.sigma
    assert 0 < length <= 0.02 * np.linalg.norm(s.self_tuned_params(state, params)) * 1.001


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_gradient_that_is_no_number_leaves_rate_and_response_usable(bad):
    rule = s.self_tuning(optax.identity(), 0.1)
    params = jnp.asarray(START, jnp.float32)
    state = rule.init(params)
    update = jax.jit(rule.update)
    for _ in range(5):
        _, state = update(params, state, params)
    _, after = update(jnp.full(4, bad), state, params)
    assert np.isfinite(after.learning_rate) and np.isfinite(after.tuned[0].response).all()
    assert abs(np.log(after.learning_rate / state.learning_rate)) <= np.log(1.1) + 1e-5


def test_the_current_rate_is_found_and_the_form_of_the_state_is_kept():
    rule = s.self_tuning(optax.scale_by_adam(), 0.1, 0.01)
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}
    state = rule.init(params)
    assert s.current_learning_rate(state) == np.float32(0.1)
    updates, after = jax.jit(rule.update)(params, state, params, held_out=params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert updates["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 20.0}, "first learning rate must lie in its bounds"),
        ({"learning_rate": 0.1, "weight_decay": 0.0}, "first weight decay must lie in its bounds"),
        ({"learning_rate": 0.1, "bounds": s.Bounds(lowest=0.0)}, "must ascend from above 0"),
    ],
)
def test_bad_settings_are_refused(given, message):
    with pytest.raises(s.ScheduleError, match=message):
        s.self_tuning(optax.identity(), **given)


@pytest.mark.parametrize(("name", "value"), [("sigma", 0.0), ("memory", 1.0), ("trust", 0.0), ("step_size", -1.0), ("sigma", np.nan)])
def test_bad_configurations_are_refused(name, value):
    with pytest.raises(s.ScheduleError, match=name):
        s.SelfTuningConfig(**{name: value})


def test_a_decay_needs_a_held_out_loss_and_tuning_the_parameters():
    params = jnp.ones(3)
    rule = s.self_tuning(optax.identity(), 0.1, 0.01)
    with pytest.raises(s.ScheduleError, match="held_out"):
        rule.update(params, rule.init(params), params)
    with pytest.raises(s.ScheduleError, match="needs the parameters"):
        rule.update(params, rule.init(params))


def test_a_chain_steps_with_clipped_gradients_and_a_whole_held_out_one():
    params, batch, held_out_batch = jnp.ones(3), jnp.array([9.0, 0.0, 0.0]), jnp.array([0.0, 4.0, 0.0])
    rule = optax.chain(optax.clip_by_global_norm(1.0), s.self_tuning(optax.identity(), 0.1, 0.01))
    step = jax.jit(s.self_tuning_step(rule, lambda w, x: (w @ x, x.sum()), has_aux=True))
    stepped, state, value, held_out_value = step(params, rule.init(params), batch, held_out_batch)
    assert (value, held_out_value) == ((9.0, 9.0), (4.0, 4.0))
    updates, expected = rule.update(batch, rule.init(params), params, held_out=held_out_batch)
    np.testing.assert_allclose(stepped, params + updates, rtol=1e-6)
    np.testing.assert_allclose(state[1].gradient, [1.0, 0.0, 0.0], rtol=1e-6)
    again = float(step(stepped, state, batch, held_out_batch)[1][1].tuned[1].first)
    hypergradient = float(jnp.vdot(held_out_batch, expected[1].tuned[1].response))
    assert again == pytest.approx(0.1 * hypergradient, rel=1e-5) and again < 0


def test_a_decay_that_is_far_too_large_falls_on_a_real_task():
    """Tuned on batches of the validation split; scored on the test split too, which it never sees."""
    task, steps, rate, first = get("tabular"), 150, 0.01, 30.0
    data = jax.device_put(dict(task.load()))
    bounds = {"bounds": s.Bounds(rate, rate), "weight_decay_bounds": s.Bounds(1e-3, 100.0)}
    rule = s.self_tuning(optax.scale_by_adam(), rate, first, s.SelfTuningConfig(step_size=0.05), **bounds)
    step = s.self_tuning_step(rule, lambda params, seen: task.loss(params, {}, *seen), has_aux=True)

    def advance(carry, key):
        drawing, dropping = jax.random.split(key)
        seen, held_out = ((task.batch(data, drawing, split), dropping) for split in ("train", "validation"))
        params, state, (loss, _), _ = step(*carry, seen, held_out)
        return (params, state), (loss, state.weight_decay)

    init_key, run_key = jax.random.split(jax.random.key(0))
    begun = task.init(init_key)[0]
    run = jax.jit(lambda: jax.lax.scan(advance, (begun, rule.init(begun)), jax.random.split(run_key, steps)))
    (params, state), (losses, decays) = run()
    assert np.isfinite(losses).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert 0.1 < decays[-1] < first / 5
    constant = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(first), optax.scale(-rate))
    kept = train(task, constant, steps=steps).train_state.params
    for split in ("validation", "test"):
        tuned, fixed = (task.metric(found, {}, task.examples(data, split))["loss"] for found in (s.self_tuned_params(state, params), kept))
        assert tuned < fixed
