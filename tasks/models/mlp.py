"""A multi-layer perceptron."""

import dataclasses

from flax import nnx
from jax import Array


@dataclasses.dataclass(frozen=True)
class MLP:
    """Linear layers with a nonlinearity between them and none after the last.

    Attributes:
        widths: the sizes of the input, of every hidden layer and of the output, at least two.
        dropout: share of every hidden layer's outputs that is dropped while training.
        activation: a function of `flax.nnx` by name, such as 'gelu'.
        layer_norm: whether every hidden layer is normalised before its nonlinearity.
        init_scale: variance of the weights at the start, relative to LeCun's.

    Example:
        >>> import jax.numpy as jnp
        >>> MLP((64, 32, 10)).build(nnx.Rngs(0))(jnp.zeros((5, 64))).shape
        (5, 10)
    """

    widths: tuple[int, ...]
    dropout: float = 0.0
    activation: str = "relu"
    layer_norm: bool = False
    init_scale: float = 1.0

    def build(self, rngs: nnx.Rngs) -> "Perceptron":
        """Draws the weights (LeCun normal, times the scale; biases zero)."""
        return Perceptron(self, rngs)


class Perceptron(nnx.Module):
    """The module that `MLP` builds."""

    def __init__(self, settings: MLP, rngs: nnx.Rngs):
        self.num_layers = len(settings.widths) - 1
        self.layer_norm, self.activation = settings.layer_norm, getattr(nnx, settings.activation)
        draw = nnx.initializers.variance_scaling(settings.init_scale, "fan_in", "truncated_normal")
        for index, (num_in, num_out) in enumerate(zip(settings.widths[:-1], settings.widths[1:], strict=True)):
            setattr(self, f"linear_{index}", nnx.Linear(num_in, num_out, kernel_init=draw, rngs=rngs))
            if settings.layer_norm and index < self.num_layers - 1:
                setattr(self, f"norm_{index}", nnx.LayerNorm(num_out, rngs=rngs))
        self.dropout = nnx.Dropout(settings.dropout)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps x [..., widths[0]] to [..., widths[-1]]."""
        for index in range(self.num_layers):
            x = getattr(self, f"linear_{index}")(x)
            if index < self.num_layers - 1:
                x = getattr(self, f"norm_{index}")(x) if self.layer_norm else x
                x = self.dropout(self.activation(x), deterministic=rngs is None, rngs=rngs)
        return x
