"""Running programs by the interpreter, and importing exported files."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.language import as_transformation

STEPS = 10
SHAPES = {"a": (2, 3), "b": (4,), "c": ()}


def _flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.fixture(scope="session")
def record():
    """Gradients and parameters of ten steps, away from zero and of both signs."""
    rng = np.random.default_rng(7)

    def draw():
        return {
            name: jnp.asarray(rng.choice([-1, 1], (STEPS, *s)) * rng.uniform(0.05, 0.95, (STEPS, *s)), jnp.float32)
            for name, s in SHAPES.items()
        }

    return draw(), draw()


@pytest.fixture(scope="session")
def interpret(record):
    """Program -> its updates by the reference, operation by operation. # [steps, elements]"""

    def run(program, nudge=0.0):
        gradients, params = record
        transformation = as_transformation(program, optax.linear_schedule(1.0, 0.0, STEPS), STEPS)
        state, rows = transformation.init(jax.tree.map(lambda x: x[0], params)), []
        for step in range(STEPS):
            g, w = jax.tree.map(lambda x, step=step: x[step] * (1 + nudge), gradients), jax.tree.map(lambda x, step=step: x[step], params)
            updates, state = transformation.update(g, state, w)
            rows.append(_flat(updates))
        return np.asarray(rows)

    return run


@pytest.fixture
def load_module(tmp_path):
    """Writes the text of a module to a file and imports it."""

    def load(text, name):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(f"exported_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
