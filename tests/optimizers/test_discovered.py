"""Rules that searches found: against NumPy in float64, and against the program that was found."""

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import optimizers
from stepsmith.discovery.language import as_transformation, parse
from stepsmith.optimizers.discovered.muon_rows import orthogonalize

SHAPES = {"tall": (9, 4), "wide": (3, 8), "row": (1, 5), "bias": (6,), "gain": (), "kernel": (3, 3, 2, 4)}
B1, B2, B3 = 0.8544863588128073, 0.9832910594302308, 0.973668608723833


def _gradients(steps):
    rng = np.random.default_rng(0)
    return [{name: rng.normal(size=shape) * 10.0 ** rng.integers(-3, 2) for name, shape in SHAPES.items()} for _ in range(steps)]


def _orthogonalized(matrix):
    """By its singular values: of each, five times the polynomial."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.linalg.norm(matrix) + 1e-8)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left * values @ right


def _expected(gradients):
    """Directions of each step. # steps of {name: array}"""
    m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for step in gradients:
        found = {}
        for name, g in step.items():
            m[name] = B1 * m[name] + (1 - B1) * g
            v[name] = B2 * v[name] + (1 - B2) * g * g
            u = B3 * m[name] + (1 - B3) * g
            found[name] = _orthogonalized(u) * np.sqrt(len(u)) if u.ndim == 2 else u / (np.sqrt(v[name]) + 1e-8)
        yield found


def _directions(rule, gradients):
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    state, update = rule.init(params), jax.jit(rule.update)
    for step in gradients:
        updates, state = update(jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), step), state, params)
        yield updates


def test_muon_rows_is_its_equations_in_float64():
    gradients = _gradients(12)
    for found, expected in zip(_directions(optimizers.muon_rows(0.1), gradients), _expected(gradients), strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(found[name], -0.1 * expected[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_muon_rows_is_the_program_that_was_found():
    text = resources.files("stepsmith.discovery.configs").joinpath("muon_robust_tuned.txt").read_text()
    program = as_transformation(parse(text), optax.constant_schedule(1.0), 100)
    gradients = _gradients(12)
    for found, expected in zip(_directions(optimizers.muon_rows(), gradients), _directions(program, gradients), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b * (0.0147 / 0.014702359201001762), rtol=2e-3, atol=1e-5), found, expected)


@pytest.mark.parametrize("shape", [(7, 7), (3, 9), (9, 3)])
def test_singular_values_come_near_1(shape):
    matrix = jax.random.normal(jax.random.key(0), shape)
    values = jnp.linalg.svd(orthogonalize(matrix), compute_uv=False)
    assert float(values.max()) < 1.3 and float(jnp.median(values)) > 0.6
    assert bool(jnp.isfinite(orthogonalize(jnp.zeros(shape))).all())


def test_decay_is_decoupled_and_masked():
    params = {"a": jnp.full((2, 2), 2.0), "b": jnp.full(2, 2.0)}
    rule = optimizers.muon_rows(0.5, weight_decay=0.1, mask={"a": True, "b": False})
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], 0.0)
