"""Training as a population: the learning rate of a task of ours searched by population-based training, and the winner's schedule kept.

Its folder is that of `tasks.checkpoints`, where a checkpoint holds all members and the curve is that of each round's best, and two files
more:

    population.json   every round: what each member was trained at, its score and whose copy it became
    schedule.csv      the winner's learning rate at every step, and the search's steps, for `--schedule FILE`
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

from ...schedules import piecewise_schedule, population, save_recorded
from ...schedules.population import Hyperparameter, PopulationConfig, State
from ...tasks import curves
from ...tasks.base import load_on_device
from ...tasks.checkpoints import CHECKPOINTS, FORMAT, INTERRUPTED, RUNNING, OnChunk, TrainingResult, asked_to_stop, claimed, scored_splits
from ...tasks.curves import CurveLog
from ...tasks.saving import Store
from ...tasks.training import NONFINITE, OK
from .population_loop import AnyTask, TaskPopulation
from .rules import Prepared, evaluated, prepare
from .schedule_sources import check_output, destinations

PBT = "pbt"  # in the place of a schedule's name, alone or with the number of members: 'pbt:16'
RATE = "learning_rate"
SPAN = 30.0  # rates lie between the learning rate divided by it and the learning rate times it
ROUNDS = 20  # of a run
MAX_MEMBERS = 1024
POPULATION, SCHEDULE = "population.json", "schedule.csv"


class PopulationError(ValueError):
    """A population that is none."""


class PopulationTraining(NamedTuple):
    """How a population finds a schedule.

    Attributes:
        create: makes the rule of a schedule and a length.
        config: of the population.
        output: where the winner's schedule is written, beside the checkpoints' folder; None for nowhere.
    """

    create: Callable[[optax.Schedule, int], optax.GradientTransformation]
    config: PopulationConfig
    output: Path | None


def is_population(schedule: str) -> bool:
    """Whether a user asks for a population in the place of a schedule.

    >>> is_population("pbt"), is_population("pbt:16"), is_population("linear")
    (True, True, False)
    """
    return schedule.partition(":")[0] == PBT


def make_population(
    schedule: str, optimizer: str, steps: int, learning_rate: float | None, weight_decay: float | None, output: Path | None, seed: int = 0
) -> tuple[Prepared, PopulationTraining]:
    """The rule and how its rates are searched.

    Args:
        schedule: 'pbt' or 'pbt:MEMBERS'.
        optimizer: as in `rules.make_rule`, and there for the learning rate, the centre of the search, and the weight decay.
        steps: length of each member's run.
        learning_rate: the rule's own where None.
        weight_decay: the rule's own where None.
        output: a .csv or .json file for the winner's schedule, or None.
        seed: of the first rates, of who is copied and of the changes.

    Raises:
        ValueError: as in `rules.make_rule`; the number of members is none, or the output cannot be written.
    """
    members = _members(schedule)
    prepared = prepare(optimizer, learning_rate, weight_decay)
    centre = prepared.settings[RATE]
    if not centre > 0:
        raise PopulationError(f"--schedule {PBT} searches around the learning rate, which must be above 0, got {centre:g}")
    check_output(output)
    rate = Hyperparameter(RATE, centre / SPAN, centre * SPAN)
    config = PopulationConfig(steps, (rate,), interval=-(-steps // ROUNDS), members=members, seed=seed)
    settings = {**prepared.settings, "schedule": schedule, "population": dataclasses.asdict(config)}
    return prepared._replace(settings=settings), PopulationTraining(prepared.create, config, output)


def _members(schedule: str) -> int:
    _, colon, number = schedule.partition(":")
    if not colon:
        return PopulationConfig.members
    # Python refuses to read numbers of thousands of digits.
    if not number.isdecimal() or len(number) > len(str(MAX_MEMBERS)) or not 2 <= int(number) <= MAX_MEMBERS:
        raise PopulationError(f"a population has 2 to {MAX_MEMBERS} members, such as --schedule {PBT}:16, got {number[:20]!r}")
    return int(number)


def train_population(
    task: AnyTask,
    training: PopulationTraining,
    *,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    folder: Path | None = None,
    on_chunk: OnChunk | None = None,
) -> TrainingResult:
    """Trains all members to the end; the result is the winner's.

    Killed and called again with its folder, it goes on after the latest round to the same end. Ctrl-C ends it after the present round.

    Args:
        task: what to train.
        training: as `make_population` gives it.
        seed: of the initial parameters and the batches, which all members share.
        settings: what the run is, to be compared with its folder's.
        folder: for checkpoints and curves; nothing is written there where None.
        on_chunk: called after each round with the best member's state and losses.

    Raises:
        ValueError: the folder cannot be used.
    """
    data, config = load_on_device(task), training.config
    members = TaskPopulation(task, lambda values: training.create(lambda step: values[RATE], config.steps), config, seed, data)
    session = _Session(members, config, lambda state: _ended(task, members, state, data), on_chunk)
    with ExitStack() as stack:
        if folder is not None:
            identity = {"format": FORMAT, "task": task.name, "task_version": task.version, "steps": config.steps, "seed": seed}
            stack.enter_context(claimed(folder, json.loads(json.dumps({**identity, **(settings or {})}))))
            session.folder, session.stop = folder, stack.enter_context(asked_to_stop())
            session.store = stack.enter_context(Store(folder / CHECKPOINTS))
        result, state = session.train()
        if folder is not None and result.status != INTERRUPTED:
            (folder / POPULATION).write_text(json.dumps(population.to_json(state)) + "\n")
    if result.status == population.OK:
        for path in destinations(folder, SCHEDULE, training.output):
            save_recorded(path, winners_schedule(config, state), config.steps, result.search_steps)
    return result


def winners_schedule(config: PopulationConfig, state: State) -> optax.Schedule:
    """step -> the learning rate that the winner and its ancestors were trained at."""
    pieces = population.lineage(config, state)
    return piecewise_schedule([piece.start for piece in pieces], [piece.values[RATE] for piece in pieces])


def _ended(task: AnyTask, members: TaskPopulation, state: State, data: Any) -> tuple[str, dict[str, dict[str, float]]]:
    code = OK if state.status == population.OK else NONFINITE
    return scored_splits(task, members.member(_best(state)), code, data, evaluated)


def _best(state: State) -> int:
    """Of the latest round; any where all have failed."""
    return population.winner(state) if state.status == population.OK else 0


class _Stop(Exception):
    """Leaves the training between two rounds."""


@dataclasses.dataclass
class _Session:
    """Trains a population and, with a folder, writes where it stands after each round."""

    members: TaskPopulation
    config: PopulationConfig
    score: Callable[[State], tuple[str, dict[str, dict[str, float]]]]
    on_chunk: OnChunk | None
    folder: Path | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    store: Store | None = None

    def train(self) -> tuple[TrainingResult, State]:
        """From where the folder is to the end."""
        self.state, notes = self._begin()
        before, resumed_from = notes.get("seconds", 0.0), self.state.step
        self.began, status, scored = time.monotonic() - before, notes.get("status", RUNNING), notes.get("scores", {})
        if status == RUNNING:
            with ExitStack() as stack:
                self.curve = None if self.folder is None else stack.enter_context(CurveLog(self.folder, ("loss",), resumed_from))
                status, scored = self._to_the_end()
            if self.folder is not None:
                curves.draw(curves.read(self.folder / curves.CSV), self.folder / curves.PICTURE, PBT)
            if status != INTERRUPTED:
                self._checkpoint(status, scored)
            before = time.monotonic() - self.began
        search_steps = self.state.total_steps - self.state.step
        best = self.members.member(_best(self.state))
        return TrainingResult(best, status, before, scored, resumed_from, search_steps), self.state

    def _begin(self) -> tuple[State, dict[str, Any]]:
        if self.store is None or self.store.latest is None:
            return population.begin(self.config), {}
        self.members.train_state, notes = self.store.restore(self.members.like())
        return population.from_json(notes["population"]), notes

    def _to_the_end(self) -> tuple[str, dict[str, dict[str, float]]]:
        try:
            self.state = population.run(self.config, self.members.loop(), self.state, self._round)
        except _Stop:
            return INTERRUPTED, {}
        return self.score(self.state)

    def _round(self, state: State) -> None:
        self.state, best = state, _best(state)
        last = state.step >= self.config.steps or state.status != population.OK
        if self.curve is not None:
            self.curve.append(self.members.losses[best], {"loss": state.rounds[-1].scores[best]})
            self.curve.sync()
            if not last:  # the end gets its checkpoint with the scores
                self._checkpoint(RUNNING, {})
        if self.on_chunk is not None:
            self.on_chunk(self.members.member(best), np.asarray(self.members.losses[best], np.float32))
        if self.stop.is_set() and not last:
            raise _Stop

    def _checkpoint(self, status: str, scored: dict[str, Any]) -> None:
        if self.store is not None:
            seconds = time.monotonic() - self.began
            notes = {"status": status, "seconds": seconds, "scores": scored, "population": population.to_json(self.state)}
            self.store.save(self.members.train_state, notes)
