"""What a task is: the data, the model and the loss that an update rule is tried on.

A task is a frozen dataclass that implements `Task`. Its methods are pure, so that `training.make_run` can trace them;
its data are arguments of every function that needs them, never constants of a compiled one.
"""

import dataclasses
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PyTree = Any
Split = Literal["train", "validation", "test"]
Data = Mapping[str, PyTree]  # split -> pytree of numpy arrays, the first axis runs over examples
Batch = PyTree

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class DataError(ValueError):
    """A task's data are missing, too few or not readable."""


class Task(Protocol):
    """What users implement to have a rule tried on a model of their own.

    Frozen dataclasses do so with least effort: their fields serve as the settings that `digest` reads, and they can be
    hashed, which `digest` and `training.scores` need.
    """

    @property
    def name(self) -> str:
        """The name in the registry, in reports and in the ledger."""
        ...

    @property
    def summary(self) -> str:
        """What is trained, in one line."""
        ...

    @property
    def steps(self) -> int:
        """Length of a run in optimizer steps."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples in one mini-batch."""
        ...

    @property
    def loss_threshold(self) -> float:
        """A training loss above it means that the run has diverged. Fixed with the task."""
        ...

    @property
    def version(self) -> str:
        """Changes with the data, the settings and the code: `digest(self, *modules)`."""
        ...

    def load(self) -> Data:
        """Reads the data: a mapping from 'train', 'validation' and 'test' to numpy arrays, images as uint8.

        Raises:
            DataError: where the data are missing.
        """
        ...

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Draws the parameters; the second item is the state that `loss` hands on (batch statistics, or empty)."""
        ...

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """Draws a random mini-batch of `batch_size` examples."""
        ...

    def examples(self, data: Data, split: Split) -> Batch:
        """The fixed batch that a split is scored on."""
        ...

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """Training loss, a scalar, and the new state. `key` serves dropout and its kin."""
        ...

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """Deterministic scores: at least 'loss' (cross-entropy or squared error, mean), and 'accuracy' for classes."""
        ...


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean cross-entropy in nats, exact for logits of any size.

    `logsumexp(x) - x[label]`, the usual form, is 0 for equal logits beyond 1e8, where log(classes) is lost to rounding;
    a search finds rules that earn a perfect score so. Here the maximum is taken off first.

    Args:
        logits: [..., classes].
        labels: integers [...].

    Example:
        >>> round(float(cross_entropy(jnp.full((2, 10), 1e23), jnp.array([3, 4]))), 4)
        2.3026
    """
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, labels.astype(jnp.int32)[..., None], axis=-1)
    return -chosen.mean()


def digest(task: Task, *modules: types.ModuleType) -> str:
    """Twelve hexadecimal digits of the SHA-256 over a task's settings, code and data; computed once per task.

    Args:
        task: a frozen dataclass.
        modules: modules that the task is made of besides its own, such as that of its model.

    Returns:
        A version that changes whenever a field, the source of one of the modules or one byte of the data does.

    Example:
        >>> from stepsmith.tasks import DigitsMLP
        >>> DigitsMLP().version == DigitsMLP().version
        True
        >>> DigitsMLP().version == DigitsMLP(steps=100).version
        False
    """
    return _digest(task, (type(task).__module__, *(module.__name__ for module in modules)))


@functools.lru_cache(maxsize=64)
def _digest(task: Task, module_names: tuple[str, ...]) -> str:
    state = hashlib.sha256(repr(_settings(task)).encode())
    for name in module_names:
        state.update(inspect.getsource(sys.modules[name]).encode())
    state.update(inspect.getsource(cross_entropy).encode())  # the one part of a task that lives here
    data = task.load()
    for split in SPLITS:
        _update_with_arrays(state, split, data[split])
    return state.hexdigest()[:12]


def _settings(task: Task) -> list[tuple[str, Any]]:
    if not dataclasses.is_dataclass(task):
        raise ValueError(f"a task is a frozen dataclass, got {type(task).__name__}; its fields are the settings that its version covers")
    return [(field.name, getattr(task, field.name)) for field in dataclasses.fields(task)]


def _update_with_arrays(state: "hashlib._Hash", name: str, tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        state.update(f"{name}{jax.tree_util.keystr(path)}:{array.dtype}:{array.shape}".encode())
        state.update(array.tobytes())
