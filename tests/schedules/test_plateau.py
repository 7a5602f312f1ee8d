"""Decay on plateau is optax's, in shares of the run, and works in the training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import schedules as s
from stepsmith.tasks import get, train


def _scales(rule, losses):
    def advance(state, loss):
        update, state = rule.update(jnp.ones(()), state, value=loss)
        return state, update

    return np.asarray(jax.lax.scan(advance, rule.init(jnp.ones(())), jnp.asarray(losses))[1])


def test_is_optaxs():
    losses = np.maximum(1.0 - np.arange(120) / 50, 0.2)
    ours = _scales(s.plateau(200, factor=0.5, patience=0.1, window=0.01), losses)
    np.testing.assert_array_equal(ours, _scales(optax.contrib.reduce_on_plateau(0.5, patience=10, accumulation_size=2), losses))
    assert ours[0] == 1 and 0 < ours[-1] < 0.3


@pytest.mark.parametrize("steps", [1, 7])
def test_short_runs_have_windows_of_a_step(steps):
    np.testing.assert_allclose(_scales(s.plateau(steps), [1.0] * 4), [1, 0.1, 0.01, 1e-3], rtol=1e-5)


def test_lowers_the_rate_in_the_training_loop():
    rule = optax.chain(optax.inject_hyperparams(optax.sgd)(learning_rate=0.5), s.plateau(200, patience=0.05))
    trained = train(get("digits_mlp"), rule, steps=200)
    assert s.current_learning_rate(trained.train_state.opt_state) < 0.06


@pytest.mark.parametrize("settings", [{"factor": 1.0}, {"window": 0.0}, {"patience": 0.001}, {"patience": 2.0}])
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(s.ScheduleError, match="a plateau needs a factor"):
        s.plateau(100, **settings)
    with pytest.raises(s.ScheduleError, match="decay_steps must be at least 1"):
        s.plateau(0)


def test_its_name_says_how_it_is_used():
    with pytest.raises(s.ScheduleError, match="'plateau'; .*chain stepsmith.schedules.plateau"):
        s.create("plateau", 0.1, 100)
