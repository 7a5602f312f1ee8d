"""Values of the normal form: a coefficient times a node; nodes are expressions over the inputs of a step."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from ..ops import OPS, Kind, Shape

# Digits of a constant that count for the hash: enough to tell constants apart, few enough that the order of folding is lost.
DIGITS = 10
# A reciprocal of x + c counts as finite for so small a c: it comes from a protected division, which fails at x = -c alone.
PROTECTED = 1e-3


@dataclass(eq=False, slots=True)  # not frozen, which would make it several times slower to create
class Node:
    """An expression, never changed; equal digests mean equal values to rounding.

    Attributes:
        op: an operation of the language; ``one``; ``input`` (args: its name); ``product`` (args: pairs of node and
            exponent); ``sum`` (args: pairs of coefficient and node, the first coefficient is 1); ``vanish``, zero times
            something that may be infinite.
        args: values, for operations of the language.
        digest: of op and args, constants rounded.
        kind: how wide it is.
        total: finite for all finite inputs.
        nonnegative: never below zero.
        positive: always above zero, also where exp has become 0.
        states: the states it depends on.
    """

    op: str
    args: tuple[Any, ...]
    digest: bytes
    kind: Kind
    total: bool
    nonnegative: bool
    positive: bool
    states: frozenset[str]


class Value(NamedTuple):
    """``coefficient * node``; a constant has the node `ONE`, and only the constant 0 the coefficient 0."""

    coefficient: float
    node: Node


_NO_STATES: frozenset[str] = frozenset()


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


ONE = Node("one", (), _digest(b"1"), Kind.SCALAR, True, True, True, _NO_STATES)
ZERO = Value(0.0, ONE)


def constant(number: float) -> Value:
    """A number as a value."""
    return Value(number, ONE) if number else ZERO


def same(one: float, other: float) -> bool:
    """Whether two numbers are equal to rounding."""
    return abs(one - other) <= 1e-13 * max(abs(one), abs(other))


def tidy(number: float) -> float:
    """The shortest number that is equal to rounding.

    >>> tidy(1 - 0.9)
    0.1
    """
    for digits in range(1, 11):
        short = float(f"{number:.{digits}g}")
        if abs(short - number) <= 1e-13 * abs(number):
            return short
    return number


def key(value: Value) -> bytes:
    """Bytes that are equal for values that are equal to rounding."""
    return b"%s*%s" % (number(value.coefficient), value.node.digest)


def number(coefficient: float) -> bytes:
    """A constant as the hash sees it.

    >>> number(1 - 0.9) == number(0.1)
    True
    """
    return b"1" if coefficient == 1.0 else b"%.*g" % (DIGITS, coefficient)


def input_node(name: str, kind: Kind, state: bool) -> Node:
    """An input of the program; ``step`` and ``budget`` are at least 1, ``progress`` and ``gradient_norm`` at least 0."""
    states = frozenset((name,)) if state else _NO_STATES
    nonnegative, positive = name in ("step", "progress", "budget", "gradient_norm"), name in ("step", "budget")
    return Node("input", (name,), _digest(b"input " + name.encode()), kind, True, nonnegative, positive, states)


def product_node(factors: tuple[tuple[Node, int], ...]) -> Node:
    """A product of two or more atoms, or a power of one, sorted by digest."""
    parts, kind, total, nonnegative, positive, states = [b"product"], Kind.SCALAR, True, True, True, _NO_STATES
    for node, exponent in factors:
        parts.append(b"%s^%d" % (node.digest, exponent))
        kind = node.kind if node.kind > kind else kind
        total = total and node.total
        nonnegative = nonnegative and (node.nonnegative or not exponent % 2)
        positive = positive and node.positive
        states = states | node.states if node.states else states
    return Node("product", factors, _digest(b"*".join(parts)), kind, total, nonnegative, positive, states)


def sum_node(terms: tuple[tuple[float, Node], ...]) -> Node:
    """A sum of two or more terms, sorted by digest, the constant last, with first coefficient 1."""
    parts, kind, total, nonnegative, positive, states = [b"sum"], Kind.SCALAR, True, True, False, _NO_STATES
    for coefficient, node in terms:
        parts.append(b"%s*%s" % (number(coefficient), node.digest))
        kind = node.kind if node.kind > kind else kind
        total = total and node.total
        nonnegative = nonnegative and node.nonnegative and coefficient > 0
        positive = positive or node.positive
        states = states | node.states if node.states else states
    return Node("sum", terms, _digest(b"+".join(parts)), kind, total, nonnegative, nonnegative and positive, states)


# Infinite or undefined at some finite arguments; `reciprocal` and `clip` depend on their arguments.
_PARTIAL = frozenset({"log", "log2", "log10", "log1p", "power", "arcsin", "arccos", "arccosh", "arctanh", "cosine_sim", "vanish"})
_NONNEGATIVE = frozenset({"exp", "abs", "sqrt", "norm", "arccos", "arccosh", "vanish"})
# Never below zero where the arguments are not.
_KEEP_SIGN = frozenset(
    {"tanh", "sinh", "arcsinh", "arctan", "arcsin", "arctanh", "cbrt", "expm1", "log1p", "sign", "reciprocal", "minimum"}
    | {"mean", "row_mean", "column_mean", "on_matrices"}
)
# Without arguments of their own, finite; or finite where the arguments are.
_FINITE = frozenset({Shape.MAP, Shape.PER_ARRAY, Shape.GLOBAL, Shape.MATRIX, Shape.SELECT, Shape.LEAF_CONSTANT})


def operation_node(op: str, args: tuple[Value, ...]) -> Node:
    """An operation of the language, or one unknown to the rewriting, of some values."""
    parts = [key(value) for value in args]
    if op in _COMMUTATIVE and parts[0] > parts[1]:
        args, parts = args[::-1], parts[::-1]
    nonnegative, positive = _signs(op, args)
    nodes = [value.node for value in args]
    states = _NO_STATES
    for node in nodes:
        states = states | node.states if node.states else states
    digest = _digest(b"%s(%s)" % (op.encode(), b",".join(parts)))
    return Node(op, args, digest, _kind(op, nodes), _total(op, args), nonnegative, positive, states)


_COMMUTATIVE = frozenset(name for name, op in OPS.items() if op.commutative)


def _kind(op: str, nodes: list[Node]) -> Kind:
    shape = OPS[op].shape if op in OPS else None
    if shape is Shape.MAP or op == "vanish":
        return max([node.kind for node in nodes])
    if shape in (Shape.GLOBAL, Shape.CONSTANT, Shape.OBSERVED):
        return Kind.SCALAR
    if shape is Shape.INTERPOLATE:
        return max(node.kind for node in nodes[:2])
    if shape is Shape.SELECT:
        return max(Kind.LEAF, *(node.kind for node in nodes))
    # What is not known may be wide: nothing is drawn out of a norm or used as a weight then.
    return Kind.LEAF if shape in (Shape.PER_ARRAY, Shape.LEAF_CONSTANT) else Kind.ARRAY


def _total(op: str, args: tuple[Value, ...]) -> bool:
    if op in _PARTIAL or op not in OPS or not all(value.node.total for value in args):
        return False
    if op == "reciprocal":
        node = args[0].node
        protected = node.op == "sum" and node.args[-1][1] is ONE and abs(node.args[-1][0]) <= PROTECTED
        return node.positive or protected
    if op == "clip":
        bound = args[1]
        return is_nonnegative(bound) or (bound.coefficient > 0 and bound.node.args == ("lr",))  # a schedule is not negative
    return OPS[op].shape in _FINITE


def _signs(op: str, args: tuple[Value, ...]) -> tuple[bool, bool]:
    """Whether an operation's value is never negative, and whether it is always positive."""
    if op in ("cosh", "num_rows", "num_columns"):  # exp is none of them: it is 0 from -104 on, in single precision
        return True, True
    if op == "dot":
        return key(args[0]) == key(args[1]), False
    if op == "maximum":
        return any(map(is_nonnegative, args)), any(map(is_positive, args))
    if op in _NONNEGATIVE:
        return True, op == "sqrt" and is_positive(args[0])
    if op in _KEEP_SIGN:
        return all(map(is_nonnegative, args)), all(map(is_positive, args))
    return False, False


def is_nonnegative(value: Value) -> bool:
    """Whether a value is provably at least 0."""
    return value.coefficient >= 0 and value.node.nonnegative


def is_positive(value: Value) -> bool:
    """Whether a value is provably above 0."""
    return value.coefficient > 0 and value.node.positive
