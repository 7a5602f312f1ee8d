"""From an elementwise update rule to an optimizer whose step is one pass over the parameters.

Start with `fuse`. Two ways to step, of the same arithmetic:

- ``step(params, grads, state)`` gives new parameters and state, written over the old ones where they are donated:
  each array is read once and written once.
- ``transformation`` is an optax transformation and gives the updates, for chains. Writing them and adding them
  reads and writes more: in float32 12 bytes a parameter on top of Lion's 20 and AdamW's 28, unless XLA makes the update and fuses them.

What is stored keeps its dtype; the arithmetic is done in float32 (in float64 for float64 parameters).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import xla
from .backend import AUTO, INTERPRET_TPU, INTERPRET_TRITON, TPU, XLA, BackendError, resolve
from .blockwise import Blockwise, num_blocks, zeros
from .elementwise import lacking, require_elementwise
from .rounding import LARGEST, derive
from .rule import Leaf, Mode, Rule, State, compute_dtype, numbers

Mask = Any | Callable[[optax.Params], Any] | None


class FusedState(NamedTuple):
    """Steps taken and the rule's states."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # int32 # []
    states: tuple[optax.Updates, ...]  # trees shaped like the parameters; a coded state has a `Blockwise` at each leaf


@dataclass(frozen=True)
class Fused:
    """An optimizer.

    Attributes:
        init: params -> state.
        step: ``(params, grads, state) -> (params, state)``. Inside jit with params and state donated, nothing is copied.
        transformation: the same rule for optax.
    """

    init: Callable[[optax.Params], FusedState]
    step: Callable[[optax.Params, optax.Updates, FusedState], tuple[optax.Params, FusedState]]
    transformation: optax.GradientTransformation


def fuse(rule: Rule, mask: Mask = None, backend: str | None = None, stochastic_rounding: bool = False, seed: int = 0) -> Fused:
    """An optimizer from an elementwise rule.

    Args:
        rule: the update, its states and its numbers.
        mask: where weights decay: a tree of booleans (also one that stops above the leaves), or a function from parameters to one.
        backend: one of `backend.BACKENDS`. None is plain XLA; ``auto`` the platform's kernel, and plain XLA on a CPU and for a rule with a
            function that the kernel's compiler lacks (`elementwise.LACKING`).
        stochastic_rounding: round new bfloat16 parameters at random, so that small steps add up in the mean. `step` only: the
            transformation leaves the sum to optax, which rounds to nearest.
        seed: of the rounding, here and of coded states; from 0 to 2**32 - 1.

    Raises:
        BackendError: the backend is not known, cannot run here, or lacks a function of the rule.
        ValueError: the rule is not elementwise; the seed is out of its range. When it is used: parameters that are no floats, are
            missing, or have more than 2**31 - 1 elements in one array where random bits are drawn; gradients or states that are
            not shaped like them.

    Example:
        >>> rule = Rule(lambda w, g, states, s: (-s["rate"] * jnp.sign(g), ()), (), lambda count: {"rate": 0.5})
        >>> optimizer = fuse(rule)
        >>> params, state = optimizer.step({"a": jnp.ones(3)}, {"a": jnp.array([2.0, -1.0, 0.0])}, optimizer.init({"a": jnp.ones(3)}))
        >>> params["a"].tolist(), int(state.count)
        ([0.5, 1.5, 1.0], 1)
    """
    if backend not in (None, AUTO):
        resolve(backend)  # says at once what cannot run
        if missing := lacking(rule, backend):
            raise BackendError(
                f"backend {backend!r}: its compiler lacks {', '.join(missing)}, which this rule uses; give 'auto', then XLA runs it"
            )
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be from 0 to 2**32 - 1, got {seed}")
    require_elementwise(rule)
    run = partial(_run, rule, mask, backend, seed)

    def step(params: optax.Params, grads: optax.Updates, state: FusedState) -> tuple[optax.Params, FusedState]:
        return run(params, grads, state, Mode(True, stochastic_rounding))

    def update(updates: optax.Updates, state: FusedState, params: optax.Params | None = None) -> tuple[optax.Updates, FusedState]:
        if params is None:
            raise ValueError("this rule needs the parameters: call update(updates, state, params)")
        return run(params, updates, state, Mode(False))

    init = partial(_init, rule)
    return Fused(init, step, optax.GradientTransformation(init, update))  # pyright: ignore[reportArgumentType]


def bytes_moved(params: optax.Params, grads: optax.Updates, state: FusedState) -> int:
    """The bytes that one `step` must read and write at least: parameters and states twice, gradients once.

    Example:
        >>> params = {"a": jnp.ones(10)}
        >>> rule = Rule(lambda w, g, states, s: (g, states), (State(),), lambda count: {})
        >>> bytes_moved(params, params, fuse(rule).init(params))
        200
    """
    twice, once = jax.tree.leaves((params, state.states)), jax.tree.leaves(grads)
    return sum(x.size * x.dtype.itemsize for x in [*twice, *twice, *once])


def _init(rule: Rule, params: optax.Params) -> FusedState:
    for leaf in jax.tree.leaves(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"parameters must be floats, one is {jnp.result_type(leaf)}: leave it out with optax.masked")
    return FusedState(jnp.zeros((), jnp.int32), tuple(jax.tree.map(partial(_zero, state), params) for state in rule.states))


