"""Elementwise functions that a kernel's backend lacks, from those that it has.

`ERROR` bounds the relative error of each in float32 where the result is a normal number, against the exact value, as far as the
backend's own exponential, logarithm and square root are exact to the last bits. Zeros, infinities and values outside the domain
give what `jax.numpy` gives.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

ERROR = 5e-7
_LN2 = math.log(2.0)


def _polynomial(x: jax.Array, coefficients: list[float]) -> jax.Array:
    """c[0] + c[1] x + ... by Horner's rule."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _odd(fn: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """An odd function from its positive half; keeps the sign of zero and what is not a number."""
    return lambda x: jnp.where(x == 0, x, jnp.where(x < 0, -fn(jnp.abs(x)), fn(jnp.abs(x))))


def _sign(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, x))


def _expm1(x: jax.Array) -> jax.Array:
    """The series up to 1/2, where exp(x) - 1 has lost two bits."""
    series = x * _polynomial(x, [1 / math.factorial(k) for k in range(1, 10)])
    return jnp.where(jnp.abs(x) < 0.5, series, jnp.exp(x) - 1)


def _half_exponentials(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(x) / 2 and exp(-x) / 2 of x >= 0, the first one finite up to where sinh is."""
    root = jnp.exp(x / 2)
    return 0.5 * root * root, 0.5 / root / root


def _sinh(x: jax.Array) -> jax.Array:
    rising, falling = _half_exponentials(x)
    series = x * _polynomial(x * x, [1 / math.factorial(2 * k + 1) for k in range(7)])
    return jnp.where(x < 1, series, rising - falling)


def _cosh(x: jax.Array) -> jax.Array:
    return sum(_half_exponentials(jnp.abs(x)), start=jnp.zeros_like(x))


def _arctan(x: jax.Array) -> jax.Array:
    """The series on [-tan(pi/8), tan(pi/8)], to which the arctangents of 1 and infinity lead."""
    low, high = math.tan(math.pi / 8), math.tan(3 * math.pi / 8)
    inner = jnp.where(x > high, -1 / x, jnp.where(x > low, (x - 1) / (x + 1), x))
    base = jnp.where(x > high, math.pi / 2, jnp.where(x > low, math.pi / 4, 0.0))
    return base + inner * _polynomial(inner * inner, [(-1) ** k / (2 * k + 1) for k in range(10)])


def _arcsin(x: jax.Array) -> jax.Array:
    return _arctan(x / jnp.sqrt((1 - x) * (1 + x)))


def _arccos(x: jax.Array) -> jax.Array:
    return 2 * _arctan(jnp.sqrt((1 - x) / (1 + x)))


def _arcsinh(x: jax.Array) -> jax.Array:
    small = jnp.minimum(x, 1e6)
    return jnp.where(x > 1e6, jnp.log(x) + _LN2, jnp.log1p(small + small * small / (1 + jnp.sqrt(small * small + 1))))


def _arccosh(x: jax.Array) -> jax.Array:
    above = jnp.minimum(x, 1e6) - 1
    return jnp.where(x > 1e6, jnp.log(x) + _LN2, jnp.log1p(above + jnp.sqrt(above) * jnp.sqrt(above + 2)))


def _arctanh(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.log1p(2 * x / (1 - x))


def _cbrt(x: jax.Array) -> jax.Array:
    """A step of Newton's method takes off the error that the logarithm's leaves."""
    root = jnp.exp(jnp.log(x) / 3)
    return jnp.where(x == jnp.inf, x, root - (root - x / (root * root)) / 3)


# Of the language's operations, those that Mosaic lowers for no TPU.
TPU: dict[str, Callable[[jax.Array], jax.Array]] = {
    "arcsin": _odd(_arcsin),
    "arccos": _arccos,
    "arctan": _odd(_arctan),
    "sinh": _odd(_sinh),
    "cosh": _cosh,
    "arcsinh": _odd(_arcsinh),
    "arccosh": _arccosh,
    "arctanh": _odd(_arctanh),
    "sign": _sign,
    "expm1": _expm1,
    "cbrt": _odd(_cbrt),
}
