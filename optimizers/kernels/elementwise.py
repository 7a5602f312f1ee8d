"""Whether a rule treats every element alike, and which of its functions a kernel's compiler lacks, read from what jax makes of it."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from .backend import TPU, TRITON
from .rule import Rule, numbers

# Of a shape that nothing else has by chance: what changes it is not elementwise.
_TILE = (5, 7)
# What keeps the shape and still mixes elements, or depends on where one lies.
_MIXING = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "rev", "iota", "top_k", "fft"])
# Functions of an element that the compilers of kernels have no code for; tests/optimizers/kernels/test_lowering.py asks them.
_OF_NO_KERNEL = frozenset(["bessel_i0e", "bessel_i1e", "digamma", "erfc", "igamma", "igammac", "lgamma", "polygamma", "zeta"])
LACKING = {TRITON: _OF_NO_KERNEL | {"erf", "round"}, TPU: _OF_NO_KERNEL}
_MIXING_STARTS = ("reduce_window", "select_and_", "scatter", "gather", "dynamic_", "random_", "conv_general")


def require_elementwise(rule: Rule) -> None:
    """Refuses what a kernel, which sees one piece of an array at a time, would compute otherwise than plain XLA.

    Raises:
        ValueError: the update has a reduction, an index, a product of matrices, a cumulative operation or a constant array.

    Example:
        >>> try:
        ...     require_elementwise(Rule(lambda w, g, states, s: (g / jnp.sum(g), ()), (), lambda count: {}))
        ... except ValueError as error:
        ...     print(str(error).partition(":")[0])
        this rule is not elementwise, it uses reduce_sum
    """
    found = next(_foreign(_traced(rule)), None)
    if found is not None:
        raise ValueError(
            f"this rule is not elementwise, it uses {found}: a kernel sees one piece of an array at a time, so write an "
            "optax.GradientTransformation instead, or pass what is the same for all elements in Rule.scalars"
        )


@lru_cache(maxsize=64)  # asked at each step that is not compiled
def lacking(rule: Rule, backend: str) -> tuple[str, ...]:
    """The functions in a rule that the compiler of a backend's kernels lacks, by jax's names.

    Example:
        >>> rule = Rule(lambda w, g, states, s: (jax.lax.erf(g), ()), (), lambda count: {})
        >>> lacking(rule, TRITON), lacking(rule, TPU)
        (('erf',), ())
    """
    absent = LACKING.get(backend)
    return tuple(sorted(absent.intersection(_primitives(_traced(rule))))) if absent else ()


def _traced(rule: Rule) -> core.Jaxpr:
    """What jax makes of an update of a tile."""

    def update(w: jax.Array, g: jax.Array, states: tuple[jax.Array, ...], scalars: Mapping[str, jax.Array]) -> Any:
        return rule.update(w, g, states, scalars)

    scalars = jax.eval_shape(lambda count: numbers(rule, count, jnp.float32), jax.ShapeDtypeStruct((), jnp.int32))
    tile = jax.ShapeDtypeStruct(_TILE, jnp.float32)
    return jax.make_jaxpr(update)(tile, tile, (tile,) * len(rule.states), scalars).jaxpr


def _primitives(jaxpr: core.Jaxpr) -> Iterator[str]:
    """Names of all in it, also of called functions, branches and loops."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for each in _jaxprs(value):
                yield from _primitives(each)


def _foreign(jaxpr: core.Jaxpr) -> Iterator[str]:
    """What in it is not elementwise."""
    read = [*jaxpr.outvars, *(atom for equation in jaxpr.eqns for atom in equation.invars)]
    for constant in (*jaxpr.constvars, *(atom for atom in read if isinstance(atom, core.Literal))):
        if _shape(constant):
            yield f"a constant array of shape {_shape(constant)}"
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [each for value in equation.params.values() for each in _jaxprs(value)]
        if inner:
            for each in inner:
                yield from _foreign(each)
        elif name in _MIXING or name.startswith(_MIXING_STARTS) or _reshapes(equation):
            yield name


def _reshapes(equation: Any) -> bool:
    """Whether anything but tiles comes of tiles, or anything but scalars and tiles of scalars."""
    outputs = {_shape(atom) for atom in equation.outvars}
    return not outputs <= ({_TILE} if any(map(_shape, equation.invars)) else {(), _TILE})


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _jaxprs(value: Any) -> Iterator[core.Jaxpr]:
    """Those in a primitive's parameter: of a called function, of branches."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _jaxprs(each)
