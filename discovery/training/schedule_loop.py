"""The bridge from our tasks to schedules that are found while a model trains: `schedules.autolrs` wants a loop that can go back."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ...schedules.autolrs.controller import Loop
from ...tasks.base import Data, HostFed, load_on_device
from ...tasks.training import CHUNK, TrainState, pieces, scores, start, take_fed_steps, take_steps
from .rules import evaluated

NO_FALL = np.float32(np.inf), np.float32(1)  # steps to a rate of 0, and how many of them the fall to it takes
PIECE = 500  # steps of one call, CHUNK where the host has to stack their batches; the length of the array of losses that comes back

AnyTask = Any  # a tasks.base.Task; as a protocol that is not checked at run time it would end the tests' checks of shapes
Create = Callable[[optax.Schedule], optax.GradientTransformation]


class TaskLoop:
    """Trains a task at a rate that is given from call to call; `loop()` gives the callables.

    Rate and number of steps are arguments of one compiled step, whatever they are. A snapshot is the training state itself, whose arrays
    nothing overwrites. It holds the key and the step that the batches of all later steps follow from, so candidates meet the same
    batches; those of a task that the host feeds follow from the seed and the step.

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
        """
        self._task, self._data = task, load_on_device(task) if data is None else data
        self._fed = isinstance(task, HostFed)
        self._piece = CHUNK if self._fed else PIECE

        def advance(feed: Any, carry: TrainState, rate: Array, length: Array, zero: Array, fall: Array) -> tuple[TrainState, Array]:
            def step(index: Array, loop: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
                rule = create(lambda step: rate * jnp.clip((zero - index) / fall, 0.0, 1.0))
                if self._fed:
                    batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index, 1), feed)
                    carry, losses, _ = take_fed_steps(task, rule, batch, loop[0])
                else:
                    carry, losses, _ = take_steps(task, rule, feed, loop[0], 1)
                return carry, loop[1].at[index].set(losses[0])

            return jax.lax.fori_loop(0, length, step, (carry, jnp.zeros(self._piece)))

        self._advance = jax.jit(advance)
        self._advance_all = jax.jit(jax.vmap(advance, in_axes=(None, 0, 0, None, None, None)))
        self._first = jax.jit(lambda key: start(task, create(lambda step: jnp.float32(0)), key))
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Goes to before the first step of a run of that seed."""
        self._seed = seed
        self.train_state: TrainState = self._first(jax.random.key(seed))

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
        for length, feed in self._pieces(steps):
            self.train_state, losses = self._advance(feed, self.train_state, jnp.float32(rate), jnp.int32(length), *NO_FALL)
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
        rows, left = [], zero
        for length, feed in self._pieces(steps):
            several, losses = self._advance_all(feed, several, jnp.asarray(rates, jnp.float32), jnp.int32(length), left, fall)
            rows.append(np.asarray(losses[:, :length], np.float64))
            left -= np.float32(length)
        return several, self._judged(np.concatenate(rows, axis=1))

    def _loss(self, at: TrainState) -> float:
        return scores(self._task, evaluated(at.opt_state, at.params), at.state, self._data, "validation")["loss"]

    def _judged(self, losses: np.ndarray) -> np.ndarray:
        return np.where(losses > self._task.loss_threshold, np.nan, losses)

    def _pieces(self, steps: int) -> Iterator[tuple[int, Any]]:
        """Lengths of calls that make so many steps from where training stands, and what each call takes its batches from."""
        for length, feed in pieces(self._task, self._data, self._seed, int(self.train_state.step), steps, self._piece):
            if self._fed:  # a last call that is short repeats its batches, to have the shape of the others
                feed = jax.tree.map(lambda x: np.resize(x, (self._piece, *x.shape[1:])), feed)
            yield length, feed
