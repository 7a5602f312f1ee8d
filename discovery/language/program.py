"""Programs as data: a sequence of statements over the inputs, one operation each."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

# Limits on what is accepted from outside and on what mutation may grow.
MAX_STATEMENTS = 64
MAX_STATES = 6
OPTIONAL_INPUTS = ("step", "progress")

Argument = str | float


class ProgramError(ValueError):
    """A program that cannot be read or run: says which line, what is wrong and how to mend it."""

    def __init__(self, reason: str, line: int | None = None, where: str | None = None):
        self.reason, self.line, self.where = reason, line, where
        place = f"line {line}: " if line is not None else ""
        super().__init__(f"{where + ': ' if where else ''}{place}{reason}")


class Statement(NamedTuple):
    """``target = op(*args)``; an argument is the name of a variable or a constant."""

    target: str
    op: str
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class Program:
    """An update rule: ``train(w, g, *states, lr, *extra) -> update, *states``; outside, ``w <- w - update``.

    Attributes:
        statements: executed in order.
        states: names of the arrays carried from step to step, zero at the start.
        extra: which of the optional inputs ``step`` (1 at the first step) and ``progress`` (step 0: 0, end: 1) it asks for.
    """

    statements: tuple[Statement, ...]
    states: tuple[str, ...] = ("m", "v")
    extra: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("w", "g", *self.states, "lr", *self.extra)

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("update", *self.states)

    def to_json(self) -> str:
        """The program as one line of JSON; `from_json` is the inverse."""
        return json.dumps([self.states, self.extra, self.statements], separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Program":
        """Reads what `to_json` wrote; anything else is a ProgramError."""
        try:
            states, extra, statements = json.loads(text)
            read = tuple(Statement(str(t), str(op), tuple(_argument(a) for a in args)) for t, op, args in statements)
            program = Program(read, tuple(map(str, states)), tuple(map(str, extra)))
        except (ValueError, TypeError, RecursionError) as error:
            raise ProgramError(f"not a program in JSON: {error}") from None
        check_signature(program)
        return program


def _argument(value: Any) -> Argument:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"an argument is a name or a number, not {value!r}")
    return value if isinstance(value, str) else float(value)


def check_signature(program: Program) -> None:
    """Raises ProgramError unless the inputs are distinct, known and within the limits."""
    if len(set(program.inputs)) != len(program.inputs) or "update" in program.inputs:
        raise ProgramError(f"the inputs {', '.join(program.inputs)} must be distinct and none of them `update`", 1)
    if len(program.states) > MAX_STATES:
        raise ProgramError(f"{len(program.states)} states, at most {MAX_STATES} are allowed", 1)
    unknown = [name for name in program.extra if name not in OPTIONAL_INPUTS]
    if unknown:
        raise ProgramError(f"unknown input {unknown[0]!r} after `lr`; allowed there: {', '.join(OPTIONAL_INPUTS)}", 1)
    bad = [name for name in program.states if not name.isidentifier() or name in OPTIONAL_INPUTS]
    if bad:
        raise ProgramError(f"{bad[0]!r} is no name for a state", 1)
    if len(program.statements) > MAX_STATEMENTS:
        raise ProgramError(f"{len(program.statements)} statements, at most {MAX_STATEMENTS} are allowed")
