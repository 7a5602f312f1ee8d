"""Takes an update apart: ``lr * (direction + c * w)``, if that is what it is."""

import math
from typing import NamedTuple

import numpy as np

from ..language.canonical import prune
from ..language.ops import EPS, OPS
from ..language.program import Argument, Program, Statement


class Separated(NamedTuple):
    """``update = lr * learning_rate * (direction + weight_decay * w)``."""

    direction: Program  # its `update` is the direction; `lr` does not occur
    learning_rate: float
    weight_decay: float


def unique_names(program: Program) -> tuple[Program, tuple[str, ...]]:
    """The pruned program with every target assigned once, and the names of its outputs.

    Copies are resolved, so an output may be an input or a constant's name; the value a state ends with is called
    ``new_`` and its name.
    """
    program = prune(program)
    current: dict[str, Argument] = {name: name for name in program.inputs}
    taken = {*program.inputs, *program.outputs, *(statement.target for statement in program.statements)}
    used = set(program.inputs)
    statements: list[Statement] = []
    for statement in program.statements:
        args = tuple(current[a] if isinstance(a, str) else a for a in statement.args)
        if statement.op == "copy" and isinstance(args[0], str):
            current[statement.target] = args[0]
            continue
        name = _fresh(statement.target, used, taken)
        used.add(name)
        current[statement.target] = name
        statements.append(Statement(name, statement.op, args))
    outputs = tuple(str(current[name]) for name in program.outputs)
    renames = _state_names(program, outputs, {statement.target for statement in statements}, used)
    renamed = [
        Statement(renames.get(target, target), op, tuple(renames.get(a, a) if isinstance(a, str) else a for a in args))
        for target, op, args in statements
    ]
    return Program(tuple(renamed), program.states, program.extra), tuple(renames.get(name, name) for name in outputs)


def _fresh(name: str, used: set[str], taken: set[str]) -> str:
    if name not in used:
        return name
    return next(candidate for i in range(2, 1000) if (candidate := f"{name}_{i}") not in used | taken)


def _state_names(program: Program, outputs: tuple[str, ...], assigned: set[str], used: set[str]) -> dict[str, str]:
    renames: dict[str, str] = {}
    for state, output in zip(program.states, outputs[1:], strict=True):
        if output in assigned and output not in renames and f"new_{state}" not in used:
            renames[output] = f"new_{state}"
    return renames


class _Factor(NamedTuple):
    """``coefficient * lr ** power * core``; the core of a scalar is None."""

    coefficient: float
    power: int
    core: Argument | None


def separate(program: Program) -> Separated | None:
    """The parts of a rule whose update is ``lr * (direction + c * w)`` up to constants; None if it is not of that form.

    >>> from ..language import load
    >>> parts = separate(load("lion"))
    >>> parts.learning_rate, parts.weight_decay
    (0.0003, 0.1)
    """
    unique, outputs = unique_names(program)
    nodes = {statement.target: statement for statement in unique.statements}
    whole = _peel(outputs[0], nodes)
    if whole is None or whole.core is None:
        return None
    direction, decay = _split(whole, nodes)
    sizes = (abs(direction.coefficient), decay.coefficient if decay else 0.0)
    if direction.power != 1 or (decay and decay.power != 1) or not all(math.isfinite(x) for x in sizes) or not sizes[0]:
        return None
    core = Statement("update", "negative" if direction.coefficient < 0 else "copy", (direction.core or 0.0,))
    ends = tuple(Statement(state, "copy", (output,)) for state, output in zip(unique.states, outputs[1:], strict=True))
    # The states' new values are assigned last, all at once in effect: their sources are never states that were overwritten.
    rule = Program((*unique.statements, core, *_in_order(ends)), unique.states, unique.extra)
    pruned = prune(rule)
    if any("lr" in statement.args for statement in pruned.statements):
        return None
    return Separated(pruned, sizes[0], sizes[1] / sizes[0])


def _in_order(copies: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Copies ``state = value`` that read all old states before any is overwritten."""
    states = {copy.target for copy in copies}
    parked = [
        Statement(f"old_{copy.args[0]}", "copy", copy.args) for copy in copies if copy.args[0] in states and copy.args[0] != copy.target
    ]
    names = {statement.args[0]: statement.target for statement in parked}
    return (
        *parked,
        *(Statement(c.target, "copy", (names.get(c.args[0], c.args[0]) if c.args[0] != c.target else c.target,)) for c in copies),
    )


def _split(whole: _Factor, nodes: dict[str, Statement]) -> tuple[_Factor, _Factor | None]:
    """Direction and decay of ``core = x + y`` where one of the two is w up to a scalar."""
    node = nodes.get(whole.core) if isinstance(whole.core, str) else None
    if node is None or node.op not in ("add", "subtract"):
        return whole, None
    left, right = (_peel(argument, nodes) for argument in node.args)
    if left is None or right is None or left.core is None or right.core is None:
        return whole, None
    if node.op == "subtract":
        right = right._replace(coefficient=-right.coefficient)
    if left.core == "w":
        left, right = right, left
    if right.core != "w" or left.core == "w":
        return whole, None
    return _product(whole, left, left.core), _product(whole, right, "w")


def _product(a: _Factor, b: _Factor, core: Argument | None) -> _Factor:
    return _Factor(a.coefficient * b.coefficient, a.power + b.power, core)


def _peel(value: Argument, nodes: dict[str, Statement]) -> _Factor | None:
    """Pulls scalar factors out of a value; None where a scalar is no monomial of lr."""
    if not isinstance(value, str):
        return _Factor(value, 0, None)
    if value == "lr":
        return _Factor(1.0, 1, None)
    node = nodes.get(value)
    if node is None:
        return _Factor(1.0, 0, value)
    args = [_peel(argument, nodes) for argument in node.args]
    factors = [a for a in args if a is not None]
    if len(factors) == len(args):
        if (constant := _constant(node, factors)) is not None:
            return _Factor(constant, 0, None)
        if node.op == "negative":
            return factors[0]._replace(coefficient=-factors[0].coefficient)
        if node.op == "multiply" and any(f.core is None for f in factors):
            return _product(factors[0], factors[1], factors[0].core or factors[1].core)
        if node.op == "divide" and factors[1].core is None and factors[1].power == 0:
            scale = factors[1].coefficient + EPS
            return None if scale == 0 else factors[0]._replace(coefficient=factors[0].coefficient / scale)
    return _Factor(1.0, 0, value)


def _constant(node: Statement, factors: list[_Factor]) -> float | None:
    op = OPS[node.op]
    if op.fn is None or any(f.core is not None or f.power for f in factors):
        return None
    with np.errstate(all="ignore"):
        return float(op.fn(np, *(np.float64(f.coefficient) for f in factors)))
