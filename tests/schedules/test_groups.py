"""Every group of parameters is trained at the schedule's rate, not the first alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import schedules as s
from stepsmith.discovery.training.schedule_loop import TaskLoop
from stepsmith.tasks import get

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2), "scale": jnp.ones(())}
LABELS = {"kernel": "sgd", "bias": "adam", "scale": "sign"}


def _grouped(schedule, labels=LABELS):
    """Rules that take a step of the rate itself where gradients are 1."""
    rules = {"sgd": optax.sgd(schedule), "adam": optax.adam(schedule), "sign": optax.sign_sgd(schedule)}
    return optax.partition(rules, labels)


@pytest.mark.parametrize("name", ["rex", "rex:50-75", "one_cycle", "step", "wsd", "warmup_cosine"])
def test_a_schedule_reaches_every_group(name):
    schedule = s.with_warmup(s.create(name, 0.3, 20), 3)
    rule = _grouped(schedule)
    state, update = rule.init(PARAMS), jax.jit(rule.update)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    for step in range(25):
        updates, state = update(gradients, state, PARAMS)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(-leaf, np.full(leaf.shape, schedule(step)), rtol=1e-5, atol=1e-7)


def test_plateau_reaches_every_group():
    rule = optax.chain(_grouped(0.3), s.plateau(10))
    state, gradients = rule.init(PARAMS), jax.tree.map(jnp.ones_like, PARAMS)
    for rate in (0.3, 0.03):
        updates, state = rule.update(gradients, state, PARAMS, value=1.0)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(-leaf, np.full(leaf.shape, rate), rtol=1e-5)


def test_the_rate_of_a_task_loop_reaches_every_group():
    def labels(params):
        return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)

    loop = TaskLoop(
        get("digits_mlp"), lambda schedule: optax.partition({"matrix": optax.sgd(schedule), "vector": optax.sgd(schedule)}, labels)
    )
    before = loop.snapshot()
    moved = {}
    for rate in (0.1, 0.2):
        loop.restore(before)
        loop.run(rate, 1)
        moved[rate] = jax.tree.map(lambda new, old: np.asarray(new - old), loop.train_state.params, before.params)
    first, second = (jax.tree.leaves(moved[rate]) for rate in (0.1, 0.2))
    assert {leaf.ndim > 1 for leaf in first} == {True, False}
    for once, twice in zip(first, second, strict=True):
        assert np.abs(once).max() > 0
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-6)
