"""What each operation of the language makes of values in normal form.

Each rule holds for the protected semantics of `ops.py` in real arithmetic. A rule that does not apply leaves the operation
as it is, and so does one whose constants leave the range of numbers.
"""

import math
from collections.abc import Callable

import numpy as np

from ..ops import OPS, Kind, Shape
from . import matrices, ring
from .nodes import ONE, Node, Value, constant, is_nonnegative, is_positive, operation_node, same

LARGEST = 1e150  # constants beyond it, or below its inverse, are not folded

Rule = Callable[..., Value]


def apply(op: str, args: tuple[Value, ...]) -> Value:
    """An operation of some values, simplified.

    >>> x = Value(-2.0, operation_node("sin", (Value(1.0, ONE),)))
    >>> apply("square", (x,)).coefficient
    4.0
    """
    try:
        known = args[0].node is ONE and all(value.node is ONE for value in args) if args else True
        value = _folded(op, args) if known else _RULES.get(op, _opaque)(op, args)
        if _representable(value):
            return value
    except (ArithmeticError, ValueError):  # a constant out of range
        pass
    return _opaque(op, args)


def _representable(value: Value) -> bool:
    """Whether no constant has left the range of numbers."""
    coefficient, node = value
    if not coefficient:
        return node is ONE
    if not 1 / LARGEST < abs(coefficient) < LARGEST:
        return False
    return node.op != "sum" or all(1 / LARGEST < abs(inner) < LARGEST for inner, _ in node.args)


def _opaque(op: str, args: tuple[Value, ...]) -> Value:
    return Value(1.0, operation_node(op, args))


def _folded(op: str, args: tuple[Value, ...]) -> Value:
    """An operation of constants: its value, if that does not depend on the parameters' shapes and is finite."""
    if op not in OPS:
        return _opaque(op, args)
    fn = OPS[op].fn
    if fn is None or OPS[op].shape not in (Shape.CONSTANT, Shape.MAP, Shape.INTERPOLATE):
        return _RULES.get(op, _opaque)(op, args)
    with np.errstate(all="ignore"):
        result = float(fn(np, *(np.float64(value.coefficient) for value in args)))
    return constant(result) if math.isfinite(result) else _opaque(op, args)


def _odd(op: str, args: tuple[Value, ...]) -> Value:
    (value,) = args
    inverse = _INVERSE.get(op)
    if inverse and value.node.op == inverse and value.coefficient == 1:
        return value.node.args[0]
    node = operation_node(op, (Value(abs(value.coefficient), value.node),))
    return Value(math.copysign(1.0, value.coefficient), node)


# f(g(x)) = x for all x, without a range where g is not one to one or not defined.
_INVERSE = {"sinh": "arcsinh", "arcsinh": "sinh", "tan": "arctan"}


def _even(op: str, args: tuple[Value, ...]) -> Value:
    return _opaque(op, (Value(abs(args[0].coefficient), args[0].node),))


def _sqrt(op: str, args: tuple[Value, ...]) -> Value:
    return _root(args[0], 2)


def _cbrt(op: str, args: tuple[Value, ...]) -> Value:
    return _root(args[0], 3)


def _root(value: Value, degree: int) -> Value:
    """sqrt (of the absolute value) or cbrt: factor by factor."""
    coefficient = math.sqrt(abs(value.coefficient)) if degree == 2 else math.cbrt(value.coefficient)
    result = Value(coefficient, ONE)
    for node, exponent in ring.factors_of(value.node):
        whole, left = divmod(exponent, degree)
        if whole:
            base = Value(1.0, node)
            result = ring.multiply(result, ring.power(ring.absolute(base) if degree == 2 else base, whole))
        if left:
            result = ring.multiply(result, ring.power(_root_of_atom(node, degree), left))
    return result


def _root_of_atom(node: Node, degree: int) -> Value:
    if node.op == "exp":
        return ring.exponential(ring.scale(node.args[0], 1 / degree))
    if node.op == "sign":
        return ring.power(Value(1.0, node), 2) if degree == 2 else Value(1.0, node)
    if node.op == "abs" and degree == 2:
        node = node.args[0].node
    return _opaque("sqrt" if degree == 2 else "cbrt", (Value(1.0, node),))


