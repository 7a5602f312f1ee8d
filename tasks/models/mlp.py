"""A multi-layer perceptron."""

import dataclasses

from flax import nnx
from jax import Array


@dataclasses.dataclass(frozen=True)
class MLP:
    """Linear layers with ReLU between them and none after the last.

    Attributes:
        widths: the sizes of the input, of every hidden layer and of the output, at least two.
        dropout: share of every hidden layer's outputs that is dropped while training.

    Example:
        >>> import jax.numpy as jnp
        >>> MLP((64, 32, 10)).build(nnx.Rngs(0))(jnp.zeros((5, 64))).shape
        (5, 10)
    """

    widths: tuple[int, ...]
    dropout: float = 0.0

    def build(self, rngs: nnx.Rngs) -> "Perceptron":
        """Draws the weights (LeCun normal; biases zero)."""
        return Perceptron(self, rngs)


class Perceptron(nnx.Module):
    """The module that `MLP` builds."""

    def __init__(self, settings: MLP, rngs: nnx.Rngs):
        self.num_layers = len(settings.widths) - 1
        for index, (num_in, num_out) in enumerate(zip(settings.widths[:-1], settings.widths[1:], strict=True)):
            setattr(self, f"linear_{index}", nnx.Linear(num_in, num_out, rngs=rngs))
        self.dropout = nnx.Dropout(settings.dropout)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps x [..., widths[0]] to [..., widths[-1]]."""
        for index in range(self.num_layers):
            x = getattr(self, f"linear_{index}")(x)
            if index < self.num_layers - 1:
                x = self.dropout(nnx.relu(x), deterministic=rngs is None, rngs=rngs)
        return x
