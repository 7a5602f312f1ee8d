"""The machine's opcodes, made from the language's table of operations.

An instruction computes one row of the register file from up to two rows and up to two scalars. An operation of the
language becomes one opcode for each mix of row and scalar arguments that occurs; sums, differences and interpolations share
`lin`. Two pairs that most update rules contain have an opcode of their own (`lin_square`, `divide_sqrt`). The opcodes of the
extended language come last, so that a machine built without them is the same as if they did not exist.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..language import matrices
from ..language.ops import EPS, OPS, Shape

# row_fn(a, b, s, t) of rows a, b and scalars s, t; `a` and `b` are read only by the opcodes that use them.
RowFn = Callable[..., Any]

ROWS_READ: dict[str, int] = {}
ELEMENTWISE: dict[str, RowFn] = {}


def _opcode(name: str, rows_read: int, fn: RowFn) -> None:
    ROWS_READ[name] = rows_read
    ELEMENTWISE[name] = fn


def _from_table() -> None:
    for op in OPS.values():
        if op.shape is not Shape.MAP or op.name in ("add", "subtract", "negative"):
            continue
        assert op.fn is not None
        if op.arity == 1:
            _opcode(op.name, 1, lambda a, b, s, t, fn=op.fn: fn(jnp, a))
            continue
        _opcode(op.name, 2, lambda a, b, s, t, fn=op.fn: fn(jnp, a, b))
        if op.name in ("power", "maximum", "minimum"):
            _opcode(op.name + "_row_scalar", 1, lambda a, b, s, t, fn=op.fn: fn(jnp, a, s))
        if op.name in ("power", "divide"):
            _opcode(op.name + "_scalar_row", 1, lambda a, b, s, t, fn=op.fn: fn(jnp, s, a))


_from_table()
_opcode("fill", 0, lambda a, b, s, t: s)
_opcode("scale", 1, lambda a, b, s, t: s * a)
_opcode("affine", 1, lambda a, b, s, t: s * a + t)
_opcode("lin", 2, lambda a, b, s, t: s * a + t * b)
_opcode("lin_square", 2, lambda a, b, s, t: s * jnp.square(a) + t * b)
_opcode("divide_sqrt", 2, lambda a, b, s, t: a / (jnp.sqrt(jnp.abs(b)) + EPS))

REDUCTIONS = {"norm": 1, "global_norm": 1, "dot": 2, "cosine_sim": 2, "clip": 1, "clip_row": 2}
ROWS_READ |= REDUCTIONS
EXTENDED: tuple[str, ...] = tuple(op.name for op in OPS.values() if op.extended)
ROWS_READ |= {name: OPS[name].arity for name in EXTENDED}

OPCODES: dict[str, int] = {name: number for number, name in enumerate(ROWS_READ)}

Branch = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def branches(shapes: tuple[tuple[int, ...], ...], extended: bool = False, loss: jax.Array | float = math.nan) -> list[Branch]:
    """One function an opcode, ``(registers, a, b, s, t) -> row``, for parameter arrays of the given shapes.

    Operands are sliced inside the branch, so that a branch reads only what it uses; the caller writes the row.

    Args:
        shapes: of the parameter arrays, in the order in which they lie in a row.
        extended: with the opcodes of the extended language, after all others.
        loss: of the step, for `batch_loss`.
    """
    special = _reductions(tuple(math.prod(shape) for shape in shapes))
    if extended:
        special |= _of_matrices(shapes) | {"batch_loss": lambda r, a, b, s, t: jnp.full(r.shape[1:], loss, r.dtype)}
    names = [name for name in OPCODES if extended or name not in EXTENDED]
    return [special[name] if name in special else _elementwise(ELEMENTWISE[name], ROWS_READ[name]) for name in names]


def _row(registers: jax.Array, index: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(registers, index, 0, keepdims=False)


def _elementwise(fn: RowFn, rows_read: int) -> Branch:
    def branch(registers: jax.Array, a: jax.Array, b: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
        left = _row(registers, a) if rows_read > 0 else None
        right = _row(registers, b) if rows_read > 1 else None
        return jnp.broadcast_to(fn(left, right, s, t), registers.shape[1:])

    return branch


def _reductions(sizes: tuple[int, ...]) -> dict[str, Branch]:
    """Sums are taken leaf by leaf over static slices, as the reference does; results are broadcast over their row."""
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]

    def leaf_sums(x: jax.Array) -> list[jax.Array]:
        return [jnp.sum(lax.slice(x, (offset,), (offset + size,))) for offset, size in zip(offsets, sizes, strict=True)]

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.asarray(sum(leaf_sums(x * y)))

    def norm(r: jax.Array, a: jax.Array, b: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
        sums = leaf_sums(jnp.square(_row(r, a)))
        return jnp.concatenate([jnp.full((size,), jnp.sqrt(x)) for size, x in zip(sizes, sums, strict=True)])

    def spread(fn: Callable[[jax.Array, jax.Array], jax.Array]) -> Branch:
        return lambda r, a, b, s, t: jnp.full(r.shape[1:], fn(_row(r, a), _row(r, b)))

    def clipped(x: jax.Array, bound: jax.Array) -> jax.Array:
        length = jnp.sqrt(dot(x, x))
        return jnp.where(length > bound, x * (bound / length), x)

    return {
        "norm": norm,
        "global_norm": spread(lambda x, _: jnp.sqrt(dot(x, x))),
        "dot": spread(dot),
        "cosine_sim": spread(lambda x, y: dot(x, y) / (jnp.sqrt(dot(x, x)) * jnp.sqrt(dot(y, y)))),
        "clip": lambda r, a, b, s, t: clipped(_row(r, a), s),
        "clip_row": lambda r, a, b, s, t: clipped(_row(r, a), _row(r, b)),
    }


def _of_matrices(shapes: tuple[tuple[int, ...], ...]) -> dict[str, Branch]:
    """What depends on the shapes of the parameter arrays, leaf by leaf over static slices."""
    sizes = [math.prod(shape) for shape in shapes]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]

    def leaves(x: jax.Array) -> list[jax.Array]:
        return [lax.slice(x, (at,), (at + size,)).reshape(shape) for at, size, shape in zip(offsets, sizes, shapes, strict=True)]

    def each(fn: Callable[..., jax.Array], rows_read: int = 1) -> Branch:
        def branch(r: jax.Array, a: jax.Array, b: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
            operands = zip(*(leaves(_row(r, index)) for index in (a, b)[:rows_read]), strict=True)
            return jnp.concatenate([jnp.broadcast_to(fn(*each), each[0].shape).reshape(-1) for each in operands])

        return branch

    def on_matrices(r: jax.Array, a: jax.Array, b: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
        pairs = zip(leaves(_row(r, a)), leaves(_row(r, b)), strict=True)
        return jnp.concatenate([(x if x.ndim == 2 else y).reshape(-1) for x, y in pairs])

    return {"mean": each(jnp.mean), "on_matrices": on_matrices} | {
        name: each(fn, max(1, OPS[name].arity)) for name, fn in matrices.FUNCTIONS.items()
    }
