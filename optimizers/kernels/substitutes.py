"""Formulas for elementary functions that a kernel's compiler lacks, in operations that it has, float32.

Each keeps its relative error below the bound in `BOUNDS` over all float32 arguments of its domain, also near zero, where the textbook
formulas lose every digit, and gives jax.numpy's values at the ends of the domain, outside it, at infinity and NaN. The
bounds were measured against float64 over a million arguments of all magnitudes (tests/optimizers/kernels/test_substitutes.py
asks again); they hold with correctly rounded exp, log, log1p and sqrt, as far as a device has those. Subnormal
arguments and results may be flushed to zero.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

_LOG2 = math.log(2.0)


def sign(x: jax.Array) -> jax.Array:
    """-1, 0 or 1."""
    return jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, x)).astype(x.dtype)


def expm1(x: jax.Array) -> jax.Array:
    """``exp(x) - 1``: the series near zero."""
    series = 1.0 / 40320
    for denominator in (5040, 720, 120, 24, 6, 2, 1):
        series = series * x + 1.0 / denominator
    return jnp.where(jnp.abs(x) < 0.5, series * x, jnp.exp(x) - 1)


def sinh(x: jax.Array) -> jax.Array:
    """The series near zero; elsewhere with exp(|x| / 2) twice, as exp(|x|) overflows before sinh does."""
    square = x * x
    series = 1.0 / 362880
    for denominator in (5040, 120, 6, 1):
        series = series * square + 1.0 / denominator
    half = jnp.exp(0.5 * jnp.abs(x))
    large = 0.5 * half * half - 0.5 / half / half
    return jnp.where(jnp.abs(x) < 1, series * x, jnp.where(x < 0, -large, large))


def cosh(x: jax.Array) -> jax.Array:
    """With exp(|x| / 2) twice, as exp(|x|) overflows before cosh does."""
    half = jnp.exp(0.5 * jnp.abs(x))
    return 0.5 * half * half + 0.5 / half / half


def cbrt(x: jax.Array) -> jax.Array:
    """From exp and log, then a step of Newton's method."""
    size = jnp.abs(x)
    ordinary = (size > 0) & (size < jnp.inf)
    size = jnp.where(ordinary, size, 1.0)
    root = jnp.exp(jnp.log(size) / 3)
    root = root - (root - size / (root * root)) / 3
    return jnp.where(ordinary, jnp.where(x < 0, -root, root), x)


def arcsinh(x: jax.Array) -> jax.Array:
    """``log1p(a + a * a / (1 + sqrt(1 + a * a)))`` of a = |x|; log(2 a) where a * a would overflow."""
    size = jnp.abs(x)
    a = jnp.minimum(size, 1e4)
    near = jnp.log1p(a + a * a / (1 + jnp.sqrt(1 + a * a)))
    result = jnp.where(size < 1e4, near, jnp.log(size) + _LOG2)
    return jnp.where(x == 0, x, jnp.where(x < 0, -result, result))


def arccosh(x: jax.Array) -> jax.Array:
    """``log1p(t + sqrt(2 t + t * t))`` of t = x - 1; log(2 x) where t * t would overflow; NaN below 1."""
    t = jnp.minimum(x, 1e4) - 1
    result = jnp.where(x < 1e4, jnp.log1p(t + jnp.sqrt(2 * t + t * t)), jnp.log(x) + _LOG2)
    return jnp.where(x < 1, jnp.nan, result)


def arctanh(x: jax.Array) -> jax.Array:
    """``log1p(2 a / (1 - a)) / 2`` of a = |x|; infinite at 1, NaN beyond."""
    a = jnp.abs(x)
    result = 0.5 * jnp.log1p(2 * a / (1 - a))
    result = jnp.where(a < 1, result, jnp.where(a == 1, jnp.inf, jnp.nan))
    return jnp.where(x == 0, x, jnp.where(x < 0, -result, result))


