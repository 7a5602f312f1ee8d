"""Whether a simpler program is as good as the original: a paired test over seeds, always against the original.

Noise is what makes this hard: two programs equal to rounding end at different losses, since training is chaotic. So each seed
pairs candidate and original, the original's score at a seed is a mean over runs at learning rates that differ by rounding only,
and seeds are added until the interval is decided.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scipy.special import stdtrit  # of Student's t; scipy.stats loads for half a second

from ..evaluate.fitness import Evaluation, Status, Yardstick, outcome
from ..language import Program, canonical_hash

FIRST_SEEDS = 2  # before the first chance to reject
EXTENSION = 16  # times as many seeds at most, where the test is undecided
REPLICATES = 4  # of the original at each seed
NUDGE = 1e-4  # relative difference of their learning rates
LEVEL = 0.95  # of one-sided bounds

# (program, task, seed, learning-rate factor) -> evaluation
Run = Callable[[Program, str, int, float], Evaluation]


class Verdict(NamedTuple):
    """How a program compares with the original; differences of fitness, lower is better for the program."""

    accepted: bool
    difference: float  # mean over the seeds; infinite where a run failed
    low: float  # one-sided 95 % bounds
    high: float
    seeds: int  # compared so far


@dataclass
class Judge:
    """Compares programs with one original.

    Attributes:
        original: what all are compared with.
        run: one training run.
        yardsticks: the AdamW reference of each task.
        tolerance: in units of fitness; the upper bound of an accepted program's difference is below it.
        gain: the lower bound is above minus this: what does better than that is another rule and no simpler form of this one.
        seeds: at least so many to accept; where undecided, up to `EXTENSION` times as many.
        factor: of the learning rates of all programs.
        first_seed: the seeds are this one and those after it.
    """

    original: Program
    run: Run
    yardsticks: Mapping[str, Yardstick]
    tolerance: float = 0.02
    gain: float = 0.1
    seeds: int = 8
    factor: float = 1.0
    first_seed: int = 0
    runs: int = 0  # training runs so far
    _originals: dict[int, float] = field(default_factory=dict)
    _variances: dict[int, float] = field(default_factory=dict)  # over the original's runs at a seed
    _known: dict[str, tuple[Program, Verdict]] = field(default_factory=dict)

    def __call__(self, program: Program) -> Verdict:
        """The verdict on a program; on an equal one the same as before."""
        key = canonical_hash(program)
        if key not in self._known:
            self._known[key] = (program, self._race(program))
        return self._known[key][1]

    def fitness(self, program: Program, seed: int, factor: float) -> float:
        """Of one seed, the mean over tasks; infinite where a run fails."""
        evaluations: list[Evaluation] = []
        for task in self.yardsticks:
            self.runs += 1
            evaluations.append(self.run(program, task, seed, factor))
            if evaluations[-1].status is not Status.OK:
                break
        return outcome(evaluations, self.yardsticks).fitness

    def original_fitness(self, seed: int) -> float:
        """Of the original at one seed, over runs that differ by rounding."""
        if seed not in self._originals:
            factors = [self.factor * (1 + index * NUDGE) for index in range(REPLICATES)]
            values = [self.fitness(self.original, seed, factor) for factor in factors]
            self._originals[seed] = statistics.fmean(values)
            self._variances[seed] = statistics.variance(values)
        return self._originals[seed]

    def better(self) -> tuple[Program, Verdict] | None:
        """The best of the programs that were refused for doing better."""
        found = [pair for pair in self._known.values() if pair[1].high < -self.gain]
        return min(found, key=lambda pair: pair[1].difference) if found else None

    def standing(self) -> tuple[float, float, float] | None:
        """The original's mean fitness over the seeds so far, and its one-sided 95 % bounds; None before the first."""
        return interval(list(self._originals.values())) if self._originals else None

    def _race(self, program: Program) -> Verdict:
        differences: list[float] = []
        count = min(FIRST_SEEDS, self.seeds)
        while True:
            for seed in range(self.first_seed + len(differences), self.first_seed + count):
                differences.append(self.fitness(program, seed, self.factor) - self.original_fitness(seed))
                if not math.isfinite(differences[-1]):
                    return Verdict(False, math.inf, math.inf, math.inf, len(differences))
            mean, low, high = interval(differences)
            another = high < -self.gain
            accepted = count >= self.seeds and high < self.tolerance and low > -self.gain
            if accepted or another or low > self.tolerance or count >= EXTENSION * self.seeds or self._hopeless(mean, count):
                return Verdict(accepted, mean, low, high, count)
            count = min(2 * count, EXTENSION * self.seeds)

    def _hopeless(self, mean: float, count: int) -> bool:
        """Whether more seeds would hardly help; an interval of few seeds is too wide to say so itself."""
        noise = math.sqrt(math.fsum(self._variances.values()) / len(self._variances) * (1 + 1 / REPLICATES) / count)
        return mean - 2 * noise > self.tolerance or (count >= 4 * self.seeds and not -self.gain < mean < self.tolerance)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its one-sided 95 % bounds by Student's t.

    >>> mean, low, high = interval([0.0, 1.0, 2.0])
    >>> mean, round(low, 3), round(high, 3)
    (1.0, -0.686, 2.686)
    """
    size = len(values)
    mean = math.fsum(values) / size
    if size < 2:
        return mean, -math.inf, math.inf
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (size - 1) / size)
    half = float(stdtrit(size - 1, LEVEL)) * error
    return mean, mean - half, mean + half
