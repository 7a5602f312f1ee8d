"""The best distinct programs so far."""

from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import NamedTuple, TypeVar

from ..evaluate.fitness import Outcome
from ..language.equality import different
from ..language.program import Program

RESERVE = 4  # an entry that turns out worse on more seeds, or equal to a better one, makes room for one of those behind the last place

T = TypeVar("T")


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


def distinct(ranked: Iterable[T], scores: Callable[[T], tuple[float, ...]]) -> list[T]:
    """Without those that a better one equals: with the same score on the first seeds to the last bit they train alike, whatever their text.

    Args:
        ranked: programs, best first.
        scores: a program's fitness on each block of seeds, of which all have the first.

    Example:
        >>> distinct([("a", (0.5, 0.1)), ("b", (0.4,)), ("c", (0.5,))], lambda program: program[1])
        [('a', (0.5, 0.1)), ('b', (0.4,))]
    """
    found: dict[float, T] = {}
    for program in ranked:
        found.setdefault(scores(program)[0], program)
    return list(found.values())


class HallOfFame:
    """The ``size`` best programs that train differently; ties are broken by hash, so the order of arrival does not matter."""

    def __init__(self, size: int):
        self._size = size
        self._kept: list[tuple[float, str, Entry]] = []  # with their fitness and hash, best first
        self._hashes: set[str] = set()

    @property
    def capacity(self) -> int:
        """Entries kept, those waiting behind the last place included."""
        return RESERVE * self._size

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The best, in order."""
        return tuple(self._distinct()[: self._size])

    @property
    def finalists(self) -> tuple[Entry, ...]:
        """The best without those that random inputs do not tell from a better one, which takes milliseconds a program."""
        return tuple(islice(different(self._distinct(), lambda entry: entry.program), self._size))

    def _distinct(self) -> list[Entry]:
        return distinct([entry for *_, entry in self._kept], lambda entry: entry.outcome.scores)

    def put(self, entry: Entry) -> None:
        """Enters a program, or what is newly known of it; one that failed is not in it."""
        fitness = entry.fitness
        if entry.hash in self._hashes:
            self._kept = [kept for kept in self._kept if kept[1] != entry.hash]
            self._hashes.discard(entry.hash)
        if fitness < float("inf"):
            insort(self._kept, (fitness, entry.hash, entry))
            self._hashes.add(entry.hash)
        if len(self._kept) > self.capacity:
            self._hashes.discard(self._kept.pop()[1])
