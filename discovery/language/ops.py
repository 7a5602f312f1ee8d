"""The table of operations: the one place that says what a program may compute.

Every row is written over a NumPy-like namespace ``xp``, so that the same formula serves the compiled machine
(``jax.numpy``), the folding of scalar expressions (``numpy``) and the tests. The functions are the 43 of "Symbolic
Discovery of Optimization Algorithms" (Chen et al. 2023, arXiv 2302.06675, appendix) and ``negative``; protected
semantics follow the search space that its authors released: ``a / b`` is ``a / (b + 1e-8)``, ``sqrt`` and the
logarithms act on the absolute value; ``power``, ``reciprocal``, ``cosine_sim`` and the arc functions are unprotected.

Rows marked `extended` are not the paper's: they make the opt-in language in which rules for layers and matrices can be
said (LAMB's kin, Adafactor, Muon), and rules whose rate follows the loss; `matrices.py` holds their formulas.

Kinds of values, from the narrowest, and two that meet widen to the wider: a scalar is one number for the whole model, a leaf scalar
one number per parameter array, an array a pytree shaped like the parameters.
"""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

EPS = 1e-8


class Kind(enum.IntEnum):
    """How wide a value is; a narrower value is cast to a wider one where an operation needs it."""

    SCALAR = 0
    LEAF = 1
    ARRAY = 2


