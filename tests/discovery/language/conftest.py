"""Running programs through the interpreter; the NumPy evaluator is discovery/language/equality.py."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.language import as_transformation

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # soundness

STEPS = 3


@pytest.fixture(scope="session")
def outputs_of():
    """Program -> its updates over three steps with given gradients and parameters. # [steps, elements]"""
    rng = np.random.default_rng(0)
    params, gradients = (
        {"a": jnp.asarray(rng.normal(size=(STEPS, 2, 3)), jnp.float32), "b": jnp.asarray(rng.normal(size=(STEPS, 4)), jnp.float32)}
        for _ in range(2)
    )

    def run(program, nudge=0.0):
        transformation = as_transformation(program, optax.linear_schedule(1.0, 0.0, STEPS), STEPS)
        state, rows = transformation.init({name: x[0] for name, x in params.items()}), []
        for step in range(STEPS):
            g = {name: x[step] * (1 + nudge) for name, x in gradients.items()}
            updates, state = transformation.update(g, state, {name: x[step] for name, x in params.items()}, value=0.7 + step)
            rows.append(np.concatenate([np.ravel(updates["a"]), np.ravel(updates["b"])]))
        return np.asarray(rows)

    return run
