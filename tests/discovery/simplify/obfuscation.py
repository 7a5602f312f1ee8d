"""Programs made long without a change of what they compute, and a float64 evaluator that says whether they changed."""

from collections.abc import Callable
from random import Random

import numpy as np

from stepsmith.discovery.language import OPS, Program, ProgramError, Statement, infer
from stepsmith.discovery.search import MutationConfig, mutant

STEPS = 12
SIZES = (40, 60)  # of two parameter arrays
TOLERANCE = 1e-6
LONGEST = 40  # statements
_MUTATION = MutationConfig(max_statements=LONGEST)
_SPLIT = [SIZES[0]]

Value = np.ndarray | float  # all parameters as one vector, a number per parameter array repeated over it, or a number


def inputs(seed: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """(w, g, lr) of each step, gradients of very different sizes among them, so that bounds and saturation show."""
    rng = np.random.default_rng(seed)
    sizes = (1.0, 1e-3, 30.0, 0.1, *[1.0] * (STEPS - 4))
    return [(rng.normal(size=sum(SIZES)), rng.normal(size=sum(SIZES)) * size, 1 - t / STEPS) for t, size in enumerate(sizes)]


INPUTS = inputs(5)


def outputs(program: Program) -> np.ndarray:
    """Updates over the steps, the states carried. # [steps, parameters]"""
    states: dict[str, Value] = {name: np.zeros(sum(SIZES)) for name in program.states}
    rows = []
    with np.errstate(all="ignore"):
        for step, (w, g, lr) in enumerate(INPUTS, 1):
            values: dict[str, Value] = {"w": w, "g": g, "lr": lr, "step": step, "progress": (step - 1) / STEPS, **states}
            for target, op, args in program.statements:
                values[target] = _result(op, [values[a] if isinstance(a, str) else a for a in args])
            states = {name: np.broadcast_to(values[name], w.shape) for name in program.states}
            rows.append(np.broadcast_to(values["update"], w.shape))
    return np.asarray(rows)


def _result(op: str, args: list[Value]) -> Value:
    full = [np.broadcast_to(a, (sum(SIZES),)) for a in args]
    if op == "norm":
        return np.concatenate([np.full(len(part), np.sqrt((part * part).sum())) for part in np.split(full[0], _SPLIT)])
    if op == "global_norm":
        return float(np.sqrt(full[0] @ full[0]))
    if op == "dot":
        return float(full[0] @ full[1])
    if op == "cosine_sim":
        return float(full[0] @ full[1] / (np.sqrt(full[0] @ full[0]) * np.sqrt(full[1] @ full[1])))
    if op == "clip":
        return full[0] * min(1.0, float(args[1]) / np.sqrt(full[0] @ full[0]))
    return OPS[op].fn(np, *(np.float64(a) if isinstance(a, float) else a for a in args))


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal to `TOLERANCE` of the largest update of each step."""
    scale = np.abs(one).max(1, keepdims=True)
    return bool(np.isfinite(other).all() and (np.abs(one - other) <= TOLERANCE * scale).all())


def obfuscate(program: Program, random: Random, num: int, rewritten: bool) -> Program:
    """The program after ``num`` changes that leave its outputs as they were: mutations, every other one a rewriting if ``rewritten``."""
    expected, done = outputs(program), 0
    while done < num:
        change: Callable[[Program, Random], Program] = random.choice(_REWRITINGS) if rewritten and done % 2 == 0 else _mutated
        changed = change(program, random)
        if changed == program or len(changed.statements) > LONGEST:
            continue
        try:
            infer(changed)
        except ProgramError:
            continue
        if same(expected, outputs(changed)):
            program, done = changed, done + 1
    return program


def _mutated(program: Program, random: Random) -> Program:
    return mutant(program, random, _MUTATION)[0]


def _fresh(program: Program) -> str:
    used = {*program.inputs, *(statement.target for statement in program.statements)}
    return next(name for i in range(1, 1000) if (name := f"y{i}") not in used)


def _with(program: Program, at: int, *statements: Statement) -> Program:
    """The program with a statement replaced."""
    return Program((*program.statements[:at], *statements, *program.statements[at + 1 :]), program.states, program.extra)


def _at(program: Program, random: Random) -> tuple[int, Statement]:
    index = random.randrange(len(program.statements))
    return index, program.statements[index]


def _another_argument(program: Program, random: Random) -> Program:
    """An argument x becomes x * 1, x + 0, -(-x), maximum(x, x), a copy, ..., (x + w) - w; a constant a product."""
    at, (target, op, args) = _at(program, random)
    if not args:
        return program
    position, name, other = random.randrange(len(args)), _fresh(program), _fresh(program) + "_2"
    x = args[position]
    if isinstance(x, float):
        factor = random.uniform(0.5, 2.0)
        before = (Statement(name, "multiply", (x / factor, factor)),)
    else:
        forms = (
            (Statement(name, "copy", (x,)),),
            (Statement(name, "multiply", (x, 1.0)),),
            (Statement(name, "add", (0.0, x)),),
            (Statement(name, "subtract", (x, 0.0)),),
            (Statement(name, "maximum", (x, x)),),
            (Statement(name, "interp", (x, x, 0.3)),),
            (Statement(other, "negative", (x,)), Statement(name, "negative", (other,))),
            (Statement(other, "multiply", (x, 2.0)), Statement(name, "multiply", (0.5, other))),
            (Statement(other, "add", (x, "w")), Statement(name, "subtract", (other, "w"))),
        )
        before = random.choice(forms)
    return _with(program, at, *before, Statement(target, op, (*args[:position], name, *args[position + 1 :])))


def _another_form(program: Program, random: Random) -> Program:
    """The same operation in other words."""
    at, (target, op, args) = _at(program, random)
    one, two, three = (_fresh(program) + suffix for suffix in ("", "_2", "_3"))
    if op == "interp":
        rest = Statement(one, "subtract", (1.0, args[2]))
        sides = Statement(two, "multiply", (one, args[0])), Statement(three, "multiply", (args[1], args[2]))
        return _with(program, at, rest, *sides, Statement(target, "add", (two, three)))
    if op == "square":
        return _with(program, at, Statement(target, "multiply", (args[0], args[0])))
    if op == "add":
        return _with(program, at, Statement(one, "negative", (args[1],)), Statement(target, "subtract", (args[0], one)))
    if OPS[op].commutative:
        return _with(program, at, Statement(target, op, args[::-1]))
    return program


def _swapped(program: Program, random: Random) -> Program:
    at = random.randrange(len(program.statements) - 1)
    first, second = program.statements[at : at + 2]
    if first.target in (second.target, *second.args) or second.target in first.args:
        return program
    return _with(_with(program, at, second), at + 1, first)


def _computed_twice(program: Program, random: Random) -> Program:
    """A value's first reader reads a second computation of it instead."""
    at, statement = _at(program, random)
    if statement.target in statement.args:
        return program
    name = _fresh(program)
    again = _with(program, at, statement, statement._replace(target=name))
    reader = next((i for i in range(at + 2, len(again.statements)) if statement.target in again.statements[i].args), None)
    if reader is None:
        return program
    target, op, args = again.statements[reader]
    return _with(again, reader, Statement(target, op, tuple(name if a == statement.target else a for a in args)))


def _dead_state(program: Program, random: Random) -> Program:
    if len(program.states) >= 4:
        return program
    state = f"s{len(program.states)}"
    at = random.randrange(len(program.statements) + 1)
    fed = Statement(state, "interp", (state, random.choice(("g", "w")), 0.1))
    return Program((*program.statements[:at], fed, *program.statements[at:]), (*program.states, state), program.extra)


_REWRITINGS = (_another_argument, _another_argument, _another_form, _swapped, _computed_twice, _dead_state)