# sign(f(x)) = sign(x).
_SIGN_KEEPING = frozenset({"tanh", "sinh", "arctan", "arcsinh", "cbrt", "expm1", "sign"})
# sign(f(x)) = sign(x)^2.
_SIGN_SQUARING = frozenset({"abs", "sqrt"})


def _sign(op: str, args: tuple[Value, ...]) -> Value:
    (value,) = args
    result = Value(math.copysign(1.0, value.coefficient), ONE)
    for node, exponent in ring.factors_of(value.node):
        result = ring.multiply(result, ring.power(_sign_of_atom(node), exponent))
    return result


def _sign_of_atom(node: Node) -> Value:
    if node.facts.positive and node.facts.total:
        return Value(1.0, ONE)
    if node.op in _SIGN_KEEPING:
        return _sign("sign", node.args)
    if node.op in _SIGN_SQUARING:
        return ring.power(_sign("sign", node.args), 2)
    return _opaque("sign", (Value(1.0, node),))


def _exp(op: str, args: tuple[Value, ...]) -> Value:
    return ring.exponential(ring.scale(args[0], _LOG_OF_BASE[op]))


_LOG_OF_BASE = {"exp": 1.0, "exp2": math.log(2.0), "exp10": math.log(10.0), "log": 1.0, "log2": math.log(2.0), "log10": math.log(10.0)}


