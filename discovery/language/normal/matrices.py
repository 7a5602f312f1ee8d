"""What the operations of the extended language make of values in normal form; `functions.py` has those of the paper's."""

import math

from ..ops import Kind
from . import ring
from .nodes import ONE, Value, constant, operation_node, same


def _mean(op: str, args: tuple[Value, ...]) -> Value:
    """A mean over the array, its rows or its columns: what is the same in all that it averages goes outside."""
    outer, inner = [], []
    for factor in ring.factors_of(args[0].node):
        (outer if factor[0].facts.kind <= Kind.LEAF or factor[0].op == op else inner).append(factor)
    averaged = ring.from_factors(inner)
    average = constant(1.0) if averaged is ONE else Value(1.0, operation_node(op, (Value(1.0, averaged),)))
    return ring.multiply(Value(args[0].coefficient, ring.from_factors(outer)), average)


def _orthogonalize(op: str, args: tuple[Value, ...]) -> Value:
    """Odd; more than the sign does not go outside, since its protected norm sees the scale."""
    (value,) = args
    if not value.coefficient:
        return value
    return Value(math.copysign(1.0, value.coefficient), operation_node(op, (Value(abs(value.coefficient), value.node),)))


def _transposed_product(op: str, args: tuple[Value, ...]) -> Value:
    """x x^T y: quadratic in x, linear in y."""
    (factor, x), (other, y) = (ring.outside(value, Kind.LEAF) for value in args)
    return ring.multiply(ring.multiply(ring.power(factor, 2), other), Value(1.0, operation_node(op, (x, y))))


def _on_matrices(op: str, args: tuple[Value, ...]) -> Value:
    """One value for both is that value; a choice within a choice is made already; a constant goes outside."""
    one, other = args
    if one.node.op == op:
        one = ring.scale(one.node.args[0], one.coefficient)
    if other.node.op == op:
        other = ring.scale(other.node.args[1], other.coefficient)
    if one.node.digest == other.node.digest and same(one.coefficient, other.coefficient):
        return one
    leading = one.coefficient or other.coefficient
    chosen = operation_node(op, (ring.scale(one, 1 / leading), ring.scale(other, 1 / leading)))
    return ring.scale(Value(1.0, chosen), leading)


RULES = {
    "orthogonalize": _orthogonalize,
    "transposed_product": _transposed_product,
    "on_matrices": _on_matrices,
    **dict.fromkeys(("mean", "row_mean", "column_mean"), _mean),
}
