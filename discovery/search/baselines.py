"""Baselines behind the same interface: what does evolution add?"""

from functools import partial

from ..language.canonical import canonical_hash
from ..language.program import Program
from .mutate import MutationConfig, mutate
from .strategy import Candidate, SearchState, Strategy, init, random_of

MEAN_MUTATIONS = 8


def random_search(initial: Program, mutation: MutationConfig, extended: bool = False) -> Strategy:
    """Programs that are random walks of mutations from the initial one; no result influences what is drawn next.

    The length of a walk is geometric with mean `MEAN_MUTATIONS`; `extended` is as in `regularized_evolution`.
    """
    mutation.check()
    return Strategy(init, partial(_ask, initial, mutation, extended), _tell)


def _ask(initial: Program, mutation: MutationConfig, extended: bool, state: SearchState) -> tuple[Candidate, SearchState]:
    advanced = state._replace(births=state.births + 1)
    if state.births == 0:
        return Candidate(0, initial, canonical_hash(initial), None, "initial program", 0), advanced
    random = random_of(state)
    child = mutate(initial, canonical_hash(initial), random, mutation, extended)
    count, rejected = 1, child.rejected
    while random.random() > 1 / MEAN_MUTATIONS:
        child = mutate(child.program, child.hash, random, mutation, extended)
        count, rejected = count + 1, rejected + child.rejected
    return Candidate(state.births, child.program, child.hash, 0, f"{count} random mutations", rejected), advanced


def _tell(state: SearchState, candidate: Candidate, fitness: float) -> SearchState:
    return state
