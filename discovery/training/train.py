"""`stepsmith train`: a task trained with a rule of any origin, and how that looks while it goes on."""

import contextlib
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ...schedules import recorded_peak
from ...tasks import registry as tasks
from ...tasks.base import Task
from ...tasks.checkpoints import INTERRUPTED, OnChunk, TrainingResult, train_and_score, train_with_checkpoints
from ...tasks.training import OK, STATUS_NAMES, TrainState
from ..terminal.view import seconds_text
from . import online, population_training
from .online import AUTOLRS, Online, is_online, make_online, train_online
from .population_training import PBT, PopulationTraining, is_population, make_population, train_population
from .rules import evaluated, make_rule
from .schedule_sources import destinations

PLAIN_SECONDS = 2.0  # between two plain lines
MAX_STEPS, MAX_SEED = 2**31 - 1, 2**32 - 1  # what the step counter and a key hold
FAILED_CODE, STOPPED_CODE = 1, 130


class Job(NamedTuple):
    """What is to be trained.

    Attributes:
        task: from the registry.
        transformation: the rule with its schedule.
        steps: length of the run.
        seed: of the initial parameters and the batches.
        settings: of the rule, for people and for a checkpoint to be compared with.
        finder: how the schedule is found; None where it is given.
    """

    task: Task
    transformation: optax.GradientTransformation
    steps: int
    seed: int
    settings: dict[str, Any]
    finder: Online | PopulationTraining | None = None


def make_job(
    task: str,
    optimizer: str,
    *,
    schedule: str = "linear",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    save_schedule: Path | None = None,
) -> Job:
    """Looks up all that is named, and trains nothing yet.

    Args:
        task: a name in `stepsmith.tasks`, or 'module:attribute'.
        optimizer: a name or a file; see `rules.make_rule`, and there for the schedule, the rate and the decay.
        schedule: a name in `stepsmith.schedules`, 'plateau', a file, or one to be found around the learning rate: 'autolrs' or
            'autolrs:cooled' meanwhile, 'pbt' or 'pbt:MEMBERS' by population-based training.
        learning_rate: the highest; the rule's own where None.
        weight_decay: the rule's own where None.
        steps: the task's where None.
        seed: of the initial parameters and the batches.
        save_schedule: where a schedule that is found is written.

    Raises:
        ValueError: where a name is not known or a setting is out of bounds.

    Example:
        >>> job = make_job("digits_mlp", "program:lion", learning_rate=0.01, steps=100)
        >>> job.settings["weight_decay"], run_job(job).scores["test"]["accuracy"] > 0.8
        (0.1, True)
    """
    found = tasks.get(task)
    steps = found.steps if steps is None else steps
    _check("steps", steps, 1, MAX_STEPS)
    _check("seed", seed, 0, MAX_SEED)
    if is_online(schedule):
        prepared, finder = make_online(schedule, optimizer, steps, learning_rate, weight_decay, save_schedule)
        return Job(found, prepared.create(optax.constant_schedule(1.0), steps), steps, seed, prepared.settings, finder)
    if is_population(schedule):
        prepared, finder = make_population(schedule, optimizer, steps, learning_rate, weight_decay, save_schedule, seed)
        return Job(found, prepared.create(optax.constant_schedule(1.0), steps), steps, seed, prepared.settings, finder)
    if save_schedule is not None:
        raise ValueError(f"only a schedule that is found can be saved: give --schedule {AUTOLRS} or {PBT} beside --save-schedule")
    rule = make_rule(optimizer, steps, schedule, learning_rate, weight_decay)
    return Job(found, rule.transformation, steps, seed, rule.settings)


def run_job(job: Job, folder: Path | None = None, every: int | None = None, on_chunk: OnChunk | None = None) -> TrainingResult:
    """Trains; with a folder as `tasks.checkpoints.train_with_checkpoints` does, without one nothing is written.

    Raises:
        ValueError: where the folder cannot be used, or is missing for checkpoints that were asked for.
    """
    if every is not None:
        _check("steps between checkpoints", every, 1, MAX_STEPS)
        if folder is None:
            raise ValueError("checkpoints need a folder: give --checkpoint DIR beside --checkpoint-every")
    task, transformation, steps, seed, settings, finder = job
    if finder is not None:
        if every is not None:
            stages = f"with --schedule {AUTOLRS} a checkpoint is written after each stage, with {PBT} after each round"
            raise ValueError(f"{stages}: leave out --checkpoint-every")
        if isinstance(finder, Online):
            return train_online(task, finder, seed=seed, settings=settings, folder=folder, on_chunk=on_chunk)
        return train_population(task, finder, seed=seed, settings=settings, folder=folder, on_chunk=on_chunk)
    if folder is None:
        return train_and_score(task, transformation, seed=seed, steps=steps, on_chunk=on_chunk, evaluated=evaluated)
    kept = {"every": every, "settings": settings, "on_chunk": on_chunk, "evaluated": evaluated}
    return train_with_checkpoints(task, transformation, folder, seed=seed, steps=steps, **kept)


