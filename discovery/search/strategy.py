"""What every search strategy shares: a serialisable state and the calls init, ask and tell."""

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from ..language.canonical import canonical_hash, prune
from ..language.program import Program


class Candidate(NamedTuple):
    """A program to be scored."""

    birth: int  # index of birth, from 0
    program: Program
    hash: str  # canonical
    parent: int | None  # birth of the parent
    mutation: str
    pruned: Program  # what of it reaches the update
    rejected: int = 0  # invalid mutants drawn before it
    neutral: int = 0  # valid mutants drawn before it that compute what their parent does


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
    best: Member | None = None  # of all told so far
    stagnant: int = 0  # births told since it was found, or since the last restart
    restarts: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data; programs are named by their births."""
        best = None if self.best is None else _to_row(self.best)
        return self._asdict() | {"population": [_to_row(member) for member in self.population], "best": best}

    @staticmethod
    def from_json(data: Mapping[str, Any], program_of: Callable[[int], Program]) -> "SearchState":
        def member(row: Sequence[Any]) -> Member:
            birth, program_hash, fitness = row
            return Member(birth, program_of(birth), program_hash, math.inf if fitness is None else fitness)

        best = data["best"] and member(data["best"])
        return SearchState(**{**data, "population": tuple(member(row) for row in data["population"]), "best": best})


def _to_row(member: Member) -> list[Any]:
    return [member.birth, member.hash, member.fitness if math.isfinite(member.fitness) else None]


class Strategy(NamedTuple):
    """A search as pure functions.

    ``init(seed) -> state``; ``ask(state) -> (candidate, state)``; ``tell(state, candidate, fitness) -> state``. Any number
    of candidates may be asked before the first is told. A program that is told again, by a later birth, has the fitness that it had,
    unless `measured_again` has said otherwise.
    """

    init: Callable[[int], SearchState]
    ask: Callable[[SearchState], tuple[Candidate, SearchState]]
    tell: Callable[[SearchState, Candidate, float], SearchState]


def init(seed: int) -> SearchState:
    """An empty population."""
    return SearchState(seed, 0, ())


def first(state: SearchState, initial: Program) -> tuple[Candidate, SearchState]:
    """The birth of the initial program."""
    candidate = Candidate(0, initial, canonical_hash(initial), None, "initial program", prune(initial))
    return candidate, state._replace(births=1)


def tell_best(state: SearchState, candidate: Candidate, fitness: float) -> SearchState:
    """Keeps count of the best program and of the births since."""
    if state.best is None or fitness < state.best.fitness:
        return state._replace(best=Member(candidate.birth, candidate.program, candidate.hash, fitness), stagnant=0)
    return state._replace(stagnant=state.stagnant + 1)


def measured_again(state: SearchState, fitness: Mapping[str, float]) -> SearchState:
    """The state with the newer fitness of some programs, by hash: as one is, so are all that compute the same."""
    members = [member._replace(fitness=fitness.get(member.hash, member.fitness)) for member in (*state.population, state.best) if member]
    size = len(state.population)
    return state._replace(population=tuple(members[:size]), best=members[size] if state.best else None)


def led_anew(state: SearchState) -> SearchState:
    """The state that the fittest of all who are known in it leads."""
    known = [member for member in (*state.population, state.best) if member]
    return state._replace(best=min(known, key=lambda member: member.fitness, default=None))


def random_of(state: SearchState) -> Random:
    """The generator of the next birth."""
    return Random((state.seed << 40) + state.births)