def _log(op: str, args: tuple[Value, ...]) -> Value:
    """log|x| with constants and a common exponent drawn out; log(exp(x)) is x."""
    (value,) = args
    node, exponent = value.node, 1
    if node.op == "product":
        exponent = math.gcd(*(e for _, e in node.args))
        node = ring.from_factors((factor, e // exponent) for factor, e in node.args)
    result = ring.scale(_log_of(node), float(exponent))
    return ring.scale(ring.add([result, constant(math.log(abs(value.coefficient)))]), 1 / _LOG_OF_BASE[op])


def _log_of(node: Node) -> Value:
    if node.op == "exp":
        return node.args[0]
    if node.op in ("abs", "sqrt", "cbrt", "reciprocal"):
        return ring.scale(_log("log", node.args), {"abs": 1.0, "sqrt": 0.5, "cbrt": 1 / 3, "reciprocal": -1.0}[node.op])
    return _opaque("log", (Value(1.0, node),))


def _log1p(op: str, args: tuple[Value, ...]) -> Value:
    node = args[0].node
    return node.args[0] if node.op == "expm1" and args[0].coefficient == 1 else _opaque(op, args)


def _power(op: str, args: tuple[Value, ...]) -> Value:
    base, exponent = args
    if exponent.node is ONE:
        number = exponent.coefficient
        if not number:
            return ring.add([constant(1.0), ring.vanishing(base.node)])
        if number.is_integer() and abs(number) <= 64:
            result = ring.power(base, abs(int(number)))
            return result if number > 0 else ring.reciprocal(result)
        if is_nonnegative(base) and abs(number) == 0.5:
            return _root(base if number > 0 else ring.reciprocal(base), 2)
        if base.coefficient > 0:
            return ring.scale(_opaque(op, (Value(1.0, base.node), exponent)), base.coefficient**number)
    if base.node is ONE and base.coefficient > 0:
        return ring.exponential(ring.scale(exponent, math.log(base.coefficient)))
    return _opaque(op, args)


def _extreme(op: str, args: tuple[Value, ...]) -> Value:
    """maximum or minimum, a positive or negative scale drawn out so that the first argument has the coefficient 1."""
    first, second = sorted(args, key=lambda value: (value.node is ONE, value.node.digest, value.coefficient))
    if first.node.digest == second.node.digest and same(first.coefficient, second.coefficient):
        return first
    if first.node.digest == second.node.digest and same(first.coefficient, -second.coefficient):
        return ring.scale(ring.absolute(first), 1.0 if op == "maximum" else -1.0)
    if first.coefficient < 0:
        op = "minimum" if op == "maximum" else "maximum"
    second = ring.scale(second, 1 / first.coefficient)
    unit = Value(1.0, first.node)
    for low, high in ((unit, second), (second, unit)):
        if high.node.facts.total and low.node.facts.total and is_nonnegative(high) and is_nonnegative(ring.scale(low, -1.0)):
            return ring.scale(high if op == "maximum" else low, first.coefficient)
    return Value(first.coefficient, operation_node(op, (unit, second)))


def _norm(op: str, args: tuple[Value, ...]) -> Value:
    outer, inner = ring.outside(args[0], Kind.LEAF)
    return ring.multiply(ring.absolute(outer), _opaque(op, (ring.absolute(inner),)))


def _global_norm(op: str, args: tuple[Value, ...]) -> Value:
    return _root(_dot("dot", (args[0], args[0])), 2)


def _dot(op: str, args: tuple[Value, ...]) -> Value:
    outer, inner = zip(*(ring.outside(value, Kind.SCALAR) for value in args), strict=True)
    if inner[0].node.digest == inner[1].node.digest:
        inner = (ring.absolute(inner[0]),) * 2
    return ring.multiply(ring.multiply(*outer), _opaque(op, inner))


def _cosine_sim(op: str, args: tuple[Value, ...]) -> Value:
    """It does not see the scale of its arguments; a factor 0 is another matter, so only constants go."""
    if any(value.coefficient == 0 for value in args):
        return _opaque(op, args)
    sign = math.copysign(1.0, args[0].coefficient * args[1].coefficient)
    return Value(sign, operation_node(op, tuple(Value(1.0, value.node) for value in args)))


def _clip(op: str, args: tuple[Value, ...]) -> Value:
    """clip(c * x, bound) = c * clip(x, bound / |c|); two constant bounds become the smaller one."""
    value, bound = args
    if not value.coefficient:
        return ring.scale(_opaque(op, args), 1.0)
    bound = ring.scale(bound, 1 / abs(value.coefficient))
    inner = Value(1.0, value.node)
    if value.node.op == "clip" and bound.node is ONE and value.node.args[1].node is ONE:
        other = value.node.args[1]
        if is_positive(bound) and is_positive(other):
            inner, bound = value.node.args[0], min(bound, other, key=lambda b: b.coefficient)
    return Value(value.coefficient, operation_node(op, (inner, bound)))


_RULES: dict[str, Rule] = {
    "copy": lambda op, args: args[0],
    "negative": lambda op, args: ring.scale(args[0], -1.0),
    "add": lambda op, args: ring.add(args),
    "subtract": lambda op, args: ring.add([args[0], ring.scale(args[1], -1.0)]),
    "multiply": lambda op, args: ring.multiply(*args),
    "divide": lambda op, args: ring.divide(*args),
    "reciprocal": lambda op, args: ring.reciprocal(*args),
    "interp": lambda op, args: ring.interpolate(*args),
    "square": lambda op, args: ring.power(args[0], 2),
    "cube": lambda op, args: ring.power(args[0], 3),
    "abs": lambda op, args: ring.absolute(args[0]),
    "sqrt": _sqrt,
    "cbrt": _cbrt,
    "sign": _sign,
    "log1p": _log1p,
    "power": _power,
    "norm": _norm,
    "global_norm": _global_norm,
    "dot": _dot,
    "cosine_sim": _cosine_sim,
    "clip": _clip,
    **matrices.RULES,
    **dict.fromkeys(("cos", "cosh"), _even),
    **dict.fromkeys(("sin", "tan", "arcsin", "arctan", "sinh", "tanh", "arcsinh", "arctanh"), _odd),
    **dict.fromkeys(("exp", "exp2", "exp10"), _exp),
    **dict.fromkeys(("log", "log2", "log10"), _log),
    **dict.fromkeys(("maximum", "minimum"), _extreme),
}
