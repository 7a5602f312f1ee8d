"""A program traced into plain jax, statement by statement: the reference for the machine and for exported files."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import matrices
from .ops import OPS, Kind, Shape
from .program import Program
from .types import infer

Leaves = list[jax.Array]
Value = jax.Array | float | Leaves


class ProgramState(NamedTuple):
    """Optimizer state: steps taken so far and the program's states, each shaped like the parameters."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    states: tuple[optax.Updates, ...]


def as_transformation(program: Program, schedule: optax.Schedule, total_steps: int) -> optax.GradientTransformationExtraArgs:
    """The program as an optax transformation, compiled afresh for each program.

    Args:
        program: the rule.
        schedule: step -> learning rate relative to its peak, the program's ``lr``.
        total_steps: the ``budget``, which ``progress`` counts towards.

    Returns:
        A transformation whose updates are ``-update`` of the program. One that reads the loss is to be called with
        ``update(gradients, state, params, value=loss)``.
    """
    kinds = infer(program)

    def init_fn(params: optax.Params) -> ProgramState:
        return ProgramState(jnp.zeros((), jnp.int32), tuple(jax.tree.map(jnp.zeros_like, params) for _ in program.states))

    def update_fn(
        updates: optax.Updates, state: ProgramState, params: optax.Params | None = None, *, value: jax.Array | None = None, **_: Any
    ) -> tuple[optax.Updates, ProgramState]:
        gradients, treedef = jax.tree.flatten(updates)
        values: dict[Any, Value] = {"w": jax.tree.leaves(params), "g": gradients, "lr": jnp.asarray(schedule(state.count), jnp.float32)}
        values |= {"step": state.count + 1.0, "progress": state.count / total_steps}
        values |= {"budget": jnp.asarray(total_steps, jnp.float32)}
        values |= {name: jax.tree.leaves(tree) for name, tree in zip(program.states, state.states, strict=True)}
        for statement, kind in zip(program.statements, kinds, strict=True):
            args = [values[a] if isinstance(a, str) else a for a in statement.args]
            observed = OPS[statement.op].shape is Shape.OBSERVED
            values[statement.target] = _told(statement.op, value) if observed else evaluate(statement.op, kind, args, gradients)
        update, *states = (jax.tree.unflatten(treedef, _widen(values[name], gradients)) for name in program.outputs)
        return jax.tree.map(jnp.negative, update), ProgramState(state.count + 1, tuple(states))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)  # pyright: ignore[reportArgumentType]


def _told(name: str, value: jax.Array | None) -> jax.Array:
    if value is None:
        raise ValueError(f"the rule reads {name}: call update(gradients, state, params, value=loss)")
    return jnp.asarray(value, jnp.float32)


def evaluate(name: str, kind: Kind, args: list[Value], like: Leaves) -> Value:
    """One operation on scalars (one number) and leaf scalars or arrays (a list with an entry per parameter array)."""
    op = OPS[name]
    if op.shape in _NOT_ELEMENTWISE:
        return _NOT_ELEMENTWISE[op.shape](name, args, like)
    assert op.fn is not None
    if kind is Kind.SCALAR:
        return op.fn(jnp, *(jnp.asarray(a, jnp.float32) for a in args))
    return [jnp.asarray(op.fn(jnp, *(a[i] if isinstance(a, list) else a for a in args))) for i in range(len(like))]


def _widen(value: Value, like: Leaves) -> Leaves:
    each = value if isinstance(value, list) else [jnp.asarray(value)] * len(like)
    return [jnp.broadcast_to(jnp.asarray(x), leaf.shape) for x, leaf in zip(each, like, strict=True)]


def _dot(a: Leaves, b: Leaves) -> jax.Array:
    return jnp.asarray(sum(jnp.sum(x * y) for x, y in zip(a, b, strict=True)))


def _per_array(name: str, args: list[Value], like: Leaves) -> Leaves:
    return [jnp.mean(x) if name == "mean" else jnp.sqrt(jnp.sum(jnp.square(x))) for x in _widen(args[0], like)]


def _global(name: str, args: list[Value], like: Leaves) -> jax.Array:
    a, b = _widen(args[0], like), _widen(args[-1], like)
    if name == "cosine_sim":
        return _dot(a, b) / (jnp.sqrt(_dot(a, a)) * jnp.sqrt(_dot(b, b)))
    return _dot(a, b) if name == "dot" else jnp.sqrt(_dot(a, a))


def _clip(name: str, args: list[Value], like: Leaves) -> Leaves:
    """Scaled down so that the global norm is at most the bound; unchanged below it."""
    leaves, bound = _widen(args[0], like), args[1]
    assert not isinstance(bound, list)  # its kind is scalar
    norm = jnp.sqrt(_dot(leaves, leaves))
    return [jnp.where(norm > bound, x * (bound / norm), x) for x in leaves]


def _leaf_constant(name: str, args: list[Value], like: Leaves) -> Leaves:
    return [matrices.FUNCTIONS[name](leaf) for leaf in like]


def _matrix(name: str, args: list[Value], like: Leaves) -> Leaves:
    return [matrices.FUNCTIONS[name](*leaves) for leaves in zip(*(_widen(a, like) for a in args), strict=True)]


def _select(name: str, args: list[Value], like: Leaves) -> Leaves:
    """The first for parameter arrays of exactly two axes, the second for all others."""
    return [a if a.ndim == 2 else b for a, b in zip(_widen(args[0], like), _widen(args[1], like), strict=True)]


_NOT_ELEMENTWISE: dict[Shape, Callable[[str, list[Value], Leaves], Value]] = {
    Shape.PER_ARRAY: _per_array,
    Shape.GLOBAL: _global,
    Shape.CLIP: _clip,
    Shape.LEAF_CONSTANT: _leaf_constant,
    Shape.MATRIX: _matrix,
    Shape.SELECT: _select,
}
