"""Sums and products of values: like terms collected, factors merged, common factors drawn out."""

import math
from collections.abc import Iterable, Sequence

from ..ops import EPS, Kind
from .nodes import ONE, ZERO, Node, Value, constant, operation_node, product_node, sum_node

MAX_TERMS = 24  # more are not multiplied out
CANCELLED = 1e-14  # what is left of a coefficient, relative to its largest addend, where rounding alone is left

Factors = dict[bytes, tuple[Node, int]]


def factors_of(node: Node) -> tuple[tuple[Node, int], ...]:
    """The atoms of a node with their exponents."""
    if node.op == "product":
        return node.args
    return () if node is ONE else ((node, 1),)


def from_factors(factors: Iterable[tuple[Node, int]]) -> Node:
    """The node of distinct atoms with exponents."""
    found = sorted(factors, key=_digest_of)
    if len(found) == 1 and found[0][1] == 1:
        return found[0][0]
    return product_node(tuple(found)) if found else ONE


def _digest_of(factor: tuple[Node, int]) -> bytes:
    return factor[0].digest


def scale(value: Value, factor: float) -> Value:
    """A value times a constant."""
    if not factor:
        return vanishing(value.node)
    if value.node.op == "vanish":
        return Value(1.0, value.node)
    return Value(value.coefficient * factor, value.node) if value.coefficient else ZERO


def vanishing(node: Node) -> Value:
    """Zero times a node: 0 where that is finite for sure."""
    if node.facts.total:
        return ZERO
    if node.op == "vanish":
        return Value(1.0, node)
    return Value(1.0, operation_node("vanish", (Value(1.0, node),)))


def multiply(one: Value, other: Value) -> Value:
    """The product of two values."""
    if other.node is ONE:
        return scale(one, other.coefficient)
    if one.node is ONE:
        return scale(other, one.coefficient)
    if one.node.op not in _NOT_ALONE and other.node.op not in _NOT_ALONE and one.node.digest != other.node.digest:
        pair = (one.node, other.node) if one.node.digest < other.node.digest else (other.node, one.node)
        return Value(one.coefficient * other.coefficient, product_node(((pair[0], 1), (pair[1], 1))))
    found: Factors = {node.digest: (node, exponent) for node, exponent in factors_of(one.node)}
    for node, exponent in factors_of(other.node):
        known = found.get(node.digest)
        found[node.digest] = (known[0], known[1] + exponent) if known else (node, exponent)
    return _product(one.coefficient * other.coefficient, found)


def power(value: Value, exponent: int) -> Value:
    """A value to a positive integer power."""
    if exponent == 1:
        return value
    if value.node is ONE:
        return constant(value.coefficient**exponent)
    return _product(value.coefficient**exponent, {node.digest: (node, e * exponent) for node, e in factors_of(value.node)})


_MERGING = frozenset({"sqrt", "abs", "sign", "exp", "cbrt", "vanish"})
_NOT_ALONE = _MERGING | {"product"}


def _product(coefficient: float, found: Factors) -> Value:
    if _MERGING.isdisjoint([node.op for node, _ in found.values()]):
        return Value(coefficient, from_factors(found.values()))
    factor, node = _merged(found)
    return Value(1.0 if node.op == "vanish" else coefficient * factor, node)


def _merged(found: Factors) -> tuple[float, Node]:
    """A product of atoms after the identities between atoms: sqrt(a)^2 = |a|, sign(a) * a = |a|, exp(a) * exp(b) = exp(a + b)..."""
    while (step := _merge_step(found)) is not None:
        found = step
    if any(node.op == "vanish" for node, _ in found.values()):
        inner = Value(1.0, ONE)
        for node, exponent in found.values():
            base = node.args[0] if node.op == "vanish" else Value(1.0, node)
            inner = multiply(inner, power(base, exponent))
        return 1.0, vanishing(inner.node).node
    exponentials = [(node, exponent) for node, exponent in found.values() if node.op == "exp"]
    if not exponentials or (len(exponentials) == 1 and exponentials[0][1] == 1):
        return 1.0, from_factors(found.values())
    together = exponential(add([scale(node.args[0], float(exponent)) for node, exponent in exponentials]))
    rest = from_factors((node, exponent) for node, exponent in found.values() if node.op != "exp")
    product = multiply(together, Value(1.0, rest))
    return product.coefficient, product.node


