"""Self-attention and the pre-layer-norm block of which both transformers are made.

Sources: A. Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762, section 3; the order of normalisation
follows R. Xiong et al., On layer normalization in the transformer architecture, 2020, arXiv:2002.04745, figure 1b.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Attention(nnx.Module):
    """Self-attention, equation 1 of arXiv:1706.03762; where `causal`, with a mask over later positions."""

    def __init__(self, width: int, num_heads: int, causal: bool, rngs: nnx.Rngs):
        if width % num_heads:
            raise ValueError(f"width {width} is no multiple of num_heads {num_heads}; choose one that is")
        self.num_heads, self.causal = num_heads, causal
        self.project_in = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.project_out = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps x [B, T, width] to the same shape."""
        batch, length, width = x.shape
        heads = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.moveaxis(self.project_in(x).reshape(heads), 2, 0)  # each [B, T, H, D]
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width // self.num_heads) ** -0.5
        if self.causal:
            earlier = jnp.tril(jnp.ones((length, length), dtype=bool))
            logits = jnp.where(earlier, logits, jnp.finfo(logits.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nnx.softmax(logits), value)
        return self.project_out(mixed.reshape(batch, length, width))


class Block(nnx.Module):
    """One layer: attention, then a perceptron four times as wide, each after a norm and added to its input."""

    def __init__(self, width: int, num_heads: int, causal: bool, dropout: float, rngs: nnx.Rngs, activation: str = "relu"):
        self.activation = getattr(nnx, activation)
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, num_heads, causal, rngs)
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps x [B, T, width] to the same shape; each branch's output is dropped out where `rngs` is given."""
        x = x + self._dropped(self.attention(self.norm_attention(x)), rngs)
        return x + self._dropped(self.contract(self.activation(self.expand(self.norm_mlp(x)))), rngs)

    def _dropped(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)
