"""From losses to one number, and what can go wrong on the way."""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


class Evaluation(NamedTuple):
    """One training run of a program."""

    task: str
    seed: int
    status: Status
    loss: float | None  # validation loss where ok
    steps: int  # done
    seconds: float


class Outcome(NamedTuple):
    """What a program is worth."""

    status: Status
    fitness: float  # infinite unless ok

    @staticmethod
    def failed(status: Status) -> "Outcome":
        return Outcome(status, math.inf)


class Yardstick(NamedTuple):
    """The tuned AdamW reference of a task."""

    log_loss: float  # mean over seeds
    scale: float  # by how much a learning rate half a decade off raises it


def outcome(evaluations: Sequence[Evaluation], yardsticks: Mapping[str, Yardstick]) -> Outcome:
    """Mean over tasks of ``(log loss - log loss of tuned AdamW) / scale``; lower is better, 0 is tuned AdamW.

    Args:
        evaluations: of one program; several seeds of a task are averaged in the logarithm.
        yardsticks: one for each task.

    Returns:
        The outcome; a failure on any task fails the program with the status of the first.

    >>> runs = [Evaluation("a", 0, Status.OK, 0.1, 200, 0.01), Evaluation("a", 1, Status.OK, 0.1, 200, 0.01)]
    >>> round(outcome(runs, {"a": Yardstick(math.log(0.2), 0.5)}).fitness, 4)
    -1.3863
    """
    failed = next((evaluation.status for evaluation in evaluations if evaluation.status is not Status.OK), None)
    if failed is not None:
        return Outcome.failed(failed)
    scores = []
    for task, yardstick in yardsticks.items():
        logs = [math.log(max(e.loss, LOSS_FLOOR)) for e in evaluations if e.task == task and e.loss is not None]
        scores.append((math.fsum(logs) / len(logs) - yardstick.log_loss) / yardstick.scale)
    return Outcome(Status.OK, math.fsum(scores) / len(scores))
