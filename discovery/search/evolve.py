"""Regularized evolution (Real et al. 2019, arXiv 1802.01548) of programs, warm-started from a known rule.

Each step draws a tournament from the population, mutates its winner, and the child replaces the oldest member, whoever that
is. A failed child enters with infinite fitness, so it never wins and only ages out.
"""

from dataclasses import dataclass
from functools import partial
from random import Random

from ..language.canonical import canonical_hash
from ..language.message import shown
from ..language.program import Program
from .mutate import MutationConfig, mutate
from .strategy import Candidate, Member, SearchState, Strategy, init, random_of

MAX_POPULATION = 1_000_000


@dataclass(frozen=True)
class EvolutionConfig:
    """Sizes of the evolution; the paper used 1,000 and 2 at 25,000 evaluations a search, a desk affords fewer.

    A member lives for ``population_size`` births and has about ``tournament_size`` children if it is the best. With half of
    all children failing and most others worse, a tournament of 4 loses its best programs to age faster than it finds them
    again (seen on three tasks, EXPERIMENTS.md).
    """

    population_size: int = 200  # members, the oldest of which each child replaces
    tournament_size: int = 20  # members drawn for one tournament

    def check(self) -> "EvolutionConfig":
        """The config itself; a ValueError where a size is outside its range."""
        if self.population_size > MAX_POPULATION:
            raise ValueError(f"population_size must be at most {MAX_POPULATION}, got {shown(self.population_size)}")
        if not 1 <= self.tournament_size <= self.population_size:
            raise ValueError(f"tournament_size must be 1 to population_size ({self.population_size}), got {shown(self.tournament_size)}")
        return self


def regularized_evolution(initial: Program, config: EvolutionConfig, mutation: MutationConfig, extended: bool = False) -> Strategy:
    """The strategy of the paper.

    Args:
        initial: the first candidate and the parent of all others until one has been scored.
        config: population and tournament.
        mutation: how children differ from their parents.
        extended: whether children may be of the extended language.

    >>> from ..language import load
    >>> strategy = regularized_evolution(load("adamw"), EvolutionConfig(), MutationConfig())
    >>> first, state = strategy.ask(strategy.init(0))
    >>> state = strategy.tell(state, first, 0.0)
    >>> child, state = strategy.ask(state)
    >>> child.birth, child.parent
    (1, 0)
    """
    config.check()
    mutation.check()
    return Strategy(init, partial(_ask, initial, config, mutation, extended), partial(_tell, config))


def _ask(
    initial: Program, config: EvolutionConfig, mutation: MutationConfig, extended: bool, state: SearchState
) -> tuple[Candidate, SearchState]:
    advanced = state._replace(births=state.births + 1)
    if state.births == 0:
        return Candidate(0, initial, canonical_hash(initial), None, "initial program", 0), advanced
    random = random_of(state)
    parent = _tournament(state, config, random) if state.population else Member(0, initial, canonical_hash(initial), 0.0)
    child = mutate(parent.program, parent.hash, random, mutation, extended)
    return Candidate(state.births, child.program, child.hash, parent.birth, child.mutation, child.rejected), advanced


def _tournament(state: SearchState, config: EvolutionConfig, random: Random) -> Member:
    size = len(state.population)
    drawn = [state.population[int(random.random() * size)] for _ in range(config.tournament_size)]
    return min(drawn, key=lambda member: member.fitness)


def _tell(config: EvolutionConfig, state: SearchState, candidate: Candidate, fitness: float) -> SearchState:
    member = Member(candidate.birth, candidate.program, candidate.hash, fitness)
    return state._replace(population=(*state.population, member)[-config.population_size :])