def _check(what: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{what} must be at least {lowest} and at most {highest}, got {value}")


def command(console: Console, job: Job, folder: Path | None, every: int | None, as_json: bool) -> int:
    """Runs the job and shows it; the exit code is 0, 1 for a run that failed or 130 for one that was stopped."""
    again = f"stepsmith {shlex.join(sys.argv[1:])}"
    try:
        with _view(console, job, as_json) as on_chunk:
            result = run_job(job, folder, every, on_chunk)
    except KeyboardInterrupt:
        mend = "give --checkpoint DIR to be able to go on" if folder is None else f"go on from the latest checkpoint with: {again}"
        console.print(f"stopped at once; {mend}", markup=False)
        return STOPPED_CODE
    if as_json:
        sys.stdout.write(json.dumps(_finite(_as_json(job, result))) + "\n")
    elif result.status == INTERRUPTED:
        console.print(f"stopped at step {result.steps} of {job.steps}; go on with: {again}", markup=False)
    else:
        console.print(line(result), markup=False)
        _print_found(console, job, folder, result)
    return {STATUS_NAMES[OK]: 0, INTERRUPTED: STOPPED_CODE}.get(result.status, FAILED_CODE)


def _print_found(console: Console, job: Job, folder: Path | None, result: TrainingResult) -> None:
    """The files of a schedule that was found, each with the learning rate that belongs to its shape."""
    if job.finder is not None and result.status == STATUS_NAMES[OK]:
        name = online.SCHEDULE if isinstance(job.finder, Online) else population_training.SCHEDULE
        for path in destinations(folder, name, job.finder.output):
            replayed = shlex.join(["--schedule", str(path), "--learning-rate", f"{recorded_peak(path):g}"])
            console.print(f"the schedule that was found: {replayed}", markup=False)


def line(result: TrainingResult) -> str:
    """How a run ended, in one line."""
    parts = []
    for split, metrics in result.scores.items():
        ordered = sorted(metrics, key=lambda name: (name != "loss", name))
        parts.append(f"{split} {', '.join(f'{name} {metrics[name]:.4g}' for name in ordered)}")
    before = "finished already: " if result.resumed_from == result.steps else ""
    search = f" and {result.search_steps} of search" if result.search_steps else ""
    return f"{before}{result.status}, {result.steps} steps{search} in {seconds_text(result.seconds)}; {'; '.join(parts)}"


def _as_json(job: Job, result: TrainingResult) -> dict[str, Any]:
    ended = {"status": result.status, "steps_done": result.steps, "resumed_from": result.resumed_from}
    return {
        "task": job.task.name,
        **job.settings,
        "steps": job.steps,
        "seed": job.seed,
        **ended,
        **({} if job.finder is None else {"search_steps": result.search_steps}),
        "seconds": round(result.seconds, 3),
        "scores": result.scores,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _view(console: Console, job: Job, silent: bool) -> Iterator[OnChunk | None]:
    """A bar on a terminal, plain lines in a pipe, nothing beside JSON."""
    if silent:
        yield None
        return
    rate, schedule = f"{job.settings['learning_rate']:g}", job.settings["schedule"]
    if steps := job.settings.get("schedule_search_steps"):
        schedule = f"{schedule} (found in {steps} steps of search)"
    what = f"{job.task.name}, {job.settings['optimizer']}, learning rate {rate}, {schedule}, {job.steps} steps, seed {job.seed}"
    console.print(what, markup=False)
    if not console.is_terminal:
        sys.stdout.flush()
        yield _Plain(job.steps)
        return
    columns = (TextColumn("step {task.completed} of {task.total}"), BarColumn(), TextColumn("loss {task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        row = progress.add_task("training", total=job.steps, loss="-")
        yield lambda state, losses: progress.update(row, completed=int(state.step), loss=f"{losses.mean():.4g}")


class _Plain:
    """One line now and then, flushed, so that a log file can be followed."""

    def __init__(self, steps: int) -> None:
        self._steps, self._last = steps, -math.inf

    def __call__(self, state: TrainState, losses: np.ndarray) -> None:
        now, step = time.monotonic(), int(state.step)
        if math.isinf(self._last) and step > len(losses):
            sys.stdout.write(f"going on from step {step - len(losses)}\n")
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            sys.stdout.write(f"step {step} of {self._steps}: loss {losses.mean():.4g}\n")
            sys.stdout.flush()
