"""What the values of a program are on gradients of a real task: it says which changes are small, and what a value could be instead."""

from typing import NamedTuple

import jax
import numpy as np
import optax

from ...tasks import registry
from ...tasks.base import HostFed, load_on_device
from ..language import Program, ProgramError, as_transformation, infer

STEPS = 10
FAR = 1e6  # of a change that cannot be run


class Recording(NamedTuple):
    """Parameters, losses and gradients of the first steps of a training run."""

    params: list[optax.Params]
    losses: list[jax.Array]
    gradients: list[optax.Updates]


def record(task_name: str, program: Program, factor: float) -> Recording:
    """Trains the task with the program for `STEPS` steps."""
    task = registry.get(task_name)
    data = load_on_device(task)
    key = jax.random.key(0)
    params, state = task.init(key)
    gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    stream = task.stream(data, 0, 0) if isinstance(task, HostFed) else None
    rule = _rule(program)
    rule_state = rule.init(params)
    recording = Recording([], [], [])
    for step in range(STEPS):
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, step))
        batch = next(stream) if stream else task.batch(data, batch_key, "train")
        (loss, state), gradients = gradient(params, state, batch, loss_key)
        recording.params.append(params)
        recording.losses.append(loss)
        recording.gradients.append(gradients)
        updates, rule_state = rule.update(gradients, rule_state, params, value=loss)
        params = jax.tree.map(lambda w, u: w + factor * u, params, updates)
    return recording


def updates(program: Program, recording: Recording) -> np.ndarray:
    """The program's updates on recorded gradients, the recorded parameters given. # [steps, parameters]"""
    rule = _rule(program)
    state, rows = rule.init(recording.params[0]), []
    for params, loss, gradients in zip(*recording, strict=True):
        update, state = rule.update(gradients, state, params, value=loss)
        rows.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(update)]))
    return -np.asarray(rows, np.float64)


def change(program: Program, reference: np.ndarray, recording: Recording) -> float:
    """How far a program's updates are from given ones, relative to their size, at the median step; `FAR` where it cannot be run."""
    try:
        infer(program)
    except ProgramError:
        return FAR
    with np.errstate(all="ignore"):
        off = np.linalg.norm(updates(program, recording) - reference, axis=1)
        relative = off / np.maximum(np.linalg.norm(reference, axis=1), 1e-30)
    return float(min(np.median(relative), FAR)) if np.isfinite(relative).all() else FAR


def _rule(program: Program) -> optax.GradientTransformationExtraArgs:
    return as_transformation(program, optax.linear_schedule(1.0, 0.0, STEPS), STEPS)
