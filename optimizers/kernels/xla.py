"""The reference: a rule on whole parameter arrays in plain jax, which XLA fuses."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .blockwise import BLOCK, as_blocks
from .rule import Leaf, Mode, Rule, Site, split, update_tile


def run(rule: Rule, leaves: Sequence[Leaf], scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode) -> list[list[jax.Array]]:
    """One step on each parameter array: the new parameter or the update, then the states' new arrays."""
    return [(_blocks if any(leaf.codes) else _whole)(rule, leaf, scalars, key, mode) for leaf in leaves]


def _whole(rule: Rule, leaf: Leaf, scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode) -> list[jax.Array]:
    def position() -> jax.Array:
        return lax.iota(jnp.int32, leaf.arrays[0].size).reshape(leaf.arrays[0].shape)

    return update_tile(rule, leaf.codes, leaf.arrays, scalars, Site(key, leaf.number, leaf.decayed, leaf.arrays[0].size, position), mode)


def _blocks(rule: Rule, leaf: Leaf, scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode) -> list[jax.Array]:
    like = leaf.arrays[0]

    def position() -> jax.Array:
        return lax.broadcasted_iota(jnp.int32, blocks[0].shape, 0) * BLOCK + lax.broadcasted_iota(jnp.int32, blocks[0].shape, 1)

    scales = scales_among(leaf)
    blocks = [array.reshape(-1, 1) if scale else as_blocks(array) for array, scale in zip(leaf.arrays, scales, strict=True)]
    outputs = update_tile(rule, leaf.codes, blocks, scalars, Site(key, leaf.number, leaf.decayed, leaf.arrays[0].size, position), mode)
    kept = [scales[0], *scales[2:]]
    return [
        new.reshape(-1) if scale else new.reshape(-1)[: like.size].reshape(like.shape) for new, scale in zip(outputs, kept, strict=True)
    ]


def scales_among(leaf: Leaf) -> list[bool]:
    """Which of a leaf's arrays are scales, a number a block."""
    parts = split(leaf.codes, leaf.arrays[2:])
    return [False, False, *(index == 1 for part in parts for index in range(len(part)))]
