"""From program to bytecode: fold what is known before the run, fuse common pairs, give out rows.

Everything that depends on ``lr``, ``step``, ``progress``, ``budget`` and constants alone is known before the first step. It is
computed here, in NumPy and float64 (so that ``1 - 0.999 ** step`` keeps its digits), for all steps at once, and becomes a
column of the scalar table; what is left are operations on rows of the register file. Scalars that a program computes from
arrays (``dot``, ``norm``, ...) are rows too, each filled with its value, so that one instruction set serves all kinds.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..language.canonical import prune
from ..language.ops import EPS, OPS, Shape
from ..language.program import MAX_STATES, Program, ProgramError, extended_operations
from .opcodes import OPCODES

NUM_ROWS = 32
MAX_INSTRUCTIONS = 96
NUM_SCALARS = 64
W_ROW, G_ROW, UPDATE_ROW, FIRST_STATE_ROW = 0, 1, 2, 3
FIRST_FREE_ROW = FIRST_STATE_ROW + MAX_STATES
SCRATCH_ROW = NUM_ROWS - 1


class Clock(NamedTuple):
    """What a program may know of time, for each step of a run."""

    lr: np.ndarray  # [steps] float64, relative to its peak
    step: np.ndarray  # [steps] float64, 1 at the first step
    progress: np.ndarray  # [steps] float64, 0 at the first step

    @staticmethod
    def create(relative_learning_rate: np.ndarray) -> "Clock":
        """A clock from the schedule's values. # [steps]"""
        steps = len(relative_learning_rate)
        count = np.arange(steps, dtype=np.float64)
        return Clock(np.asarray(relative_learning_rate, np.float64), count + 1, count / steps)


class Bytecode(NamedTuple):
    """A program as run-time input of the compiled machine; shapes do not depend on the program."""

    instructions: np.ndarray  # [MAX_INSTRUCTIONS, 6] int32: opcode, destination, a, b, column of s, column of t
    length: np.ndarray  # [] int32
    scalars: np.ndarray  # [steps, NUM_SCALARS] float32


Scalar = np.ndarray | np.floating  # float64: one number, or one for each step
_ONE, _ZERO = np.float64(1), np.float64(0)


@dataclass
class _Node:
    """An instruction before rows are given out; its operands are numbers of other nodes."""

    op: str
    rows: list[int]
    s: Scalar = _ZERO
    t: Scalar = _ZERO