class Shape(enum.Enum):
    """How an operation treats the kinds of its arguments."""

    CONSTANT = "constant"  # no argument, a scalar
    OBSERVED = "observed"  # no argument, a scalar that the training loop tells at each step
    MAP = "map"  # elementwise: the result is as wide as the widest argument
    LEAF_CONSTANT = "leaf constant"  # no argument, a leaf scalar
    PER_ARRAY = "per array"  # arrays -> leaf scalar
    MATRIX = "matrix"  # arrays -> array, each parameter array taken as a matrix
    SELECT = "select"  # a for some parameter arrays, b for the others: a leaf scalar, or an array where a or b is one
    GLOBAL = "global"  # arrays -> scalar
    CLIP = "clip"  # array, scalar -> array
    INTERPOLATE = "interpolate"  # a, b, scalar weight -> as wide as the wider of a and b


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: what a program writes.
        arity: number of arguments.
        fn: ``fn(xp, *args)`` on arrays of equal shape (or scalars). Operations that are not elementwise see one leaf or
            the whole tree through the machine and are ``None`` here.
        shape: how kinds pass through.
        commutative: the order of the (two) arguments does not matter.
        infix: how it is printed between its arguments, if it is.
        cost: what it counts in the cost of an update: 1, or its number of products of matrices.
        sampled: mutation may draw it (``copy`` exists for people's programs only).
        extended: it belongs to the extended language only.
        code: the same formula as Python source for exported files, over jax.numpy.
        special: arguments at zero, outside the natural domain and at infinity -> value.
    """

    name: str
    arity: int
    fn: Callable[..., Any] | None
    shape: Shape = Shape.MAP
    commutative: bool = False
    infix: str | None = None
    cost: int = 1
    sampled: bool = True
    extended: bool = False
    code: str = ""
    special: dict[tuple[float, ...], float] = field(default_factory=dict)


_INF, _NAN = math.inf, math.nan


def _log1p(xp: Any, x: Any) -> Any:
    # log|1 + x|, exact near zero, where the formula itself loses all digits.
    return xp.where(x > -1, xp.log1p(xp.where(x > -1, x, 0 * x)), xp.log(xp.abs(1 + x)))


def _unary(
    name: str, fn: Callable[..., Any], zero: float, infinity: float, outside: tuple[float, float] | None = None, code: str | None = None
) -> Op:
    special = {(0.0,): zero, (_INF,): infinity}
    if outside is not None:
        special[(outside[0],)] = outside[1]
    return Op(name, 1, fn, special=special, code=code or f"jnp.{name}({{0}})")


def _binary(
    name: str,
    fn: Callable[..., Any],
    special: dict[tuple[float, ...], float],
    commutative: bool = False,
    infix: str | None = None,
    code: str | None = None,
) -> Op:
    code = code or (f"{{0}} {infix} {{1}}" if infix else f"jnp.{name}({{0}}, {{1}})")
    return Op(name, 2, fn, commutative=commutative, infix=infix, special=special, code=code)


_TABLE = (
    _unary("abs", lambda xp, x: xp.abs(x), 0.0, _INF),
    _unary("cos", lambda xp, x: xp.cos(x), 1.0, _NAN),
    _unary("sin", lambda xp, x: xp.sin(x), 0.0, _NAN),
    _unary("tan", lambda xp, x: xp.tan(x), 0.0, _NAN),
    _unary("arcsin", lambda xp, x: xp.arcsin(x), 0.0, _NAN, (2.0, _NAN)),
    _unary("arccos", lambda xp, x: xp.arccos(x), math.pi / 2, _NAN, (2.0, _NAN)),
    _unary("arctan", lambda xp, x: xp.arctan(x), 0.0, math.pi / 2),
    _unary("exp", lambda xp, x: xp.exp(x), 1.0, _INF),
    _unary("log", lambda xp, x: xp.log(xp.abs(x)), -_INF, _INF, (-math.e, 1.0), code="jnp.log(jnp.abs({0}))"),
    _unary("sinh", lambda xp, x: xp.sinh(x), 0.0, _INF),
    _unary("cosh", lambda xp, x: xp.cosh(x), 1.0, _INF),
    _unary("tanh", lambda xp, x: xp.tanh(x), 0.0, 1.0),
    _unary("arcsinh", lambda xp, x: xp.arcsinh(x), 0.0, _INF),
    _unary("arccosh", lambda xp, x: xp.arccosh(x), _NAN, _INF, (0.5, _NAN)),
    _unary("arctanh", lambda xp, x: xp.arctanh(x), 0.0, _NAN, (2.0, _NAN)),
    _unary("sign", lambda xp, x: xp.sign(x), 0.0, 1.0),
    _unary("exp2", lambda xp, x: xp.exp2(x), 1.0, _INF),
    _unary("exp10", lambda xp, x: xp.exp2(x * math.log2(10.0)), 1.0, _INF, code="jnp.exp2({0} * 3.321928094887362)"),
    _unary("expm1", lambda xp, x: xp.expm1(x), 0.0, _INF),
    _unary("log10", lambda xp, x: xp.log10(xp.abs(x)), -_INF, _INF, (-10.0, 1.0), code="jnp.log10(jnp.abs({0}))"),
    _unary("log2", lambda xp, x: xp.log2(xp.abs(x)), -_INF, _INF, (-2.0, 1.0), code="jnp.log2(jnp.abs({0}))"),
    _unary(
        "log1p",
        _log1p,
        0.0,
        _INF,
        (-3.0, math.log(2.0)),
        code="jnp.where({0} > -1, jnp.log1p(jnp.where({0} > -1, {0}, 0)), jnp.log(jnp.abs(1 + {0})))",
    ),
    _unary("square", lambda xp, x: x * x, 0.0, _INF),
    _unary("sqrt", lambda xp, x: xp.sqrt(xp.abs(x)), 0.0, _INF, (-4.0, 2.0), code="jnp.sqrt(jnp.abs({0}))"),
    _unary("cube", lambda xp, x: x * x * x, 0.0, _INF, code="{0} * {0} * {0}"),
    _unary("cbrt", lambda xp, x: xp.cbrt(x), 0.0, _INF, (-8.0, -2.0)),
    _unary("reciprocal", lambda xp, x: 1 / x, _INF, 0.0, code="1 / {0}"),
    _unary("negative", lambda xp, x: -x, 0.0, -_INF, code="-{0}"),
    _binary("add", lambda xp, a, b: a + b, {(0.0, 0.0): 0.0, (_INF, -_INF): _NAN}, commutative=True, infix="+"),
    _binary("subtract", lambda xp, a, b: a - b, {(0.0, 0.0): 0.0, (_INF, _INF): _NAN}, infix="-"),
    _binary("multiply", lambda xp, a, b: a * b, {(0.0, 1.0): 0.0, (_INF, 0.0): _NAN}, commutative=True, infix="*"),
    _binary(
        "divide",
        lambda xp, a, b: a / (b + EPS),
        {(0.0, 0.0): 0.0, (1.0, 0.0): 1e8, (1.0, _INF): 0.0, (_INF, _INF): _NAN},
        infix="/",
        code="{0} / ({1} + 1e-8)",
    ),
    _binary("power", lambda xp, a, b: xp.power(a, b), {(0.0, 0.0): 1.0, (-1.0, 0.5): _NAN, (_INF, 1.0): _INF}),
    _binary("maximum", lambda xp, a, b: xp.maximum(a, b), {(0.0, -1.0): 0.0, (_INF, 0.0): _INF}, commutative=True),
    _binary("minimum", lambda xp, a, b: xp.minimum(a, b), {(0.0, -1.0): -1.0, (-_INF, 0.0): -_INF}, commutative=True),
    Op("norm", 1, None, Shape.PER_ARRAY, code="jnp.sqrt(jnp.sum(jnp.square({0})))"),
    Op("global_norm", 1, None, Shape.GLOBAL, code="jnp.sqrt(_dot({0}, {0}))"),
    Op("dot", 2, None, Shape.GLOBAL, commutative=True, code="_dot({0}, {1})"),
    Op(
        "cosine_sim",
        2,
        None,
        Shape.GLOBAL,
        commutative=True,
        code="_dot({0}, {1}) / (jnp.sqrt(_dot({0}, {0})) * jnp.sqrt(_dot({1}, {1})))",
    ),
    Op("clip", 2, None, Shape.CLIP),
    Op(
        "interp",
        3,
        lambda xp, a, b, weight: (1 - weight) * a + weight * b,
        Shape.INTERPOLATE,
        code="(1 - {2}) * {0} + {2} * {1}",
    ),
    Op("get_pi", 0, lambda xp: math.pi, Shape.CONSTANT),
    Op("get_e", 0, lambda xp: math.e, Shape.CONSTANT),
    Op("get_eps", 0, lambda xp: EPS, Shape.CONSTANT),
    # Plain assignment `x = y`, so that people can write it; not one of the paper's functions.
    Op("copy", 1, lambda xp, x: x, sampled=False, code="{0}"),
    Op("mean", 1, None, Shape.PER_ARRAY, extended=True, code="jnp.mean({0})"),
    Op("row_mean", 1, None, Shape.MATRIX, extended=True, code="row_mean({0})"),
    Op("column_mean", 1, None, Shape.MATRIX, extended=True, code="column_mean({0})"),
    Op("orthogonalize", 1, None, Shape.MATRIX, cost=15, extended=True, code="orthogonalize({0})"),
    Op("transposed_product", 2, None, Shape.MATRIX, cost=2, extended=True, code="transposed_product({0}, {1})"),
    Op("on_matrices", 2, None, Shape.SELECT, extended=True, code="{0} if g.ndim == 2 else {1}"),
    Op("num_rows", 0, None, Shape.LEAF_CONSTANT, extended=True, code="num_rows(g)"),
    Op("num_columns", 0, None, Shape.LEAF_CONSTANT, extended=True, code="num_columns(g)"),
    # The training loss of the step's batch, which optax calls the `value` of an update.
    Op("batch_loss", 0, None, Shape.OBSERVED, extended=True, code="jnp.asarray({0}, jnp.float32)"),
)

OPS: dict[str, Op] = {op.name: op for op in _TABLE}
INFIX: dict[str, Op] = {op.infix: op for op in _TABLE if op.infix}
# The paper's other spellings.
ALIASES = {"interpolate": "interp", "clip_by_global_norm": "clip"}
# What mutation draws from, in this order: the paper's functions, and those with the extended ones.
SAMPLED: tuple[Op, ...] = tuple(op for op in _TABLE if op.sampled and not op.extended)
# Shapes of operations that make scalars of scalars: those of schedules.
OF_SCALARS = frozenset({Shape.MAP, Shape.CONSTANT, Shape.INTERPOLATE})
SAMPLED_SCALAR: tuple[Op, ...] = tuple(op for op in SAMPLED if op.shape in OF_SCALARS)
SAMPLED_EXTENDED: tuple[Op, ...] = (*SAMPLED, *(op for op in _TABLE if op.sampled and op.extended))
