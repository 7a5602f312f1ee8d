"""Two proxies on scikit-learn's digits: a classifier and an autoencoder. A run of either takes milliseconds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from .base import Batch, Data, PyTree, Split, cross_entropy, digest
from .data import digits
from .models import functional, mlp


@functools.lru_cache(maxsize=16)
def _mlp(widths: tuple[int, ...]) -> functional.Functional:
    return functional.split(lambda rngs: mlp.MLP(widths, rngs=rngs))


def _draw(arrays: dict[str, Array], key: Array, batch_size: int) -> dict[str, Array]:
    """Draws rows with replacement."""
    rows = jax.random.randint(key, (batch_size,), 0, arrays["label"].shape[0])
    return jax.tree.map(lambda array: jnp.asarray(array)[rows], arrays)


def _pixels(batch: Batch) -> Array:
    """Images with values in [0, 1], float32 [B, 64]."""
    return batch["image"].astype(jnp.float32) / digits.MAX_PIXEL


@dataclasses.dataclass(frozen=True)
class DigitsMLP:
    """Classifies digits with a perceptron of one hidden layer: the reference proxy.

    Attributes:
        widths: layer sizes from the 64 pixels to the 10 classes.
        steps: optimizer steps in a run.
        batch_size: images in a mini-batch.
        loss_threshold: a cross-entropy above it means divergence; that of a uniform guess is 2.3.

    Example:
        >>> task = DigitsMLP()
        >>> params, state = task.init(jax.random.key(0))
        >>> sorted(task.metric(params, state, task.examples(task.load(), "validation")))
        ['accuracy', 'loss']
    """

    widths: tuple[int, ...] = (64, 32, 10)
    steps: int = 200
    batch_size: int = 64
    loss_threshold: float = 10.0
    name: str = "digits_mlp"
    summary: str = "scikit-learn digits, 1,200 images of 8 x 8, perceptron 64-32-10, cross-entropy"

    @property
    def version(self) -> str:
        """Digest of the data, the settings and the code."""
        return digest(self, digits, functional, mlp)

    def load(self) -> Data:
        """For each split 'image', uint8 [N, 64], and 'label', uint8 [N]."""
        return digits.load()

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Parameters of the perceptron; the state is empty."""
        return _mlp(self.widths).init(key), ()

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """`batch_size` images and labels, drawn with replacement."""
        return _draw(data[split], key, self.batch_size)

    def examples(self, data: Data, split: Split) -> Batch:
        """The whole split."""
        return jax.tree.map(jnp.asarray, data[split])

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """Mean cross-entropy in nats; `key` is not needed."""
        del key
        logits = _mlp(self.widths).apply(params, _pixels(batch))
        return cross_entropy(logits, batch["label"]), state

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """'loss', mean cross-entropy in nats, and 'accuracy', a fraction."""
        del state
        logits = _mlp(self.widths).apply(params, _pixels(batch))
        accuracy = jnp.mean(logits.argmax(-1) == batch["label"], dtype=jnp.float32)
        return {"loss": cross_entropy(logits, batch["label"]), "accuracy": accuracy}


@dataclasses.dataclass(frozen=True)
class DigitsAutoencoder:
    """Squeezes digits through 8 numbers and restores them, with squared error.

    Squared error rather than cross-entropy of the grey values: the latter cannot fall below the pixels' own entropy,
    a constant that would hide differences between rules once losses are compared by their logarithm.

    Attributes:
        widths: layer sizes from pixels to pixels.
        steps: optimizer steps in a run.
        batch_size: images in a mini-batch.
        loss_threshold: a squared error above it means divergence; an output of zeros gives 0.2.

    Example:
        >>> task = DigitsAutoencoder()
        >>> params, state = task.init(jax.random.key(0))
        >>> sorted(task.metric(params, state, task.examples(task.load(), "validation")))
        ['loss']
    """

    widths: tuple[int, ...] = (64, 32, 8, 32, 64)
    steps: int = 200
    batch_size: int = 64
    loss_threshold: float = 2.0
    name: str = "digits_autoencoder"
    summary: str = "scikit-learn digits, autoencoder 64-32-8-32-64, squared error of pixels in [0, 1]"

    @property
    def version(self) -> str:
        """Digest of the data, the settings and the code."""
        return digest(self, digits, functional, mlp)

    def load(self) -> Data:
        """For each split 'image', uint8 [N, 64], and 'label', uint8 [N], which is not used."""
        return digits.load()

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Parameters of the perceptron; the state is empty."""
        return _mlp(self.widths).init(key), ()

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """`batch_size` images, drawn with replacement."""
        return _draw(data[split], key, self.batch_size)

    def examples(self, data: Data, split: Split) -> Batch:
        """The whole split."""
        return jax.tree.map(jnp.asarray, data[split])

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """Mean squared error over pixels; `key` is not needed."""
        del key
        return self.metric(params, state, batch)["loss"], state

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """'loss', the mean squared error over pixels."""
        del state
        pixels = _pixels(batch)
        return {"loss": jnp.mean(jnp.square(_mlp(self.widths).apply(params, pixels) - pixels))}
