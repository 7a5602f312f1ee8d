"""Python source of a program's update over pytrees.

Elementwise statements run leaf by leaf inside one function, which XLA fuses. Where a value needs all leaves (`dot`,
`global_norm`, `cosine_sim`, `clip`) the function is cut in stages, with the global numbers computed between them.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..language import matrices
from ..language.ops import OPS, Kind, Shape
from ..language.program import Argument, Program, Statement
from ..language.types import infer

LOSS = "value"  # what optax calls the loss that `update` is told

_DOT = """def _dot(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))"""
_CLIP = """def _clip_factor(x, bound):
    norm = jnp.sqrt(_dot(x, x))
    return jnp.where(norm > bound, bound / norm, 1.0)"""


@dataclass(frozen=True)
class Body:
    """The inside of ``update_fn``."""

    lines: tuple[str, ...]
    outputs: tuple[str, ...]  # expressions of the update and the new states, as pytrees
    states: tuple[str, ...]
    helpers: tuple[str, ...]
    uses_w: bool
    uses_lr: bool
    uses_count: bool
    uses_total_steps: bool
    uses_loss: bool


@dataclass
class _Line:
    """``name = code``; a leaf line runs once for each parameter array, a tree line once."""

    name: str
    code: str
    reads: tuple[str, ...]
    leaf: bool
    stage: int = 0


@dataclass
class _Emitter:
    lines: list[_Line] = field(default_factory=list)
    constants: dict[str, float] = field(default_factory=dict)
    powers: dict[str, tuple[float, str]] = field(default_factory=dict)  # name -> base, exponent of `base ** scalar`
    kinds: dict[str, Kind] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)  # first stage in which a leaf function may read the value

    def statement(self, statement: Statement, kind: Kind) -> None:
        op, args = OPS[statement.op], [self._resolve(a) for a in statement.args]
        self.kinds[statement.target] = kind
        if kind is Kind.SCALAR and op.shape not in (Shape.GLOBAL, Shape.OBSERVED) and all(isinstance(a, float) for a in args):
            assert op.fn is not None
            with np.errstate(all="ignore"):
                value = float(op.fn(np, *(np.float64(a) for a in args)))
            if math.isfinite(value):
                self.constants[statement.target] = value
                return
        if op.shape is Shape.OBSERVED:
            self._tree(statement.target, op.code, [LOSS])
        elif op.shape is Shape.GLOBAL:
            self._tree(statement.target, op.code, [self._wide(a) for a in args])
        elif op.shape is Shape.CLIP:
            wide = self._wide(args[0])
            self._tree(f"{statement.target}_factor", "_clip_factor({0}, {1})", [wide, args[1]])
            self._leaf(statement.target, "{0} * {1}", [wide, f"{statement.target}_factor"])
        elif op.shape in (Shape.PER_ARRAY, Shape.MATRIX, Shape.SELECT):
            self._leaf(statement.target, op.code, [self._wide(a) for a in args])
        elif kind is Kind.SCALAR:
            self._scalar(statement.target, op.name, op.code, args)
        else:
            self._leaf(statement.target, op.code, args)

    def wide_output(self, name: str) -> str:
        """A value that an output needs, as an array in every leaf."""
        return self._wide(self._resolve(name))

    def _resolve(self, argument: Argument) -> Argument:
        return self.constants.get(argument, argument) if isinstance(argument, str) else argument

    def _scalar(self, target: str, op: str, code: str, args: list[Argument]) -> None:
        if op == "power" and isinstance(args[0], float) and args[0] > 0 and isinstance(args[1], str):
            self.powers[target] = (args[0], args[1])
        if op == "subtract" and args[0] == 1.0 and isinstance(args[1], str) and args[1] in self.powers:
            base, exponent = self.powers[args[1]]
            self._tree(target, f"-jnp.expm1({{0}} * {math.log(base)!r})  # 1 - {number(base)} ** {exponent}", [exponent])
            return
        self._tree(target, code, args)

    def _wide(self, argument: Argument) -> str:
        if isinstance(argument, str) and self.kinds[argument] is Kind.ARRAY:
            return argument
        name = f"wide_{argument if isinstance(argument, str) else len(self.lines)}"
        if name not in self.kinds:
            self.kinds[name] = Kind.ARRAY
            self._leaf(name, "jnp.broadcast_to(jnp.asarray({0}, g.dtype), g.shape)", [argument, "g"])
        return name

    def _leaf(self, name: str, code: str, args: list[Argument]) -> None:
        reads = tuple(a for a in args if isinstance(a, str))
        stage = max([self.stages[a] for a in reads], default=0)
        self.stages[name] = stage
        self.lines.append(_Line(name, _format(code, args), reads, True, stage))

    def _tree(self, name: str, code: str, args: list[Argument]) -> None:
        reads = tuple(a for a in args if isinstance(a, str))
        # Values of a leaf function are whole trees only after it; the inputs w, g and the states are from the start.
        computed = {line.name for line in self.lines if line.leaf}
        stage = max([self.stages[a] + (a in computed) for a in reads], default=0)
        self.stages[name] = stage
        self.kinds[name] = Kind.SCALAR
        self.lines.append(_Line(name, _format(code, args), reads, False, stage))


def _format(code: str, args: list[Argument]) -> str:
    """Fills in arguments; `(1 - weight) * a + weight * b` gets its weights as numbers."""
    if code == OPS["interp"].code and isinstance(args[2], float):
        return f"{number(1 - args[2])} * {argument_text(args[0])} + {number(args[2])} * {argument_text(args[1])}"
    return code.format(*(argument_text(a) for a in args))


def argument_text(argument: Argument) -> str:
    """A variable or a number as it is written between operators."""
    if isinstance(argument, str):
        return argument
    return f"({number(argument)})" if argument < 0 else number(argument)


def number(value: float, digits: int = 12) -> str:
    """A number as it is written in a file, rounded to so many digits.

    >>> number(0.1 + 0.2), number(1 / 3, 3)
    ('0.3', '0.333')
    """
    return repr(float(f"{value:.{digits}g}"))


def default(value: float) -> str:
    """A number that two constants of a program made, as the default of a parameter; their product's last digits are noise."""
    return number(value, 9)


