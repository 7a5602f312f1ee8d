"""Search strategies: what to try next.

Start with `strategy.py`, the interface; `evolve.py` is regularized evolution, `baselines.py` random search, `mutate.py` how a
child differs from its parent. `levels.py` and `funnel.py` select among what searches found, `validation.py` tells when a search
began to overfit its tasks.
"""

from .baselines import random_search
from .evolve import EvolutionConfig, constants_only, regularized_evolution
from .levels import LevelConfig, SelectionConfig
from .mutate import Child, MutationConfig, mutant, mutate
from .racing import RacingConfig
from .strategy import Candidate, Member, SearchState, Strategy

__all__ = [
    "Candidate",
    "Child",
    "EvolutionConfig",
    "LevelConfig",
    "Member",
    "MutationConfig",
    "RacingConfig",
    "SearchState",
    "SelectionConfig",
    "Strategy",
    "constants_only",
    "mutant",
    "mutate",
    "random_search",
    "regularized_evolution",
]
