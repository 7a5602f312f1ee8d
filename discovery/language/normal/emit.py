"""Values in normal form printed as statements, few of them: `emit` is the way back from values to a program."""

import math
from collections.abc import Mapping

from ..ops import EPS, Kind
from ..program import Argument, Program, Statement
from . import ring
from .combine import combine, parts_of
from .nodes import ONE, PROTECTED, Node, Value, key, operation_node, same, tidy
from .order import in_order


def emit(update: Value, states: Mapping[str, Value], signature: Program) -> Program:
    """A program that computes the given values.

    Args:
        update: the value of the first output.
        states: next value of each state, in terms of inputs named as the states are.
        signature: a program with its states in the order of the inputs, and the optional inputs that the values may read.
    """
    emitter = Emitter()
    outputs: dict[str, Argument] = {name: emitter.value(states[name]) for name in signature.states}
    outputs = {signature.outputs[0]: emitter.value(update), **outputs}
    statements = in_order(emitter.statements, outputs)
    read = {argument for statement in statements for argument in statement.args}
    return Program(tuple(statements), signature.states, tuple(name for name in signature.extra if name in read), signature.kind)


class Emitter:
    """Statements so far, each value once."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self._known: dict[bytes, Argument] = {}
        self._scales: dict[bytes, float] = {}  # digest of a sum -> the scale at which `free` computes it

    def statement(self, op: str, *args: Argument) -> str:
        """Adds a statement and returns its variable; one that is there already is used again."""
        found = next((s.target for s in self.statements if (s.op, s.args) == (op, args)), None)
        if found is None:
            found = f" {len(self.statements)}"  # no name of a program has a blank
            self.statements.append(Statement(found, op, args))
        return found

    def value(self, value: Value) -> Argument:
        """The variable or the number that holds a value."""
        if value.node is ONE:
            return tidy(value.coefficient)
        name = key(value)
        if name not in self._known:
            self._known[name] = self._from_multiple(value) or self._scaled(value.coefficient, value.node)
        return self._known[name]

    def _from_multiple(self, value: Value) -> Argument | None:
        """The value from a multiple of it that is there already."""
        for factor in (1.0, -1.0, self._scales.get(value.node.digest, 1.0)):
            known = self._known.get(key(Value(factor, value.node)))
            if known is not None:
                return self.times(known, value.coefficient / factor)
        return None

    def knows(self, value: Value) -> bool:
        """Whether a value is there already, so that using it costs nothing."""
        return value.node is ONE or (value.node.op == "input" and value.coefficient == 1) or key(value) in self._known

    def times(self, argument: Argument, factor: float) -> Argument:
        """A variable or number times a constant."""
        if not isinstance(argument, str):
            return tidy(argument * factor)
        if same(factor, 1.0):
            return argument
        return self.statement("negative", argument) if same(factor, -1.0) else self.statement("multiply", argument, tidy(factor))

    def _scaled(self, coefficient: float, node: Node) -> Argument:
        if node.op == "sum":
            parts, offset = parts_of(self, list(node.args))
            return combine(self, [(coefficient * c, argument) for c, argument in parts], coefficient * offset)
        if node.op == "log":
            for op, base in (("log2", 2.0), ("log10", 10.0)):
                if same(coefficient * math.log(base), 1.0):
                    return self.statement(op, self.value(node.args[0]))
        if _of_constants(node):
            return self.statement(node.op, *(self.value(ring.scale(argument, coefficient)) for argument in node.args))
        if node.op in ("product", "reciprocal"):
            factor, argument = self._product(coefficient, node)
            return self.times(argument, factor)
        # Odd, and its argument is scaled anyway.
        if node.op == "orthogonalize" and same(coefficient, -1.0) and not same(node.args[0].coefficient, 1.0):
            return self.statement(node.op, self.value(ring.scale(node.args[0], -1.0)))
        factor, argument = self.free(node)
        return self.times(argument, coefficient * factor)

    def free(self, node: Node) -> tuple[float, Argument]:
        """A factor and a variable whose product is the node, whatever factor saves statements."""
        name = key(Value(1.0, node))
        if node is ONE:
            return 1.0, 1.0
        if node.op == "input" or name in self._known:
            return 1.0, node.args[0] if node.op == "input" else self._known[name]
        if node.op == "sum":
            scale = self._scales.setdefault(node.digest, _best_scale(self, node))
            return 1 / scale, self.value(Value(scale, node))
        if node.op in _HOMOGENEOUS:
            inner = node.args[0]
            if node.op == "sqrt" and inner.node.op == "dot" and inner.node.args[0].node is inner.node.args[1].node:
                factor, argument = self.free(inner.node.args[0].node)
                return abs(factor), self.statement("global_norm", argument)
            factor, argument = self.free(inner.node)
            return _HOMOGENEOUS[node.op](factor * inner.coefficient), self.statement(node.op, argument)
        if node.op == "product":
            factor, argument = self._product(None, node)
            self._scales[node.digest] = 1 / factor
            self._known[key(Value(1 / factor, node))] = argument
            return factor, argument
        if node.op != "reciprocal":
            self._known[name] = self._operation(node)
        return 1.0, self.value(Value(1.0, node))

    def _operation(self, node: Node) -> Argument:
        if node.op == "vanish":
            return self.statement("multiply", self.value(node.args[0]), 0.0)
        if node.op == "exp":
            return self._exponential(node.args[0])
        if node.op == "cosine_sim":
            return self._similarity(node.args)
        args = [self.value(value) for value in node.args]
        if node.op in ("maximum", "minimum") and not isinstance(args[0], str):
            args.reverse()
        return self.statement(node.op, *args)

    def _similarity(self, args: tuple[Value, ...]) -> Argument:
        """It does not see the scale of its arguments."""
        factors, variables = zip(*(self.free(value.node) for value in args), strict=True)
        return self.times(self.statement("cosine_sim", *variables), math.copysign(1.0, math.prod(factors)))

    def _exponential(self, value: Value) -> Argument:
        """exp, exp2, exp10, or another base where that saves the scaling of the exponent."""
        coefficient, node = value
        if same(coefficient, 1.0) or self.knows(value):
            return self.statement("exp", self.value(value))
        for op, base in (("exp2", 2.0), ("exp10", 10.0)):
            if same(coefficient, math.log(base)):
                return self.statement(op, self.value(Value(1.0, node)))
        if not 1e-4 < abs(coefficient) < 20.0 or node.op == "sum":  # a base near 1 has lost the digits of the coefficient
            return self.statement("exp", self.value(value))
        return self.statement("power", tidy(math.exp(coefficient)), self.value(Value(1.0, node)))

    def _product(self, wanted: float | None, node: Node) -> tuple[float, Argument]:
        """A factor and a variable whose product is ``wanted`` times the node; the factor is 1 unless nothing is wanted.

        Numerator first, then one division for each protected factor below.
        """
        coefficient = 1.0 if wanted is None else wanted
        above: list[tuple[Node, int]] = []
        below: list[tuple[Value, int]] = []  # divide(x, value) is x / (value + 1e-8)
        for factor, exponent in _rooted(self, ring.factors_of(node)):
            divisor = _protected(factor)
            if divisor is None or self.knows(Value(1.0, factor)):
                above.append((factor, exponent))
                continue
            below.append((divisor[1], exponent))
            coefficient *= divisor[0] ** exponent
        if not above or any(exponent > 2 for _, exponent in below):
            parts = []
            for divisor, exponent in below:
                single = len(below) == 1 and exponent == 1 and not above and wanted is not None
                numerator, coefficient = (coefficient, 1.0) if single else (1.0, coefficient)
                parts.append(
                    (divisor.node.facts.kind, self._power(self.statement("divide", tidy(numerator), self.value(divisor)), exponent))
                )
            below = []
        else:
            parts = []
        coefficient, factors = self._factors(coefficient, above, exact=wanted is not None)
        result = self._multiplied(1.0 if wanted is None else coefficient, parts + factors)
        for divisor, exponent in below:
            for _ in range(exponent):
                result = self.statement("divide", result, self.value(divisor))
        return (coefficient if wanted is None else 1.0), result

    def _factors(self, coefficient: float, factors: list[tuple[Node, int]], exact: bool) -> tuple[float, list[tuple[Kind, Argument]]]:
        """What is to be multiplied: a constant, and variables with their kinds; factors of equal exponents share their power."""
        parts: list[tuple[Kind, Argument]] = []
        for exponent in sorted({exponent for _, exponent in factors if exponent > 1}):
            base = [(node, 1) for node, e in factors if e == exponent]
            scale, inner = self._factors(1.0, base, exact=False)
            parts.append((max(node.facts.kind for node, _ in base), self._power(self._multiplied(1.0, inner), exponent)))
            coefficient *= scale**exponent
        for node in [node for node, exponent in factors if exponent == 1]:
            if exact and not same(coefficient, 1.0) and (_of_constants(node) or (node.op == "sum" and self._absorbs(node, coefficient))):
                factor, argument = 1 / coefficient, self.value(Value(coefficient, node))
            elif node.op == "reciprocal":
                factor, argument = 1.0, self.statement("reciprocal", self.value(node.args[0]))
            else:
                factor, argument = self.free(node)
            coefficient *= factor
            parts.append((node.facts.kind, argument))
        return coefficient, parts

    def _multiplied(self, coefficient: float, parts: list[tuple[Kind, Argument]]) -> Argument:
        """The constant goes to the scalars, and these are multiplied first."""
        parts.sort(key=lambda part: part[0])
        if same(abs(coefficient), 1.0):
            coefficient = math.copysign(1.0, coefficient)
        result: Argument = tidy(coefficient)
        for _, argument in parts:
            if result == 1.0:
                result = argument
            else:
                result = self.times(argument, result) if isinstance(result, float) else self.statement("multiply", argument, result)
        return result

    def _absorbs(self, node: Node, coefficient: float) -> bool:
        """Whether a sum takes no more statements at another scale."""
        if self.knows(Value(1.0, node)) or node.digest in self._scales:
            return False
        return _count(self, coefficient, node) <= _count(self, _best_scale(self, node), node)

    def _power(self, argument: Argument, exponent: int) -> Argument:
        if exponent == 1:
            return argument
        if exponent in (2, 3):
            return self.statement("square" if exponent == 2 else "cube", argument)
        return self.statement("power", argument, float(exponent))


# f(c * x) = h(c) * f(x).
_HOMOGENEOUS = dict.fromkeys(("mean", "row_mean", "column_mean"), float) | {
    "sqrt": lambda c: math.sqrt(abs(c)),
    "abs": abs,
    "norm": abs,
    "cbrt": math.cbrt,
    "sign": lambda c: math.copysign(1.0, c),
}


def _of_constants(node: Node) -> bool:
    """Whether a node is a choice between two numbers, which takes a factor without a statement more."""
    return node.op == "on_matrices" and all(value.node is ONE for value in node.args)


def _best_scale(emitter: Emitter, node: Node) -> float:
    """The scale at which a sum takes the fewest statements: one coefficient is 1, or all sum to 1."""
    parts, offset = parts_of(emitter, list(node.args))
    total = sum(c for c, _ in parts)
    scales = [1 / c for c, _ in sorted(parts, key=lambda part: part[1] == "w")]
    if len(parts) == 2 and not offset and abs(total) > 1e-3 * max(abs(c) for c, _ in parts):
        scales.append(1 / total)
    return min(scales, key=lambda scale: _count(emitter, scale, node))


def _count(emitter: Emitter, coefficient: float, node: Node) -> int:
    """Statements that a sum takes at a scale."""
    trial = Emitter()
    trial.statements, trial._known, trial._scales = list(emitter.statements), dict(emitter._known), dict(emitter._scales)
    trial.value(Value(coefficient, node))
    return len(trial.statements)


def _rooted(emitter: Emitter, factors: tuple[tuple[Node, int], ...]) -> list[tuple[Node, int]]:
    """Factors with each of sqrt, abs and sign taken of a product, once, instead of factor by factor."""
    left: list[tuple[Node, int]] = []
    alike: dict[str, list[tuple[Node, int]]] = {}
    for node, exponent in factors:
        joint = node.op in ("sqrt", "abs", "sign") and exponent == 1 and not emitter.knows(Value(1.0, node))
        (alike.setdefault(node.op, []) if joint else left).append((node, exponent))
    for op, found in alike.items():
        if len(found) == 1:
            left.append(found[0])
            continue
        inner = Value(1.0, ONE)
        for node, _ in found:
            inner = ring.multiply(inner, node.args[0])
        left.append((operation_node(op, (inner,)), 1))
    return left


def _protected(node: Node) -> tuple[float, Value] | None:
    """``node`` as ``factor / (value + 1e-8)``: (factor, value), for the reciprocal of a sum with a constant."""
    if node.op != "reciprocal" or node.args[0].node.op != "sum":
        return None
    terms = node.args[0].node.args
    offset, last = terms[-1]
    if last is not ONE:
        return None
    ratio = EPS / offset if abs(offset) <= PROTECTED else math.copysign(1.0, offset)
    return ratio, ring.add([Value(ratio, node.args[0].node), Value(-EPS, ONE)])
