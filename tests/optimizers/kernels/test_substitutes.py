"""Formulas for functions that a compiler lacks, against NumPy in float64: near zero, at the ends of the domain, outside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith.optimizers.kernels import substitutes

NAMES = sorted(substitutes.BOUNDS)
# Arguments where rounding to float32 loses nothing that the comparison needs: all magnitudes, moderate ones, close to 1 and -1.
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 2e-38, 88.9, -88.9, 89.5], np.float32
)


def _arguments():
    rng = np.random.default_rng(1)
    signs = rng.choice([-1, 1], 300_000)
    close = 1 - np.exp2(rng.uniform(-24, 0, 300_000))
    return np.concatenate(
        [signs * np.exp2(rng.uniform(-125, 127.9, 300_000)), rng.uniform(-100, 100, 300_000), signs * close, 2 - close, SPECIAL]
    ).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_relative_error_is_within_its_bound(name):
    x = _arguments()
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    result = np.asarray(jax.jit(getattr(substitutes, name))(x))
    np.testing.assert_array_equal(np.isnan(result), np.isnan(rounded))
    infinite = np.isinf(rounded)
    np.testing.assert_array_equal(result[infinite], rounded[infinite])
    normal = np.isfinite(rounded) & (np.abs(exact) > 1.2e-38)
    error = np.abs(result[normal] - exact[normal])
    assert np.all(error <= substitutes.BOUNDS[name] * np.abs(exact[normal]))
    assert not result[exact == 0].any()


@pytest.mark.parametrize("name", NAMES)
def test_special_values_are_those_of_jax(name):
    np.testing.assert_allclose(getattr(substitutes, name)(jnp.asarray(SPECIAL)), getattr(jnp, name)(SPECIAL), rtol=2e-6, atol=1e-37)


def test_replace_reaches_into_jitted_functions_and_leaves_the_rest():
    def fn(x, scalars):
        return {"a": jnp.arcsinh(x) + jax.jit(jnp.cbrt)(x) * scalars["k"], "b": (jnp.sign(x) * 2, jnp.tanh(x))}

    x, scalars = jnp.linspace(-3, 3, 50), {"k": jnp.float32(0.5)}
    replaced = substitutes.replace(fn, substitutes.TPU)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), replaced(x, scalars), fn(x, scalars))
    text = str(jax.make_jaxpr(replaced)(x, scalars))
    assert "tanh" in text and not any(f" {name} " in text for name in ("asinh", "cbrt", "sign"))


def test_replace_reaches_into_branches_and_loops():
    def fn(x, k):
        x = jax.lax.cond(k > 0, jnp.expm1, lambda y: jnp.sign(y) + k, x)
        x, seen = jax.lax.scan(lambda y, i: (jnp.arcsinh(y) + i, jnp.cbrt(y)), x, jnp.arange(3.0))
        return jax.lax.while_loop(lambda y: jnp.cosh(y[0]) > 1.5, lambda y: y / 2, x), seen

    x, replaced = jnp.linspace(-3, 3, 50), substitutes.replace(fn, substitutes.TPU)
    for k in (0.5, -0.5):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), replaced(x, k), fn(x, k))
    text = str(jax.make_jaxpr(replaced)(x, 0.5))
    assert all(f" {name}[" in text for name in ("cond", "scan", "while"))
    assert not any(f" {name} " in text for name in ("expm1", "sign", "asinh", "cbrt", "cosh"))


def test_every_bound_has_a_formula_and_every_formula_a_bound():
    assert {function.__name__ for function in substitutes.TPU.values()} == set(substitutes.BOUNDS)
