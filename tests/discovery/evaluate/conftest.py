"""A task that misbehaves, in a module of its own that workers import too."""

import sys

import pytest

TRAPS = '''
import dataclasses, os, signal, time
import jax, jax.numpy as jnp
from stepsmith.tasks import Supervised, get


def _spring(norm):
    if norm > 1e6:
        os.kill(os.getpid(), signal.SIGKILL)
    if norm > 1e3:
        time.sleep(3600)


@dataclasses.dataclass(frozen=True)
class Trap(Supervised):
    """Kills its process where parameters are huge, hangs where they are large."""

    def loss(self, params, state, batch, key):
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params)))
        jax.debug.callback(_spring, jax.lax.stop_gradient(norm))
        return super().loss(params, state, batch, key)


def trap():
    base = get("digits_mlp")
    settings = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return Trap(**settings | {"name": "trap", "loss_threshold": float("inf")})

'''


@pytest.fixture(scope="session")
def traps(tmp_path_factory):
    """The name of a module with the task trap."""
    folder = tmp_path_factory.mktemp("traps")
    (folder / "stepsmith_test_traps.py").write_text(TRAPS)
    sys.path.insert(0, str(folder))
    yield "stepsmith_test_traps"
    sys.path.remove(str(folder))