def arctan(x: jax.Array) -> jax.Array:
    """Reduced to |t| <= tan(pi / 12) by arctan(1 / a) = pi / 2 - arctan(a) and a rotation by pi / 6, then the series."""
    size = jnp.abs(x)
    inverted = size > 1
    a = jnp.where(inverted, 1 / jnp.where(inverted, size, 1.0), size)
    rotated = a > 2 - math.sqrt(3.0)
    t = jnp.where(rotated, (a * math.sqrt(3.0) - 1) / (a + math.sqrt(3.0)), a)
    square = t * t
    series = 1.0 / 13
    for denominator in (-11, 9, -7, 5, -3, 1):
        series = series * square + 1.0 / denominator
    result = series * t + jnp.where(rotated, math.pi / 6, 0.0)
    result = jnp.where(inverted, math.pi / 2 - result, result)
    return jnp.where(x < 0, -result, result)


def arcsin(x: jax.Array) -> jax.Array:
    """``arctan(x / sqrt((1 - x) (1 + x)))``; NaN beyond 1."""
    return arctan(x / jnp.sqrt((1 - x) * (1 + x)))


def arccos(x: jax.Array) -> jax.Array:
    """``2 arctan(sqrt((1 - x) / (1 + x)))``; NaN beyond 1."""
    return 2 * arctan(jnp.sqrt((1 - x) / (1 + x)))


# Largest relative error over the domain, from measurement with a margin.
BOUNDS: dict[str, float] = {
    "sign": 0.0,
    "expm1": 4e-7,
    "sinh": 5e-7,
    "cosh": 5e-7,
    "cbrt": 4e-7,
    "arcsinh": 4e-7,
    "arccosh": 5e-7,
    "arctanh": 4e-7,
    "arctan": 4e-7,
    "arcsin": 6e-7,
    "arccos": 6e-7,
}
# What the compiler for TPUs lacks: name of jax's primitive -> formula.
TPU: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sign": sign,
    "expm1": expm1,
    "sinh": sinh,
    "cosh": cosh,
    "cbrt": cbrt,
    "asinh": arcsinh,
    "acosh": arccosh,
    "atanh": arctanh,
    "atan": arctan,
    "asin": arcsin,
    "acos": arccos,
}
# Primitives that only call a function: name -> the parameter that holds it.
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def replace(fn: Callable[..., Any], table: Mapping[str, Callable[[jax.Array], jax.Array]]) -> Callable[..., Any]:
    """The function with the primitives of a table computed by their formulas.

    Args:
        fn: plain jax, loops and branches of `jax.lax` among it.
        table: name of a primitive of one argument -> formula.

    Example:
        >>> jax.make_jaxpr(replace(lambda x: 2 * jnp.cosh(x), TPU))(1.0).eqns[0].primitive.name
        'abs'
    """

    def replaced(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), table)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return replaced


def _evaluate(jaxpr: core.Jaxpr, consts: Any, args: list[Any], table: Mapping[str, Callable[[jax.Array], jax.Array]]) -> list[Any]:
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        if equation.primitive.name in table:
            outputs = [table[equation.primitive.name](*inputs)]
        elif equation.primitive.name in _CALLS:
            inner = equation.params[_CALLS[equation.primitive.name]]
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs, table)
        else:
            params = {name: _replaced(value, table) for name, value in equation.params.items()}
            outputs = equation.primitive.bind(*inputs, **params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _replaced(value: Any, table: Mapping[str, Callable[[jax.Array], jax.Array]]) -> Any:
    """A primitive's parameter, with what it holds of branches and of loops' bodies evaluated as the rest is."""
    if isinstance(value, tuple):
        return tuple(_replaced(each, table) for each in value)
    if isinstance(value, core.ClosedJaxpr):
        return jax.make_jaxpr(lambda *args: _evaluate(value.jaxpr, value.consts, list(args), table))(*value.in_avals)
    return value
