"""Meta-overfitting: where better search fitness no longer means better fitness on tasks that the search has not seen."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtrit  # of Student's t; scipy.stats loads for half a second

from ..ledger import BirthRow

LEVEL_OF_TEST = 0.05


class Improvement(NamedTuple):
    """A program that led the search from a moment on."""

    told: int  # tells before it
    birth: int
    hash: str
    fitness: float  # as told


class CurvePoint(NamedTuple):
    """One of them, with its fitness on the validation tasks.

    Attributes:
        told: tells before it led the search.
        hash: of the program.
        search: its fitness then, on the search's tasks.
        validation: its fitness on the validation tasks; infinite where it fails on one.
        error: standard error of that over seeds; None with one seed.
    """

    told: int
    hash: str
    search: float
    validation: float
    error: float | None


def improvements(births: Sequence[BirthRow]) -> list[Improvement]:
    """The programs that led a search in turn.

    A leader that is told again, measured on more seeds, leads on with its newer fitness, as in the search itself.
    """
    found: list[Improvement] = []
    best: tuple[str, float] | None = None
    told = (birth for birth in births if birth.told is not None and birth.fitness is not None)
    for birth in sorted(told, key=lambda birth: (birth.told, birth.index)):
        assert birth.told is not None and birth.fitness is not None
        if best is not None and birth.hash == best[0]:
            best = (birth.hash, birth.fitness)
        elif best is None or birth.fitness < best[1]:
            best = (birth.hash, birth.fitness)
            found.append(Improvement(birth.told, birth.index, birth.hash, birth.fitness))
    return found


def thinned(found: Sequence[Improvement], most: int) -> list[Improvement]:
    """At most that many, evenly spread over the improvements, the first and the last among them.

    >>> thinned([Improvement(told, told, "", 0.0) for told in range(10)], 4)[1:3]
    [Improvement(told=3, birth=3, hash='', fitness=0.0), Improvement(told=6, birth=6, hash='', fitness=0.0)]
    """
    if len(found) <= most:
        return list(found)
    return [found[round(index * (len(found) - 1) / (most - 1))] for index in range(most)]


def meta_overfitting(curve: Sequence[CurvePoint], seeds: int) -> int | None:
    """The tell after which a search overfits its tasks: that of the best point on the validation tasks, if the last is worse.

    Worse means by more than chance: a one-sided t-test of the difference at the level 0.05, Bonferroni-corrected because the best
    is chosen among the points, with the variance pooled over the points from the best to the last. None where the validation
    fitness still improves, where the last point is no worse than that, and where a single seed gives no error.

    Args:
        curve: by told.
        seeds: that each point is the mean of.

    >>> points = ((0, 0.0), (9, -2.0), (40, -1.0), (60, 0.5))
    >>> curve = [CurvePoint(told, "", -told / 10, value, 0.1) for told, value in points]
    >>> meta_overfitting(curve, 3), meta_overfitting(curve[:2], 3)
    (9, None)
    """
    if len(curve) < 2 or seeds < 2:
        return None
    best = min(range(len(curve)), key=lambda index: curve[index].validation)
    rise = curve[-1].validation - curve[best].validation
    variances = [point.error**2 for point in curve[best:] if point.error is not None]
    if not rise > 0 or not variances:
        return None
    error = math.sqrt(2 * math.fsum(variances) / len(variances))
    quantile = float(stdtrit(len(variances) * (seeds - 1), 1 - LEVEL_OF_TEST / (len(curve) - 1)))
    return curve[best].told if rise > quantile * error else None
