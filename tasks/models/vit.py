"""A vision transformer: patches as tokens, mean over tokens as the class representation.

Source: A. Dosovitskiy et al., An image is worth 16x16 words, 2020, arXiv:2010.11929, equations 1 to 4, with the mean of
the tokens in place of a class token (appendix D.3 there).
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .attention import Block


@dataclasses.dataclass(frozen=True)
class ViT:
    """Images in, logits of the classes out.

    Attributes:
        width: size of the residual stream, a multiple of `num_heads`.
        num_layers: how many blocks.
        num_heads: attention heads in each block.
        patch: side of a square patch in pixels; divides `size`.
        size: side of the square image in pixels.
        channels: of the image.
        classes: number of logits.
        dropout: share of each branch's output that is dropped while training.

    Example:
        >>> model = ViT(width=8, num_layers=1, num_heads=2, patch=7, size=28, channels=1, classes=10).build(nnx.Rngs(0))
        >>> model(jnp.zeros((3, 28, 28, 1))).shape
        (3, 10)
    """

    width: int
    num_layers: int
    num_heads: int
    patch: int
    size: int
    channels: int
    classes: int
    dropout: float = 0.0

    def build(self, rngs: nnx.Rngs) -> "VisionTransformer":
        """Draws the weights."""
        return VisionTransformer(self, rngs)


class VisionTransformer(nnx.Module):
    """The module that `ViT` builds."""

    def __init__(self, settings: ViT, rngs: nnx.Rngs):
        if settings.size % settings.patch:
            raise ValueError(f"patch {settings.patch} does not divide the image's side {settings.size}; choose one that does")
        width = settings.width
        self.patch, self.num_layers = settings.patch, settings.num_layers
        self.embed = nnx.Linear(settings.patch**2 * settings.channels, width, rngs=rngs)
        self.position = nnx.Embed((settings.size // settings.patch) ** 2, width, rngs=rngs)
        for index in range(self.num_layers):
            setattr(self, f"block_{index}", Block(width, settings.num_heads, False, settings.dropout, rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, settings.classes, rngs=rngs)

    def __call__(self, images: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps images [B, size, size, channels] to logits [B, classes]."""
        x = self.embed(_patches(images, self.patch))
        x = x + self.position(jnp.arange(x.shape[1]))
        for index in range(self.num_layers):
            x = getattr(self, f"block_{index}")(x, rngs)
        return self.head(self.norm(x).mean(axis=1))


def _patches(images: Array, side: int) -> Array:
    """Cuts images [B, H, W, C] into [B, H/side * W/side, side * side * C], row by row."""
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // side, side, width // side, side, channels)
    return grid.swapaxes(2, 3).reshape(batch, -1, side * side * channels)
