"""One trial: a rule with one setting of its hyperparameters trains a workload and is evaluated on the way."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array

from ...tasks.base import load_on_device
from ...tasks.training import OK, STATUS_NAMES, TrainState, start, take_steps
from ..config import ConfigError
from ..evaluate import Status
from ..training.rules import RuleError, Source, averages, evaluated, find
from ..training.schedule_sources import ScheduleSource, find_schedule
from . import workloads

SCHEDULE = "linear"  # of an entry that names none
_MATRIX = jax.ShapeDtypeStruct((2, 2), np.float32)  # that an entry's rule is tried on
SELF_TUNING_BUDGET = 3  # a rule that is not tuned gets so many times the steps, as in AlgoPerf


class EntryError(ValueError):
    """No such competitor; says which there can be."""


class Entry(NamedTuple):
    """A competitor: a rule with a schedule, written RULE@SCHEDULE."""

    rule: str
    schedule: str
    source: Source
    shape: ScheduleSource

    @property
    def label(self) -> str:
        """As it is listed."""
        return f"{self.rule}@{self.schedule}"

    @property
    def digest(self) -> str | None:
        """Of the files that it is made of; None where the names say all."""
        return " ".join(filter(None, (self.source.digest, self.shape.digest))) or None

    @property
    def averages(self) -> bool:
        """Whether the rule is scored at an average of the parameters it moves, see `rules.evaluated`."""
        return averages(self.source.create(lambda step: 0.1, 10))

    def is_edited(self) -> bool:
        """Whether one of its files is another one by now, or none."""
        if self.digest is None:
            return False
        try:
            return (find(self.rule).digest, find_schedule(self.schedule).digest) != (self.source.digest, self.shape.digest)
        except (ValueError, OSError):
            return True

    def create(self, learning_rate: optax.Schedule, steps: int, **settings: Any) -> optax.GradientTransformation:
        """The rule; the entry's schedule is not in it, but where that observes the training, which no function of the step does."""
        return self.shape.applied(self.source.create(learning_rate, steps, **settings), steps)


class TrialResult(NamedTuple):
    """What came of a trial."""

    trial: int
    status: Status
    steps: int  # done
    seconds: float  # of its steps, without compilation and evaluations; the batch's share where trials run as one batch
    losses: tuple[float, ...]  # validation loss after each 40th of the budget, NaN where it is not finite; fewer where it failed


def entry(text: str) -> Entry:
    """The competitor of a name: RULE, as `stepsmith train` takes it, or RULE@SCHEDULE.

    Raises:
        ValueError: no such rule or schedule.

    Example:
        >>> entry("adamw").label, entry("program:lion@cosine").schedule
        ('adamw@linear', 'cosine')
    """
    rule, named = split(text)
    schedule = named or SCHEDULE
    if not rule:
        raise EntryError(f"{text!r} names no rule; an entry is RULE or RULE@SCHEDULE, such as adamw@cosine")
    found = Entry(rule, schedule, find(rule), find_schedule(schedule))
    own = dict.fromkeys(found.source.settings, 0.5)
    try:
        transformation = optax.with_extra_args_support(found.create(lambda step: 0.1, 10, **own))
        # Shapes alone: an array would open a device here, in the coordinator, and take its memory from the workers.
        jax.eval_shape(lambda params: transformation.update(params, transformation.init(params), params, value=0.0), _MATRIX)
    except RuleError:
        raise
    except Exception as error:  # the user's own code
        raise EntryError(f"{text}: cannot make a step: {type(error).__name__}: {error}") from error
    if found.shape.around is not None and found.averages:
        raise EntryError(f"{text}: this rule averages in place of a schedule, which leaves nothing to decay; leave {schedule} out")
    return found


def split(text: str) -> tuple[str, str | None]:
    """Rule and schedule of an entry's name, None where it names no schedule; a folder may have the sign in its name.

    >>> split("adam@rex"), split("a@b/mine.py")
    (('adam', 'rex'), ('a@b/mine.py', None))
    """
    rule, at, schedule = text.rpartition("@")
    if not at or ("/" in schedule and not Path(schedule.partition(":")[0]).is_file()):
        return text, None
    return rule, schedule


def entries_of(texts: Sequence[str]) -> dict[str, Entry]:
    """Label -> competitor.

    Raises:
        ConfigError: one comes twice.
        ValueError: no such rule or schedule.
    """
    found = {competitor.label: competitor for competitor in map(entry, texts)}
    if len(found) != len(texts):
        raise ConfigError(f"entries must be different, got {', '.join(texts)}")
    return found


