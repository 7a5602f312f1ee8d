"""Training whose learning rates are found meanwhile: AutoLRS on a task of ours, with checkpoints and an end like any other run.

Its folder is that of `tasks.checkpoints`, and two files more:

    search.json     the search since the latest checkpoint, which is written after each stage
    schedule.json   the learning rates that were found, and the search's steps, for `--schedule FILE` and `schedules.load_recorded`
"""

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

from ...schedules import save_recorded
from ...schedules.autolrs import gp, stages
from ...schedules.autolrs.controller import run
from ...schedules.autolrs.replay import to_schedule
from ...schedules.autolrs.stages import AutoLRSConfig, State
from ...tasks import curves
from ...tasks.base import load_on_device
from ...tasks.checkpoints import CHECKPOINTS, FORMAT, INTERRUPTED, RUNNING, OnChunk, TrainingResult, asked_to_stop, claimed, scored_splits
from ...tasks.curves import CurveLog
from ...tasks.saving import Store
from ...tasks.training import NONFINITE, OK
from .rules import Prepared, evaluated, prepare
from .schedule_loop import AnyTask, TaskLoop
from .schedule_sources import check_output, destinations

AUTOLRS = "autolrs"  # in the place of a schedule's name, after the paper; with a colon and a kind of search: 'autolrs:cooled'
SEARCHES = {"": stages.scaled, "cooled": stages.cooled}
SPAN = 30.0  # rates are searched from the learning rate divided by it to the learning rate times it
BATCH = 5  # candidates run at once, as a vmapped batch
SEARCH, SCHEDULE = "search.json", "schedule.json"


class Online(NamedTuple):
    """How a schedule is found while a model trains.

    Attributes:
        create: makes the rule of a schedule and a length.
        config: of the search.
        output: where the schedule is written, beside the checkpoints' folder; None for nowhere.
    """

    create: Callable[[optax.Schedule, int], optax.GradientTransformation]
    config: AutoLRSConfig
    output: Path | None


def is_online(schedule: str) -> bool:
    """Whether a user asks for AutoLRS in the place of a schedule.

    >>> is_online("autolrs"), is_online("autolrs:cooled"), is_online("linear")
    (True, True, False)
    """
    return schedule.partition(":")[0] == AUTOLRS


def make_online(
    schedule: str, optimizer: str, steps: int, learning_rate: float | None, weight_decay: float | None, output: Path | None
) -> tuple[Prepared, Online]:
    """The rule and how its rates are searched.

    Args:
        schedule: 'autolrs', after the paper, or 'autolrs:cooled', see `stages.cooled`.
        optimizer: as in `rules.make_rule`, and there for the learning rate, the centre of the search, and the weight decay.
        steps: length of the run.
        learning_rate: the rule's own where None.
        weight_decay: the rule's own where None.
        output: a .csv or .json file for the schedule, or None.

    Raises:
        ValueError: as in `rules.make_rule`; there is no such search, the run is too short, tinygp is missing, or the output cannot be
            written.
    """
    kind = schedule.partition(":")[2]
    if kind not in SEARCHES or schedule == f"{AUTOLRS}:":
        raise ValueError(f"--schedule {schedule}: there is {AUTOLRS}, after the paper, and {AUTOLRS}:cooled")
    gp.check_library()
    prepared = prepare(optimizer, learning_rate, weight_decay)
    centre = prepared.settings["learning_rate"]
    if not centre > 0:
        raise ValueError(f"--schedule {AUTOLRS} searches around the learning rate, which must be above 0, got {centre:g}")
    check_output(output)
    config = SEARCHES[kind](steps, lowest=centre / SPAN, highest=centre * SPAN, batch=BATCH)
    settings = {**prepared.settings, "schedule": schedule, "search": dataclasses.asdict(config)}
    return prepared._replace(settings=settings), Online(prepared.create, config, output)


