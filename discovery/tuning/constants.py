"""The constants of a program as a vector around zero, for a numerical optimiser.

A constant is scaled, ``c * exp(x)``, so that a learning rate of 1e-4 and a clip of 10 are equally far from their doubles. A weight of
`interp` between 1/2 and 1 is a memory of about ``1 / (1 - c)`` steps, and that is scaled: ``1 - (1 - c) * exp(x)``. A constant 0 has no
scale: ``x``. In all cases x = 0 is the program as it was.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..language.program import Program

MOST = math.log(1e6)  # by how much a constant is scaled at most


class Coordinate(NamedTuple):
    """A constant of a program, and where it stands."""

    statement: int
    argument: int
    value: float
    is_memory: bool  # a weight of interp between 1/2 and 1

    def at(self, offset: float) -> float:
        """The constant at an offset of the vector.

        >>> Coordinate(0, 2, 0.9, True).at(0.0), round(Coordinate(0, 2, 0.9, True).at(math.log(0.1)), 9)
        (0.9, 0.99)
        """
        if offset == 0.0:
            return self.value
        if self.value == 0.0:
            return offset
        scale = math.exp(min(max(offset, -MOST), MOST))
        return 1 - (1 - self.value) * scale if self.is_memory else self.value * scale


def coordinates(program: Program) -> tuple[Coordinate, ...]:
    """The constants of a pruned program, in order.

    >>> from ..language import load
    >>> [(c.value, c.is_memory) for c in coordinates(load("lion"))]
    [(0.9, True), (0.99, True), (0.1, False), (0.0003, False)]
    """
    found: list[Coordinate] = []
    for at, statement in enumerate(program.statements):
        for position, argument in enumerate(statement.args):
            if isinstance(argument, float):
                is_weight = statement.op == "interp" and position == 2
                found.append(Coordinate(at, position, argument, is_weight and 0.5 < argument < 1))
    return tuple(found)


def with_offsets(program: Program, found: Sequence[Coordinate], offsets: Sequence[float]) -> Program:
    """The program with other constants.

    Args:
        program: whose constants they are.
        found: its coordinates.
        offsets: one for each of them; all 0 gives the program itself.
    """
    statements = list(program.statements)
    for coordinate, offset in zip(found, offsets, strict=True):
        statement = statements[coordinate.statement]
        args = list(statement.args)
        args[coordinate.argument] = coordinate.at(float(offset))
        statements[coordinate.statement] = statement._replace(args=tuple(args))
    return Program(tuple(statements), program.states, program.extra)
