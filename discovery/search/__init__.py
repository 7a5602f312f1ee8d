"""Search strategies: what to try next.

Start with `strategy.py`, the interface; `evolve.py` is regularized evolution, `baselines.py` random search, `mutate.py` how a
child differs from its parent, `racing.py` and `hall_of_fame.py` what a search stops early and what it keeps.
"""

from .baselines import random_search
from .evolve import EvolutionConfig, constants_only, regularized_evolution
from .mutate import Child, MutationConfig, mutant, mutate
from .racing import RacingConfig
from .strategy import Candidate, Member, SearchState, Strategy, led_anew, measured_again

__all__ = [
    "Candidate",
    "Child",
    "EvolutionConfig",
    "Member",
    "MutationConfig",
    "RacingConfig",
    "SearchState",
    "Strategy",
    "constants_only",
    "led_anew",
    "measured_again",
    "mutant",
    "mutate",
    "random_search",
    "regularized_evolution",
]
