"""A decoder over tokens with learned positions."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .attention import Block


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Tokens in, logits of the next token out.

    Attributes:
        width: size of the residual stream, a multiple of `num_heads`.
        num_layers: how many blocks.
        num_heads: attention heads in each block.
        context: the longest input, in tokens.
        vocabulary: number of tokens; 256 where every byte is one.
        dropout: share of each branch's output that is dropped while training.
        activation: of the perceptrons, a function of `flax.nnx` by name.

    Example:
        >>> model = Transformer(width=8, num_layers=1, num_heads=2, context=16).build(nnx.Rngs(0))
        >>> model(jnp.zeros((3, 16), dtype=jnp.uint8)).shape
        (3, 16, 256)
    """

    width: int
    num_layers: int
    num_heads: int
    context: int
    vocabulary: int = 256
    dropout: float = 0.0
    activation: str = "relu"

    def build(self, rngs: nnx.Rngs) -> "Decoder":
        """Draws the weights."""
        return Decoder(self, rngs)


class Decoder(nnx.Module):
    """The module that `Transformer` builds."""

    def __init__(self, settings: Transformer, rngs: nnx.Rngs):
        width = settings.width
        self.num_layers = settings.num_layers
        self.embed = nnx.Embed(settings.vocabulary, width, rngs=rngs)
        self.position = nnx.Embed(settings.context, width, rngs=rngs)
        for index in range(self.num_layers):
            setattr(self, f"block_{index}", Block(width, settings.num_heads, True, settings.dropout, rngs, settings.activation))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.unembed = nnx.Linear(width, settings.vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps tokens, integers [B, T], to logits [B, T, vocabulary]."""
        x = self.embed(tokens.astype(jnp.int32)) + self.position(jnp.arange(tokens.shape[1]))
        for index in range(self.num_layers):
            x = getattr(self, f"block_{index}")(x, rngs)
        return self.unembed(self.norm(x))
