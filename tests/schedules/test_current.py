"""`current_learning_rate` finds the rate of the latest step in any optimizer's state, or says why not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import schedules as s

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
SCHEDULE = s.with_warmup(s.rex(0.3, 20), 5)
LABELS = {"kernel": "fast", "bias": "slow"}

INJECTED = {
    "alone": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE),
    "chain": lambda: optax.chain(optax.clip(1.0), optax.chain(optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE))),
    "masked": lambda: optax.masked(optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE), {"kernel": True, "bias": False}),
    "partition": lambda: optax.partition(
        {"fast": optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE), "slow": optax.set_to_zero()}, LABELS
    ),
    "accumulated": lambda: optax.MultiSteps(optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE), 1).gradient_transformation(),
}
COUNTED = {
    "adamw": lambda: optax.adamw(SCHEDULE),
    "sgd": lambda: optax.sgd(SCHEDULE, momentum=0.9),
    "chain": lambda: optax.chain(optax.clip(1.0), optax.chain(optax.adam(SCHEDULE))),
    "masked": lambda: optax.masked(optax.adamw(SCHEDULE), {"kernel": True, "bias": False}),
}


def _states(rule, steps):
    state = rule.init(PARAMS)
    yield state
    update = jax.jit(rule.update)
    for _ in range(steps):
        _, state = update(PARAMS, state, PARAMS)
        yield state


@pytest.mark.parametrize(
    ("rule", "schedule"), [(INJECTED[name], None) for name in INJECTED] + [(COUNTED[name], SCHEDULE) for name in COUNTED]
)
def test_is_the_rate_of_the_latest_step(rule, schedule):
    rates = [s.current_learning_rate(state, schedule) for state in _states(rule(), 8)]
    np.testing.assert_allclose(rates, [SCHEDULE(step) for step in (0, *range(8))], rtol=1e-5, atol=1e-8)


def test_is_what_the_update_was_scaled_with():
    rule = optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE)
    state = rule.init(PARAMS)
    for _ in range(7):
        updates, state = rule.update(PARAMS, state, PARAMS)
        np.testing.assert_allclose(updates["kernel"], -s.current_learning_rate(state) * PARAMS["kernel"], rtol=1e-6)


def test_a_number_that_was_injected_and_changed_is_read():
    rule = optax.inject_hyperparams(optax.adam)(learning_rate=0.01)
    state = rule.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.float32(0.5)
    assert s.current_learning_rate(state) == 0.5
    assert jax.jit(s.current_learning_rate)(state) == 0.5


def test_the_scale_of_a_plateau_is_multiplied_in():
    rule = optax.chain(
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.2), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, cooldown=10)
    )
    state = rule.init(PARAMS)
    for _ in range(4):
        _, state = rule.update(PARAMS, state, PARAMS, value=jnp.float32(1.0))
    np.testing.assert_allclose(s.current_learning_rate(state), 0.1, rtol=1e-6)


REFUSALS = {
    "none": (optax.sgd(0.1), None, "holds no learning rate; build the rule with optax.inject_hyperparams"),
    "none for a schedule": (optax.sgd(0.1), SCHEDULE, "holds no learning rate"),
    "count": (optax.sgd(SCHEDULE), None, "holds a count of the steps and no learning rate; give the schedule too"),
    "two": (
        optax.partition({name: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1) for name in ("fast", "slow")}, LABELS),
        None,
        "holds 2 learning rates: .*fast.*slow.*; give the part",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_state_without_one_rate_is_refused(name):
    rule, schedule, words = REFUSALS[name]
    with pytest.raises(s.ScheduleError, match=words):
        s.current_learning_rate(rule.init(PARAMS), schedule)
