"""The task that most tasks are: a source of data, a model and an objective."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Protocol

from jax import Array

from .base import Batch, Data, PyTree, Split
from .models import attention, functional
from .models.functional import Functional, Model
from .version import digest

Objective = Callable[[Array, Array, Batch], dict[str, Array]]  # (outputs, inputs, batch) -> 'loss' and other means


class Source(Protocol):
    """Where the data come from and how batches are cut from them; a frozen dataclass, see `data.sources`."""

    def load(self) -> Data:
        """As `Task.load`."""
        ...

    def draw(self, data: Data, split: Split, key: Array, batch_size: int) -> Batch:
        """As `Task.batch`."""
        ...

    def examples(self, data: Data, split: Split) -> Batch:
        """As `Task.examples`."""
        ...

    def inputs(self, batch: Batch) -> Array:
        """What the model sees of a batch."""
        ...


class Stream(Protocol):
    """A source that the host reads batches from; see `data.records`."""

    def load(self) -> Data:
        """As `Task.load`; 'train' is what `stream` reads from."""
        ...

    def stream(self, data: Data, seed: int, start: int, batch_size: int) -> Iterator[Batch]:
        """As `HostFed.stream`."""
        ...

    def examples(self, data: Data, split: Split) -> Batch:
        """As `Task.examples`."""
        ...

    def inputs(self, batch: Batch) -> Array:
        """What the model sees of a batch."""
        ...

    def fingerprint(self) -> str:
        """Changes with the data, without reading through all of them."""
        ...


@functools.lru_cache(maxsize=32)
def _functional(model: Model) -> Functional:
    return functional.split(model.build)


@dataclasses.dataclass(frozen=True)
class Supervised:
    """A model trained on a source of data for an objective.

    Attributes:
        name: in the registry, in reports and in the ledger.
        summary: what is trained, in one line.
        source: where the data come from.
        model: settings of the model.
        objective: what its output is worth.
        steps: optimizer steps in a run.
        batch_size: examples in a mini-batch.
        loss_threshold: a training loss above it means divergence; several times that of a guess.

    Example:
        >>> from stepsmith.tasks.data import Rows, digits
        >>> from stepsmith.tasks.models import MLP
        >>> from stepsmith.tasks.objectives import classification
        >>> task = Supervised("small", "digits, 8 hidden units", Rows(digits.load, digits.pixels), MLP((64, 8, 10)), classification)
        >>> import jax
        >>> params, state = task.init(jax.random.key(0))
        >>> sorted(task.metric(params, state, task.examples(task.load(), "validation")))
        ['accuracy', 'loss']
    """

    name: str
    summary: str = dataclasses.field(repr=False)  # words alone: no part of the version
    source: Source
    model: Model
    objective: Objective
    steps: int = 200
    batch_size: int = 64
    loss_threshold: float = 10.0

    @property
    def version(self) -> str:
        """Digest of the data, the settings and the code."""
        return digest(self, functional, attention)

    def load(self) -> Data:
        """The arrays of every split."""
        return self.source.load()

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """The model's parameters, and its batch statistics: an empty dict where it has none."""
        return _functional(self.model).init(key)

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """`batch_size` examples at random."""
        return self.source.draw(data, split, key, self.batch_size)

    def examples(self, data: Data, split: Split) -> Batch:
        """The fixed examples that a split is scored on."""
        return self.source.examples(data, split)

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """The objective's loss of the model in training; `key` serves dropout."""
        return _loss(self.model, self.objective, self.source.inputs(batch), batch, params, state, key)

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """The objective of the deterministic model."""
        return _metric(self.model, self.objective, self.source.inputs(batch), batch, params, state)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """The same with training batches that the host feeds, for data that do not fit on the device.

    Attributes: as those of `Supervised`; the source is a `Stream`.
    """

    name: str
    summary: str = dataclasses.field(repr=False)  # words alone: no part of the version
    source: Stream
    model: Model
    objective: Objective
    steps: int
    batch_size: int = 64
    loss_threshold: float = 20.0

    @property
    def version(self) -> str:
        """Digest of the settings, the code and the data's fingerprint."""
        return digest(self, functional, attention, data=self.source.fingerprint())

    def load(self) -> Data:
        """The arrays of the scored splits, and what `stream` reads from."""
        return self.source.load()

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """The model's parameters, and its batch statistics: an empty dict where it has none."""
        return _functional(self.model).init(key)

    def stream(self, data: Data, seed: int, start: int) -> Iterator[Batch]:
        """Training batches from step `start` on."""
        return self.source.stream(data, seed, start, self.batch_size)

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """Not to be called: the host feeds this task."""
        raise TypeError(f"task {self.name} is fed by the host: take batches from stream()")

    def examples(self, data: Data, split: Split) -> Batch:
        """The fixed examples that a split is scored on."""
        return self.source.examples(data, split)

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """The objective's loss of the model in training; `key` serves dropout."""
        return _loss(self.model, self.objective, self.source.inputs(batch), batch, params, state, key)

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """The objective of the deterministic model."""
        return _metric(self.model, self.objective, self.source.inputs(batch), batch, params, state)


def _loss(
    model: Model, objective: Objective, inputs: Array, batch: Batch, params: PyTree, state: PyTree, key: Array
) -> tuple[Array, PyTree]:
    outputs, state = _functional(model).apply(params, state, inputs, key)
    return objective(outputs, inputs, batch)["loss"], state


def _metric(model: Model, objective: Objective, inputs: Array, batch: Batch, params: PyTree, state: PyTree) -> dict[str, Array]:
    outputs, _ = _functional(model).apply(params, state, inputs, None)
    return objective(outputs, inputs, batch)
