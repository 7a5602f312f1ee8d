"""A population of one of our tasks as one vmapped batch: the loop that `schedules.population` trains."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ...schedules.population import PopulationConfig, PopulationLoop, Values
from ...tasks.base import Data, HostFed, load_on_device
from ...tasks.training import CHUNK, OK, TrainState, pieces, start, take_fed_steps, take_steps
from .rules import evaluated

AnyTask = Any  # a tasks.base.Task; as a protocol that is not checked at run time it would end the tests' checks of shapes
Create = Callable[[Mapping[str, Array]], optax.GradientTransformation]

# Members share the step and the key, and with them the batches: their scores differ by the hyperparameters alone.
MEMBERS = TrainState(params=0, state=0, opt_state=0, step=None, key=None)  # pyright: ignore[reportArgumentType]


class TaskPopulation:
    """Trains members from the same start on the same batches, each at its own values; `loop()` gives the callables.

    Attributes:
        train_state: the members' parameters and states along a first axis [members]; step and key are shared.
        losses: of the latest call of `run`, float64 [members, steps].

    Example:
        >>> from stepsmith.schedules.population import Hyperparameter
        >>> from stepsmith.tasks import get
        >>> config = PopulationConfig(20, (Hyperparameter("learning_rate", 1e-3, 1e9),), interval=20, members=3)
        >>> ours = TaskPopulation(get("quadratic"), lambda values: optax.sgd(**values), config)
        >>> ours.run({"learning_rate": np.array([0.0, 0.1, 1e9])}, 20)
        >>> [bool(score < ours.evaluate()[0]) for score in ours.evaluate()[1:]], bool(np.isnan(ours.evaluate()[2]))
        ([True, False], True)
    """

    def __init__(self, task: AnyTask, create: Create, config: PopulationConfig, seed: int = 0, data: Data | None = None) -> None:
        """Begins at step 0.

        Args:
            task: what to train.
            create: makes the transformation of the hyperparameters' values, traced scalars by name; its state must not hold them.
            config: says how many members, and what `create` is given values of.
            seed: as in `tasks.training.train`.
            data: what `load_on_device` gives; loaded where None.
        """
        self._task, self._seed, self._data = task, seed, load_on_device(task) if data is None else data
        self._fed = isinstance(task, HostFed)

        def train_all(feed: Any, state: TrainState, values: Mapping[str, Array], length: int) -> tuple[TrainState, Array, Array]:
            def train(member: TrainState, values: Mapping[str, Array]) -> tuple[TrainState, Array, Array]:
                if self._fed:
                    return take_fed_steps(task, create(values), feed, member)
                return take_steps(task, create(values), feed, member, length)

            return jax.vmap(train, (MEMBERS, 0), (MEMBERS, 0, 0))(state, values)

        def first(key: Array) -> TrainState:
            member = start(task, create({one.name: jnp.float32(one.lowest) for one in config.hyperparameters}), key)
            several = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (config.members, *leaf.shape)), member)
            return several._replace(step=member.step, key=member.key)

        def validation_losses(data: Data, state: TrainState) -> Array:
            examples = task.examples(data, "validation")

            def loss(params: Any, own: Any, opt_state: Any) -> Array:
                return task.metric(evaluated(opt_state, params), own, examples)["loss"]

            return jax.vmap(loss)(state.params, state.state, state.opt_state)

        self._train_all = jax.jit(train_all, static_argnames="length")
        self._first, self._validation_losses = jax.jit(first), jax.jit(validation_losses)
        self.train_state: TrainState = self._first(jax.random.key(seed))
        self.losses = np.zeros((config.members, 0))
        self._failed = np.zeros(config.members, bool)

    def like(self) -> TrainState:
        """What a population's state looks like, for a checkpoint to be read."""
        return jax.eval_shape(self._first, jax.random.key(0))

    def run(self, values: Values, steps: int) -> None:
        """Trains every member at its values; one executable serves all values, and another each other number of steps."""
        given = {name: jnp.asarray(row, jnp.float32) for name, row in values.items()}
        rows, statuses = [], OK
        first, longest = int(self.train_state.step), CHUNK if self._fed else steps
        for length, feed in pieces(self._task, self._data, self._seed, first, steps, longest):
            self.train_state, losses, statuses = self._train_all(feed, self.train_state, given, length=length)
            rows.append(np.asarray(losses, np.float64))
        self.losses, self._failed = np.concatenate(rows, axis=1), np.asarray(statuses) != OK

    def evaluate(self) -> np.ndarray:
        """The members' validation losses, float64 [members]; NaN where the task calls the training loss diverged."""
        scored = {"validation": self._data["validation"]}  # the training data of a host-fed task are no arrays
        losses = np.asarray(self._validation_losses(scored, self.train_state), np.float64)
        return np.where(self._failed, np.nan, losses)

    def copy(self, parents: np.ndarray) -> None:
        """Member i goes on as member `parents[i]`, with its parameters and all of its states."""
        self.train_state = _taken(self.train_state, jnp.asarray(parents))
        self._failed = self._failed[parents]

    def member(self, index: int) -> TrainState:
        """The training state of one member, as `tasks.training.train` has it."""
        return _taken(self.train_state, jnp.asarray(index))

    def loop(self) -> PopulationLoop:
        """The callables for `schedules.population`."""
        return PopulationLoop(self.run, self.evaluate, self.copy)


def _taken(state: TrainState, index: Array) -> TrainState:
    params, own, opt_state = jax.tree.map(lambda leaf: leaf[index], (state.params, state.state, state.opt_state))
    return state._replace(params=params, state=own, opt_state=opt_state)
