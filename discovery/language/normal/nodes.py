"""Values of the normal form: a coefficient times a node; nodes are expressions over the inputs of a step."""

from hashlib import blake2b
from typing import Any, NamedTuple

from ..ops import OPS, Kind, Shape

# A reciprocal of x + c counts as finite for so small a c: it comes from a protected division, which fails at x = -c alone.
PROTECTED = 1e-3


class Facts(NamedTuple):
    """What holds for an expression at all finite inputs."""

    kind: Kind  # how wide it is
    total: bool  # finite
    nonnegative: bool  # never below zero
    positive: bool  # always above zero, also where exp has become 0


class Node:
    """An expression, never changed; equal digests mean equal values to rounding.

    Attributes:
        op: an operation of the language; ``one``; ``input`` (args: its name); ``product`` (args: pairs of node and
            exponent); ``sum`` (args: pairs of coefficient and node, the first coefficient is 1); ``vanish``, zero times
            something that may be infinite.
        args: values, for operations of the language.
        digest: of op and args, constants rounded.
        states: the states it depends on.
    """

    __slots__ = ("_facts", "args", "digest", "op", "states")

    def __init__(self, op: str, args: tuple[Any, ...], digest: bytes, states: frozenset[str], facts: Facts | None = None):
        self.op = op
        self.args = args
        self.digest = digest
        self.states = states
        self._facts = facts

    @property
    def facts(self) -> Facts:
        """Worked out when first asked for, as few are."""
        if self._facts is None:
            self._facts = _product_facts(self) if self.op == "product" else _sum_facts(self) if self.op == "sum" else _operation_facts(self)
        return self._facts


class Value(NamedTuple):
    """``coefficient * node``; a constant has the node `ONE`, and only the constant 0 the coefficient 0."""

    coefficient: float
    node: Node


_NO_STATES: frozenset[str] = frozenset()


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


ONE = Node("one", (), _digest(b"1"), _NO_STATES, Facts(Kind.SCALAR, True, True, True))
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
    """A constant as the hash sees it, to ten digits: enough to tell constants apart, few enough that the order of folding is lost.

    >>> number(1 - 0.9) == number(0.1)
    True
    """
    return b"1" if coefficient == 1.0 else b"%.10g" % coefficient


def input_node(name: str, kind: Kind, state: bool) -> Node:
    """An input of the program; ``step`` and ``budget`` are at least 1, ``progress`` and ``gradient_norm`` at least 0."""
    states = frozenset((name,)) if state else _NO_STATES
    nonnegative, positive = name in ("step", "progress", "budget", "gradient_norm"), name in ("step", "budget")
    facts = Facts(kind, True, nonnegative, positive)
    return Node("input", (name,), _digest(b"input " + name.encode()), states, facts)


def product_node(factors: tuple[tuple[Node, int], ...]) -> Node:
    """A product of two or more atoms, or a power of one, sorted by digest."""
    parts, states = [b"product"], _NO_STATES
    for node, exponent in factors:
        parts.append(b"%s^%d" % (node.digest, exponent))
        if node.states:
            states = states | node.states
    return Node("product", factors, _digest(b"*".join(parts)), states)


def _product_facts(node: Node) -> Facts:
    kind, total, nonnegative, positive = ONE.facts
    for factor, exponent in node.args:
        facts = factor.facts
        kind = facts.kind if facts.kind > kind else kind
        total = total and facts.total
        nonnegative = nonnegative and (facts.nonnegative or not exponent % 2)
        positive = positive and facts.positive
    return Facts(kind, total, nonnegative, positive)


def sum_node(terms: tuple[tuple[float, Node], ...]) -> Node:
    """A sum of two or more terms, sorted by digest, the constant last, with first coefficient 1."""
    parts, states = [b"sum"], _NO_STATES
    for coefficient, node in terms:
        parts.append(b"%s*%s" % (number(coefficient), node.digest))
        if node.states:
            states = states | node.states
    return Node("sum", terms, _digest(b"+".join(parts)), states)


def _sum_facts(node: Node) -> Facts:
    kind, total, nonnegative, positive = Kind.SCALAR, True, True, False
    for coefficient, term in node.args:
        facts = term.facts
        kind = facts.kind if facts.kind > kind else kind
        total = total and facts.total
        nonnegative = nonnegative and facts.nonnegative and coefficient > 0
        positive = positive or facts.positive
    return Facts(kind, total, nonnegative, nonnegative and positive)


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
    states = _NO_STATES
    for value in args:
        if value.node.states:
            states = states | value.node.states
    return Node(op, args, _digest(b"%s(%s)" % (op.encode(), b",".join(parts))), states)


def _operation_facts(node: Node) -> Facts:
    op, args = node.op, node.args
    return Facts(_kind(op, [value.node.facts.kind for value in args]), _total(op, args), *_signs(op, args))


_COMMUTATIVE = frozenset(name for name, op in OPS.items() if op.commutative)


def _kind(op: str, kinds: list[Kind]) -> Kind:
    shape = OPS[op].shape if op in OPS else None
    if shape is Shape.MAP or op == "vanish":
        return max(kinds)
    if shape in (Shape.GLOBAL, Shape.CONSTANT, Shape.OBSERVED):
        return Kind.SCALAR
    if shape is Shape.INTERPOLATE:
        return max(kinds[:2])
    if shape is Shape.SELECT:
        return max(Kind.LEAF, *kinds)
    # What is not known may be wide: nothing is drawn out of a norm or used as a weight then.
    return Kind.LEAF if shape in (Shape.PER_ARRAY, Shape.LEAF_CONSTANT) else Kind.ARRAY


def _total(op: str, args: tuple[Value, ...]) -> bool:
    if op in _PARTIAL or op not in OPS or not all(value.node.facts.total for value in args):
        return False
    if op == "reciprocal":
        node = args[0].node
        protected = node.op == "sum" and node.args[-1][1] is ONE and abs(node.args[-1][0]) <= PROTECTED
        return node.facts.positive or protected
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
    return value.coefficient >= 0 and value.node.facts.nonnegative


def is_positive(value: Value) -> bool:
    """Whether a value is provably above 0."""
    return value.coefficient > 0 and value.node.facts.positive
