"""Predicts the next byte of Python source with a small transformer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .base import Batch, Data, PyTree, Split, cross_entropy, digest
from .data import stdlib_text
from .models import functional, transformer


@functools.lru_cache(maxsize=16)
def _transformer(width: int, num_layers: int, num_heads: int, context: int) -> functional.Functional:
    return functional.split(lambda rngs: transformer.Transformer(width, num_layers, num_heads, context, rngs=rngs))


def _windows(text: Array, starts: Array, length: int) -> Array:
    """Cuts `text` [N] at `starts` [B] into windows [B, length]."""
    return jnp.asarray(text)[starts[:, None] + jnp.arange(length)]


@dataclasses.dataclass(frozen=True)
class StdlibLM:
    """A language model over the bytes of this Python's standard library.

    Attributes:
        width: size of the residual stream.
        num_layers: transformer blocks.
        num_heads: attention heads in each.
        context: bytes that a prediction may see.
        num_examples: windows that a split is scored on, spread evenly over it.
        steps: optimizer steps in a run.
        batch_size: windows in a mini-batch.
        loss_threshold: a cross-entropy above it means divergence; that of a uniform guess is 5.5.

    Example:
        >>> task = StdlibLM()
        >>> task.examples(task.load(), "validation").shape
        (96, 33)
    """

    width: int = 32
    num_layers: int = 2
    num_heads: int = 2
    context: int = 32
    num_examples: int = 96
    steps: int = 200
    batch_size: int = 16
    loss_threshold: float = 20.0
    name: str = "stdlib_lm"
    summary: str = "this Python's standard library as bytes, transformer of width 32 with 2 layers, context 32"

    @property
    def version(self) -> str:
        """Digest of the data, the settings and the code; it differs between Python versions, as the text does."""
        return digest(self, stdlib_text, functional, transformer)

    def load(self) -> Data:
        """For each split the text as bytes, uint8 [N]."""
        return stdlib_text.load()

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Parameters of the transformer; the state is empty."""
        return self._model.init(key), ()

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """Windows of `context` + 1 bytes at random places, uint8 [batch_size, context + 1]."""
        num_starts = data[split].shape[0] - self.context
        starts = jax.random.randint(key, (self.batch_size,), 0, num_starts)
        return _windows(data[split], starts, self.context + 1)

    def examples(self, data: Data, split: Split) -> Batch:
        """Windows at equal distances, uint8 [num_examples, context + 1]."""
        last = data[split].shape[0] - self.context - 1
        starts = np.linspace(0, last, self.num_examples).astype(np.int32)
        return _windows(data[split], jnp.asarray(starts), self.context + 1)

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """Mean cross-entropy of the next byte in nats; `key` is not needed."""
        del key
        loss, _ = self._predict(params, batch)
        return loss, state

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """'loss', mean cross-entropy in nats per byte, and 'accuracy', the fraction of bytes guessed right."""
        del state
        loss, accuracy = self._predict(params, batch)
        return {"loss": loss, "accuracy": accuracy}

    @property
    def _model(self) -> functional.Functional:
        return _transformer(self.width, self.num_layers, self.num_heads, self.context)

    def _predict(self, params: PyTree, batch: Batch) -> tuple[Array, Array]:
        inputs, targets = batch[:, :-1], batch[:, 1:].astype(jnp.int32)
        logits = self._model.apply(params, inputs)
        return cross_entropy(logits, targets), jnp.mean(logits.argmax(-1) == targets, dtype=jnp.float32)
