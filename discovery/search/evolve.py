"""Regularized evolution (Real et al. 2019, arXiv 1802.01548) of programs, warm-started from a known rule.

Each step draws a tournament from the population, mutates its winner, and the child replaces the oldest member, whoever that
is. A failed child enters with infinite fitness, so it never wins and only ages out. At a plateau the search may start again
from its best program, and the population may live on islands.
"""

from dataclasses import dataclass, replace
from functools import partial
from random import Random

from ..language.canonical import canonical_hash
from ..language.message import shown
from ..language.program import Program
from .baselines import random_walk
from .mutate import MutationConfig, mutate
from .strategy import Candidate, Member, SearchState, Strategy, first, init, random_of, tell_best

MAX_POPULATION = 1_000_000


@dataclass(frozen=True)
class EvolutionConfig:
    """Sizes of the evolution; the paper used 1,000 and 2 at 25,000 evaluations a search, a desk affords fewer.

    A member lives for ``population_size`` births and has about ``tournament_size`` children if it is the best. With half of
    all children failing and most others worse, a tournament of 4 loses its best programs to age faster than it finds them
    again (seen on three tasks, EXPERIMENTS.md).
    """

    population_size: int = 200  # members of all islands, the oldest of which each child replaces
    tournament_size: int = 20  # members drawn for one tournament
    restart_after: int = 0  # births without a new best after which the population is the best program alone; 0: never
    islands: int = 1  # parts of the population that births go to in turn
    migration: float = 0.02  # probability that the parent of a birth comes from the next island
    random_start: int = 0  # first births that are random walks from the initial program, for a start from scratch

    def check(self) -> "EvolutionConfig":
        """The config itself; a ValueError where a size is outside its range."""
        if self.population_size > MAX_POPULATION:
            raise ValueError(f"population_size must be at most {MAX_POPULATION}, got {shown(self.population_size)}")
        if not 1 <= self.tournament_size <= self.population_size:
            raise ValueError(f"tournament_size must be 1 to population_size ({self.population_size}), got {shown(self.tournament_size)}")
        if not 1 <= self.islands <= self.population_size:
            raise ValueError(f"islands must be 1 to population_size ({self.population_size}), got {shown(self.islands)}")
        if not 0 <= self.migration <= 1:
            raise ValueError(f"migration is a probability, got {self.migration}")
        for name in ("restart_after", "random_start"):
            if not 0 <= getattr(self, name) <= MAX_POPULATION:
                raise ValueError(f"{name} must be 0 to {MAX_POPULATION}, got {shown(getattr(self, name))}")
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


def constants_only(initial: Program, config: EvolutionConfig, mutation: MutationConfig, extended: bool = False) -> Strategy:
    """The same evolution of the initial program's constants alone: what tuning its numbers would give."""
    return regularized_evolution(initial, config, replace(mutation, only_constants=True), extended)


def _ask(
    initial: Program, config: EvolutionConfig, mutation: MutationConfig, extended: bool, state: SearchState
) -> tuple[Candidate, SearchState]:
    if state.births == 0:
        return first(state, initial)
    random, advanced = random_of(state), state._replace(births=state.births + 1)
    if state.births <= config.random_start:
        return random_walk(state.births, initial, mutation, extended, random), advanced
    parent = _tournament(state, config, random) or Member(0, initial, canonical_hash(initial), 0.0)
    child = mutate(parent.program, parent.hash, random, mutation, extended)
    return Candidate(state.births, child.program, child.hash, parent.birth, *child[2:]), advanced


def _tournament(state: SearchState, config: EvolutionConfig, random: Random) -> Member | None:
    members = state.population
    if config.islands > 1:
        island = (state.births + (random.random() < config.migration)) % config.islands
        members = [member for member in members if member.birth % config.islands == island] or members
    if not members:
        return None
    size = len(members)
    drawn = [members[int(random.random() * size)] for _ in range(config.tournament_size)]
    return min(drawn, key=lambda member: member.fitness)


def _tell(config: EvolutionConfig, state: SearchState, candidate: Candidate, fitness: float) -> SearchState:
    state = tell_best(state, candidate, fitness)
    if config.restart_after and state.stagnant >= config.restart_after and state.best is not None:
        return state._replace(population=(state.best,), stagnant=0, restarts=state.restarts + 1)
    member = Member(candidate.birth, candidate.program, candidate.hash, fitness)
    return state._replace(population=(*state.population, member)[-config.population_size :])
