"""States of one byte an element: blocks of 256 neighbours share a float32 scale, the block's largest magnitude.

Neighbours are consecutive elements of the parameter array in row-major order; the last block may be shorter. The codes keep
the array's shape. Arrays of fewer than 4,096 elements stay float32: they cost nothing and are often the delicate ones (biases,
norms). Two codes, each a formula, so that a kernel needs no table:

- ``SIGNED``, for averages of gradients: code c in -127..127 stands for ``scale * sign(c) * (c / 127) ** 2``. The squares put
  half of the codes below a quarter of the scale, where most of a block lies. Neighbouring values around x are at most
  ``scale * (2 * sqrt(|x| / scale) / 127 + 1 / 127**2)`` apart, which bounds the error.
- ``UNSIGNED``, for averages of squares, which Adam divides by the root of: a float of 5 bits of exponent and 3 of mantissa. Code 0 is
  zero, code c in 1..255, with k = c + 761, stands for ``scale * (1 + k % 8 / 8) * 2 ** (k // 8 - 127)``, so 255 is the scale itself.
  Neighbours differ by at most an eighth, which bounds the relative error (a sixteenth of the root), however small the value is
  against the block's largest, down to ``1.25 * 2**-32``; smaller positive values become that, never zero (a zero would make
  Adam's next step explode).

Rounding is stochastic: the mean over the random bits is the value itself. With the nearest code an average would stop moving as
soon as a step changes it by less than half a code: for b2 = 0.999 always. A block whose largest magnitude is above 2**126, an
infinity or NaN decodes to NaN everywhere; one below 2**-126, to zero. The idea of block-wise scales: Dettmers et al.,
arXiv:2110.02861; the codes are chosen for cheap arithmetic, as there are some 30 operations to spare for a byte moved.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 256
SMALLEST = 4096  # elements; smaller arrays keep float32
_SIGNED_MAX = 127.0
_ONE = 0x3F800000  # the bits of 1.0
_UNSIGNED_OFFSET = (_ONE >> 20) - 255


class Blockwise(NamedTuple):
    """A state of one byte an element."""

    codes: jax.Array  # int8 or uint8, shaped like the parameter array
    scales: jax.Array  # float32 # [blocks]


class Code(NamedTuple):
    """How numbers become bytes; all functions work on blocks along the last axis.

    Attributes:
        dtype: of the codes.
        decode: codes and scales -> float32. # [..., 256], [..., 1] -> [..., 256]
        encode: float32 and random integers in 0..65535 -> codes, scales. # [..., 256], [..., 256] -> [..., 256], [..., 1]
    """

    dtype: jnp.dtype
    decode: Callable[[jax.Array, jax.Array], jax.Array]
    encode: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def num_blocks(size: int) -> int:
    """How many scales an array of that many elements has."""
    return -(-size // BLOCK)


def zeros(param: jax.Array, code: Code) -> Blockwise | jax.Array:
    """The state that stands for zero everywhere; float32 for small arrays.

    Example:
        >>> zeros(jnp.ones((64, 100)), SIGNED).scales.shape
        (25,)
    """
    if param.size < SMALLEST:
        return jnp.zeros(param.shape, jnp.float32)
    return Blockwise(jnp.zeros(param.shape, code.dtype), jnp.zeros(num_blocks(param.size), jnp.float32))


def as_blocks(x: jax.Array) -> jax.Array:
    """The elements in row-major order, a block a row, the last one filled up with zeros. # [...] -> [blocks, 256]"""
    return jnp.pad(x.reshape(-1), (0, num_blocks(x.size) * BLOCK - x.size)).reshape(-1, BLOCK)


def quantize(x: jax.Array, code: Code, random: jax.Array) -> Blockwise:
    """An array as codes and scales.

    Args:
        x: the values, of any shape.
        code: `SIGNED`, or `UNSIGNED` where no value is negative.
        random: integers in 0..65535, shaped like x: 0 takes the lower neighbour, 65535 most often the upper one.
    """
    codes, scales = code.encode(as_blocks(x), as_blocks(random))
    return Blockwise(codes.reshape(-1)[: x.size].reshape(x.shape), scales.reshape(-1))


def dequantize(state: Blockwise, code: Code) -> jax.Array:
    """The values that a state stands for, float32.

    Example:
        >>> x = jnp.array([0.25, -1.0, 0.0])
        >>> dequantize(quantize(x, SIGNED, jnp.zeros(3, jnp.int32)), SIGNED).round(2).tolist()
        [0.25, -1.0, 0.0]
    """
    values = code.decode(as_blocks(state.codes), state.scales.reshape(-1, 1))
    return values.reshape(-1)[: state.codes.size].reshape(state.codes.shape)


def _scale(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest magnitude of a block, and the block divided by it."""
    size = jnp.abs(x)
    # NaN becomes infinity: which of NaN and a number is larger depends on the device.
    largest = jnp.max(jnp.where(size < jnp.inf, size, jnp.inf), -1, keepdims=True)
    usable = (largest >= 2.0**-126) & (largest <= 2.0**126)  # its inverse is no subnormal, which devices flush
    scale = jnp.where(usable, largest, jnp.where(largest > 1, jnp.nan, 0.0))
    return scale, x * jnp.where(usable, 1 / jnp.where(usable, largest, 1.0), 0.0)


def _uniform(random: jax.Array) -> jax.Array:
    """0..65535 as a float in [0, 1): as the mantissa of one in [1, 2), which is cheaper than a conversion."""
    return lax.bitcast_convert_type((random << 7) | _ONE, jnp.float32) - 1.0


def _encode_signed(x: jax.Array, random: jax.Array) -> tuple[jax.Array, jax.Array]:
    scale, relative = _scale(x)
    square = jnp.abs(relative) * _SIGNED_MAX**2
    lower = jnp.floor(jnp.sqrt(square))
    # Between lower**2 and (lower + 1)**2, the one or the other such that the mean is `square`.
    code = lower + jnp.where(_uniform(random) * (2 * lower + 1) < square - lower * lower, 1.0, 0.0)
    code = jnp.minimum(code, _SIGNED_MAX) * jnp.where(relative < 0, -1.0, 1.0)
    # By way of int32, here and below: not every device turns floats into bytes, or bytes into floats.
    return code.astype(jnp.int32).astype(jnp.int8), scale


def _decode_signed(codes: jax.Array, scales: jax.Array) -> jax.Array:
    root = codes.astype(jnp.int32).astype(jnp.float32)
    return root * jnp.abs(root) * (scales / _SIGNED_MAX**2)


def _encode_unsigned(x: jax.Array, random: jax.Array) -> tuple[jax.Array, jax.Array]:
    scale, relative = _scale(x)
    # The upper 12 bits of a float32 are its sign, exponent and first 3 bits of mantissa; what is added carries into them.
    rounded = lax.bitcast_convert_type(relative, jnp.int32) + (random << 4)
    code = jnp.clip((rounded >> 20) - _UNSIGNED_OFFSET, 1, 255)
    return jnp.where(relative > 0, code, 0).astype(jnp.uint8), scale


def _decode_unsigned(codes: jax.Array, scales: jax.Array) -> jax.Array:
    code = codes.astype(jnp.int32)
    value = lax.bitcast_convert_type((code + _UNSIGNED_OFFSET) << 20, jnp.float32)
    return jnp.where(code > 0, value, 0.0) * scales


SIGNED = Code(jnp.dtype(jnp.int8), _decode_signed, _encode_signed)
UNSIGNED = Code(jnp.dtype(jnp.uint8), _decode_unsigned, _encode_unsigned)
