"""The kernel for TPUs, through Mosaic: one launch a large parameter array; the others are left to XLA.

On a TPU the launches of a compiled program follow each other without the host, and what XLA makes of a small array costs the same as a
kernel would: grouping gains nothing. What costs there is a change of layout: memory is tiled over the last two axes, so an array may
only be seen as (all axes but the last, the last) where that moves no tile; elsewhere the array goes to XLA.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from . import substitutes, xla
from .blockwise import BLOCK
from .rule import Leaf, Mode, Rule, Site, update_tile

# Arrays below this many elements are left to XLA.
LARGE = 2**16
# How the kernel is interpreted on a CPU: memory, transfers and their order are simulated.
INTERPRET = pltpu.InterpretParams()
# Elements a tile: AdamW's seven tiles in float32, each held twice for the pipeline, take 7 MiB of the 16 that a kernel may use by
# default. Rows come in 32s, as bytes are tiled; columns in 256s, a block of coded states. Reasoned, not tuned on a device.
TILE, ROWS, COLUMNS, LANES = 2**17, 32, 2048, 128
# Longest row of an array with coded states: a tile spans it, times 32 rows.
LONGEST_ROW = 2 * TILE // ROWS


def run(
    rule: Rule,
    leaves: Sequence[Leaf],
    scalars: Mapping[str, jax.Array],
    key: jax.Array,
    mode: Mode,
    interpret: Any = False,
) -> list[list[jax.Array]]:
    """One step on each parameter array; as `xla.run`."""
    lowered = Rule(substitutes.replace(rule.update, substitutes.TPU), rule.states, rule.scalars)
    step = partial(_launch, lowered, interpret=interpret)
    return [(step if fits(leaf) else partial(_xla, rule))(leaf, scalars, key, mode) for leaf in leaves]


def _xla(rule: Rule, leaf: Leaf, scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode) -> list[jax.Array]:
    return xla.run(rule, [leaf], scalars, key, mode)[0]


def fits(leaf: Leaf) -> bool:
    """Whether an array is large, free to be seen as a matrix, and coded in blocks that do not run over a row's end."""
    array = leaf.arrays[0]
    if array.ndim < 2 or array.size < max(LARGE, ROWS * array.shape[-1]) or array.dtype == jnp.float64:
        return False
    narrowest = min(other.dtype.itemsize for other in leaf.arrays)
    if array.ndim > 2 and array.shape[-2] % (32 // narrowest):
        return False
    return not any(leaf.codes) or (array.shape[-1] % BLOCK == 0 and array.shape[-1] <= LONGEST_ROW)


def _launch(rule: Rule, leaf: Leaf, scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode, interpret: Any) -> list[jax.Array]:
    like = leaf.arrays[0]
    columns = like.shape[-1]
    rows = like.size // columns
    is_scale = xla.scales_among(leaf)
    views = [array.reshape(rows, columns // BLOCK if scale else columns) for array, scale in zip(leaf.arrays, is_scale, strict=True)]
    names = tuple(scalars)
    numbers = jnp.stack([jnp.asarray(scalars[name], jnp.float32) for name in names] or [jnp.zeros((), jnp.float32)])
    places = [0 if mode.in_place else 1, *range(2, len(views))]
    wanted = [views[0], *views[2:]]
    # Scales are few and fill whole rows, so that a tile of coded states spans all columns.
    width = columns if any(is_scale) else min(columns, COLUMNS)
    height = min(rows // ROWS, max(1, TILE // max(width, LANES) // ROWS)) * ROWS
    tiles = [pl.BlockSpec((height, columns // BLOCK if scale else width), lambda i, j: (i, j)) for scale in is_scale]
    aliases = {2 + place: out for out, place in enumerate(places) if views[place].dtype == wanted[out].dtype}
    small = pl.BlockSpec(memory_space=pltpu.SMEM)
    outputs = pl.pallas_call(
        partial(_kernel, rule, names, leaf, is_scale, mode, (height, width)),
        out_shape=[jax.ShapeDtypeStruct(view.shape, view.dtype) for view in wanted],
        grid=(pl.cdiv(rows, height), pl.cdiv(columns, width)),
        in_specs=[small, small, *tiles],
        out_specs=[tiles[0], *tiles[2:]],
        # jax's interpreter does not cut an aliased output back to its array where tiles reach over the edge.
        input_output_aliases={} if interpret else aliases,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="elementwise_update",
    )(numbers, key.reshape(1), *views)
    shapes = [like.shape, *(array.shape for array in leaf.arrays[2:])]
    return [output.reshape(shape) for output, shape in zip(outputs, shapes, strict=True)]


def _kernel(rule: Rule, names: tuple[str, ...], leaf: Leaf, is_scale: list[bool], mode: Mode, tile: tuple[int, int], *refs: Any) -> None:
    numbers, key, *arrays = refs
    inputs, outputs = arrays[: len(is_scale)], arrays[len(is_scale) :]
    scalars = {name: numbers[index] for index, name in enumerate(names)}
    columns, size = leaf.arrays[0].shape[-1], leaf.arrays[0].size
    first_row, first_column = pl.program_id(0) * tile[0], pl.program_id(1) * tile[1]
    width = BLOCK if any(is_scale) else tile[1]

    def position(row: jax.Array, column: int) -> jax.Array:
        rows = first_row + row + lax.broadcasted_iota(jnp.int32, (ROWS, width), 0)
        return rows * columns + first_column + column + lax.broadcasted_iota(jnp.int32, (ROWS, width), 1)

    # A few rows at a time, in a loop: the compiler writes out whole tiles otherwise, and takes a minute for it.
    @pl.loop(0, tile[0] // ROWS)
    def _(chunk: jax.Array) -> None:
        row = pl.multiple_of(chunk * ROWS, ROWS)
        for block in range(tile[1] // width):
            parts = [(pl.ds(row, ROWS), pl.ds(block, 1) if scale else pl.ds(block * width, width)) for scale in is_scale]
            tiles = [ref[part] for ref, part in zip(inputs, parts, strict=True)]
            site = Site(key[0], leaf.number, leaf.decayed, size, partial(position, row, block * width))
            results = update_tile(rule, leaf.codes, tiles, scalars, site, mode)
            for ref, part, result in zip(outputs, [parts[0], *parts[2:]], results, strict=True):
                ref[part] = result
