"""The bridge from our tasks to schedules that are found while a model trains: `schedules.autolrs` wants a loop that can go back."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ...schedules.autolrs.controller import Loop
from ...tasks.base import Data, HostFed, load_on_device
from ...tasks.training import TrainState, scores, start, take_steps
from .rules import evaluated

NO_FALL = np.float32(np.inf), np.float32(1)  # steps to a rate of 0, and how many of them the fall to it takes
PIECE = 500  # steps of one call; the length of the array of losses that comes back

AnyTask = Any  # a tasks.base.Task; as a protocol that is not checked at run time it would end the tests' checks of shapes
Create = Callable[[optax.Schedule], optax.GradientTransformation]


class LoopError(ValueError):
    """A task that cannot be taken back to an earlier step."""


class TaskLoop:
    """Trains a task at a rate that is given from call to call; `loop()` gives the callables.

    Rate and number of steps are arguments of one compiled step, whatever they are. A snapshot is the training state itself, whose arrays
    nothing overwrites. It holds the key that the batches of all later steps follow from, so candidates meet the same batches.

    Attributes:
        train_state: where training stands.

    Example:
        >>> from stepsmith.tasks import get
        >>> ours = TaskLoop(get("quadratic"), optax.sgd)
        >>> before = ours.snapshot()
        >>> first = ours.run(0.1, 5)
        >>> ours.restore(before)
        >>> bool((ours.run(0.1, 5) == first).all())
        True
    """

    def __init__(self, task: AnyTask, create: Create, seed: int = 0, data: Data | None = None) -> None:
        """Begins at step 0.

        Args:
            task: what to train.
            create: makes the transformation of a schedule, whose value is traced.
            seed: as in `tasks.training.train`.
            data: what `load_on_device` gives; loaded where None.

        Raises:
            LoopError: the host feeds the task.
        """
        name = task.name
        if isinstance(task, HostFed):
            raise LoopError(f"{name}: its batches come from the host, and AutoLRS needs to go back to earlier ones; give a schedule")
        self._task, self._data = task, load_on_device(task) if data is None else data

        def advance(data: Data, carry: TrainState, rate: Array, length: Array, zero: Array, fall: Array) -> tuple[TrainState, Array]:
            def step(index: Array, loop: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
                fallen = rate * jnp.clip((zero - index) / fall, 0.0, 1.0)
                carry, losses, _ = take_steps(task, create(lambda step: fallen), data, loop[0], 1)
                return carry, loop[1].at[index].set(losses[0])

            return jax.lax.fori_loop(0, length, step, (carry, jnp.zeros(PIECE)))

        self._advance = jax.jit(advance)
        self._advance_all = jax.jit(jax.vmap(advance, in_axes=(None, 0, 0, None, None, None)))
        self._first = jax.jit(lambda key: start(task, create(lambda step: jnp.float32(0)), key))
        self.train_state: TrainState = self.begin(seed)

    def begin(self, seed: int) -> TrainState:
        """The state before the first step of a run of that seed, to be restored."""
        return self._first(jax.random.key(seed))

    def like(self) -> TrainState:
        """What a training state of this task and rule looks like, for a checkpoint to be read."""
        return jax.eval_shape(self._first, jax.random.key(0))

    def snapshot(self) -> TrainState:
        """All that the next step depends on."""
        return self.train_state

    def restore(self, snapshot: TrainState) -> None:
        """Goes back."""
        self.train_state = snapshot

    def run(self, rate: float, steps: int) -> np.ndarray:
        """Trains at the rate: the losses, float64 [steps], NaN where the task calls them diverged."""
        rows = []
        for length in _pieces(steps):
            self.train_state, losses = self._advance(self._data, self.train_state, jnp.float32(rate), jnp.int32(length), *NO_FALL)
            rows.append(np.asarray(losses[:length], np.float64))
        return self._judged(np.concatenate(rows))

    def run_candidates(self, rates: Sequence[float], steps: int) -> np.ndarray:
        """As many runs as rates, as one vmapped batch, from where training stands: the losses, float64 [rates, steps]."""
        return self._batch(rates, steps, *NO_FALL)[1]

    def cool_candidates(self, rates: Sequence[float], steps: int, cooldown: int) -> np.ndarray:
        """Such runs, and on through a linear fall to zero: the validation losses behind it, float64 [rates]; NaN for the diverged."""
        several, losses = self._batch(rates, steps + cooldown, np.float32(steps + cooldown), np.float32(cooldown))
        ends = [jax.tree.map(lambda leaf, at=at: leaf[at], several) for at in range(len(rates))]
        found = self._judged(np.array([self._loss(end) for end in ends]))
        return np.where(np.isfinite(losses).all(axis=1), found, np.nan)

    def evaluate(self) -> float:
        """The validation loss."""
        return self._loss(self.train_state)

    def loop(self, batched: bool = False) -> Loop:
        """The callables for `schedules.autolrs.controller`; with `batched` candidates are run side by side."""
        one_by_one = Loop(self.snapshot, self.restore, self.run, self.evaluate)
        if not batched:
            return one_by_one
        return dataclasses.replace(one_by_one, run_candidates=self.run_candidates, cool_candidates=self.cool_candidates)

    def _batch(self, rates: Sequence[float], steps: int, zero: np.float32, fall: np.float32) -> tuple[TrainState, np.ndarray]:
        """Vmapped runs from where training stands, [rates] ahead of each leaf, and their losses [rates, steps]."""
        several = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(rates)), self.train_state)
        rows = []
        for done, length in zip(range(0, steps, PIECE), _pieces(steps), strict=True):
            several, losses = self._advance_all(self._data, several, jnp.asarray(rates, jnp.float32), jnp.int32(length), zero - done, fall)
            rows.append(np.asarray(losses[:, :length], np.float64))
        return several, self._judged(np.concatenate(rows, axis=1))

    def _loss(self, at: TrainState) -> float:
        return scores(self._task, evaluated(at.opt_state, at.params), at.state, self._data, "validation")["loss"]

    def _judged(self, losses: np.ndarray) -> np.ndarray:
        return np.where(losses > self._task.loss_threshold, np.nan, losses)


def _pieces(steps: int) -> list[int]:
    return [min(PIECE, steps - done) for done in range(0, steps, PIECE)]
