"""From losses to one number, and what can go wrong on the way."""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...tasks import reference, registry

LOSS_FLOOR = 1e-6


class Status(enum.StrEnum):
    """How an evaluation ended; a failure is a status, never a number."""

    OK = "ok"
    DIVERGED = "diverged"  # a training loss above the task's threshold
    NONFINITE = "nonfinite"
    TIMEOUT = "timeout"  # the wall-clock safety net, twice
    OOM = "oom"
    CRASHED = "crashed"  # its worker died, twice
    INVALID = "invalid"  # more registers or scalars than the machine has
    STOPPED = "stopped"  # above the hurdle before all its runs were done, or a run above its limit in a race


class Evaluation(NamedTuple):
    """One training run of a program."""

    task: str
    seed: int
    learning_rate_factor: float
    status: Status
    loss: float | None  # validation loss where ok
    steps: int  # done
    seconds: float
    curve: tuple[float, ...] = ()  # log training losses at the checkpoints of `extrapolate`, where asked for


def log_loss(loss: float) -> float:
    """The logarithm of a loss, floored.

    >>> log_loss(1.0), log_loss(0.0) == log_loss(LOSS_FLOOR)
    (0.0, True)
    """
    return math.log(max(loss, LOSS_FLOOR))


class Yardstick(NamedTuple):
    """The tuned AdamW reference of a task."""

    log_loss: float  # mean over seeds
    scale: float  # by how much a learning rate half a decade off raises it

    def score(self, loss: float) -> float:
        """``(log loss - log loss of tuned AdamW) / scale`` of one run."""
        return (log_loss(loss) - self.log_loss) / self.scale


def yardstick(task: str) -> Yardstick:
    """That of a task by name; tunes AdamW first where no reference is stored, which may take minutes."""
    found = reference.stored_or_measured(registry.get(task))
    return Yardstick(found.log_loss, found.scale)


class Outcome(NamedTuple):
    """What a program is worth.

    Attributes:
        status: of the program; a failure in any run fails it.
        scores: its fitness on each block of seeds that it was evaluated on; empty unless ok.
    """

    status: Status
    scores: tuple[float, ...] = ()

    @property
    def fitness(self) -> float:
        """The mean of the scores; infinite unless ok."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.inf

    @property
    def error(self) -> float | None:
        """The standard error of the fitness; None where there is one score or none.

        >>> Outcome(Status.OK, (1.0, 2.0)).error
        0.5
        """
        count = len(self.scores)
        if count < 2:
            return None
        mean = self.fitness
        return math.sqrt(math.fsum((score - mean) ** 2 for score in self.scores) / (count - 1) / count)

    def joined(self, other: "Outcome") -> "Outcome":
        """Both blocks of seeds together; a failure on one of them is a failure."""
        if other.status is not Status.OK or self.status is not Status.OK:
            return Outcome(self.status if self.status is not Status.OK else other.status)
        return Outcome(Status.OK, self.scores + other.scores)


def outcome(
    evaluations: Sequence[Evaluation], yardsticks: Mapping[str, Yardstick], runs: int | None = None, best_factor: bool = False
) -> Outcome:
    """Mean over tasks of ``(log loss - log loss of tuned AdamW) / scale``; lower is better, 0 is tuned AdamW.

    Args:
        evaluations: of one program; the seeds and learning-rate factors of a task are averaged in the logarithm.
        yardsticks: one for each task.
        runs: how many were asked for; with fewer, none of which failed, the program was stopped at a hurdle.
        best_factor: whether the score of a task is that of the learning-rate factor which does best there, not the mean over all.

    Returns:
        The outcome; a failure on any task fails the program with the status of the first. Where the best factor counts, a task
        fails only if no factor is without a failure, and the first failure there is named.

    >>> runs = [Evaluation("a", 0, 1.0, Status.OK, 0.1, 200, 0.01), Evaluation("a", 1, 1.0, Status.OK, 0.1, 200, 0.01)]
    >>> round(outcome(runs, {"a": Yardstick(math.log(0.2), 0.5)}).fitness, 4)
    -1.3863
    """
    kept = at_best_factors(evaluations) if best_factor else evaluations
    failures = [run.status for run in evaluations if run.status is not Status.OK and (not best_factor or run.task == evaluations[-1].task)]
    if failures and not (best_factor and kept):
        return Outcome(failures[0])
    if not kept or (runs is not None and len(evaluations) < runs):
        return Outcome(Status.STOPPED)
    return Outcome(Status.OK, (mean_score(kept, yardsticks),))


def at_best_factors(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each task the runs with the factor whose mean log loss is lowest; none at all where a task fails with every factor."""
    found: dict[str, dict[float, list[Evaluation]]] = {}
    for run in evaluations:
        found.setdefault(run.task, {}).setdefault(run.learning_rate_factor, []).append(run)
    kept: list[Evaluation] = []
    for by_factor in found.values():
        means = {
            factor: math.fsum(log_loss(run.loss) for run in runs if run.loss is not None) / len(runs)
            for factor, runs in by_factor.items()
            if all(run.status is Status.OK for run in runs)
        }
        if not means:
            return []
        kept += by_factor[min(means, key=means.__getitem__)]
    return kept


def mean_score(evaluations: Sequence[Evaluation], yardsticks: Mapping[str, Yardstick]) -> float:
    """The mean over tasks of the mean score of their runs; tasks without a run do not count."""
    scores: dict[str, list[float]] = {}
    for evaluation in evaluations:
        if evaluation.loss is not None:
            scores.setdefault(evaluation.task, []).append(yardsticks[evaluation.task].score(evaluation.loss))
    return math.fsum(math.fsum(values) / len(values) for values in scores.values()) / len(scores)
