"""The tuned AdamW: its arithmetic, and that the stored numbers are those of the tasks as they are."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith.tasks import get, names, reference

TASK = get("digits_mlp")
STORED = [name for name in names() if not name.startswith(("imagenet", "lm1b"))]  # these are trained on data of the user's own


@pytest.mark.parametrize("name", STORED)
def test_the_stored_reference_is_of_the_current_version_and_consistent(name, task_or_skip):
    task = task_or_skip(name)
    stored = reference.stored(task)
    if stored is None and name == "stdlib_lm":
        pytest.skip("the text of this Python's standard library is another than those that references are stored for")
    assert stored is not None, "the task has changed: run python -m stepsmith.tasks.reference"
    assert (stored.task, stored.version) == (task.name, task.version)
    assert len(stored.learning_rates) == len(stored.losses) >= 7
    assert all(len(row) == len(reference.SEEDS) for row in stored.losses)
    assert reference.summarise(stored.task, stored.version, stored.learning_rates, stored.losses) == stored
    assert min(stored.learning_rates) < stored.best_learning_rate < max(stored.learning_rates)


def test_the_stored_reference_can_be_measured_again():
    stored, task = reference.stored(TASK), TASK
    measured = reference.measure(task)
    assert measured.learning_rates == stored.learning_rates
    # Processors and versions of jax differ in the last bits, which 200 steps magnify.
    assert measured.log_loss == pytest.approx(stored.log_loss, abs=0.1)
    assert measured.scale == pytest.approx(stored.scale, rel=0.3)


def test_an_edited_task_has_no_reference():
    assert reference.stored(dataclasses.replace(TASK, steps=199)) is None


def test_json_and_back():
    stored = reference.stored(TASK)
    assert reference.Reference.from_json(json.loads(json.dumps(stored.to_json()))) == stored


def test_the_scale_is_the_geometric_mean_rise_one_grid_step_away():
    losses = [(math.exp(3.0),), (math.exp(1.0), math.exp(3.0)), (math.exp(1.0),), (math.exp(1.5),)]
    summary = reference.summarise("toy", "0", [1.0, 2.0, 3.0, 4.0], losses)
    assert summary.best_learning_rate == 3.0
    np.testing.assert_allclose([summary.log_loss, summary.scale], [1.0, math.sqrt(1.0 * 0.5)])


@pytest.mark.parametrize(("losses", "scale"), [([(None,), (1.0,), (math.e,)], 1.0), ([(1.0,), (1.0,), (1.0,)], reference.SCALE_FLOOR)])
def test_failed_neighbours_are_left_out_and_the_scale_has_a_floor(losses, scale):
    assert reference.summarise("toy", "0", [1.0, 2.0, 3.0], losses).scale == pytest.approx(scale)


def test_losses_are_floored():
    assert reference.mean_log_loss([0.0]) == pytest.approx(math.log(1e-6))


def test_a_task_that_always_fails_is_refused():
    with pytest.raises(ValueError, match="fails on toy at every learning rate"):
        reference.summarise("toy", "0", [1.0], [(None,)])


def test_the_rule_decays_linearly_to_zero():
    rule = reference.adamw_with_linear_decay(0.1, steps=4)
    params = jnp.array(0.0)  # at zero, weight decay adds nothing and Adam's step is the learning rate
    state, updates = rule.init(params), []
    for _ in range(4):
        update, state = rule.update(jnp.array(1.0), state, params)
        updates.append(float(update))
    np.testing.assert_allclose(updates, [-0.1, -0.075, -0.05, -0.025], rtol=1e-4)


def test_a_missing_reference_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = dataclasses.replace(TASK, steps=20)
    first = reference.stored_or_measured(task)
    monkeypatch.setattr(reference, "measure", lambda task: pytest.fail("measured twice"))
    assert reference.stored_or_measured(task) == first
    assert reference.stored(task) is None
