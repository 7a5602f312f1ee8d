"""What every search strategy shares: a serialisable state and the calls init, ask and tell."""

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, NamedTuple

from ..language.program import Program


class Candidate(NamedTuple):
    """A program to be scored."""

    birth: int  # index of birth, from 0
    program: Program
    hash: str  # canonical
    parent: int | None  # birth of the parent
    mutation: str
    rejected: int  # invalid mutants drawn before it


class Member(NamedTuple):
    """A scored program of the population."""

    birth: int
    program: Program
    hash: str  # canonical
    fitness: float  # lower is better; infinite where the evaluation failed


class SearchState(NamedTuple):
    """All that the next ask needs; everything random derives from the seed and the index of birth."""

    seed: int
    births: int  # candidates asked so far
    population: tuple[Member, ...]  # oldest first

    def to_json(self) -> dict[str, Any]:
        """Plain data; programs are named by their births."""
        members = [[member.birth, member.hash, member.fitness if math.isfinite(member.fitness) else None] for member in self.population]
        return {"seed": self.seed, "births": self.births, "population": members}

    @staticmethod
    def from_json(data: Mapping[str, Any], program_of: Callable[[int], Program]) -> "SearchState":
        members = tuple(
            Member(birth, program_of(birth), h, math.inf if fitness is None else fitness) for birth, h, fitness in data["population"]
        )
        return SearchState(data["seed"], data["births"], members)


class Strategy(NamedTuple):
    """A search as three pure functions.

    ``init(seed) -> state``; ``ask(state) -> (candidate, state)``; ``tell(state, candidate, fitness) -> state``. Any number
    of candidates may be asked before the first is told.
    """

    init: Callable[[int], SearchState]
    ask: Callable[[SearchState], tuple[Candidate, SearchState]]
    tell: Callable[[SearchState, Candidate, float], SearchState]


def init(seed: int) -> SearchState:
    """An empty population."""
    return SearchState(seed, 0, ())


def random_of(state: SearchState) -> Random:
    """The generator of the next birth."""
    return Random((state.seed << 40) + state.births)
