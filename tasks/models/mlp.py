"""A multi-layer perceptron."""

from collections.abc import Sequence

from flax import nnx
from jax import Array


class MLP(nnx.Module):
    """Linear layers with ReLU between them and none after the last.

    Args:
        widths: the sizes of the input, of every hidden layer and of the output, at least two.
        rngs: source of the initial weights (LeCun normal; biases zero).

    Example:
        >>> import jax.numpy as jnp
        >>> MLP((64, 32, 10), rngs=nnx.Rngs(0))(jnp.zeros((5, 64))).shape
        (5, 10)
    """

    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs):
        self.num_layers = len(widths) - 1
        for index, (num_in, num_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            setattr(self, f"linear_{index}", nnx.Linear(num_in, num_out, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        """Maps x [..., widths[0]] to [..., widths[-1]]."""
        for index in range(self.num_layers):
            x = getattr(self, f"linear_{index}")(x)
            if index < self.num_layers - 1:
                x = nnx.relu(x)
        return x
