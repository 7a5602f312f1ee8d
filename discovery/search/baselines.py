"""Random walks of mutations: a baseline behind the same interface, and how an evolution starts from scratch."""

from functools import partial
from random import Random

from ..language.canonical import canonical_hash
from ..language.program import Program
from .mutate import MutationConfig, mutate
from .strategy import Candidate, SearchState, Strategy, first, init, random_of, tell_best

MEAN_MUTATIONS = 8


def random_search(initial: Program, mutation: MutationConfig, extended: bool = False) -> Strategy:
    """Programs that are random walks of mutations from the initial one; no result influences what is drawn next.

    The length of a walk is geometric with mean `MEAN_MUTATIONS`; `extended` is as in `regularized_evolution`.
    """
    mutation.check()
    return Strategy(init, partial(_ask, initial, mutation, extended), tell_best)


def _ask(initial: Program, mutation: MutationConfig, extended: bool, state: SearchState) -> tuple[Candidate, SearchState]:
    if state.births == 0:
        return first(state, initial)
    return random_walk(state.births, initial, mutation, extended, random_of(state)), state._replace(births=state.births + 1)


def random_walk(birth: int, initial: Program, mutation: MutationConfig, extended: bool, random: Random) -> Candidate:
    """A child of the initial program, many mutations away."""
    child = mutate(initial, canonical_hash(initial), random, mutation, extended)
    count, rejected, neutral = 1, child.rejected, child.neutral
    while random.random() > 1 / MEAN_MUTATIONS:
        child = mutate(child.program, child.hash, random, mutation, extended)
        count, rejected, neutral = count + 1, rejected + child.rejected, neutral + child.neutral
    return Candidate(birth, child.program, child.hash, 0, f"{count} random mutations", child.pruned, rejected, neutral)
