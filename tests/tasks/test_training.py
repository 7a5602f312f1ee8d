"""The training loop: its statuses, its two faces, and what enters the compiled program as a constant."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.tasks import DIVERGED, NONFINITE, OK, STOPPED, get, make_run, names, scores, train
from stepsmith.tasks.training import chunk_length

TASK = get("digits_mlp")


@pytest.fixture(scope="module")
def sgd_run():
    return jax.jit(make_run(TASK, optax.sgd))


def test_a_good_run_reaches_the_end_and_learns(sgd_run):
    outcome = sgd_run(TASK.load(), 0.1, jax.random.key(0))
    assert (int(outcome.status), int(outcome.steps)) == (OK, 200)
    assert outcome.loss < 0.6
    assert scores(TASK, outcome.params, outcome.state, TASK.load(), "validation")["loss"] == pytest.approx(float(outcome.loss), rel=1e-5)


@pytest.mark.parametrize(("learning_rate", "status"), [(100.0, DIVERGED), (1e30, NONFINITE)])
def test_a_huge_learning_rate_stops_the_run_early_with_a_status(sgd_run, learning_rate, status):
    outcome = sgd_run(TASK.load(), learning_rate, jax.random.key(0))
    assert int(outcome.status) == status
    assert int(outcome.steps) == 20
    assert np.isnan(outcome.loss)


def test_a_run_that_breaks_in_its_last_update_is_nonfinite():
    # 19 good steps and one that ruins the parameters after the last training loss was taken.
    run = jax.jit(make_run(TASK, lambda rate: optax.sgd(lambda step: jnp.where(step == 19, rate, 0.1)), steps=20))
    outcome = run(TASK.load(), np.inf, jax.random.key(0))
    assert (int(outcome.status), int(outcome.steps)) == (NONFINITE, 20)


@pytest.mark.parametrize("name", ["digits_mlp", "digits_autoencoder"])
def test_train_and_make_run_agree(name, quick_compile):
    task = get(name)
    outcome = jax.jit(make_run(task, optax.adam))(task.load(), 0.01, jax.random.key(3))
    trained = train(task, optax.adam(0.01), seed=3)
    assert (trained.status, int(trained.train_state.step), trained.losses.shape) == (OK, 200, (200,))
    loss = scores(task, trained.train_state.params, trained.train_state.state, task.load(), "validation")["loss"]
    assert loss == pytest.approx(float(outcome.loss), rel=1e-4)
    assert trained.losses[-20:].mean() < 0.5 * trained.losses[:5].mean()


def test_train_stops_where_make_run_does():
    trained = train(TASK, optax.sgd(100.0))
    assert (trained.status, int(trained.train_state.step)) == (DIVERGED, 20)


@pytest.fixture(scope="module")
def whole(sgd_run):
    """A run of ten chunks without limits."""
    return sgd_run(TASK.load(), 0.1, jax.random.key(0))


def test_the_curve_is_the_mean_training_loss_of_each_chunk(whole):
    losses = train(TASK, optax.sgd(0.1)).losses
    np.testing.assert_allclose(whole.curve, losses.reshape(10, 20).mean(axis=1), rtol=1e-4)


def test_infinite_limits_change_no_bit(sgd_run, whole):
    limited = sgd_run(TASK.load(), 0.1, jax.random.key(0), np.full(10, np.inf, np.float32))
    for one, other in zip(jax.tree.leaves(limited), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("factor", "status", "steps"), [(1.0, OK, 200), (0.999, STOPPED, 80)], ids=["at it", "above it"])
def test_a_run_above_its_limit_is_stopped_there(sgd_run, whole, factor, status, steps):
    limits = np.full(10, np.inf, np.float32)
    limits[3] = factor * np.float32(whole.curve[3])
    outcome = sgd_run(TASK.load(), 0.1, jax.random.key(0), limits)
    assert (int(outcome.status), int(outcome.steps)) == (status, steps)
    assert np.isnan(outcome.loss) == (status == STOPPED)
    expected = np.where(np.arange(10) < steps // 20, whole.curve, np.nan)
    np.testing.assert_array_equal(outcome.curve, expected)


def test_what_diverges_is_not_called_stopped(sgd_run):
    outcome = sgd_run(TASK.load(), 100.0, jax.random.key(0), np.zeros(10, np.float32))
    assert int(outcome.status) == DIVERGED


def test_resuming_gives_the_run_that_was_not_interrupted():
    seen = []
    whole = train(TASK, optax.adam(0.01), steps=60, on_chunk=lambda state, losses: seen.append((int(state.step), len(losses))))
    assert seen == [(20, 20), (40, 20), (60, 20)]
    half = train(TASK, optax.adam(0.01), steps=20)
    rest = train(TASK, optax.adam(0.01), steps=60, resume_from=half.train_state)
    np.testing.assert_array_equal(np.concatenate([half.losses, rest.losses]), whole.losses)
    assert train(TASK, optax.adam(0.01), steps=60, resume_from=rest.train_state).losses.size == 0


def test_seeds_and_steps_make_a_difference(sgd_run):
    first, again, other = (sgd_run(TASK.load(), 0.1, jax.random.key(seed)).loss for seed in (1, 1, 2))
    assert first == again != other
    # Nothing is learned at rate zero, so the losses differ by their batches alone.
    assert len(set(train(TASK, optax.sgd(0.0), steps=20).losses.tolist())) > 10


@pytest.mark.parametrize("name", names())
def test_data_are_arguments_and_no_constant_of_the_program(name, task_or_skip):
    task = task_or_skip(name)
    data = task.load()
    text = jax.jit(make_run(task, optax.sgd, steps=20)).lower(data, 0.1, jax.random.key(0)).as_text()
    constants = re.findall(r"constant dense<.*?> : tensor<([0-9x]*)x?[a-z][a-z0-9]*>", text)
    sizes = [int(np.prod([int(size) for size in shape.split("x") if size])) for shape in constants]
    assert sizes
    # Scored windows may start at fixed places (96 numbers); anything larger would be data.
    assert max(sizes) <= 128
    num_inputs = len(jax.tree.leaves(data)) + 2
    # Labels of splits that are not read are dropped by jit, arrays that are read are parameters.
    signature = next(line for line in text.splitlines() if "func.func public @main" in line)
    assert 4 <= signature.count("%arg") <= num_inputs


def test_one_executable_serves_every_learning_rate():
    traces = []

    def make_transformation(learning_rate):
        traces.append(1)
        return optax.sgd(learning_rate)

    run = jax.jit(make_run(TASK, make_transformation, steps=20))
    losses = {float(run(TASK.load(), learning_rate, jax.random.key(0)).loss) for learning_rate in (0.01, 0.03, 0.1)}
    assert len(losses) == 3 and len(traces) == 1


@pytest.mark.parametrize(("steps", "chunk", "expected"), [(200, 20, 20), (50, 20, 10), (7, 20, 7), (23, 20, 1), (30, 7, 6)])
def test_a_chunk_divides_the_steps(steps, chunk, expected):
    assert chunk_length(steps, chunk) == expected


def test_the_language_model_learns_in_a_few_steps():
    losses = train(get("stdlib_lm"), optax.adam(0.01), steps=40).losses
    assert losses[-5:].mean() < 0.75 * losses[0]


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        make_run(TASK, optax.sgd, steps=0)