def train_online(
    task: AnyTask,
    online: Online,
    *,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    folder: Path | None = None,
    on_chunk: OnChunk | None = None,
) -> TrainingResult:
    """Trains to the end of the search.

    Killed and called again with its folder, it ends with the same schedule and the same parameters: the search goes on after the latest
    candidates that were written, the training from the beginning of the stage. Ctrl-C ends it after the present candidates or stage.

    Args:
        task: what to train.
        online: as `make_online` gives it.
        seed: of the initial parameters and the batches.
        settings: what the run is, to be compared with its folder's.
        folder: for checkpoints and curves; nothing is written there where None.
        on_chunk: called after each stage.

    Raises:
        ValueError: the folder cannot be used.
    """
    data = load_on_device(task)
    loop = TaskLoop(task, lambda schedule: online.create(schedule, online.config.steps), seed, data)
    began = time.monotonic()
    with ExitStack() as stack:
        if folder is None:
            state = run(online.config, loop.loop(online.config.batch > 1), on_piece=_shown(loop, on_chunk))
            status, scored = scored_splits(task, loop.train_state, _code(state), data, evaluated)
            result = TrainingResult(loop.train_state, status, time.monotonic() - began, scored, 0, state.search_steps)
        else:
            steps = online.config.steps
            identity = {"format": FORMAT, "task": task.name, "task_version": task.version, "steps": steps, "seed": seed, **(settings or {})}
            stack.enter_context(claimed(folder, json.loads(json.dumps(identity))))
            stop = stack.enter_context(asked_to_stop())
            recorder = _Recorder(folder, loop, stack.enter_context(Store(folder / CHECKPOINTS)), online.config, stop, on_chunk)
            result, state = recorder.train(lambda state: scored_splits(task, loop.train_state, _code(state), data, evaluated))
    if result.status == stages.OK:
        found = stages.found(online.config, state)
        for path in destinations(folder, SCHEDULE, online.output):
            save_recorded(path, to_schedule(found), state.step, found.search_steps)
    return result


class _Stop(Exception):
    """Leaves the search between two pieces of work."""


@dataclasses.dataclass
class _Recorder:
    """Runs a search and writes where it stands after each piece of work."""

    folder: Path
    loop: TaskLoop
    store: Store
    config: AutoLRSConfig
    stop: threading.Event
    on_chunk: OnChunk | None

    def train(self, score: Callable[[State], tuple[str, dict[str, Any]]]) -> tuple[TrainingResult, State]:
        """From where the folder is to the end."""
        state, notes = self._begin()
        before, resumed_from = notes.get("seconds", 0.0), int(self.loop.train_state.step)
        if notes.get("status", RUNNING) != RUNNING:
            return TrainingResult(self.loop.train_state, notes["status"], before, notes["scores"], resumed_from, state.search_steps), state
        self.began = time.monotonic() - before
        with CurveLog(self.folder, ("loss",), resumed_from) as self.curve:
            try:
                state = run(self.config, self.loop.loop(self.config.batch > 1), state, self._piece)
                status, scored = score(state)
            except _Stop:
                state, status, scored = self.state, INTERRUPTED, {}
            self.curve.sync()
        seconds = time.monotonic() - self.began
        curves.draw(curves.read(self.folder / curves.CSV), self.folder / curves.PICTURE, AUTOLRS)
        # Where no rate leads any further, the checkpoint of this step is there already, and a further call finds the same end.
        if status != INTERRUPTED and self.store.latest != state.step:
            self._checkpoint(state, status, scored)
        return TrainingResult(self.loop.train_state, status, seconds, scored, resumed_from, state.search_steps), state

    def _begin(self) -> tuple[State, dict[str, Any]]:
        """The latest state: of the last candidates where they belong to the latest checkpoint's stage."""
        state, notes = stages.begin(self.config), {}
        if self.store.latest is not None:
            self.loop.train_state, notes = self.store.restore(self.loop.like())
            state = stages.from_json(notes["search"])
        try:
            searched = stages.from_json(json.loads((self.folder / SEARCH).read_text()))
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or cut off by a kill
            return state, notes
        return (searched if searched.step == state.step else state), notes

    def _piece(self, state: State, losses: np.ndarray) -> None:
        self.state = state
        if not len(losses):
            beside = self.folder / (SEARCH + ".tmp")
            beside.write_text(json.dumps(stages.to_json(state)))
            beside.replace(self.folder / SEARCH)
        else:
            self.curve.append(losses, {"loss": self.loop.evaluate()})
            self.curve.sync()
            if state.step < self.config.steps:
                self._checkpoint(state, RUNNING, {})
        _shown(self.loop, self.on_chunk)(state, losses)
        if self.stop.is_set() and state.step < self.config.steps:
            raise _Stop

    def _checkpoint(self, state: State, status: str, scored: dict[str, Any]) -> None:
        seconds = time.monotonic() - self.began
        self.store.save(self.loop.train_state, {"status": status, "seconds": seconds, "scores": scored, "search": stages.to_json(state)})


def _shown(loop: TaskLoop, on_chunk: OnChunk | None) -> Callable[[State, np.ndarray], None]:
    def piece(state: State, losses: np.ndarray) -> None:
        if on_chunk is not None and len(losses):
            on_chunk(loop.train_state, losses)

    return piece


def _code(state: State) -> int:
    return OK if state.status == stages.OK else NONFINITE
