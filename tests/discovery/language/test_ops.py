"""The table of operations: its names against the paper's list, its stated special values, and how kinds widen."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith.discovery.language import OPS, Kind, Program, Statement, as_transformation, infer, parse
from stepsmith.discovery.language.ops import ALIASES, INFIX, SAMPLED, SAMPLED_EXTENDED, Shape

# Chen et al. 2023, arXiv 2302.06675, appendix: 27 unary, 7 binary, 6 of linear algebra, 3 constants.
UNARY = [
    "abs",
    "cos",
    "sin",
    "tan",
    "arcsin",
    "arccos",
    "arctan",
    "exp",
    "log",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "arccosh",
    "arctanh",
    "sign",
    "exp2",
    "exp10",
    "expm1",
    "log10",
    "log2",
    "log1p",
    "square",
    "sqrt",
    "cube",
    "cbrt",
    "reciprocal",
]
BINARY = ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum"]
LINEAR_ALGEBRA = ["norm", "global_norm", "dot", "cosine_sim", "clip", "interp"]
CONSTANTS = ["get_pi", "get_e", "get_eps"]
PAPER = [*UNARY, *BINARY, *LINEAR_ALGEBRA, *CONSTANTS]

EXTENDED = {
    "mean",
    "row_mean",
    "column_mean",
    "orthogonalize",
    "transposed_product",
    "on_matrices",
    "num_rows",
    "num_columns",
    "batch_loss",
}

SPECIAL = [(op.name, args, value) for op in OPS.values() for args, value in op.special.items()]


def test_names():
    assert len(PAPER) == 43
    assert set(OPS) == {*PAPER, "negative", "copy", *EXTENDED}
    assert {op.name for op in OPS.values() if op.extended} == EXTENDED
    assert {op.name for op in SAMPLED} == {*PAPER, "negative"}
    assert SAMPLED_EXTENDED[: len(SAMPLED)] == SAMPLED
    assert {op.name for op in SAMPLED_EXTENDED[len(SAMPLED) :]} == EXTENDED
    assert set(INFIX) == {"+", "-", "*", "/"}
    assert {ALIASES["interpolate"], ALIASES["clip_by_global_norm"]} == {"interp", "clip"}


@pytest.mark.parametrize(("names", "arity"), [(UNARY, 1), (BINARY, 2), (CONSTANTS, 0)])
def test_arity(names, arity):
    assert {OPS[name].arity for name in names} == {arity}


def test_commutative():
    assert {op.name for op in OPS.values() if op.commutative} == {"add", "multiply", "maximum", "minimum", "dot", "cosine_sim"}


def test_every_elementwise_operation_states_zero_and_infinity():
    for op in OPS.values():
        if op.shape is Shape.MAP and op.sampled:
            arguments = [x for args in op.special for x in args]
            assert 0.0 in arguments and any(map(math.isinf, arguments)), op.name


@pytest.mark.parametrize(("name", "args", "value"), SPECIAL)
def test_special_values(name, args, value):
    fn = OPS[name].fn
    with np.errstate(all="ignore"):
        exact = fn(np, *(np.float64(a) for a in args))
    np.testing.assert_allclose(exact, value, rtol=1e-12)
    single = fn(jnp, *(jnp.asarray([a], jnp.float32) for a in args))
    np.testing.assert_allclose(np.asarray(single)[0], value, rtol=2e-6)


@pytest.mark.parametrize(("name", "value"), [("get_pi", 3.141592653589793), ("get_e", 2.718281828459045), ("get_eps", 1e-8)])
def test_constants(name, value):
    assert OPS[name].fn(np) == value


def test_interp_weighs_its_second_argument():
    assert OPS["interp"].fn(np, 10.0, 20.0, 0.25) == 12.5


def test_log1p_is_exact_near_zero():
    assert abs(OPS["log1p"].fn(np, np.float64(1e-12)) - 1e-12) < 1e-23


def _update_of(expression):
    program = parse(f"def train(w, g, lr):\n    update = {expression}\n    return update")
    transformation = as_transformation(program, lambda count: 1.0, 10)
    w, g = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}, {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[12.0]])}
    updates, _ = transformation.update(g, transformation.init(w), w)
    return [*np.asarray(-updates["a"]), float(-updates["b"][0, 0])]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("norm(g)", [5, 5, 12]),
        ("global_norm(g)", [13, 13, 13]),
        ("dot(w, g)", [47, 47, 47]),
        ("cosine_sim(w, g)", [47 / (13 * math.sqrt(14))] * 3),
        ("clip(g, 1.3)", [0.3, 0.4, 1.2]),
        ("clip(g, 13.5)", [3, 4, 12]),
        ("dot(norm(g), lr)", [22, 22, 22]),  # a leaf scalar is widened before the sum: 5 + 5 + 12
        ("global_norm(2.0)", [math.sqrt(12)] * 3),
        ("interp(w, g, 0.25)", [1.5, 2.5, 5.25]),
    ],
)
def test_reductions(expression, expected):
    np.testing.assert_allclose(_update_of(expression), expected, rtol=1e-6)


@pytest.mark.parametrize("op", ["add", "interp"])
def test_two_kinds_join_to_the_wider(op):
    s, leaf, a = Kind.SCALAR, Kind.LEAF, Kind.ARRAY
    weight, variables = ("lr",) * (OPS[op].arity - 2), ("lr", "n", "g")
    for one, kinds in zip(variables, ((s, leaf, a), (leaf, leaf, a), (a, a, a)), strict=True):
        for other, kind in zip(variables, kinds, strict=True):
            statements = (Statement("n", "norm", ("g",)), Statement("update", op, (one, other, *weight)))
            assert infer(Program(statements))[1] is kind


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("lr + 1.0", "SCALAR"),
        ("norm(g) + lr", "LEAF"),
        ("norm(g) * g", "ARRAY"),
        ("lr * g", "ARRAY"),
        ("sin(norm(g))", "LEAF"),
        ("norm(lr)", "LEAF"),
        ("dot(g, w)", "SCALAR"),
        ("cosine_sim(lr, 2.0)", "SCALAR"),
        ("clip(lr, lr)", "ARRAY"),
        ("interp(lr, norm(w), lr)", "LEAF"),
        ("interp(lr, 1.0, dot(g, g))", "SCALAR"),
        ("get_pi()", "SCALAR"),
        ("step * progress", "SCALAR"),
        ("mean(g)", "LEAF"),
        ("mean(lr)", "LEAF"),
        ("num_rows()", "LEAF"),
        ("num_columns() * lr", "LEAF"),
        ("row_mean(lr)", "ARRAY"),
        ("column_mean(norm(g))", "ARRAY"),
        ("orthogonalize(g)", "ARRAY"),
        ("on_matrices(lr, 1.0)", "LEAF"),
        ("on_matrices(norm(g), lr)", "LEAF"),
        ("on_matrices(lr, g)", "ARRAY"),
        ("on_matrices(g, norm(g))", "ARRAY"),
    ],
)
def test_kinds(expression, kind):
    program = parse(f"def train(w, g, lr, step, progress):\n    update = {expression}\n    return update")
    assert infer(program)[-1] is Kind[kind]
