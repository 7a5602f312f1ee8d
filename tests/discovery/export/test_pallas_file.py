"""Programs exported as kernels: the same steps as the interpreter's, one clear line for programs that have none."""

import ast
import inspect
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.export import to_pallas
from stepsmith.discovery.language import ProgramError, as_transformation, canonical_hash, load, names, parse, prune
from stepsmith.discovery.language.ops import OPS, Shape
from stepsmith.discovery.search import MutationConfig, mutate

STEPS = 4
SCHEDULE = optax.linear_schedule(1.0, 0.5, STEPS)
ELEMENTWISE = (Shape.MAP, Shape.CONSTANT, Shape.INTERPOLATE)


def _elementwise(program):
    return all(OPS[statement.op].shape in ELEMENTWISE for statement in prune(program).statements)


SHIPPED = [name for name in names() if load(name).kind == "update" and _elementwise(load(name))]


def _draw(seed):
    rng = np.random.default_rng(seed)
    return {key: jnp.asarray(rng.normal(size=shape), jnp.float32) for key, shape in {"a": (3, 5), "b": (), "c": (0,), "d": (1030,)}.items()}


def _reads_lr(program):
    """One that does not, or only what it called so itself, does not follow the schedule; its file's rate multiplies all that it does."""
    for statement in prune(program).statements:
        if "lr" in statement.args:
            return True
        if statement.target == "lr":
            return False
    return False


def _exported(program, load_module, backend=None, wrap=jax.jit):
    """Parameters after STEPS steps of the exported file."""
    module = load_module(to_pallas(program, "rule"), "rule")
    settings = {"total_steps": STEPS} if set(prune(program).extra) & {"progress", "budget"} else {}
    peak = inspect.signature(module.rule).parameters["learning_rate"].default
    rate = (lambda count: peak * SCHEDULE(count)) if _reads_lr(program) else peak
    optimizer = module.rule(**settings, learning_rate=rate, backend=backend)
    params = _draw(0)
    state, step = optimizer.init(params), wrap(optimizer.step)
    for number in range(STEPS):
        params, state = step(params, _draw(number + 1), state)
    return params


def _interpreted(program, scale=1.0):
    """The interpreter's, from the same gradients, or all of them scaled."""
    reference, params = as_transformation(program, SCHEDULE, STEPS), _draw(0)
    state = reference.init(params)
    for number in range(STEPS):
        updates, state = reference.update(jax.tree.map(lambda g: g * scale, _draw(number + 1)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _check(program, load_module, backend, rtol=2e-5):
    for x, y in zip(jax.tree.leaves(_exported(program, load_module, backend)), jax.tree.leaves(_interpreted(program)), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("backend", ["xla", "interpret-triton"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_programs_step_as_interpreted(name, backend, load_module):
    _check(load(name), load_module, backend)


def test_the_file_is_short_and_imports_the_fuser_alone():
    text = to_pallas(load("adamw_corrected"), "adamw")
    tree = ast.parse(text)
    assert {node.module for node in tree.body if isinstance(node, ast.ImportFrom)} == {"stepsmith.optimizers.kernels"}
    assert len(text.splitlines()) < 100 and max(map(len, text.splitlines())) <= 140


def test_mutants_make_files_that_run(load_module):
    random, found = Random(5), []
    for name in SHIPPED * 3:
        program = load(name)
        for _ in range(6):
            program = mutate(program, canonical_hash(program), random, MutationConfig()).program
            if _elementwise(program):
                found.append(program)
    params = _draw(0)
    for program in found[:60]:
        settings = {"total_steps": STEPS} if set(prune(program).extra) & {"progress", "budget"} else {}
        optimizer = load_module(to_pallas(program, "rule"), "rule").rule(**settings)
        shapes = jax.eval_shape(optimizer.step, params, params, optimizer.init(params))[0]
        assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert len(found) >= 60


def test_mutants_step_as_interpreted(load_module):
    """Where rounding decides nothing: elements that a nudge of the gradients by a millionth hardly moves."""
    random, results = Random(6), set()
    for name in (SHIPPED * 9)[:20]:
        program = load(name)
        for _ in range(4):
            program = mutate(program, canonical_hash(program), random, MutationConfig()).program
        if not _elementwise(program):
            continue
        found, expected, nudged = (
            np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(each)])
            for each in (_exported(program, load_module, wrap=lambda step: step), _interpreted(program), _interpreted(program, 1 + 1e-6))
        )
        steady = np.isclose(expected, nudged, rtol=1e-4, atol=1e-7, equal_nan=True)
        np.testing.assert_allclose(found[steady], expected[steady], rtol=1e-3, atol=1e-5, err_msg=str(program))
        if (steady & np.isfinite(expected)).mean() > 0.5:
            results.add(expected.tobytes())
    assert len(results) >= 8, "different programs of which most could be compared"


@pytest.mark.parametrize("op", ["norm", "dot", "clip", "global_norm"])
def test_reductions_are_refused_in_one_line(op):
    argument = {"norm": "norm(g) * g", "dot": "dot(g, w) * g", "clip": "clip(g, lr)", "global_norm": "g / global_norm(g)"}[op]
    program = parse(f"def train(w, g, lr):\n    update = {argument}\n    return update")
    with pytest.raises(ProgramError, match=f"^{op} needs more than one element.*--as optax$"):
        to_pallas(program, "rule")


@pytest.mark.parametrize("name", ["fuse", "State", "_update", "scalars", "class", "2fast"])
def test_bad_names(name):
    with pytest.raises(ProgramError, match="is no name for a Python function"):
        to_pallas(load("lion"), name)


def test_variables_do_not_meet_the_files_own_names(load_module):
    lines = [
        "def train(w, g, states, lr):",
        "scalars = g + states",
        "states = scalars * 0.5",
        "update = scalars * lr",
        "return update, states",
    ]
    _check(parse("\n    ".join(lines)), load_module, "xla")


def test_the_command_writes_a_kernel(stepsmith):
    code, out, _ = stepsmith("export", "lion", "--as", "pallas")
    assert code == 0 and "def lion(" in out and "fuse(Rule(_update" in out
    code, out, err = stepsmith("export", "lamb", "--as", "pallas")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "norm needs more than one element" in err
