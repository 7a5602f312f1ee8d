"""Racing: from the training losses of finished runs to limits above which a run is stopped, for its end can be foreseen.

At a few checkpoints the final log validation loss is regressed on the log training loss there, over the runs of many programs.
The search's learning rate decays, so the slope of a single curve says little about its end: extrapolating each run by a power
law or an exponential predicted worse than the regression wherever a curve had points enough for it, from 35 % of a run on.

Otherwise a program's result depends on nothing but itself; here it also depends on the limits. As a compromise these are set
once, from the first programs in the order of their tells, and kept with the run: what a program is worth does not depend on
when it is born after that, on the number of workers or on a resume, but two runs of different seeds have different limits.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..search.racing import RacingConfig
from .fitness import LOSS_FLOOR, Evaluation, Status, log_loss

CHECKPOINTS = (0.1, 0.2, 0.35, 0.5, 0.7)  # shares of a run
BANDWIDTH = 0.5  # of the regression's weights, in standard deviations of the final log loss
MIN_RUNS = 10.0  # effective number of runs behind a line
DECIMALS = 4  # of the log losses that workers send

Limits = tuple[tuple[str, float, tuple[float | None, ...]], ...]
"""Rows of a task, a learning-rate factor and the highest log training loss at each checkpoint; None: any."""


def checkpoint_chunks(num_chunks: int) -> tuple[int, ...]:
    """The chunk at whose end each checkpoint lies.

    >>> checkpoint_chunks(10)
    (0, 1, 3, 4, 6)
    """
    return tuple(max(round(share * num_chunks), 1) - 1 for share in CHECKPOINTS)


def at_checkpoints(curve: Sequence[float]) -> tuple[float, ...]:
    """The log training losses that predict, from the mean loss of each chunk [chunks].

    >>> at_checkpoints([1.0, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.1, 0.1])
    (0.0, -0.6931, -1.204, -1.3863, -1.8971)
    """
    return tuple(round(log_loss(float(curve[chunk])), DECIMALS) for chunk in checkpoint_chunks(len(curve)))


def chunk_limits(limits: Limits, task: str, learning_rate_factor: float, num_chunks: int) -> NDArray[np.float32]:
    """The highest mean training loss of each chunk of a run, float32 [chunks]; infinite where there is no limit.

    >>> chunk_limits((("a", 1.0, (None, 0.0, None, None, None)),), "a", 1.0, 10)[:4].tolist()
    [inf, 1.0, inf, inf]
    """
    result = np.full(num_chunks, np.inf, np.float32)
    row = next((row for name, factor, row in limits if (name, factor) == (task, learning_rate_factor)), ())
    for chunk, limit in zip(checkpoint_chunks(num_chunks), row, strict=False):
        if limit is not None:  # short runs have several checkpoints in a chunk
            result[chunk] = min(result[chunk], math.exp(limit))
    return result


class Line(NamedTuple):
    """Final log validation loss = intercept + slope * log training loss at a checkpoint, give or take the deviation."""

    intercept: float
    slope: float
    deviation: float

    def limit(self, needed: float, confidence: float) -> float | None:
        """The log training loss above which the prediction, less `confidence` deviations, is above `needed`; None: there is none.

        >>> Line(0.5, 2.0, 0.25).limit(needed=1.0, confidence=2.0)
        0.5
        """
        if not self.slope > 0:
            return None
        found = (needed + confidence * self.deviation - self.intercept) / self.slope
        return found if abs(found) < 50 else None  # beyond it exp leaves float32


def fit(log_losses: NDArray[np.float64], finals: NDArray[np.float64], needed: float) -> Line | None:
    """The weighted least-squares line around the final loss that is needed, for elsewhere it may be wrong.

    A run's weight is Gaussian in the distance of its final loss from `needed`: far from there curves bend, and the
    scatter is another.

    Args:
        log_losses: of the runs at one checkpoint. # [runs]
        finals: their final log validation losses. # [runs]
        needed: the final log loss that decides.

    Returns:
        The line; None where too few runs ended near `needed`, or all have the same loss at the checkpoint.

    >>> x = np.linspace(-2, 0, 50)
    >>> line = fit(x, 2 * x + 1, needed=-1.0)
    >>> round(line.slope, 6), round(line.intercept, 6), round(line.deviation, 6)
    (2.0, 1.0, 0.0)
    """
    width = BANDWIDTH * float(np.std(finals))
    weights = np.exp(-0.5 * ((finals - needed) / max(width, 1e-6)) ** 2)
    total = float(weights.sum())
    count = total**2 / max(float((weights**2).sum()), 1e-300)
    if count < MIN_RUNS:
        return None
    x, y = log_losses - weights @ log_losses / total, finals - weights @ finals / total
    variance = float(weights @ x**2) / total
    if variance < 1e-12:
        return None
    slope = float(weights @ (x * y)) / total / variance
    residual = float(weights @ (y - slope * x) ** 2) / total
    intercept = float(weights @ finals - slope * (weights @ log_losses)) / total
    return Line(intercept, slope, math.sqrt(residual * count / (count - 2)))


class Calibration(NamedTuple):
    """What one program of the calibration did."""

    birth: int
    fitness: float | None  # None unless ok
    runs: tuple[tuple[str, float, float, tuple[float, ...]], ...]  # task, factor, final log loss, log losses at the checkpoints


def limits(programs: Sequence[Calibration], config: RacingConfig, best_factor: bool = False) -> Limits:
    """The limits that a calibration gives.

    What is needed of a run is what the worst run of a program among the best `keep` came to on that task with that learning-rate
    factor: a program may be bad at one task and good all the same. Where only the best factor of a program counts, what is needed with
    any factor is what the worst of those programs came to with its best.
    """
    fitness = [program.fitness for program in programs if program.fitness is not None]
    if not fitness:
        return ()
    good_enough = float(np.quantile(fitness, config.keep))
    useful = [program for program in programs if program.fitness is not None and program.fitness <= good_enough]
    needed: dict[tuple[str, float | None], float] = {}  # of a task with a factor, or with any
    for program in useful:
        for (task, factor), finals in _counting(program, best_factor).items():
            at = (task, None if best_factor else factor)
            needed[at] = max(*finals, needed.get(at, -math.inf))
    tried = dict.fromkeys((task, factor) for task, factor, *_ in _runs(programs if best_factor else useful))
    wanted = [(task, factor, needed.get((task, None if best_factor else factor))) for task, factor in tried]
    return tuple((task, factor, _limits(programs, task, factor, end, config.confidence)) for task, factor, end in wanted if end is not None)


def _counting(program: Calibration, best_factor: bool) -> dict[tuple[str, float], list[float]]:
    """Task and factor -> final log losses, with the factors that count: all, or on each task the best of those that failed least."""
    found: dict[tuple[str, float], list[float]] = {}
    for task, factor, final, _ in program.runs:
        found.setdefault((task, factor), []).append(final)
    if not best_factor:
        return found
    best: dict[str, tuple[str, float]] = {}
    for at, finals in found.items():
        known = found.get(best.get(at[0], at), finals)
        if (-len(finals), math.fsum(finals)) <= (-len(known), math.fsum(known)):
            best[at[0]] = at
    return {at: found[at] for at in best.values()}


def _limits(programs: Sequence[Calibration], task: str, factor: float, needed: float, confidence: float) -> tuple[float | None, ...]:
    runs = [(final, losses) for name, f, final, losses in _runs(programs) if (name, f) == (task, factor)]
    finals, curves = np.array([final for final, _ in runs]), np.array([losses for _, losses in runs])  # [runs], [runs, checkpoints]
    lines = [fit(curves[:, checkpoint], finals, needed) for checkpoint in range(len(CHECKPOINTS))]
    return tuple(line.limit(needed, confidence) if line else None for line in lines)


def _runs(programs: Iterable[Calibration]) -> Iterable[tuple[str, float, float, tuple[float, ...]]]:
    return (run for program in programs for run in program.runs)


class Race:
    """The racing of one run: it collects the calibration, sets the limits once, and knows which births they hold for.

    The births asked before the limits were set are evaluated without them, also when a resumed run evaluates them again.

    Args:
        config: of the racing.
        state: what `to_json` gave; empty for a new run.
        best_factor: whether of a program's learning-rate factors only the best counts.
    """

    def __init__(self, config: RacingConfig, state: Mapping[str, Any], best_factor: bool = False):
        self._config, self._best_factor = config, best_factor
        rows = state.get("programs", ())
        self._programs = [Calibration(birth, fitness, tuple((*run[:3], tuple(run[3])) for run in runs)) for birth, fitness, runs in rows]
        self._seen = {program.birth for program in self._programs}
        self._limits: Limits = tuple((task, factor, tuple(row)) for task, factor, row in state.get("limits", ()))
        self._from_birth: int | None = state.get("from_birth")

    @property
    def calibrating(self) -> bool:
        """Whether the curves of runs are wanted."""
        return self._config.enabled and self._from_birth is None

    def limits_of(self, birth: int) -> Limits:
        """What a birth's job carries."""
        return () if self._from_birth is None or birth < self._from_birth else self._limits

    def observe(self, birth: int, fitness: float, evaluations: Sequence[Evaluation], next_birth: int) -> bool:
        """Takes in an evaluated program; True if its limits are set now, for the births from `next_birth` on.

        A birth that comes again, because its run was resumed, is not counted twice.
        """
        if not self.calibrating or birth in self._seen:
            return False
        self._seen.add(birth)
        done = [e for e in evaluations if e.status is Status.OK and e.loss is not None and e.curve]
        runs = tuple((e.task, e.learning_rate_factor, round(log_loss(e.loss or LOSS_FLOOR), DECIMALS), e.curve) for e in done)
        self._programs.append(Calibration(birth, fitness if math.isfinite(fitness) else None, runs))
        if len(self._programs) < self._config.calibration:
            return False
        self._limits, self._from_birth, self._programs = limits(self._programs, self._config, self._best_factor), next_birth, []
        return True

    def to_json(self) -> dict[str, Any]:
        """Plain data, kept with the run's state."""
        return {"programs": self._programs, "limits": self._limits, "from_birth": self._from_birth} if self._config.enabled else {}
