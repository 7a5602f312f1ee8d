"""Programs as data: a sequence of statements over the inputs, one operation each."""

import json
import keyword
import math
import unicodedata
from dataclasses import dataclass
from typing import Any, NamedTuple

from .message import one_line, shown
from .ops import ALIASES, OPS

# Limits on what is accepted from outside and on what mutation may grow.
MAX_STATEMENTS = 64
MAX_STATES = 6
OPTIONAL_INPUTS = ("step", "progress", "budget")
OBSERVED_INPUTS = ("loss", "gradient_norm")  # that a schedule may have beside them, in the extended language
UPDATE, SCHEDULE = "update", "schedule"  # kinds of programs
_EXTENDED = frozenset(name for name, op in OPS.items() if op.extended)

Argument = str | float

_ENCODER = json.JSONEncoder(separators=(",", ":"))  # kept: to make one takes a third of a program's time


class ProgramError(ValueError):
    """A program that cannot be read or run: says which line, what is wrong and how to mend it."""

    def __init__(self, reason: str, line: int | None = None, where: str | None = None):
        self.reason, self.line, self.where = one_line(reason), line, where
        place = f"line {line}: " if line is not None else ""
        super().__init__(one_line(f"{where + ': ' if where else ''}{place}{reason}"))


class Statement(NamedTuple):
    """``target = op(*args)``; an argument is the name of a variable or a constant."""

    target: str
    op: str
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class Program:
    """An update rule or a schedule.

    An update rule is ``train(w, g, *states, lr, *extra) -> update, *states``; outside, ``w <- w - update``. A schedule is
    ``schedule(*extra) -> multiplier``, of the learning rate.

    Attributes:
        statements: executed in order.
        states: names of the arrays carried from step to step, zero at the start; a schedule has none.
        extra: which of the optional inputs ``step`` (1 at the first step), ``progress`` (step 0: 0, end: 1) and ``budget`` (the
            number of steps) it asks for; a schedule of the extended language also of ``loss`` and ``gradient_norm``, those of the step's
            batch before the update.
        kind: ``update`` or ``schedule``.
    """

    statements: tuple[Statement, ...]
    states: tuple[str, ...] = ("m", "v")
    extra: tuple[str, ...] = ()
    kind: str = UPDATE

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.extra if self.kind == SCHEDULE else ("w", "g", *self.states, "lr", *self.extra)

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("multiplier",) if self.kind == SCHEDULE else ("update", *self.states)

    def to_json(self) -> str:
        """The program as one line of JSON; `from_json` is the inverse."""
        kind = [self.kind] if self.kind != UPDATE else []
        return _ENCODER.encode([self.states, self.extra, self.statements, *kind])

    @staticmethod
    def from_json(text: str) -> "Program":
        """Reads what `to_json` wrote; anything else is a ProgramError."""
        try:
            rows = _list_of(json.loads(text))
            states, extra, statements, kind = _list_of(rows if len(rows) == 4 else [*rows, UPDATE], 4)
            program = Program(tuple(_statement(s) for s in _list_of(statements)), _names(states), _names(extra), _name(kind))
        except (ValueError, RecursionError) as error:
            raise ProgramError(f"not a program in JSON: {error}") from None
        check_signature(program)
        return program


def extended_operations(program: Program) -> tuple[str, ...]:
    """Names of the operations and observed inputs that a program has from the extended language, each once; empty for one of the paper's.

    >>> from .shipped import load
    >>> extended_operations(load("lion")), extended_operations(load("muon"))
    ((), ('on_matrices', 'orthogonalize', 'num_columns', 'num_rows'))
    """
    observed = (name for name in program.extra if name in OBSERVED_INPUTS)
    return tuple(dict.fromkeys((*observed, *(statement.op for statement in program.statements if statement.op in _EXTENDED))))


def _list_of(value: Any, size: int | None = None) -> list[Any]:
    if not isinstance(value, list) or size not in (None, len(value)):
        raise ValueError(f"expected a list{'' if size is None else f' of {size}'}, got {shown(value)}")
    return value


def _names(value: Any) -> tuple[str, ...]:
    return tuple(_name(name) for name in _list_of(value))


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a name, got {shown(value)}")
    return value


def _statement(value: Any) -> Statement:
    target, op, args = _list_of(value, 3)
    return Statement(_name(target), _name(op), tuple(_argument(argument) for argument in _list_of(args)))


def _argument(value: Any) -> Argument:
    if isinstance(value, str):  # names first: by far the most frequent
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"an argument is a name or a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):  # json reads NaN and Infinity too
        raise ValueError("a constant must be finite")
    return number


def _is_name(name: str) -> bool:
    """Whether text may call a variable so: Python reads other forms of a letter as the plain one."""
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and name != "__debug__"  # the one name that is no keyword and cannot be assigned
        and unicodedata.normalize("NFKC", name) == name
        and name not in OPS
        and name not in ALIASES
    )


def check_signature(program: Program) -> None:
    """Raises ProgramError unless the inputs are distinct, known and within the limits, and all names can be written."""
    if program.kind not in (UPDATE, SCHEDULE) or (program.kind == SCHEDULE and program.states):
        raise ProgramError(f"a program is of kind {UPDATE}, or {SCHEDULE} and then without states; got {shown(program.kind)}", 1)
    if len(set(program.inputs)) != len(program.inputs) or "update" in program.inputs:
        raise ProgramError(f"the inputs {', '.join(program.inputs)} must be distinct and none of them `update`", 1)
    if len(program.states) > MAX_STATES:
        raise ProgramError(f"{len(program.states)} states, at most {MAX_STATES} are allowed", 1)
    known = (*OPTIONAL_INPUTS, *OBSERVED_INPUTS) if program.kind == SCHEDULE else OPTIONAL_INPUTS
    unknown = [name for name in program.extra if name not in known]
    if unknown:
        after = "of a schedule" if program.kind == SCHEDULE else "after `lr`"
        raise ProgramError(f"unknown input {unknown[0]!r} {after}; allowed there: {', '.join(known)}", 1)
    bad = [name for name in program.states if not _is_name(name) or name in OPTIONAL_INPUTS]
    if bad:
        raise ProgramError(f"{bad[0]!r} is no name for a state", 1)
    if len(program.statements) > MAX_STATEMENTS:
        raise ProgramError(f"{len(program.statements)} statements, at most {MAX_STATEMENTS} are allowed")
    for line, statement in enumerate(program.statements, 2):
        if not _is_name(statement.target):
            raise ProgramError(f"{statement.target!r} is no name for a variable", line)
