"""Every elementwise operation of the language lowers in a kernel for CUDA and compiles in one for TPUs."""

import jax
import jax.numpy as jnp
import pytest

from stepsmith.discovery.language.interpret import evaluate
from stepsmith.discovery.language.ops import OPS, Kind, Shape
from stepsmith.optimizers.kernels import Rule, backend, fuse

ELEMENTWISE = [name for name, op in OPS.items() if op.shape in (Shape.MAP, Shape.INTERPOLATE)]


def _of(names):
    def update(w, g, states, scalars):
        arguments = [[w], [g], scalars["weight"]]
        results = [evaluate(name, Kind.ARRAY, arguments[: OPS[name].arity], [w])[0] for name in names]
        return sum(results[1:], results[0]), ()

    return Rule(update, (), lambda count: {"weight": 0.5})


TARGETS = [("cuda", "gpu", "pallas-triton"), pytest.param("tpu", "tpu", "pallas-tpu", marks=pytest.mark.tpu_compiler)]


@pytest.mark.parametrize(("platform", "kind", "name"), TARGETS)
def test_all_operations_lower(platform, kind, name, lower_for, monkeypatch):
    monkeypatch.setattr(backend, "platform", lambda: kind)
    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    # A few at a time: what a failure names is short, and compiling one by one takes a minute.
    for start in range(0, len(ELEMENTWISE), 6):
        optimizer = fuse(_of(ELEMENTWISE[start : start + 6]), backend=name)
        lower_for(platform, optimizer.step, params, params, jax.eval_shape(optimizer.init, params))
