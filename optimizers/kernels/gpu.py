"""The kernel for GPUs, through Triton: many parameter arrays in one launch, without a copy.

A model has hundreds of small arrays, and a launch costs as much as moving a megabyte. Concatenating them first would read and write
each gradient and weight once more (Lion: 20 bytes a parameter become 44). Here a launch is given the arrays as they are: its
cells are numbered through all of them, and each finds its array by a binary search over constant bounds, a few branches that all threads of
a cell take alike. The branches hold loads and stores only; the arithmetic between is there once.

Bytes moved per parameter are those of the arrays: for Lion in float32 20 (w read and written, g read, m read and written), for
AdamW 28. Where the update is wanted rather than the new parameter (optax's way), adding it costs 12 more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from . import xla
from .blockwise import BLOCK
from .rule import Leaf, Mode, Rule, Site, compute_dtype, update_tile

# Elements a cell: 8 for each of 128 threads, two loads of 16 bytes an array in float32. Reasoned, not tuned on a device.
TILE, WARPS = 1024, 4
# Arrays above this many elements have a launch of their own: it costs nothing against their time, and needs no search.
ALONE = 2**22
# Arrays that share a launch. Triton's compile time grows with the square: 8 take a second, 32 a minute.
TOGETHER = 8
# A mask over a size that is no multiple of this narrows loads to one element; from LONG on, only the last cell of such an array has one.
VECTOR, LONG = 16, 2**18
# Offsets are 32-bit; longer arrays are left to XLA.
LONGEST = 2**31 - TILE


class _Segment(NamedTuple):
    """Cells of a launch that lie in one array."""

    array: int
    first: int  # cell
    offset: int  # of the first cell, in elements
    masked: bool


def run(
    rule: Rule, leaves: Sequence[Leaf], scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode, interpret: bool = False
) -> list[list[jax.Array]]:
    """One step on each parameter array, in as few launches as `launches` says; as `xla.run`."""
    results: dict[int, list[jax.Array]] = {}
    long = [leaf for leaf in leaves if leaf.arrays[0].size > LONGEST]
    results |= {leaf.number: outputs for leaf, outputs in zip(long, xla.run(rule, long, scalars, key, mode), strict=True)}
    for group in launches([leaf for leaf in leaves if leaf.arrays[0].size <= LONGEST]):
        outputs = _launch(rule, group, scalars, key, mode, interpret)
        results |= {leaf.number: outputs for leaf, outputs in zip(group, outputs, strict=True)}
    return [results[leaf.number] for leaf in leaves]


def launches(leaves: Sequence[Leaf]) -> Iterator[list[Leaf]]:
    """The groups of arrays that share a launch: alike in all dtypes, and none of them large."""
    kinds: dict[tuple[Any, ...], list[Leaf]] = {}
    for leaf in leaves:
        kinds.setdefault((tuple(array.dtype.name for array in leaf.arrays), tuple(map(bool, leaf.codes))), []).append(leaf)
    for alike in kinds.values():
        yield from ([leaf] for leaf in alike if leaf.arrays[0].size > ALONE)
        small = [leaf for leaf in alike if leaf.arrays[0].size <= ALONE]
        yield from (small[start : start + TOGETHER] for start in range(0, len(small), TOGETHER))


def _launch(
    rule: Rule, leaves: list[Leaf], scalars: Mapping[str, jax.Array], key: jax.Array, mode: Mode, interpret: bool
) -> list[list[jax.Array]]:
    count, dtype = len(leaves[0].arrays), compute_dtype(leaves[0].arrays[0].dtype)
    names = tuple(scalars)
    numbers = jnp.stack([jnp.asarray(scalars[name], dtype) for name in names] or [jnp.zeros((), dtype)])
    flat = [array.reshape(-1) for leaf in leaves for array in leaf.arrays]
    # Output 0 takes the place of the parameter, or of the gradient where it is the update; the others that of their states.
    places = [0 if mode.in_place else 1, *range(2, count)]
    wanted = [
        jax.ShapeDtypeStruct(leaf.arrays[0 if i == 0 else place].reshape(-1).shape, leaf.arrays[0 if i == 0 else place].dtype)
        for leaf in leaves
        for i, place in enumerate(places)
    ]
    sources = [2 + index * count + place for index in range(len(leaves)) for place in places]
    aliases = {source: out for out, source in enumerate(sources) if flat[source - 2].dtype == wanted[out].dtype}
    segments, cells = _segments(leaves)
    outputs = pl.pallas_call(
        partial(_kernel, rule, names, leaves, segments, mode),
        out_shape=wanted,
        grid=(cells,),
        input_output_aliases=aliases,
        compiler_params=pltriton.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="elementwise_update",
    )(numbers, key.reshape(1), *flat)
    shapes = [leaf.arrays[0 if i == 0 else place].shape for leaf in leaves for i, place in enumerate(places)]
    shaped = [output.reshape(shape) for output, shape in zip(outputs, shapes, strict=True)]
    return [shaped[start : start + len(places)] for start in range(0, len(shaped), len(places))]


def _segments(leaves: Sequence[Leaf]) -> tuple[list[_Segment], int]:
    """Which cells work on which array, in the order of the cells, and how many there are."""
    segments, cells = [], 0
    for array, leaf in enumerate(leaves):
        size = leaf.arrays[0].size
        whole, rest = divmod(size, TILE)
        apart = whole if size >= LONG and size % VECTOR else 0
        if apart:
            segments.append(_Segment(array, cells, 0, False))
        if rest or not apart:
            segments.append(_Segment(array, cells + apart, apart * TILE, bool(rest)))
        cells += whole + bool(rest)
    return segments, cells


def _search(cell: jax.Array, segments: Sequence[_Segment], branch: Callable[[_Segment], Any]) -> Any:
    """`branch` of the segment that the cell lies in."""
    if len(segments) == 1:
        return branch(segments[0])
    middle = len(segments) // 2
    return lax.cond(
        cell < segments[middle].first,
        lambda: _search(cell, segments[:middle], branch),
        lambda: _search(cell, segments[middle:], branch),
    )


def _kernel(rule: Rule, names: tuple[str, ...], leaves: list[Leaf], segments: list[_Segment], mode: Mode, *refs: Any) -> None:
    numbers, key, *arrays = refs
    count = len(leaves[0].arrays)
    inputs, outputs = arrays[: len(leaves) * count], arrays[len(leaves) * count :]
    is_scale = xla.scales_among(leaves[0])
    coded = any(is_scale)
    cell = pl.program_id(0)

    def load(segment: _Segment) -> tuple[Any, ...]:
        leaf, start = leaves[segment.array], (cell - segment.first) * TILE + segment.offset
        mine = inputs[segment.array * count :][:count]
        tiles = [_load(ref, start, segment.masked, scale) for ref, scale in zip(mine, is_scale, strict=True)]
        # Zero plus the number: Triton's branches return results of operations, no literals.
        zero = jnp.minimum(cell, 0)
        return *tiles, start, *(zero + int(n) for n in (leaf.number, leaf.decayed, leaf.arrays[0].size))

    *tiles, start, array, decayed, size = _search(cell, segments, load)
    if coded:
        tiles = [tile.reshape(-1, 1 if scale else BLOCK) for tile, scale in zip(tiles, is_scale, strict=True)]

    def position() -> jax.Array:
        element = start + lax.iota(jnp.int32, TILE)
        return element.reshape(-1, BLOCK) if coded else element

    scalars = {name: numbers[index] for index, name in enumerate(names)}
    site = Site(key[0], array, decayed, size, position)
    results = [result.reshape(-1) for result in update_tile(rule, leaves[0].codes, tiles, scalars, site, mode)]

    def store(segment: _Segment) -> tuple[()]:
        start = (cell - segment.first) * TILE + segment.offset
        mine = outputs[segment.array * (count - 1) :][: count - 1]
        for ref, result, scale in zip(mine, results, is_scale[1:], strict=True):
            place, mask = _place(ref, start, segment.masked, scale)
            pltriton.store(place, result, mask=mask)
        return ()

    _search(cell, segments, store)


def _place(ref: Any, start: jax.Array, masked: bool, scale: bool) -> tuple[Any, jax.Array | None]:
    """A cell's part of an array, and which of its elements the array has."""
    length = TILE // BLOCK if scale else TILE
    first = start // BLOCK if scale else start
    return ref.at[pl.ds(first, length)], first + lax.iota(jnp.int32, length) < ref.shape[0] if masked else None


def _load(ref: Any, start: jax.Array, masked: bool, scale: bool) -> jax.Array:
    place, mask = _place(ref, start, masked, scale)
    return pltriton.load(place, mask=mask, other=0 if masked else None)
