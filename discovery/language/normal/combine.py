"""A linear combination as statements."""

import math
from typing import Protocol, runtime_checkable

from ..ops import Kind
from ..program import Argument
from . import ring
from .nodes import ONE, Node, Value, operation_node, same, tidy

# An interpolation loses digits where its weights cancel, or one of them is far smaller than the other.
SMALLEST_WEIGHT = 1e-4

Term = tuple[float, Node]
Part = tuple[float, Argument]


@runtime_checkable
class Statements(Protocol):
    """Where statements go: `emit.Emitter`."""

    def statement(self, op: str, *args: Argument) -> str: ...
    def value(self, value: Value) -> Argument: ...
    def times(self, argument: Argument, factor: float) -> Argument: ...
    def free(self, node: Node) -> tuple[float, Argument]: ...


def parts_of(emitter: Statements, terms: list[Term]) -> tuple[list[Part], float]:
    """The variables that a linear combination adds up, with their coefficients, and its constant."""
    offset = next((coefficient for coefficient, node in terms if node is ONE), 0.0)
    parts: list[Part] = []
    for coefficient, node in _factored(_interpolated([term for term in terms if term[1] is not ONE])):
        if all(factor.op == "reciprocal" for factor, _ in ring.factors_of(node)):  # the constant above the line costs nothing
            parts.append((1.0, emitter.value(Value(coefficient, node))))
        else:
            factor, argument = emitter.free(node)
            parts.append((coefficient * factor, argument))
    return parts, offset


def combine(emitter: Statements, parts: list[Part], offset: float) -> Argument:
    """The variable that holds ``sum(coefficient * variable) + offset``: by interpolation and few scalings."""
    if not offset:
        return _plain(emitter, parts)
    if len(parts) > 1:
        return emitter.statement("add", _plain(emitter, parts), tidy(offset))
    factor, argument = parts[0]
    if same(factor, 1.0):
        op, number = ("subtract", -offset) if offset < 0 else ("add", offset)
        return emitter.statement(op, argument, tidy(number))
    if same(factor, -1.0):
        return emitter.statement("subtract", tidy(offset), argument)
    if same(abs(factor), abs(offset)):  # an interpolation would not vanish exactly where 1 - lr does
        return emitter.times(combine(emitter, [(math.copysign(1.0, factor), argument)], math.copysign(1.0, offset)), abs(factor))
    if SMALLEST_WEIGHT < abs(factor) < 1 / SMALLEST_WEIGHT and abs(1 - factor) > SMALLEST_WEIGHT:
        return emitter.statement("interp", argument, tidy(offset / (1 - factor)), tidy(1 - factor))
    return emitter.statement("add", emitter.times(argument, factor), tidy(offset))


def _plain(emitter: Statements, parts: list[Part]) -> Argument:
    """A sum without a constant: pairs of scaled terms meet in an interpolation, the rest is added."""
    parts = _paired(emitter, parts)
    plus = [argument for factor, argument in parts if same(factor, 1.0)]
    minus = [argument for factor, argument in parts if same(factor, -1.0)]
    scaled = [(factor, argument) for factor, argument in parts if not same(abs(factor), 1.0)]
    if not plus and not scaled:
        result: Argument = minus[0]
        for argument in minus[1:]:
            result = emitter.statement("add", result, argument)
        return emitter.times(result, -1.0)
    plus += [emitter.times(argument, factor) for factor, argument in scaled]
    result = plus[0]
    for argument in plus[1:]:
        result = emitter.statement("add", result, argument)
    for argument in minus:
        result = emitter.statement("subtract", result, argument)
    return result


def _paired(emitter: Statements, parts: list[Part]) -> list[Part]:
    """Parts with two of them joined, as long as that saves a statement."""
    for test in (_to_one, _alike, _weighable):
        for i, one in enumerate(parts):
            for j, other in enumerate(parts):
                if i == j or same(abs(one[0]), 1.0) or same(abs(other[0]), 1.0):
                    continue
                joint = test(emitter, one, other)
                if joint is not None:
                    return _paired(emitter, [part for k, part in enumerate(parts) if k not in (i, j)] + [joint])
    return parts


def _to_one(emitter: Statements, one: Part, other: Part) -> Part | None:
    """Weights that sum to one."""
    if "w" in (one[1], other[1]) or not same(one[0] + other[0], 1.0) or min(abs(one[0]), abs(other[0])) < SMALLEST_WEIGHT / 10:
        return None
    if abs(other[0]) < abs(one[0]):  # the heavier one second, as in interp(g, m, 0.9)
        one, other = other, one
    return 1.0, emitter.statement("interp", one[1], other[1], tidy(other[0]))


def _alike(emitter: Statements, one: Part, other: Part) -> Part | None:
    if same(one[0], other[0]):
        return one[0], emitter.statement("add", one[1], other[1])
    if same(one[0], -other[0]):
        return one[0], emitter.statement("subtract", one[1], other[1])
    return None


def _weighable(emitter: Statements, one: Part, other: Part) -> Part | None:
    if "w" in (one[1], other[1]):  # the decay of the parameters stays a term of its own, which readers and `export` look for
        return None
    total = one[0] + other[0]
    if min(abs(total), abs(one[0]), abs(other[0])) < SMALLEST_WEIGHT * max(abs(one[0]), abs(other[0])):
        return None
    return total, emitter.statement("interp", one[1], other[1], tidy(other[0] / total))


def _interpolated(terms: list[Term]) -> list[Term]:
    """Finds ``x - weight * x + weight * y`` with a weight that is no constant, and makes it one term."""
    for i, (c, x) in enumerate(terms):
        for j, (d, other) in enumerate(terms):
            weight = _quotient(other, x)
            if i == j or weight is None or weight is ONE or weight.facts.kind is not Kind.SCALAR:
                continue
            for k, (e, third) in enumerate(terms):
                y = _quotient(third, weight)
                if k in (i, j) or y is None:
                    continue
                # c * x + d * weight * x + e * weight * y = c * interp(x, y', -d / c * weight)
                args = (Value(1.0, x), Value(-e / d, y), Value(-d / c, weight))
                rest = [term for m, term in enumerate(terms) if m not in (i, j, k)]
                return _interpolated([*rest, (c, operation_node("interp", args))])
    return terms


def _quotient(node: Node, divisor: Node) -> Node | None:
    """The node that times the divisor gives this one, if its factors are among this one's."""
    left = {factor.digest: (factor, exponent) for factor, exponent in ring.factors_of(node)}
    for factor, exponent in ring.factors_of(divisor):
        found = left.get(factor.digest, (factor, 0))
        if found[1] < exponent:
            return None
        left[factor.digest] = (factor, found[1] - exponent)
    return ring.from_factors(factor for factor in left.values() if factor[1])


def _factored(terms: list[Term]) -> list[Term]:
    """The factor that most terms share is drawn out of them, as often as one is shared."""
    counts: dict[bytes, tuple[int, Node]] = {}
    for _, node in terms:
        for factor, _ in ring.factors_of(node):
            counts[factor.digest] = (counts.get(factor.digest, (0, factor))[0] + 1, factor)
    most, factor = max(counts.values(), key=lambda count: count[0], default=(0, ONE))
    if most < 2:
        return terms
    inside = [(c, quotient) for c, node in terms if (quotient := _quotient(node, factor)) is not None]
    rest = [(c, node) for c, node in terms if _quotient(node, factor) is None]
    product = ring.multiply(ring.add([Value(c, node) for c, node in inside]), Value(1.0, factor))
    return _factored([*rest, (product.coefficient, product.node)])
