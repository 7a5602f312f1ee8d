"""The programs that a search, or the funnel after it, has to show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from .evaluate import Outcome, Status
from .language import Program, parse
from .language.equality import different
from .ledger import Best, Ledger, LevelRow
from .search.hall_of_fame import RESERVE, distinct


@dataclass(frozen=True)
class Finalist:
    """A program of the hall of fame.

    Attributes:
        rank: from 1.
        hash: of its canonical form.
        fitness: mean over the blocks of seeds that the search evaluated it on; 0 is tuned AdamW, lower is better.
        error: standard error of that mean; None with one block.
        confirmed: fitness on the finalists' seeds, once the run has finished.
        statements: its length.
        states: arrays that it carries from step to step.
        operations: on whole arrays, products of matrices counted one by one: its cost per parameter.
        text: its source.
        level: the last level of a funnel that it was scored on; None before the first.
        level_fitness: its fitness there.
        level_error: standard error of that over seeds; None with one seed.
    """

    rank: int
    hash: str
    fitness: float
    error: float | None
    confirmed: float | None
    statements: int
    states: int
    operations: int
    text: str
    level: str | None = None
    level_fitness: float | None = None
    level_error: float | None = None

    @property
    def program(self) -> Program:
        return parse(self.text)

    @property
    def score(self) -> float:
        """What is known best of it: its fitness on its last level, else on new seeds, else in the search."""
        return next(fitness for fitness in (self.level_fitness, self.confirmed, self.fitness) if fitness is not None)


def best_confirmed(ledger: Ledger, size: int) -> list[tuple[Best, float | None]]:
    """The hall of fame of a ledger, each program with its fitness on new seeds: by that where it is there, else by the search's."""
    confirmed = dict(ledger.state().get("finalists", []))
    kept = islice(different(distinct(ledger.best(RESERVE * size), lambda best: best.scores), lambda best: parse(best.text)), size)
    found = [(best, confirmed.get(best.hash)) for best in kept]
    return sorted(found, key=lambda pair: (math.inf if pair[1] is None else pair[1], pair[0].fitness, pair[0].hash))


def make_finalist(rank: int, best: Best, confirmed: float | None) -> Finalist:
    """A program of a ledger as one of the hall of fame."""
    error = Outcome(Status.OK, best.scores).error
    return Finalist(rank, best.hash, best.fitness, error, confirmed, best.statements, best.states, best.operations, best.text)


def ranked_by_level(finalists: Sequence[Finalist], levels: Sequence[str], rows: Sequence[LevelRow]) -> list[Finalist]:
    """The finalists with their last levels: those of a later level first, by their fitness there; else in the order they come in.

    Args:
        finalists: best first.
        levels: names of the funnel's levels, in order.
        rows: what the funnel found.
    """
    scored = {(row.level, row.hash): row for row in rows if row.fitness is not None}

    def placed(finalist: Finalist) -> tuple[int, float, Finalist]:
        for depth in range(len(levels), 0, -1):
            if (row := scored.get((levels[depth - 1], finalist.hash))) is not None:
                there = replace(finalist, level=row.level, level_fitness=row.fitness, level_error=row.error)
                return -depth, row.fitness or 0.0, there
        return 0, 0.0, finalist

    order = sorted(map(placed, finalists), key=lambda item: item[:2])
    return [replace(finalist, rank=rank) for rank, (_, _, finalist) in enumerate(order, 1)]
