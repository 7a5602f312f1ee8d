"""Sources whose data fit on the device: rows of arrays, and windows of one long text."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..base import Batch, Data, Split


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples are the rows of arrays that have the same number of them.

    Attributes:
        load_fn: gives for each split a dict of numpy arrays.
        inputs_fn: what the model sees of a batch.
        num_examples: a split is scored on its first so many rows; on all where None.
    """

    load_fn: Callable[[], Data]
    inputs_fn: Callable[[Batch], Array]
    num_examples: int | None = None

    def load(self) -> Data:
        """What `load_fn` gives."""
        return self.load_fn()

    def draw(self, data: Data, split: Split, key: Array, batch_size: int) -> Batch:
        """Rows at random, with replacement."""
        arrays = data[split]
        rows = jax.random.randint(key, (batch_size,), 0, jax.tree.leaves(arrays)[0].shape[0])
        return jax.tree.map(lambda array: jnp.asarray(array)[rows], arrays)

    def examples(self, data: Data, split: Split) -> Batch:
        """The first `num_examples` rows."""
        return jax.tree.map(lambda array: jnp.asarray(array[: self.num_examples]), data[split])

    def inputs(self, batch: Batch) -> Array:
        """What `inputs_fn` gives."""
        return self.inputs_fn(batch)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Examples are windows of `context` + 1 tokens of one long text [N].

    Attributes:
        load_fn: gives the text of each split.
        context: tokens that a prediction may see.
        num_examples: windows that a split is scored on, spread evenly over it.
    """

    load_fn: Callable[[], Data]
    context: int
    num_examples: int

    def load(self) -> Data:
        """What `load_fn` gives."""
        return self.load_fn()

    def draw(self, data: Data, split: Split, key: Array, batch_size: int) -> Batch:
        """Windows at random places, [batch_size, context + 1]."""
        starts = jax.random.randint(key, (batch_size,), 0, data[split].shape[0] - self.context)
        return self._windows(data[split], starts)

    def examples(self, data: Data, split: Split) -> Batch:
        """Windows at equal distances, [num_examples, context + 1]."""
        last = data[split].shape[0] - self.context - 1
        return self._windows(data[split], jnp.asarray(np.linspace(0, last, self.num_examples).astype(np.int32)))

    def inputs(self, batch: Batch) -> Array:
        """All tokens of a window but the last."""
        return batch[:, :-1]

    def _windows(self, text: Array, starts: Array) -> Array:
        return jnp.asarray(text)[starts[:, None] + jnp.arange(self.context + 1)]
