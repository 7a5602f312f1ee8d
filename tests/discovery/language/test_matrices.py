"""The extended operations on arrays of no, one, two and more axes, against NumPy in float64: interpreted, by the machine, exported."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.export import to_optax, to_pallas
from stepsmith.discovery.language import OPS, ProgramError, as_transformation, load, matrices, parse
from stepsmith.discovery.vm import Clock, assemble, register_machine

SHAPES = {"number": (), "vector": (4,), "wide": (2, 5), "tall": (6, 3), "column": (3, 1), "kernel": (2, 2, 3), "attention": (3, 2, 2, 2)}
RNG = np.random.default_rng(5)
G, W = ({name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(2))


def _matrix(x):
    return np.asarray(x, np.float64).reshape(-1, x.shape[-1] if x.ndim else 1)


def _orthogonalized(x):
    """By way of the singular values, on each of which Newton-Schulz is the same polynomial."""
    u, s, vt = np.linalg.svd(_matrix(x), full_matrices=False)
    s = s / np.sqrt((s * s).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u * s @ vt


LOSS = 0.375
EXPECTED = {
    "mean(g)": lambda g, w: np.mean(_matrix(g)),
    "row_mean(g)": lambda g, w: np.repeat(_matrix(g).mean(1), _matrix(g).shape[1]),
    "column_mean(g)": lambda g, w: np.tile(_matrix(g).mean(0), _matrix(g).shape[0]),
    "orthogonalize(g)": lambda g, w: _orthogonalized(g),
    "transposed_product(g, w)": lambda g, w: _matrix(g) @ _matrix(g).T @ _matrix(w),
    "on_matrices(g, w)": lambda g, w: g if g.ndim == 2 else w,
    "num_rows()": lambda g, w: _matrix(g).shape[0],
    "num_columns()": lambda g, w: _matrix(g).shape[1],
    "batch_loss()": lambda g, w: LOSS,
    # Values that are not yet as wide as the arrays.
    "g * mean(0.5)": lambda g, w: 0.5 * g,
    "row_mean(norm(g))": lambda g, w: np.sqrt((_matrix(g) ** 2).sum()),
    "g * on_matrices(0.5, norm(w))": lambda g, w: g * (0.5 if g.ndim == 2 else np.sqrt((_matrix(w) ** 2).sum())),
    "norm(on_matrices(0.5, g))": lambda g, w: np.sqrt(0.25 * g.size if g.ndim == 2 else (_matrix(g) ** 2).sum()),
    "reciprocal(on_matrices(2.0, 4.0))": lambda g, w: 0.5 if g.ndim == 2 else 0.25,
    "g ** num_rows()": lambda g, w: np.asarray(g, np.float64) ** _matrix(g).shape[0],
    "mean(orthogonalize(lr))": lambda g, w: _orthogonalized(np.ones_like(g)).mean(),
    "interp(g, w, batch_loss())": lambda g, w: (1 - LOSS) * g + LOSS * w,
    "g * minimum(batch_loss() * lr, 0.1)": lambda g, w: 0.1 * g,
    "dot(row_mean(g), w)": lambda g, w: sum((_matrix(G[n]).mean(1, keepdims=True) * _matrix(W[n])).sum() for n in SHAPES),
    "clip(orthogonalize(g), 0.1)": lambda g, w: (
        0.1 * _orthogonalized(g) / np.sqrt(sum((_orthogonalized(x) ** 2).sum() for x in G.values()))
    ),
}


@jax.jit
def _by_machine(code):
    """One executable for all programs."""
    transformation = register_machine(code, extended=True)
    return transformation.update(G, transformation.init(W), W, value=LOSS)[0]


def _updates(form, program, load_module):
    if form == "machine":
        return _by_machine(assemble(program, Clock.create(np.ones(1)), extended=True))
    if form == "interpreted":
        transformation = as_transformation(program, optax.constant_schedule(1.0), 1)
    else:
        transformation = load_module(to_optax(program, "rule"), "rule").rule(learning_rate=1.0)
    params, told = jax.tree.map(jnp.asarray, W), optax.with_extra_args_support(transformation)
    return told.update(jax.tree.map(jnp.asarray, G), told.init(params), params, value=LOSS)[0]


@pytest.mark.parametrize("form", ["interpreted", "machine", "exported"])
@pytest.mark.parametrize("expression", EXPECTED)
def test_values(expression, form, load_module):
    program = parse(f"def train(w, g, lr):\n    update = {expression}\n    return update")
    updates = _updates(form, program, load_module)
    for name, shape in SHAPES.items():
        value = np.asarray(EXPECTED[expression](G[name], W[name]), np.float64)
        expected = value.reshape(shape) if value.size == G[name].size else np.full(shape, value)
        np.testing.assert_allclose(-np.asarray(updates[name]), expected, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("name", ["orthogonalize", "transposed_product"])
def test_the_cost_is_the_number_of_products_of_matrices(name):
    """Of those in the compiled loop five times, as its source says."""
    arguments = [jnp.ones((3, 4))] * OPS[name].arity
    text = str(jax.make_jaxpr(matrices.FUNCTIONS[name])(*arguments))
    assert OPS[name].cost == text.count("dot_general[") * (5 if name == "orthogonalize" else 1)
    assert all(op.cost == 1 for op in OPS.values() if op.name not in ("orthogonalize", "transposed_product"))


def test_every_extended_operation_is_tried():
    assert all(any(f"{op.name}(" in expression for expression in EXPECTED) for op in OPS.values() if op.extended)


def test_a_rule_that_reads_the_loss_says_so_where_it_is_not_told(load_module):
    polyak = load("polyak")
    for rule in (as_transformation(polyak, optax.constant_schedule(1.0), 1), load_module(to_optax(polyak, "polyak"), "polyak").polyak()):
        with pytest.raises(ValueError, match=r"reads .*loss: call update\(.*, value=loss\)"):
            rule.update(G, rule.init(W), W)
    machine = register_machine(assemble(polyak, Clock.create(np.ones(1)), extended=True), extended=True)  # one that was compiled before
    assert np.isnan(machine.update(G, machine.init(W), W)[0]["kernel"]).all()
    with pytest.raises(ProgramError, match="batch_loss: of the extended language"):
        assemble(polyak, Clock.create(np.ones(1)))
    with pytest.raises(ProgramError, match="batch_loss is told to an optax update, and a kernel's step is not: use --as optax"):
        to_pallas(polyak, "polyak")


def test_orthogonalize_brings_singular_values_near_one():
    x = np.linalg.qr(RNG.normal(size=(8, 5)))[0] * [1, 0.3, 0.1, 0.03, 0.01] @ np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    values = np.linalg.svd(np.asarray(matrices.orthogonalize(jnp.asarray(x, jnp.float32))), compute_uv=False)
    assert values.min() > 0.68 and values.max() < 1.21
    assert np.asarray(matrices.orthogonalize(jnp.zeros((3, 2)))).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("shape", [(2, 5), (6, 3)])
def test_orthogonalize_can_be_written_out(shape):
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    y = x / jnp.linalg.norm(x)
    for _ in range(5):
        cubic = matrices.transposed_product(y, y)
        y = 3.4445 * y - 4.775 * cubic + 2.0315 * matrices.transposed_product(y, cubic)
    np.testing.assert_allclose(y, matrices.orthogonalize(x), rtol=1e-4, atol=1e-5)


def test_arrays_without_elements():
    shapes = [(0,), (0, 3), (3, 0), (2, 0, 4)]
    for name, function in matrices.FUNCTIONS.items():
        for shape in shapes:
            assert function(*[jnp.zeros(shape)] * max(1, OPS[name].arity)).shape in (shape, ())


def test_export_holds_only_what_it_uses():
    assert "def _as_matrix" not in to_optax(load("lion"), "lion")
    text = to_optax(load("adafactor"), "adafactor")
    assert "def row_mean" in text and "def column_mean" in text and "def orthogonalize" not in text and "num_rows" not in text


def test_export_refuses_the_names_of_its_functions():
    for name in ("orthogonalize", "row_mean", "_as_matrix"):
        with pytest.raises(ProgramError, match="is no name for a Python function"):
            to_optax(load("muon"), name)


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_an_array_of_zeros_and_one_of_three_axes_as_in_optax(name, load_module):
    """LAMB moves biases that begin at zero; Muon leaves kernels to Adam."""
    theirs = {"lamb": optax.lamb(0.01, eps=1e-8, weight_decay=0.01), "muon": optax.contrib.muon(0.02)}[name]
    params = {"zeros": jnp.zeros((3,)), "kernel": jnp.asarray(W["kernel"]), "tall": jnp.asarray(W["tall"])}
    gradients = {"zeros": jnp.asarray([0.5, -0.2, 0.3]), "kernel": jnp.asarray(G["kernel"]), "tall": jnp.asarray(G["tall"])}
    expected = theirs.update(gradients, theirs.init(params), params)[0]
    program = load(name)
    exported = getattr(load_module(to_optax(program, name), name), name)()
    machine = register_machine(assemble(program, Clock.create(np.ones(2)), extended=True), extended=True)
    for ours in (exported, machine, as_transformation(program, optax.constant_schedule(1.0), 2)):
        updates = ours.update(gradients, ours.init(params), params)[0]
        for leaf in params:
            np.testing.assert_allclose(updates[leaf], expected[leaf], rtol=5e-5, atol=1e-7, err_msg=leaf)
        assert np.abs(updates["zeros"]).min() > 1e-3