def _merge_step(found: Factors) -> Factors | None:
    """One identity applied, or None."""
    for digest, (node, exponent) in found.items():
        root = {"sqrt": 2, "cbrt": 3}.get(node.op, 0)
        if root and exponent >= root:
            inner = node.args[0].node
            inner = absolute(Value(1.0, inner)).node if root == 2 else inner
            return _with(found, {digest: exponent % root}, inner, exponent // root)
        if node.op == "abs" and exponent >= 2:
            return _with(found, {digest: exponent % 2}, node.args[0].node, exponent - exponent % 2)
        if node.op != "sign":
            continue
        if exponent > 2:
            return _with(found, {digest: 2 - exponent % 2}, ONE, 0)
        inner = node.args[0].node
        magnitude = absolute(Value(1.0, inner)).node
        if inner.digest in found:
            return _with(found, {digest: exponent - 1, inner.digest: found[inner.digest][1] - 1}, magnitude, 1)
        if magnitude.digest in found:
            return _with(found, {digest: exponent - 1, magnitude.digest: found[magnitude.digest][1] - 1}, inner, 1)
    return None


def _with(found: Factors, exponents: dict[bytes, int], extra: Node, times: int) -> Factors:
    """Factors with some exponents changed and another node multiplied in."""
    changed = {digest: (node, exponents.get(digest, exponent)) for digest, (node, exponent) in found.items()}
    for node, exponent in factors_of(extra) if times else ():
        before = changed.get(node.digest, (node, 0))
        changed[node.digest] = (before[0], before[1] + exponent * times)
    return {digest: factor for digest, factor in changed.items() if factor[1]}


def exponential(value: Value) -> Value:
    """exp of a value: constants are drawn out, exp(log(x)) is |x|."""
    if value.node is ONE:
        return constant(math.exp(value.coefficient))
    node = value.node
    if node.op == "sum" and node.args[-1][1] is ONE:
        offset = node.args[-1][0]
        rest = add([scale(value, 1.0), constant(-value.coefficient * offset)])
        return scale(exponential(rest), math.exp(value.coefficient * offset))
    if node.op == "log" and value.coefficient == 1:
        return absolute(node.args[0])
    return Value(1.0, operation_node("exp", (value,)))


def absolute(value: Value) -> Value:
    """The absolute value: of a product, that of its factors."""
    if value.node is ONE:
        return constant(abs(value.coefficient))
    factors: Factors = {}
    for node, exponent in factors_of(value.node):
        odd = 0 if node.facts.nonnegative else exponent % 2
        for factor, times in ((node, exponent - odd), *_absolute_atom(node, odd)):
            if times:
                before = factors.get(factor.digest, (factor, 0))
                factors[factor.digest] = (factor, before[1] + times)
    return Value(abs(value.coefficient), from_factors(factors.values()))


def _absolute_atom(node: Node, odd: int) -> tuple[tuple[Node, int], ...]:
    if not odd:
        return ()
    if node.op == "sign":
        return ((node, 2),)
    if node.op == "reciprocal":
        return ((operation_node("reciprocal", (absolute(node.args[0]),)), 1),)
    return ((operation_node("abs", (Value(1.0, node),)), 1),)


def divide(one: Value, other: Value) -> Value:
    """The protected quotient, ``one / (other + 1e-8)``."""
    return multiply(one, reciprocal(add([other, constant(EPS)])))


def reciprocal(value: Value) -> Value:
    """``1 / value``, unprotected; a ZeroDivisionError at the constant 0."""
    if value.node is ONE:
        return constant(1 / value.coefficient)
    result = Value(1 / value.coefficient, ONE)
    for node, exponent in factors_of(value.node):
        if node.op == "reciprocal":
            inverse = node.args[0]
        elif node.op == "exp":
            inverse = exponential(scale(node.args[0], -1.0))
        else:
            inverse = Value(1.0, operation_node("reciprocal", (Value(1.0, node),)))
        result = multiply(result, power(inverse, exponent))
    return result


def interpolate(one: Value, other: Value, weight: Value) -> Value:
    """``(1 - weight) * one + weight * other``."""
    return add([one, scale(multiply(weight, one), -1.0), multiply(weight, other)])


def _collected(terms: list[tuple[float, Node]]) -> list[tuple[float, Node]]:
    """Like terms together; what cancels is left out, or stays as a vanishing term where it may be infinite."""
    if len({node.digest for _, node in terms}) == len(terms):  # as most often
        return [(1.0, node) if node.op == "vanish" else (coefficient, node) for coefficient, node in terms]
    found: dict[bytes, tuple[float, Node, float]] = {}  # digest -> coefficient, node, largest addend
    for coefficient, node in terms:
        before, _, largest = found.get(node.digest, (0.0, node, 0.0))
        found[node.digest] = (before + coefficient, node, max(largest, abs(coefficient)))
    left: dict[bytes, tuple[float, Node]] = {}
    for digest, (coefficient, node, largest) in found.items():
        if node.op == "vanish":
            left[digest] = (1.0, node)
        elif abs(coefficient) > CANCELLED * largest:
            left[digest] = (coefficient, node)
        elif not node.facts.total:
            vanished = vanishing(node)
            left[vanished.node.digest] = (1.0, vanished.node)
    return list(left.values())


def add(values: Iterable[Value]) -> Value:
    """The sum: products with one sum among their factors are multiplied out, and common factors drawn out of the result."""
    values = [value for value in values if value[0]]
    if len(values) > 1:
        common = _common(values)
        if common:
            return _drawn_out(common, values)
    expanded: list[tuple[float, Node]] = []
    for coefficient, node in values:
        if node.op in _COMPOSED:
            _expand(coefficient, node, expanded)
        else:
            expanded.append((coefficient, node))
    terms = _collected(expanded)
    if len(terms) < 2:
        return Value(*terms[0]) if terms else ZERO
    if not len(terms) == len(expanded) == len(values):  # else they are what they were
        common = _common(terms)
        if common:
            return _drawn_out(common, terms)
    terms.sort(key=_place)
    leading = 1.0 if terms[0][1].op == "vanish" else terms[0][0]
    monic = [(1.0 if node.op == "vanish" else coefficient / leading, node) for coefficient, node in terms]
    return Value(leading, sum_node(tuple(monic)))


_COMPOSED = frozenset({"sum", "product"})


def _place(term: tuple[float, Node]) -> tuple[bool, bool, bytes]:
    """The order of terms: the constant last."""
    node = term[1]
    return node is ONE, node.op == "vanish", node.digest


def _expand(coefficient: float, node: Node, terms: list[tuple[float, Node]]) -> None:
    """Appends the terms of a value."""
    if node.op == "sum":
        terms += [(coefficient * inner, term) for inner, term in node.args]
        return
    sums = [factor for factor, exponent in node.args if factor.op == "sum" and exponent == 1] if node.op == "product" else ()
    if len(sums) != 1 or len(sums[0].args) > MAX_TERMS:
        terms.append((coefficient, node))
        return
    rest = Value(coefficient, from_factors([factor for factor in node.args if factor[0] is not sums[0]]))
    for inner, term in sums[0].args:
        _expand(*multiply(rest, Value(inner, term)), terms)


def _common(terms: Sequence[tuple[float, Node]]) -> Sequence[tuple[Node, int]]:
    """Atoms, with exponents, that divide every term."""
    shared = factors_of(terms[0][1])
    for _, node in terms[1:]:
        if node is ONE or not shared:
            return ()
        exponents = {factor.digest: exponent for factor, exponent in factors_of(node)}
        shared = [(factor, min(exponent, exponents[factor.digest])) for factor, exponent in shared if factor.digest in exponents]
    return [factor for factor in shared if factor[0].op != "vanish"]


def _drawn_out(common: Sequence[tuple[Node, int]], terms: Iterable[tuple[float, Node]]) -> Value:
    divisor = {node.digest: exponent for node, exponent in common}
    rest = add([Value(coefficient, _without(node, divisor)) for coefficient, node in terms])
    return multiply(rest, Value(1.0, from_factors(common)))


def outside(value: Value, widest: Kind) -> tuple[Value, Value]:
    """Factors of a value no wider than a kind, and the rest, whose coefficient is 1."""
    narrow, wide = [], []
    for factor in factors_of(value.node):
        (narrow if factor[0].facts.kind <= widest else wide).append(factor)
    return Value(value.coefficient, from_factors(narrow)), Value(1.0, from_factors(wide))


def _without(node: Node, divisor: dict[bytes, int]) -> Node:
    left = [(factor, exponent - divisor.get(factor.digest, 0)) for factor, exponent in factors_of(node)]
    return from_factors(factor for factor in left if factor[1])
