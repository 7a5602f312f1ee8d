"""The best distinct programs so far."""

from collections.abc import Mapping
from typing import NamedTuple

from ..evaluate.fitness import Outcome
from ..language.program import Program

RESERVE = 4  # an entry that turns out worse on more seeds makes room for one of those behind the last place


class Entry(NamedTuple):
    """A program of the hall of fame."""

    hash: str
    program: Program  # pruned
    outcome: Outcome
    losses: Mapping[str, float]  # task -> geometric mean of the validation loss over seeds

    @property
    def fitness(self) -> float:
        """0 is tuned AdamW, lower is better."""
        return self.outcome.fitness


class HallOfFame:
    """The ``size`` best programs; ties are broken by hash, so the order of arrival does not matter."""

    def __init__(self, size: int):
        self._size = size
        self._kept: list[Entry] = []

    @property
    def capacity(self) -> int:
        """Entries kept, those waiting behind the last place included."""
        return RESERVE * self._size

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The best, in order."""
        return tuple(self._kept[: self._size])

    def put(self, entry: Entry) -> None:
        """Enters a program, or what is newly known of it; one that failed is not in it."""
        others = [kept for kept in self._kept if kept.hash != entry.hash]
        if entry.fitness < float("inf") and (len(others) < self.capacity or entry.fitness <= others[-1].fitness):
            others = sorted([*others, entry], key=lambda e: (e.fitness, e.hash))[: self.capacity]
        self._kept = others