class Elementwise(NamedTuple):
    """The arithmetic of a program that treats every element alike."""

    scalars: tuple[str, ...]  # assignments of numbers that are the same everywhere
    lines: tuple[str, ...]  # assignments that run on each piece of a parameter array
    outputs: tuple[str, ...]  # names of the update and the new states
    passed: tuple[str, ...]  # numbers that the lines read
    inputs: frozenset[str]  # of the program, those that anything reads


def emit_elementwise(program: Program, outputs: tuple[str, ...]) -> Elementwise:
    """Source of the update of an elementwise program whose targets are unique; arguments as of `emit`."""
    emitter, outputs = _emitted(program, outputs)
    leaf = [line for line in emitter.lines if line.leaf]
    reads = {name for line in emitter.lines for name in line.reads} | set(outputs)
    passed = dict.fromkeys(name for line in leaf for name in line.reads if emitter.kinds[name] is Kind.SCALAR)
    return Elementwise(
        scalars=tuple(f"{line.name} = {line.code}" for line in emitter.lines if not line.leaf),
        lines=tuple(f"{line.name} = {line.code}" for line in leaf),
        outputs=outputs,
        passed=tuple(passed),
        inputs=frozenset(program.inputs) & reads,
    )


def input_lines(reads: Collection[str], count: str) -> list[str]:
    """Assignments of the inputs that are numbers, as far as they are read; `count` is the expression of the steps taken.

    >>> input_lines({"g", "progress"}, "state.count")
    ['progress = state.count / total_steps']
    """
    lines = {
        "step": f"step = ({count} + 1).astype(jnp.float32)",
        "progress": f"progress = {count} / total_steps",
        "lr": f"lr = learning_rate({count}) if callable(learning_rate) else learning_rate",
        "budget": "budget = jnp.asarray(total_steps, jnp.float32)",
    }
    return [line for name, line in lines.items() if name in reads]


