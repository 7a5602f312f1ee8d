"""A small convolutional network."""

import dataclasses

from flax import nnx
from jax import Array


@dataclasses.dataclass(frozen=True)
class CNN:
    """Convolutions of 3 x 3, each with a norm and a nonlinearity, then the mean over the image and a linear layer.

    Attributes:
        widths: output channels of every convolution.
        strides: of every convolution.
        channels: of the image.
        classes: number of logits.
        norm: 'batch', or 'group' for groups of 4 channels of one image.
        activation: a function of `flax.nnx` by name, such as 'gelu'.

    Example:
        >>> import jax.numpy as jnp
        >>> CNN((8, 16), (2, 2), channels=1, classes=10).build(nnx.Rngs(0))(jnp.zeros((3, 28, 28, 1))).shape
        (3, 10)
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    channels: int
    classes: int
    norm: str = "batch"
    activation: str = "relu"

    def build(self, rngs: nnx.Rngs) -> "ConvolutionalNetwork":
        """Draws the weights."""
        return ConvolutionalNetwork(self, rngs)


class ConvolutionalNetwork(nnx.Module):
    """The module that `CNN` builds."""

    def __init__(self, settings: CNN, rngs: nnx.Rngs):
        if settings.norm not in ("batch", "group"):
            raise ValueError(f"norm must be batch or group, got {settings.norm!r}")
        self.num_layers, self.batch_norm = len(settings.widths), settings.norm == "batch"
        self.activation = getattr(nnx, settings.activation)
        inputs = (settings.channels, *settings.widths[:-1])
        for index, (num_in, num_out, stride) in enumerate(zip(inputs, settings.widths, settings.strides, strict=True)):
            # No bias: the norm takes the mean off and has a bias of its own.
            setattr(self, f"conv_{index}", nnx.Conv(num_in, num_out, (3, 3), strides=stride, use_bias=False, rngs=rngs))
            norm = nnx.BatchNorm(num_out, momentum=0.9, rngs=rngs) if self.batch_norm else nnx.GroupNorm(num_out, None, 4, rngs=rngs)
            setattr(self, f"norm_{index}", norm)
        self.head = nnx.Linear(settings.widths[-1], settings.classes, rngs=rngs)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps images [B, H, W, channels] to logits [B, classes]; where `rngs` is given, with the batch's own statistics."""
        for index in range(self.num_layers):
            x = getattr(self, f"conv_{index}")(x)
            norm = getattr(self, f"norm_{index}")
            x = self.activation(norm(x, use_running_average=rngs is None) if self.batch_norm else norm(x))
        return self.head(x.mean(axis=(1, 2)))
