"""One cell of the table: a rule with a schedule on a workload at a budget, its learning rate tuned in multiples of 3."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from ....tasks.base import load_on_device
from ....tasks.training import STATUS_NAMES, make_runner
from ...evaluate import Status
from ...evaluate.rates import best_factor
from ..trial import Entry
from ..workloads import Workload

MULTIPLE = 3.0  # from one learning rate to the next
FIRST_SEED = 9_000_000  # apart from those of comparisons and targets
MIN_STEPS = 5  # below which schedules are hardly different
_FAILED = 1e9  # stands for the loss of a learning rate that fails; times the rate, so that the walk goes down from there


class CellRun(NamedTuple):
    """One training run."""

    status: Status
    learning_rate: float
    seed: int
    steps: int
    loss: float  # on the validation examples at the end; NaN where it failed


def steps_at(workload: Workload, budget: int) -> int:
    """The steps of a budget in percent.

    Raises:
        ValueError: too few to tell schedules apart.
    """
    steps = round(workload.task.steps * budget / 100)
    if steps < MIN_STEPS:
        least = math.ceil(100 * MIN_STEPS / workload.task.steps)
        raise ValueError(f"{budget} % of the {workload.task.steps} steps of {workload.name} are {steps}; give it budgets from {least} %")
    return steps


class CellTrainer:
    """Trains a rule on a workload for a number of steps; schedules are an argument, so that all share one executable.

    Args:
        competitor: the rule; of its schedule it only matters what that does beside the learning rate, see `ScheduleSource.around`.
        workload: what is trained.
        budget: percent of the workload's steps.
    """

    def __init__(self, competitor: Entry, workload: Workload, budget: int):
        self._steps = steps_at(workload, budget)
        self._data = load_on_device(workload.task)

        def rule(argument: Any) -> optax.GradientTransformation:
            rate, relative = argument
            return competitor.create(lambda step: rate * relative[jnp.minimum(step, self._steps - 1)], self._steps)

        self._run = make_runner(workload.task, rule, self._steps)

    def run(self, competitor: Entry, trials: int) -> list[CellRun]:
        """All runs of the cell: `trials` seeds at each learning rate that the walk comes by."""
        schedule = competitor.shape.relative(self._steps)
        relative = np.asarray([schedule(step) for step in range(self._steps)], np.float32)
        runs: list[CellRun] = []

        def score(factor: float) -> float:
            rate = float(f"{competitor.source.learning_rate * factor:.6g}")
            found = [self._train(rate, relative, FIRST_SEED + trial) for trial in range(trials)]
            runs.extend(found)
            failed = any(run.status is not Status.OK for run in found)
            return _FAILED * factor if failed else math.fsum(run.loss for run in found)

        best_factor(score, multiple=MULTIPLE)
        return runs

    def _train(self, rate: float, relative: np.ndarray, seed: int) -> CellRun:
        outcome = self._run(self._data, (rate, relative), seed)
        return CellRun(Status(STATUS_NAMES[int(outcome.status)]), rate, seed, int(outcome.steps), float(outcome.loss))
