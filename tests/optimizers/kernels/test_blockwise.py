"""States of one byte: error bounds, unbiased rounding, what is not finite; the random bits behind them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith.optimizers.kernels.blockwise import BLOCK, SIGNED, SMALLEST, UNSIGNED, Blockwise, dequantize, quantize, zeros
from stepsmith.optimizers.kernels.rounding import derive, mix, random16, stochastic_bfloat16

RNG = np.random.default_rng(3)
SIZES = (1, 255, 256, 257, 1000)


@partial(jax.jit, static_argnums=0)
def _there_and_back(signed, x, random):
    code = SIGNED if signed else UNSIGNED
    state = quantize(x, code, random)
    return dequantize(state, code), state


def _both_ways(x, code):
    y, state = _there_and_back(code is SIGNED, jnp.asarray(x, jnp.float32), jnp.asarray(RNG.integers(0, 65536, x.shape), jnp.int32))
    return np.asarray(y, np.float64), state


def _scales(x):
    """The scale of each element's block, in NumPy alone."""
    flat = np.pad(np.abs(x).ravel(), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
    return np.repeat(flat.max(1), BLOCK)[: x.size].reshape(x.shape)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32 - 1), st.integers(-60, 60))
def test_signed_error_is_within_its_bound(size, seed, exponent):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=size) * rng.choice([1, 1e-3, 0], size) * 2.0**exponent).astype(np.float32).astype(np.float64)
    y, _ = _both_ways(x, SIGNED)
    scale = _scales(x)
    bound = scale * (2 * np.sqrt(np.abs(x) / np.maximum(scale, 1e-300)) / 127 + 1 / 127**2)
    assert np.all(np.abs(y - x) <= bound * (1 + 1e-4) + 1e-37)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32 - 1), st.integers(-60, 60))
def test_unsigned_error_is_within_its_bound(size, seed, exponent):
    rng = np.random.default_rng(seed)
    x = (np.exp2(rng.uniform(-31, 0, size)) * rng.choice([1, 0], size, p=[0.9, 0.1]) * 2.0**exponent).astype(np.float32).astype(np.float64)
    y, _ = _both_ways(x, UNSIGNED)
    in_range = x > _scales(x) * 1.25 * 2.0**-32
    assert np.all(np.abs(y - x)[in_range] <= x[in_range] / 8 * (1 + 1e-5))
    assert np.all((y > 0) == (x > 0)), "zero stays zero, and nothing else becomes it"


@pytest.mark.parametrize("code", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_the_scale_itself_is_exact_and_rounding_is_unbiased(code):
    x = np.linspace(0.01, 1.0, BLOCK)
    if code is SIGNED:
        x[::2] *= -1
    draws = [_both_ways(x, code)[0] for _ in range(400)]
    # x = scale * (its inverse) * x in float32: the last bits may differ.
    np.testing.assert_allclose([draw[-1] for draw in draws], 1.0, rtol=1e-6)
    gap = 2 * np.sqrt(np.abs(x)) / 127 + 1 / 127**2 if code is SIGNED else x / 8
    assert np.all(np.abs(np.mean(draws, 0) - x) <= 5 * gap / 2 / np.sqrt(len(draws)))  # five standard errors of a fair choice


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("code", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_what_is_not_finite_spoils_its_block_and_no_other(code, bad):
    x = np.abs(RNG.normal(size=3 * BLOCK))
    x[300] = bad
    y, state = _both_ways(x, code)
    assert np.isnan(y[BLOCK : 2 * BLOCK]).all() and np.isfinite(y[:BLOCK]).all() and np.isfinite(y[2 * BLOCK :]).all()
    assert np.isnan(state.scales).tolist() == [False, True, False]


@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-38])
@pytest.mark.parametrize("code", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_subnormal_blocks_become_zero(code, tiny):
    assert np.all(_both_ways(np.full(BLOCK, tiny), code)[0] == 0)


def test_an_average_follows_its_input_although_a_step_is_below_half_a_code():
    # 0.1 % of the way to a constant at each step: the nearest code would never change.
    target = jnp.tile(jnp.array([0.25, 1.0]), 512)

    def step(count, state):
        random = random16(derive(jnp.int32(5), count), jnp.arange(1024, dtype=jnp.int32), 0)
        return quantize(0.999 * dequantize(state, UNSIGNED) + 0.001 * target, UNSIGNED, random)

    state = quantize(jnp.ones(1024), UNSIGNED, jnp.zeros(1024, jnp.int32))
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 4000, step, state))(state)
    low = np.asarray(dequantize(state, UNSIGNED))[::2]
    np.testing.assert_allclose(low.mean(), 0.25 + 0.75 * 0.999**4000, rtol=0.02)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (SMALLEST - 1,), (SMALLEST,), (64, 100), (5, 7, 131)])
def test_zeros_stand_for_zero_and_small_arrays_stay_float32(shape):
    state = zeros(jnp.ones(shape, jnp.bfloat16), SIGNED)
    assert isinstance(state, Blockwise) == (np.prod(shape) >= SMALLEST)
    if isinstance(state, Blockwise):
        assert state.codes.shape == shape and state.codes.dtype == jnp.int8 and state.scales.shape == (-(-np.prod(shape) // BLOCK),)
        assert not np.asarray(dequantize(state, SIGNED)).any()
    else:
        assert state.dtype == jnp.float32 and state.shape == shape


def test_the_hash_changes_half_of_the_bits_and_is_one_to_one():
    x = jnp.asarray(RNG.integers(-(2**31), 2**31, 20000), jnp.int32)
    for bit in range(32):
        changed = np.bitwise_count(np.asarray(mix(x) ^ mix(x ^ np.uint32(1 << bit).astype(np.int32))).view(np.uint32))
        assert abs(changed.mean() - 16) < 0.3
    assert len(np.unique(mix(jnp.arange(100000, dtype=jnp.int32)))) == 100000


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_random_numbers_are_even_and_unrelated(number):
    def draw(key, number):
        return np.asarray(random16(jnp.int32(key), jnp.arange(50000, dtype=jnp.int32), number)) / 65536

    u = draw(1, number)
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002 and u.min() >= 0 and u.max() < 1
    for other in (draw(2, number), draw(1, number + 1), np.roll(u, 1)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.02


def test_stochastic_bfloat16_takes_a_neighbour_with_the_mean_of_the_value():
    x = jnp.asarray([1.001, -3.1415927, 1e-30, 0.0, 3.3e38, -jnp.inf, jnp.nan], jnp.float32)
    rounded = np.asarray(stochastic_bfloat16(jnp.tile(x, (65536, 1)), jnp.arange(65536, dtype=jnp.int32)[:, None])).astype(np.float64)
    np.testing.assert_allclose(rounded.mean(0), np.asarray(x, np.float64), rtol=1e-6)
    exact = np.asarray(x, np.float64)[:4]
    below, above = rounded[:, :4].min(0), rounded[:, :4].max(0)
    assert np.all((below <= exact) & (exact <= above) & (above - below <= np.abs(exact) / 128))
