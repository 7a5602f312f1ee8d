"""The best distinct programs so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..language.program import Program


class Entry(NamedTuple):
    """A program of the hall of fame."""

    hash: str
    program: Program  # pruned
    fitness: float  # 0 is tuned AdamW, lower is better
    losses: Mapping[str, float]  # task -> geometric mean of the validation loss over seeds


@dataclass
class HallOfFame:
    """At most ``size`` entries, best first; ties are broken by hash, so the order of arrival does not matter."""

    size: int
    entries: list[Entry] = field(default_factory=list)

    def admits(self, fitness: float) -> bool:
        return len(self.entries) < self.size or fitness <= self.entries[-1].fitness

    def add(self, entry: Entry) -> None:
        self.entries = sorted([*self.entries, entry], key=lambda e: (e.fitness, e.hash))[: self.size]
