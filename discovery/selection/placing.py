"""One level of the funnel: which training runs a program still needs, what they say, and who goes on.

All functions are pure. A program's runs are a mapping from (task, learning-rate factor, seed) to `Evaluation`, so that what is in a
ledger already is not run again.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...tasks.reference import MAX_EXTENSION
from ..evaluate import fitness
from ..evaluate.fitness import Evaluation, Outcome, Status, Yardstick
from .levels import Level

STEP = math.sqrt(10)  # of the learning rates that AdamW's reference is chosen from

Runs = Mapping[tuple[str, float, int], Evaluation]


class Request(NamedTuple):
    """Training runs that are asked for together; the first failure ends them."""

    task: str
    factor: float
    seeds: tuple[int, ...]


class Tuned(NamedTuple):
    """The learning-rate factor of a program on a task."""

    factor: float | None  # None: runs are missing, or all factors fail
    log_loss: float  # mean over the tuning seeds
    missing: tuple[float, ...]  # factors that have to be run first


class Placing(NamedTuple):
    """A program on a level, once it needs no more runs.

    Attributes:
        outcome: its scores are the fitness on each seed, the mean over tasks.
        tasks: task -> factor, log_loss and score (means over the seeds); of a failed program the tasks up to the failure.
    """

    outcome: Outcome
    tasks: dict[str, dict[str, Any]]


def log_loss(runs: Runs, task: str, factor: float, seeds: Iterable[int]) -> float | None:
    """Mean log validation loss over seeds; infinite where a run failed, None where one is missing and none failed."""
    found = [runs.get((task, factor, seed)) for seed in seeds]
    if _failure(found) is not None:
        return math.inf
    losses = [run.loss for run in found if run is not None and run.loss is not None]
    if len(losses) < len(found):
        return None
    return math.fsum(map(fitness.log_loss, losses)) / len(losses)


def tune(level: Level, task: str, runs: Runs) -> Tuned:
    """The factor with the lowest mean log loss over the tuning seeds, as far as the runs tell.

    Where the best factor is at an edge, the next one beyond it is asked for, up to `MAX_EXTENSION` times, as AdamW's reference
    was tuned.
    """
    given = level.config.learning_rate_factors
    factors = sorted(given)
    while True:
        found = {factor: log_loss(runs, task, factor, level.tuning_seeds) for factor in factors}
        missing = tuple(factor for factor, value in found.items() if value is None)
        if missing:
            return Tuned(None, math.inf, missing)
        losses = {factor: value for factor, value in found.items() if value is not None}
        best = min(factors, key=losses.__getitem__)
        inside = factors[0] < best < factors[-1]
        if inside or len(given) == 1 or len(factors) == len(given) + MAX_EXTENSION:
            return Tuned(best if math.isfinite(losses[best]) else None, losses[best], ())
        factors = sorted([*factors, _beyond(factors, best)])


def wanted(level: Level, runs: Runs) -> list[Request]:
    """What a program is to be run on next; empty once it has its placing."""
    requests: list[Request] = []
    for task in level.config.tasks:
        tuned = tune(level, task, runs)
        requests += [Request(task, factor, level.tuning_seeds) for factor in tuned.missing]
        if tuned.missing:
            continue
        scored = math.inf if tuned.factor is None else log_loss(runs, task, tuned.factor, level.seeds)
        if scored is None and tuned.factor is not None:
            requests.append(Request(task, tuned.factor, level.seeds))
        elif scored == math.inf:
            return []
    return requests


def placing(level: Level, runs: Runs, yardsticks: Mapping[str, Yardstick]) -> Placing:
    """What the runs of a program that needs no more of them are worth."""
    tasks: dict[str, dict[str, Any]] = {}
    scores: list[list[float]] = []  # [task][seed]
    for task in level.config.tasks:
        tuned = tune(level, task, runs)
        if tuned.factor is None:
            if tuned.missing:
                continue  # it failed on another task before this one was tuned
            lowest = [run for (name, _, seed), run in sorted(runs.items()) if name == task and seed in level.tuning_seeds]
            return Placing(Outcome(_failure(lowest) or Status.CRASHED), tasks | {task: {"factor": None}})
        found = [runs.get((task, tuned.factor, seed)) for seed in level.seeds]
        if (failure := _failure(found)) is not None:
            return Placing(Outcome(failure), tasks | {task: {"factor": tuned.factor}})
        losses = [run.loss for run in found if run is not None and run.loss is not None]
        if len(losses) < len(found):
            continue
        scores.append([yardsticks[task].score(loss) for loss in losses])
        mean = math.fsum(scores[-1]) / len(losses)
        loss = yardsticks[task].log_loss + yardsticks[task].scale * mean
        tasks[task] = {"factor": tuned.factor, "log_loss": loss, "score": mean}
    return Placing(Outcome(Status.OK, tuple(math.fsum(seed) / len(seed) for seed in zip(*scores, strict=True))), tasks)


def promoted(level: Level, placings: Mapping[str, Placing]) -> list[str]:
    """Hashes of the programs that go on, best first, ties by hash.

    >>> from .levels import LevelConfig, make_level
    >>> level = make_level(LevelConfig("B", ("digits_mlp@10",), promote=1), 1)
    >>> places = {name: Placing(Outcome(Status.OK, (fitness,)), {}) for name, fitness in (("a", 0.2), ("b", -0.1), ("c", -0.3))}
    >>> promoted(level, places)
    ['c']
    """
    passed = [(place.outcome.fitness, name) for name, place in placings.items() if place.outcome.fitness < level.config.beats]
    return [name for _, name in sorted(passed)[: level.config.promote]]


def _beyond(factors: list[float], best: float) -> float:
    """The next factor past the edge at which the best one lies."""
    return float(f"{best * STEP if best == factors[-1] else best / STEP:.6g}")


def _failure(runs: Iterable[Evaluation | None]) -> Status | None:
    return next((run.status for run in runs if run is not None and run.status is not Status.OK), None)