def emit(program: Program, outputs: tuple[str, ...]) -> Body:
    """Source of the update of a program whose targets are unique.

    Args:
        program: as `unique_names` returns it.
        outputs: names of the update and of the states' new values.
    """
    emitter, outputs = _emitted(program, outputs)
    reads = {name for line in emitter.lines for name in line.reads} | set(outputs)
    body, scalars = input_lines(reads, "state.count"), [line for line in emitter.lines if not line.leaf]
    mixed = bool(scalars) or any(name in reads for name in ("step", "progress", "budget", "lr"))
    body += _stages(emitter, program, outputs, mixed)
    helpers = [_DOT] if any("_dot(" in line.code or "_clip_factor(" in line.code for line in scalars) else []
    helpers += [_CLIP] if any("_clip_factor(" in line.code for line in scalars) else []
    helpers += matrices.source([name for name in matrices.FUNCTIONS if any(f"{name}(" in line.code for line in emitter.lines)])
    exprs = tuple(_tree_name(name, program) for name in outputs)
    return Body(
        lines=tuple(body),
        outputs=exprs,
        states=program.states,
        helpers=tuple(helpers),
        uses_w="w" in reads,
        uses_lr="lr" in reads,
        uses_count=bool(reads & {"step", "progress", "lr"}),
        uses_total_steps=bool(reads & {"progress", "budget"}),
        uses_loss=LOSS in reads,
    )


def _emitted(program: Program, outputs: tuple[str, ...]) -> tuple[_Emitter, tuple[str, ...]]:
    """The lines that the outputs need, and the outputs as arrays."""
    emitter = _Emitter()
    for name in program.inputs:
        emitter.kinds[name] = Kind.ARRAY if name in ("w", "g", *program.states) else Kind.SCALAR
        emitter.stages[name] = 0
    emitter.kinds[LOSS], emitter.stages[LOSS] = Kind.SCALAR, 0
    checked = Program((*program.statements, Statement("update", "copy", (outputs[0],))), program.states, program.extra)
    for statement, kind in zip(program.statements, infer(checked), strict=False):
        emitter.statement(statement, kind)
    outputs = tuple(emitter.wide_output(name) for name in outputs)
    emitter.lines = _needed(emitter.lines, outputs)
    return emitter, outputs


def _needed(lines: list[_Line], outputs: tuple[str, ...]) -> list[_Line]:
    """Without the lines that folding left behind."""
    wanted, kept = set(outputs), []
    for line in reversed(lines):
        if line.name in wanted:
            wanted.update(line.reads)
            kept.append(line)
    return kept[::-1]


def _tree_name(name: str, program: Program) -> str:
    """How a pytree of that name is written outside the leaf functions."""
    if name == "w":
        return "params"
    return "updates" if name == "g" else f"state.{name}" if name in program.states else name


def _stages(emitter: _Emitter, program: Program, outputs: tuple[str, ...], mixed: bool) -> list[str]:
    lines = emitter.lines
    last = max((line.stage for line in lines), default=0)
    body: list[str] = []
    for stage in range(last + 1):
        for line in lines:
            if line.stage == stage and not line.leaf:
                code = line.code
                for name in sorted({r for r in line.reads if emitter.kinds[r] is Kind.ARRAY}, key=len, reverse=True):
                    code = _replace_name(code, name, _tree_name(name, program))
                body.append(f"{line.name} = {code}")
        own = [line for line in lines if line.stage == stage and line.leaf]
        if own:
            later = {r for line in lines if line.stage > stage or not line.leaf for r in line.reads} | set(outputs)
            body += _leaf_function(
                emitter, program, own, [line.name for line in own if line.name in later], f"stage_{stage}" if last else "leaf", mixed
            )
    return body


def _replace_name(code: str, name: str, new: str) -> str:
    return re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", new, code)


def _leaf_function(emitter: _Emitter, program: Program, lines: list[_Line], results: list[str], name: str, mixed: bool) -> list[str]:
    own = {line.name for line in lines}
    reads = dict.fromkeys(["g", *(r for line in lines for r in line.reads if r not in own and emitter.kinds[r] is not Kind.SCALAR)])
    body = ["", f"def {name}({', '.join(reads)}):  # one parameter array", *(f"    {line.name} = {line.code}" for line in lines)]
    # Numbers that are computed are float32; what is stored keeps the dtype of its array.
    cast = ".astype(g.dtype)" if mixed else ""
    body += [f"    return {', '.join(result + cast for result in results)}{',' if len(results) == 1 else ''}", ""]
    trees = ", ".join(_tree_name(read, program) for read in reads)
    body.append(f"results = jax.tree.map({name}, {trees})")
    # Not jax.tree.transpose, which refuses trees without leaves, as an all-False mask leaves behind.
    unpacked = f"(jax.tree.map(lambda _, values, i=i: values[i], updates, results) for i in range({len(results)}))"
    body.append(f"{', '.join(results)}{',' if len(results) == 1 else ''} = {unpacked}")
    return body
