"""A decoder over bytes: pre-layer-norm, causal, with learned positions.

Sources: A. Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762, section 3; the order of normalisation
follows R. Xiong et al., On layer normalization in the transformer architecture, 2020, arXiv:2002.04745, figure 1b.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

VOCABULARY = 256  # every byte is a token


class Attention(nnx.Module):
    """Causal self-attention, equation 1 of arXiv:1706.03762 with a mask over later positions."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.project_in = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.project_out = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps x [B, T, width] to the same shape."""
        batch, length, width = x.shape
        heads = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.moveaxis(self.project_in(x).reshape(heads), 2, 0)  # each [B, T, H, D]
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width // self.num_heads) ** -0.5
        causal = jnp.tril(jnp.ones((length, length), dtype=bool))
        weights = nnx.softmax(jnp.where(causal, logits, jnp.finfo(logits.dtype).min))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return self.project_out(mixed.reshape(batch, length, width))


class Block(nnx.Module):
    """One layer: attention, then a perceptron four times as wide, each added to its input."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, num_heads, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps x [B, T, width] to the same shape."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.contract(nnx.relu(self.expand(self.norm_mlp(x))))


class Transformer(nnx.Module):
    """Bytes in, logits of the next byte out.

    Args:
        width: size of the residual stream, a multiple of `num_heads`.
        num_layers: how many blocks.
        num_heads: attention heads in each block.
        context: the longest input, in bytes.
        rngs: source of the initial weights.

    Example:
        >>> model = Transformer(width=8, num_layers=1, num_heads=2, context=16, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((3, 16), dtype=jnp.uint8)).shape
        (3, 16, 256)
    """

    def __init__(self, width: int, num_layers: int, num_heads: int, context: int, *, rngs: nnx.Rngs):
        if width % num_heads:
            raise ValueError(f"width {width} is no multiple of num_heads {num_heads}; choose one that is")
        self.num_layers = num_layers
        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.position = nnx.Embed(context, width, rngs=rngs)
        for index in range(num_layers):
            setattr(self, f"block_{index}", Block(width, num_heads, rngs=rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.unembed = nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        """Maps tokens, integers [B, T], to logits [B, T, 256]."""
        x = self.embed(tokens.astype(jnp.int32)) + self.position(jnp.arange(tokens.shape[1]))
        for index in range(self.num_layers):
            x = getattr(self, f"block_{index}")(x)
        return self.unembed(self.norm(x))
