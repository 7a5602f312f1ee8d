"""Constant tuning of one program: CMA-ES over its numbers, and a paired test on new seeds of whether that made it better.

Source: N. Hansen, The CMA evolution strategy: a tutorial, 2016, arXiv:1604.00772; the library is `cma`.
"""

import dataclasses
import importlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr  # of Student's t; scipy.stats loads for half a second

from ...schedules import registry as schedules
from ..config import ConfigError
from ..evaluate import Job, Outcome, Place, WorkerPool, WorkerSpec, Yardstick, outcome, yardstick
from ..interrupt import interruptible
from ..language import SCHEDULE, Program, extended_operations, infer, prune
from ..selection.funnel import refuse_final
from .constants import Coordinate, coordinates, with_offsets

FIRST_SEED = 300_000  # of the tuning; the levels of a funnel have those from 100,000, searches from 1,000,000
FIRST_CHOICE_SEED, FIRST_TEST_SEED = FIRST_SEED + 10_000, FIRST_SEED + 20_000
SPREAD = 0.5  # of the first generation: constants are scaled by exp(0.5), two to three, up or down
FAILED = 1e6  # a fitness that loses against every other
LEVEL = 0.05  # of the paired test

OnProgress = Callable[[int, int, float], None]  # programs evaluated, the budget, seconds so far


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """How constants are tuned."""

    tasks: tuple[str, ...] = ("digits_mlp", "digits_autoencoder")
    """what programs are trained on"""
    budget: int = 200
    """evaluated programs, the original among them"""
    seed: int = 0
    """of the strategy's draws"""
    seeds: int = 4
    """training runs on each task, the same for every program"""
    test_seeds: int = 8
    """new ones, of the final comparison"""
    schedule: str = "linear"
    """of the learning rate relative to its peak"""
    memory_limit_mb: int = 4096
    """that one evaluation may allocate beyond its worker's own; 0: no limit"""

    def check(self) -> "TuneConfig":
        """The config itself.

        Raises:
            ConfigError: a value outside its range.
        """
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks must be one or more different names, got {', '.join(self.tasks) or 'none'}")
        limits = {
            "budget": (2, 10**9),
            "seed": (0, 2**31 - 2),
            "seeds": (1, 10_000),
            "test_seeds": (2, 10_000),
            "memory_limit_mb": (0, 2**40),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be {least} to {most}, got {getattr(self, name)}")
        schedules.get(self.schedule)
        refuse_final(self.tasks)
        return self


class Tuned(NamedTuple):
    """What tuning made of a program.

    Attributes:
        program: the tuned one if it is better, else the original.
        better: whether the paired test says so.
        constants: before and after, of the best that was found.
        before: the original's fitness on the new seeds, a score a seed.
        after: that of the best that was found.
        p_value: of the one-sided paired t-test that the best is no better; 1 where it failed or nothing was found.
        evaluations: programs evaluated by the strategy.
        stopped: before the budget was spent, by Ctrl-C.
    """

    program: Program
    better: bool
    constants: tuple[tuple[float, float], ...]
    before: Outcome
    after: Outcome
    p_value: float
    evaluations: int
    stopped: bool


def tune(
    program: Program,
    config: TuneConfig,
    places: Sequence[Place],
    on_progress: OnProgress = lambda done, budget, seconds: None,
) -> Tuned:
    """Tunes the constants of a program.

    The best program seen and the centre of the last generation are compared on seeds of their own; the better one meets the original
    on `test_seeds` further ones. After Ctrl-C this comparison is still made; a second Ctrl-C ends it too.

    Args:
        program: any; what never reaches its update is left out.
        config: tasks and budget.
        places: where its workers run, as `evaluate.plan` gives them.
        on_progress: called after each generation.

    Raises:
        ConfigError: a setting that cannot be used, no constants, or the library cma is missing.
    """
    cma = _library()
    config.check()
    infer(program)
    program = prune(program)
    if program.kind == SCHEDULE:
        raise ConfigError("this program is a schedule; only the constants of rules are tuned")
    found = coordinates(program)
    if not found:
        raise ConfigError("this program has no constants that could be tuned")
    yardsticks = {name: yardstick(name) for name in config.tasks}
    settings = {"schedule": config.schedule, "memory_limit_mb": config.memory_limit_mb}
    spec = WorkerSpec(config.tasks, initial=program.to_json(), extended=bool(extended_operations(program)), **settings)
    with interruptible() as stop, WorkerPool(spec, places) as pool:
        scorer = _Scorer(pool, yardsticks, lambda: stop.requested)
        pool.wait_until_ready(scorer.stopping)
        candidates, evaluations = _evolve(cma, program, found, config, scorer, on_progress)
        stopped, scorer.stopping = stop.requested, lambda: False
        return _compare(program, found, candidates, config, scorer)._replace(evaluations=evaluations, stopped=stopped)


class _Scorer:
    """Scores programs on the same seeds."""

    def __init__(self, pool: WorkerPool, yardsticks: dict[str, Yardstick], stopping: Callable[[], bool]):
        self._pool, self._yardsticks, self.stopping = pool, yardsticks, stopping
        self._keys = itertools.count()

    def __call__(self, programs: Sequence[Program], seeds: Sequence[int]) -> list[Outcome]:
        """An outcome each, a score a seed; fewer once it is to stop."""
        waiting: dict[int, int] = {}
        for index, program in enumerate(programs):
            job = Job(next(self._keys), program.to_json(), tuple(seeds))
            waiting[job.key] = index
            self._pool.submit(job)
        outcomes: dict[int, Outcome] = {}
        while waiting and not self.stopping():
            for result in self._pool.poll(0.1):
                index = waiting.pop(result.key)
                outcomes[index] = Outcome(result.status) if result.status else self._outcome(result.evaluations, seeds)
        return [outcomes[index] for index in sorted(outcomes)]

    def _outcome(self, evaluations: Sequence[Any], seeds: Sequence[int]) -> Outcome:
        whole = outcome(evaluations, self._yardsticks)
        if not whole.scores:
            return whole
        by_seed = [outcome([e for e in evaluations if e.seed == seed], self._yardsticks).fitness for seed in seeds]
        return Outcome(whole.status, tuple(by_seed))


def _evolve(
    cma: Any, program: Program, found: Sequence[Coordinate], config: TuneConfig, scorer: _Scorer, on_progress: OnProgress
) -> tuple[list[list[float]], int]:
    """The best offsets seen and the centre of the last generation, and how many programs were evaluated."""
    seeds = range(FIRST_SEED, FIRST_SEED + config.seeds)
    first = scorer([program], seeds)
    best_fitness, best, done = (first[0].fitness if first else math.inf), [0.0] * len(found), len(first)
    # cma takes the seed 0 for the time of day.
    strategy = cma.CMAEvolutionStrategy([0.0] * len(found), SPREAD, {"seed": config.seed + 1, "verbose": -9})
    generations, began = 0, time.monotonic()
    while not strategy.stop() and done + strategy.popsize <= config.budget and not scorer.stopping():
        asked = strategy.ask()
        offsets = [[float(value) for value in x] for x in asked]
        scored = scorer([with_offsets(program, found, x) for x in offsets], seeds)
        if len(scored) < len(asked):
            break
        strategy.tell(asked, [min(result.fitness, FAILED) for result in scored])
        done, generations = done + len(asked), generations + 1
        for x, result in zip(offsets, scored, strict=True):
            if result.fitness < best_fitness:
                best_fitness, best = result.fitness, x
        on_progress(done, config.budget, time.monotonic() - began)
    return ([best, [float(value) for value in strategy.result.xfavorite]] if generations else []), done


def _compare(program: Program, found: Sequence[Coordinate], candidates: list[list[float]], config: TuneConfig, scorer: _Scorer) -> Tuned:
    """The better of the candidates against the original, on new seeds."""
    changed = [x for x in candidates if any(x)]
    chosen = [0.0] * len(found)
    if changed:
        seeds = range(FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + config.seeds)
        scored = scorer([with_offsets(program, found, x) for x in changed], seeds)
        chosen = min(zip(scored, changed, strict=True), key=lambda pair: pair[0].fitness)[1]
    tuned = with_offsets(program, found, chosen)
    before, after = scorer([program, tuned], range(FIRST_TEST_SEED, FIRST_TEST_SEED + config.test_seeds))
    p_value = paired_p_value(before, after)
    constants = tuple((coordinate.value, coordinate.at(x)) for coordinate, x in zip(found, chosen, strict=True))
    return Tuned(tuned if p_value < LEVEL else program, p_value < LEVEL, constants, before, after, p_value, 0, False)


def paired_p_value(before: Outcome, after: Outcome) -> float:
    """One-sided paired t-test over seeds: how likely the observed gain is if the second is no better; 0 where only the first failed.

    >>> from ..evaluate import Status
    >>> paired_p_value(Outcome(Status.OK, (0.1, 0.3, 0.2)), Outcome(Status.OK, (0.0, 0.25, 0.05))) < 0.05
    True
    """
    if not after.scores:
        return 1.0
    if not before.scores:
        return 0.0
    gains = np.subtract(before.scores, after.scores)
    spread = float(gains.std(ddof=1))
    if spread == 0.0:
        return 0.0 if gains[0] > 0 else 1.0
    return float(stdtr(len(gains) - 1, -gains.mean() / (spread / math.sqrt(len(gains)))))


def _library() -> Any:
    try:
        return importlib.import_module("cma")
    except ImportError:
        raise ConfigError("constant tuning needs the library cma: pip install 'stepsmith[tune]'") from None
