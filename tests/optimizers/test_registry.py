"""Every rule of the registry trains a model, alone and with a traced learning rate or a schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import optimizers
from stepsmith.tasks import OK, get, make_run

TASK = dataclasses.replace(get("digits_mlp"), steps=60)


@pytest.fixture(scope="module")
def initial_loss():
    params, state = TASK.init(jax.random.split(jax.random.key(0))[0])
    return float(TASK.metric(params, state, TASK.examples(TASK.load(), "validation"))["loss"])


@pytest.mark.parametrize("name", optimizers.names())
def test_reduces_the_loss_on_digits(name, initial_loss, quick_compile):
    # The centre of the grid or a point above it: 60 steps are fewer than the defaults are meant for.
    run = jax.jit(make_run(TASK, lambda learning_rate: optimizers.create(name, learning_rate)))
    outcomes = [run(TASK.load(), learning_rate, jax.random.key(0)) for learning_rate in optimizers.get(name).learning_rates[2:]]
    losses = [float(outcome.loss) for outcome in outcomes if int(outcome.status) == OK]
    assert losses, f"{name} fails at every learning rate"
    assert min(losses) < 0.75 * initial_loss


@pytest.mark.parametrize("name", optimizers.names())
def test_takes_a_schedule_and_keeps_shapes_and_dtypes(name):
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}
    transformation = optimizers.create(name, optax.constant_schedule(optimizers.get(name).learning_rate))
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params)
    updates, _ = transformation.update(gradients, transformation.init(params), params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(updates))


def test_momentum_and_nesterov_equal_their_equations():
    gradients = [1.0, -0.5, 2.0]
    trace, plain, nesterov = 0.0, [], []
    for gradient in gradients:
        trace = 0.9 * trace + gradient
        plain.append(-0.1 * trace)
        nesterov.append(-0.1 * (gradient + 0.9 * trace))
    for name, expected in (("momentum", plain), ("nesterov", nesterov)):
        rule = optimizers.create(name, 0.1)
        state, updates = rule.init(jnp.array(0.0)), []
        for gradient in gradients:
            update, state = rule.update(jnp.array(gradient), state)
            updates.append(update)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)


@pytest.mark.parametrize("name", optimizers.names())
def test_row_is_documented_and_its_grid_ascends_around_the_default(name):
    row = optimizers.get(name)
    assert row.name == name and row.summary
    assert list(row.learning_rates) == sorted(set(row.learning_rates))
    np.testing.assert_allclose(row.learning_rates[2], row.learning_rate)


def test_unknown_names_and_settings_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'adamz'.*sgd, momentum"):
        optimizers.create("adamz", 0.1)
    with pytest.raises(ValueError, match="'adam'.*b3.*b1"):
        optimizers.create("adam", 0.1, b3=0.5)


def test_the_default_learning_rate_and_settings_are_used():
    gradient, params = jnp.array(1.0), jnp.array(2.0)
    rule = optimizers.create("adamw", weight_decay=0.5)
    update, _ = rule.update(gradient, rule.init(params), params)
    np.testing.assert_allclose(update, -1e-3 * (1 + 0.5 * 2.0), rtol=1e-4)
