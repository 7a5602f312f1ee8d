"""Random bits that depend on a position alone, and rounding with them.

A kernel, its reference and every tiling of it draw the same bits: they are a hash of (key, position in the parameter array),
computed in 32-bit integers, which all devices have. The hash mixes well enough for rounding; it is no source for anything else.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Two odd multipliers between shifts: every bit of the input changes each bit of the output with probability near one half
# (tests/optimizers/kernels/test_blockwise.py measures it). They are 0x7FEB352D and 0x846CA68B, as signed numbers.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
# Elements of an array that positions of 32 bits, signed, can number.
LARGEST = 2**31 - 1
# 2**32 over the golden ratio, as a signed number: consecutive numbers, and keys, land far apart.
_GOLDEN = 0x9E3779B9 - 2**32


def mix(x: jax.Array) -> jax.Array:
    """Hashes 32-bit integers, one to one.

    Example:
        >>> int(mix(jnp.int32(0))), int(mix(jnp.int32(1))) != int(mix(jnp.int32(2)))
        (0, True)
    """
    x = (x ^ lax.shift_right_logical(x, jnp.full_like(x, 16))) * np.int32(_FIRST)
    x = (x ^ lax.shift_right_logical(x, jnp.full_like(x, 15))) * np.int32(_SECOND)
    return x ^ lax.shift_right_logical(x, jnp.full_like(x, 16))


def derive(key: jax.Array, number: jax.Array | int) -> jax.Array:
    """Another key, for a number: of a step, of a parameter array, of a purpose.

    Args:
        key: int32. # []
        number: int32. # []
    """
    return mix(key ^ mix((jnp.asarray(number, jnp.int32) + 1) * np.int32(_GOLDEN)))


def random16(key: jax.Array, position: jax.Array, number: int) -> jax.Array:
    """16 random bits an element, in 0..65535; two numbers share a hash.

    Args:
        key: int32. # []
        position: index of each element in its parameter array, int32. # [...]
        number: of the purpose that the bits serve.
    """
    bits = mix((position * np.int32(_GOLDEN)) ^ derive(key, number // 2))
    return lax.shift_right_logical(bits, jnp.full_like(bits, 16)) if number % 2 else bits & 0xFFFF


def stochastic_bfloat16(x: jax.Array, random: jax.Array) -> jax.Array:
    """Rounds float32 to one of the two neighbours in bfloat16, so that the mean over the bits is x.

    The lower 16 bits of x are what bfloat16 cuts off; a random number below 2**16 added to them carries into the upper ones
    with the probability that it should. NaN and infinity stay what they are.

    Args:
        x: float32.
        random: what `random16` gives, shaped like x.

    Example:
        >>> x = jnp.full(1000, 1.001)
        >>> rounded = stochastic_bfloat16(x, random16(jnp.int32(0), jnp.arange(1000), 0))
        >>> [float(value) for value in jnp.unique(rounded)]
        [1.0, 1.0078125]
    """
    pattern = lax.bitcast_convert_type(x, jnp.int32)
    carried = (pattern + random) & np.int32(-0x10000)
    finite = jnp.abs(x) < jnp.inf
    return jnp.where(finite, lax.bitcast_convert_type(carried, jnp.float32), x).astype(jnp.bfloat16)
