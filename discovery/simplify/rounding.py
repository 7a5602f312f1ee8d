"""Constants with as few digits as the fitness allows."""

from collections.abc import Iterator

from ..language import Program, Statement

MAX_DIGITS = 7


def constants(program: Program) -> list[tuple[int, int]]:
    """Where a program has constants: (statement, argument)."""
    return [(i, j) for i, statement in enumerate(program.statements) for j, a in enumerate(statement.args) if isinstance(a, float)]


def rounded(value: float) -> Iterator[float]:
    """The constant with 1, 2, ... digits, as long as that differs from it; near 1 the digits are those of the distance to 1.

    >>> list(rounded(0.8999999761581421))[:1], list(rounded(0.99822))
    ([0.9], [0.998, 0.9982, 0.99822])
    >>> list(rounded(0.0002171761734643951))[:2]
    [0.0002, 0.00022]
    """
    last = None
    near_one = 0.5 < value < 1.5 and value != 1.0
    for digits in range(1, MAX_DIGITS + 1):
        short = 1.0 - float(f"{1.0 - value:.{digits}g}") if near_one else float(f"{value:.{digits}g}")
        short = float(f"{short:.12g}")
        if short != last:
            yield short
        last = short
        if abs(short - value) <= 1e-12 * abs(value):
            return


def with_constant(program: Program, place: tuple[int, int], value: float) -> Program:
    """The program with another constant at one place."""
    index, position = place
    target, op, args = program.statements[index]
    changed = Statement(target, op, (*args[:position], value, *args[position + 1 :]))
    return Program((*program.statements[:index], changed, *program.statements[index + 1 :]), program.states, program.extra)