def assemble(program: Program, clock: Clock, learning_rate_factor: float = 1.0, extended: bool = False) -> Bytecode:
    """Bytecode of a program for a run with the given clock.

    Args:
        program: a program whose kinds have been checked.
        clock: the schedule, one entry a step.
        learning_rate_factor: multiplies the update as a whole, so that any rule can be run at other rates.
        extended: whether the machine has the operations of the extended language.

    Raises:
        ProgramError: if the program needs more instructions, rows, scalars or operations than the machine has.
    """
    program = prune(program)
    if not extended and (missing := extended_operations(program)):
        raise ProgramError(f"{', '.join(missing)}: of the extended language, which this machine was built without; build it with extended")
    builder = _Builder(clock)
    values = builder.run(program)
    outputs = [builder.row(values[name]) for name in program.outputs]
    if learning_rate_factor != 1.0:
        outputs[0] = builder.emit("scale", [outputs[0]], np.float32(learning_rate_factor))
    with np.errstate(all="ignore"):
        order = _fuse(builder.nodes, outputs)
    instructions, columns = _allocate(builder.nodes, order, outputs, len(program.states))
    if len(instructions) > MAX_INSTRUCTIONS or len(columns) > NUM_SCALARS:
        raise ProgramError(
            f"needs {len(instructions)} instructions and {len(columns)} scalars; the machine has {MAX_INSTRUCTIONS} and {NUM_SCALARS}"
        )
    table = np.zeros((len(clock.lr), NUM_SCALARS), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for index, column in enumerate(columns):
            table[:, index] = column
    code = np.zeros((MAX_INSTRUCTIONS, 6), np.int32)
    code[: len(instructions)] = instructions
    return Bytecode(code, np.int32(len(instructions)), table)  # pyright: ignore[reportArgumentType]


class _Builder:
    """Translates statements; a value is a scalar known before the run or the number of a node."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self.nodes: list[_Node] = []

    def emit(self, op: str, rows: list[int], s: Scalar = _ZERO, t: Scalar = _ZERO) -> int:
        self.nodes.append(_Node(op, rows, s, t))
        return len(self.nodes) - 1

    def row(self, value: int | Scalar) -> int:
        return value if isinstance(value, int) else self.emit("fill", [], value)

    def run(self, program: Program) -> dict[str, int | Scalar]:
        # Nodes of op "input" stand for the rows that hold w, g and the states when a step begins.
        values: dict[str, int | Scalar] = {name: self.emit("input", []) for name in ("w", "g", *program.states)}
        values |= {
            "lr": self._clock.lr,
            "step": self._clock.step,
            "progress": self._clock.progress,
            "budget": np.float64(len(self._clock.lr)),
        }
        with np.errstate(all="ignore"):
            for target, op, args in program.statements:
                values[target] = self._translate(op, [values[a] if isinstance(a, str) else np.float64(a) for a in args])
        return values

    def _translate(self, name: str, args: list[int | Scalar]) -> int | Scalar:
        op = OPS[name]
        known = [a for a in args if not isinstance(a, int)]
        if op.fn is not None and len(known) == len(args):
            return np.asarray(op.fn(np, *known), np.float64)
        if op.shape is Shape.INTERPOLATE:
            return self._interpolate(*args)
        if op.shape is Shape.CLIP:
            bound = args[1]
            x = self.row(args[0])
            return self.emit("clip_row", [x, bound]) if isinstance(bound, int) else self.emit("clip", [x], bound)
        if op.shape is not Shape.MAP or not known:
            return self._of_rows(name, [self.row(a) for a in args])
        return self._mixed(name, args[0], args[1])

    def _of_rows(self, name: str, rows: list[int]) -> int:
        if name == "negative":
            return self.emit("scale", rows, -_ONE)
        if name in ("add", "subtract"):
            return self.emit("lin", rows, _ONE, _ONE if name == "add" else -_ONE)
        return rows[0] if name == "copy" else self.emit(name, rows)

    def _interpolate(self, a: int | Scalar, b: int | Scalar, weight: int | Scalar) -> int:
        if isinstance(weight, int):
            rest = self.emit("affine", [weight], -_ONE, _ONE)
            left, right = self.emit("multiply", [rest, self.row(a)]), self.emit("multiply", [weight, self.row(b)])
            return self.emit("lin", [left, right], _ONE, _ONE)
        rest = 1 - weight
        if isinstance(a, int) and isinstance(b, int):
            return self.emit("lin", [a, b], rest, weight)
        if isinstance(a, int):
            return self.emit("affine", [a], rest, weight * b)
        assert isinstance(b, int)
        return self.emit("affine", [b], weight, rest * a)

    def _mixed(self, name: str, a: int | Scalar, b: int | Scalar) -> int:
        """A binary operation of a row and a scalar."""
        row_first = isinstance(a, int)
        row, scalar = (a, b) if isinstance(a, int) else (b, a)
        assert isinstance(row, int) and not isinstance(scalar, int)
        if name == "add":
            return self.emit("affine", [row], _ONE, scalar)
        if name == "subtract":
            return self.emit("affine", [row], _ONE, -scalar) if row_first else self.emit("affine", [row], -_ONE, scalar)
        if name == "multiply":
            return self.emit("scale", [row], scalar)
        if name == "divide" and row_first:
            return self.emit("scale", [row], 1 / (scalar + EPS))
        suffix = "_row_scalar" if row_first or OPS[name].commutative else "_scalar_row"
        return self.emit(name + suffix, [row], scalar)


def _fuse(nodes: list[_Node], outputs: list[int]) -> list[int]:
    """Merges a node into its only user where one opcode does both; returns the live nodes in order.

    A scale goes into the coefficients of a neighbouring `lin`, a square or square root into `lin_square` and
    `divide_sqrt`: the same values to rounding, with half the passes over memory.
    """
    uses = _uses(nodes, outputs)  # a merge moves a use from one node to another, so the counts stay true
    for index, node in enumerate(nodes):
        if node.op == "scale" and uses[node.rows[0]] == 1:
            inner = nodes[node.rows[0]]
            if inner.op in ("scale", "lin"):
                nodes[index] = _Node(inner.op, inner.rows, inner.s * node.s, inner.t * node.s)
                inner.op, inner.rows = "dead", []
        elif node.op == "lin":
            _fuse_operands(nodes, node, uses)
        elif node.op == "divide" and uses[node.rows[1]] == 1 and nodes[node.rows[1]].op == "sqrt":
            inner = nodes[node.rows[1]]
            node.op, node.rows = "divide_sqrt", [node.rows[0], inner.rows[0]]
            inner.op, inner.rows = "dead", []
    return [index for index, node in enumerate(nodes) if node.op not in ("dead", "input")]


def _fuse_operands(nodes: list[_Node], node: _Node, uses: list[int]) -> None:
    for position in range(2):
        inner = nodes[node.rows[position]]
        if inner.op == "scale" and uses[node.rows[position]] == 1:
            coefficients = [node.s, node.t]
            coefficients[position] = coefficients[position] * inner.s
            node.s, node.t = coefficients
            node.rows[position] = inner.rows[0]
            inner.op, inner.rows = "dead", []
    for position in range(2):
        inner = nodes[node.rows[position]]
        if inner.op == "square" and uses[node.rows[position]] == 1:
            first, second = (node.s, node.t) if position == 0 else (node.t, node.s)
            node.op, node.rows, node.s, node.t = "lin_square", [inner.rows[0], node.rows[1 - position]], first, second
            inner.op, inner.rows = "dead", []
            return


def _uses(nodes: list[_Node], outputs: list[int]) -> list[int]:
    uses = [0] * len(nodes)
    for node in nodes:
        for row in node.rows:
            uses[row] += 1
    for row in outputs:
        uses[row] += 1
    return uses


def _allocate(nodes: list[_Node], order: list[int], outputs: list[int], num_states: int) -> tuple[list[list[int]], list[Scalar]]:
    """Gives every value a row. A new state is written over the old one as soon as nobody reads that any more."""
    end = len(nodes)
    last_use = {row: index for index in order for row in nodes[index].rows} | dict.fromkeys(outputs, end)
    homes = [UPDATE_ROW, *range(FIRST_STATE_ROW, FIRST_STATE_ROW + num_states)]
    location = dict(zip(range(2 + num_states), [W_ROW, G_ROW, *homes[1:]], strict=True))
    occupant = {row: index for index, row in location.items()}
    free = [*range(FIRST_FREE_ROW, SCRATCH_ROW)]
    instructions: list[list[int]] = []
    columns = _Columns()
    for index in order:
        node = nodes[index]
        sources = [location[row] for row in node.rows]
        for row in dict.fromkeys(node.rows):
            if last_use[row] == index and location[row] >= FIRST_FREE_ROW:
                free.append(location[row])
        wanted = [
            home
            for home, output in zip(homes, outputs, strict=True)
            if output == index and last_use.get(occupant.get(home, -1), -1) <= index
        ]
        if not wanted and not free:
            raise ProgramError(f"keeps more than {SCRATCH_ROW - FIRST_FREE_ROW} values alive at once; the machine has no row for more")
        destination = wanted[0] if wanted else free.pop()
        location[index] = destination
        occupant[destination] = index
        a, b = (*sources, 0, 0)[:2]
        instructions.append([OPCODES[node.op], destination, a, b, columns.add(node.s), columns.add(node.t)])
    for destination, source in _moves({home: location[output] for home, output in zip(homes, outputs, strict=True)}):
        instructions.append([OPCODES["copy"], destination, source, 0, 0, 0])
    return instructions, columns.values


def _moves(pending: dict[int, int]) -> list[tuple[int, int]]:
    """A parallel assignment destination <- source as a sequence of copies."""
    pending = {destination: source for destination, source in pending.items() if destination != source}
    moves: list[tuple[int, int]] = []
    while pending:
        ready = [destination for destination in pending if destination not in pending.values()]
        if not ready:  # a cycle: park one value
            parked = next(iter(pending.values()))
            moves.append((SCRATCH_ROW, parked))
            pending = {d: SCRATCH_ROW if s == parked else s for d, s in pending.items()}
            continue
        moves.append((ready[0], pending.pop(ready[0])))
    return moves


class _Columns:
    """Columns of the scalar table; equal columns are shared, column 0 is zero."""

    def __init__(self) -> None:
        self.values: list[Scalar] = [_ZERO]
        self._known = {_ZERO.tobytes(): 0}

    def add(self, scalar: Scalar) -> int:
        key = scalar.tobytes()
        if key not in self._known:
            self._known[key] = len(self.values)
            self.values.append(scalar)
        return self._known[key]
