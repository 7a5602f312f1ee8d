"""What a model's output is worth: functions of (outputs, inputs, batch) that give 'loss' and other means by name."""

import jax
import jax.numpy as jnp
from jax import Array

from .base import Batch


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


def classification(outputs: Array, inputs: Array, batch: Batch) -> dict[str, Array]:
    """'loss', mean cross-entropy in nats, and 'accuracy', a fraction; the classes are the batch's 'label'."""
    del inputs
    return _scores(outputs, batch["label"])


def next_token(outputs: Array, inputs: Array, batch: Batch) -> dict[str, Array]:
    """The same for every position of windows [B, T + 1] of tokens, of which `inputs` are all but the last."""
    del inputs
    return _scores(outputs, batch[:, 1:].astype(jnp.int32))


def regression(outputs: Array, inputs: Array, batch: Batch) -> dict[str, Array]:
    """'loss', the mean squared error of outputs [B, 1]; the targets are the batch's 'target' [B]."""
    del inputs
    return {"loss": jnp.mean(jnp.square(outputs[:, 0] - batch["target"]))}


def reconstruction(outputs: Array, inputs: Array, batch: Batch) -> dict[str, Array]:
    """'loss', the mean squared error.

    Squared error rather than cross-entropy of grey values: the latter cannot fall below the pixels' own entropy, a
    constant that would hide differences between rules once losses are compared by their logarithm.
    """
    del batch
    return {"loss": jnp.mean(jnp.square(outputs - inputs))}


def _scores(logits: Array, labels: Array) -> dict[str, Array]:
    return {"loss": cross_entropy(logits, labels), "accuracy": jnp.mean(logits.argmax(-1) == labels, dtype=jnp.float32)}
