"""What a task is: the data, the model and the loss that an update rule is tried on.

A task is a frozen dataclass that implements `Task`; `supervised.Supervised` is one for most needs. Its methods are pure,
so that the training loop can trace them; its data are arguments of every function that needs them, never constants of a
compiled one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
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

    Frozen dataclasses do so with least effort: their fields serve as the settings that `version.digest` reads, and they
    can be hashed, which `digest` and `training.scores` need. `checks.check` tells whether a task keeps the rules.
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
        """Changes with the data, the settings and the code: `version.digest(self, *modules)`."""
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
        """Draws a random mini-batch of `batch_size` examples; the same key gives the same one."""
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


@runtime_checkable
class HostFed(Protocol):
    """What a task has besides where its training data do not fit on the device: the host feeds it batches.

    Its `load()["train"]` is whatever `stream` reads from, and never moved to the device; `batch` is not called.
    """

    def stream(self, data: Data, seed: int, start: int) -> Iterator[Batch]:
        """Training batches as numpy arrays, without end: those of the steps `start`, `start` + 1, ...

        The batch of a step depends on `seed` and the step alone, so that a run can be resumed anywhere.
        """
        ...


def load_on_device(task: Task) -> Data:
    """The task's data where the compiled loop wants them; of a host-fed task only the splits that are scored.

    Example:
        >>> from stepsmith.tasks import get
        >>> load_on_device(get("digits_mlp"))["train"]["image"].shape
        (1200, 64)
    """
    data = task.load()
    if isinstance(task, HostFed):
        return {split: arrays if split == "train" else jax.device_put(arrays) for split, arrays in data.items()}
    return jax.device_put(dict(data))
