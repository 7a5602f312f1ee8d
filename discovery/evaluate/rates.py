"""At which factor of its own learning rate a rule does best on a task: the base rate, set aside while schedules are compared."""

import functools
import math
from collections.abc import Callable, Sequence

from ..language.program import Program, extended_operations
from .fitness import Status, log_loss
from .training_run import Prepared, evaluate, prepare

SEEDS = (500_000, 500_001)  # apart from those of references, searches and levels
STEPS = 8  # multiples to each side, at most
HALF_DECADE = math.sqrt(10.0)


def best_factor(score: Callable[[float], float], gain: float = 0.0, multiple: float = HALF_DECADE) -> float:
    """The factor, 1 times a power of `multiple`, that a walk downhill ends at.

    Args:
        score: of a factor; lower is better.
        gain: by how much a neighbour must be better to go there.
        multiple: from one factor to the next.

    >>> best_factor(lambda factor: (factor - 10) ** 2)
    10.0
    >>> best_factor(lambda factor: (factor - 10) ** 2, multiple=3.0)
    9.0
    """
    at = functools.cache(lambda exponent: score(_power(multiple, exponent)))
    exponent = 0
    for _ in range(STEPS):
        nearby = min((exponent - 1, exponent + 1), key=at)
        if not at(nearby) < at(exponent) - gain:
            break
        exponent = nearby
    return _power(multiple, exponent)


def base_factors(rule: Program, tasks: Sequence[str]) -> dict[str, float]:
    """Task -> the factor at which a rule does best with linear decay, by the mean log loss of two runs.

    Raises:
        ValueError: the rule fails on a task at every rate that was tried.
    """
    factors = {}
    for name in tasks:
        prepared = prepare(name, "linear", bool(extended_operations(rule)))

        @functools.cache
        def score(factor: float, prepared: Prepared = prepared) -> float:
            losses = [run.loss for run in (evaluate(prepared, rule, seed, factor) for seed in SEEDS) if run.status is Status.OK]
            return math.fsum(log_loss(loss) for loss in losses if loss is not None) if len(losses) == len(SEEDS) else math.inf

        factors[name] = best_factor(score)
        if not math.isfinite(score(factors[name])):
            raise ValueError(f"the rule fails on {name} at every learning rate that was tried; give another rule or task")
    return factors


def _power(base: float, exponent: int) -> float:
    return float(f"{base**exponent:.3g}")