def search_steps(texts: Sequence[str]) -> dict[str, int]:
    """Label -> steps of the search that found the entry's schedule, of those whose schedule's file says so.

    >>> search_steps(["adam", "lion@rex"])
    {}
    """
    return {label: competitor.shape.search_steps for label, competitor in entries_of(texts).items() if competitor.shape.search_steps}


class Trainer:
    """Runs trials of one entry on one workload; all of them share one executable.

    Args:
        competitor: what trains.
        workload: what is trained.
        batch: trials that run as one vmapped batch. Its size changes the last bits of a loss.
        budget: times the workload's steps.
    """

    def __init__(self, competitor: Entry, workload: workloads.Workload, batch: int = 1, budget: int = 1):
        self._task, self._batch = workload.task, batch
        steps = self._task.steps * budget
        self._evaluations = workloads.EVALUATIONS * budget
        self._chunk = steps // self._evaluations
        self._data = load_on_device(self._task)
        relative = competitor.shape.relative(steps)

        def rule(point: dict[str, Array]) -> Any:
            others = {name: value for name, value in point.items() if name != "learning_rate"}
            return competitor.create(lambda step: point["learning_rate"] * relative(step), steps, **others)

        def begin(point: dict[str, Array], seed: Array) -> TrainState:
            return start(self._task, rule(point), jax.random.key(seed))

        def advance(data: Any, point: dict[str, Array], state: TrainState) -> tuple[TrainState, Array]:
            state, _, status = take_steps(self._task, rule(point), data, state, self._chunk)
            return state, status

        def measure(data: Any, state: TrainState) -> Array:
            params = evaluated(state.opt_state, state.params)
            return self._task.metric(params, state.state, self._task.examples(data, "validation"))["loss"]

        if batch > 1:
            begin, advance, measure = jax.vmap(begin), jax.vmap(advance, (None, 0, 0)), jax.vmap(measure, (None, 0))
        self._begin, self._advance, self._measure = jax.jit(begin), jax.jit(advance), jax.jit(measure)
        self._warm = False

    def run(self, trials: Sequence[int], settings: Sequence[dict[str, float]], seeds: Sequence[int]) -> list[TrialResult]:
        """Trains with each setting, from each seed.

        Args:
            trials: numbers of the trials, for the results.
            settings: of each trial, all with the same names.
            seeds: of each trial.
        """
        results: list[TrialResult] = []
        for first in range(0, len(trials), self._batch):
            part = slice(first, first + self._batch)
            results += self._run_batch(list(trials[part]), list(settings[part]), list(seeds[part]))
        return results

    def _run_batch(self, trials: list[int], settings: list[dict[str, float]], seeds: list[int]) -> list[TrialResult]:
        absent = self._batch - len(trials)  # a batch keeps its shape: the last trial fills it up
        points = jax.tree.map(lambda *values: np.asarray(values, np.float32), *settings, *[settings[-1]] * absent)
        keys = np.asarray([*seeds, *[seeds[-1]] * absent], np.uint32)
        if self._batch == 1:
            points, keys = jax.tree.map(lambda values: values[0], (points, keys))
        if not self._warm:
            state, _ = self._advance(self._data, points, self._begin(points, keys))
            jax.block_until_ready(self._measure(self._data, state))
            self._warm = True
        state, seconds = self._begin(points, keys), 0.0
        statuses, rows = np.zeros(self._batch, np.int32), []
        for _ in range(self._evaluations):
            jax.block_until_ready(state)
            began = time.perf_counter()
            state, status = jax.block_until_ready(self._advance(self._data, points, state))
            seconds += time.perf_counter() - began
            statuses = np.where(statuses == OK, np.atleast_1d(status), statuses)
            losses = np.atleast_1d(self._measure(self._data, state)).astype(np.float64)
            rows.append(np.where((statuses == OK) & np.isfinite(losses), losses, np.nan))
            if (statuses != OK).all():
                break
        curves = np.stack(rows, axis=1)  # [batch, evaluations]
        return [
            TrialResult(trial, Status(STATUS_NAMES[status]), len(rows) * self._chunk, seconds / self._batch, tuple(curve.tolist()))
            for trial, status, curve in zip(trials, statuses, curves, strict=False)
        ]


def as_json(losses: Sequence[float]) -> list[float | None]:
    """JSON knows no NaN. Six digits are more than a comparison needs."""
    return [float(f"{loss:.6g}") if math.isfinite(loss) else None for loss in losses]


def as_losses(values: Sequence[float | None]) -> tuple[float, ...]:
    """The inverse of `as_json`."""
    return tuple(math.nan if value is None else value for value in values)