def _zero(state: State, param: jax.Array) -> jax.Array | Blockwise:
    return zeros(param, state.code) if state.code else jnp.zeros_like(param, dtype=state.dtype)


def _run(
    rule: Rule, mask: Mask, backend: str | None, seed: int, params: optax.Params, grads: optax.Updates, state: FusedState, mode: Mode
) -> tuple[Any, FusedState]:
    paths, treedef = jax.tree.flatten_with_path(params)
    arrays = [array for _, array in paths]
    columns = [arrays, treedef.flatten_up_to(grads), *(treedef.flatten_up_to(tree) for tree in state.states)]
    rows = list(zip(*columns, strict=True))
    for (path, _), row in zip(paths, rows, strict=True):
        _check(rule, jax.tree_util.keystr(path), row, mode)
    leaves = [_leaf(rule, row, number, decayed) for number, (row, decayed) in enumerate(zip(rows, _decays(mask, params), strict=True))]
    dtype = jnp.result_type(*(compute_dtype(jnp.result_type(array)) for array in arrays)) if arrays else jnp.float32
    scalars = numbers(rule, state.count, dtype)
    key = derive(jnp.asarray(np.uint32(seed).astype(np.int32)), state.count)
    full = [leaf for leaf in leaves if leaf.arrays[0].size]
    if backend == TPU:
        _warn_of_none(full)
    chosen = resolve(backend)
    done = iter(_runner(XLA if lacking(rule, chosen) else chosen)(rule, full, scalars, key, mode))
    results = [_packed(leaf, next(done) if leaf.arrays[0].size else [leaf.arrays[0], *leaf.arrays[2:]]) for leaf in leaves]
    first, *states = (treedef.unflatten([row[i] for row in results]) for i in range(len(columns) - 1))
    return first, FusedState(jnp.asarray(optax.safe_increment(state.count)), tuple(states))


def _warn_of_none(leaves: list[Leaf]) -> None:
    """An explicit request for a kernel is not to be met by XLA alone without a word."""
    from . import tpu

    if leaves and not any(map(tpu.fits, leaves)):
        warnings.warn(
            f"none of these {len(leaves)} parameter arrays goes to the kernel for TPUs, plain XLA updates them: it takes arrays of two "
            f"axes or more and at least {tpu.LARGE:,} elements, see kernels.tpu.fits; backend='auto' chooses without a word",
            stacklevel=2,
        )


def _check(rule: Rule, name: str, row: tuple[Any, ...], mode: Mode) -> None:
    """A kernel reads each array up to the size of its parameter, whatever the array has."""
    param, gradient, *states = row
    if jnp.shape(gradient) != jnp.shape(param):
        raise ValueError(
            f"the gradient of the parameter {name} has the shape {jnp.shape(gradient)} and the parameter {jnp.shape(param)}: "
            "give gradients that are shaped like the parameters"
        )
    if not all(_fits(state, kind, param) for state, kind in zip(states, rule.states, strict=True)):
        raise ValueError(
            f"the state of the parameter {name} is not what this rule keeps for the shape {jnp.shape(param)}: "
            "give the state that init makes of these parameters"
        )
    drawn = any(isinstance(state, Blockwise) for state in states) or (mode.stochastic and jnp.result_type(param) == jnp.bfloat16)
    if drawn and jnp.size(param) > LARGEST:
        raise ValueError(
            f"the parameter {name} has {jnp.size(param):,} elements: states of one byte and stochastic rounding number them "
            f"in 32 bits, up to {LARGEST:,}; split it, or leave both off"
        )


def _fits(state: Any, kind: State, param: Any) -> bool:
    """Whether a state is one that is kept for this parameter."""
    if not isinstance(state, Blockwise):
        return jnp.shape(state) == jnp.shape(param)
    return bool(kind.code) and (state.codes.shape, state.scales.shape) == (jnp.shape(param), (num_blocks(jnp.size(param)),))


def _leaf(rule: Rule, row: tuple[Any, ...], number: int, decayed: bool) -> Leaf:
    """A row is parameter, gradient and states; a state of a rule that codes it may be an array that is too small for that."""
    codes = tuple(kind.code if isinstance(state, Blockwise) else None for kind, state in zip(rule.states, row[2:], strict=True))
    states = [array for state in row[2:] for array in (state if isinstance(state, Blockwise) else (state,))]
    return Leaf(tuple(map(jnp.asarray, (*row[:2], *states))), codes, number, decayed)


def _packed(leaf: Leaf, outputs: list[jax.Array]) -> list[Any]:
    rest = iter(outputs)
    return [next(rest), *(Blockwise(next(rest), next(rest)) if code else next(rest) for code in leaf.codes)]


def _decays(mask: Mask, params: optax.Params) -> list[bool]:
    """Whether each parameter array decays."""
    tree = mask(params) if callable(mask) else True if mask is None else mask
    return jax.tree.leaves(jax.tree.map(lambda value, part: jax.tree.map(lambda _: bool(value), part), tree, params))


def _runner(backend: str) -> Callable[..., list[list[jax.Array]]]:
    """Pallas takes a second to import, which plain XLA does not owe."""
    if backend == XLA:
        return xla.run
    if backend in (TPU, INTERPRET_TPU):
        from . import tpu

        return partial(tpu.run, interpret=tpu.INTERPRET if backend == INTERPRET_TPU else False)
    from . import gpu

    return partial(gpu.run, interpret=backend == INTERPRET_TRITON)
