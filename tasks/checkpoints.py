"""Training that can be killed at any moment: any task and transformation, checkpoints and curves in one folder.

`train_with_checkpoints` is `training.train` with a folder:

    run.json       what the run is; a folder is only ever continued by the same run
    checkpoints/   the two latest states, see `saving.Store`
    curve.csv  curve.png  tensorboard/     see `curves`

A curve is brought to the disk before the checkpoint of its step. So after a kill the rows beyond the latest checkpoint
are cut off and written again, and the run ends with the parameters and the curve that it would have had anyway.
Imported as a module of its own, for few need the libraries behind it.
"""

import contextlib
import dataclasses
import fcntl
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array

from . import curves
from .base import SPLITS, Data, HostFed, Split, Task, load_on_device
from .curves import CurveLog
from .saving import CheckpointError, Store, from_arrays, to_arrays
from .training import NONFINITE, OK, STATUS_NAMES, TrainState, chunk_length, scores, start, train

RUN, LOCK, CHECKPOINTS = "run.json", "run.lock", "checkpoints"
FORMAT = 1  # of the folder; raised where an older one can no longer be continued
CHUNK = 20  # steps between two looks at the loss; fixed, for another number may change the last bits
CHECKPOINTS_IN_A_RUN = 10  # where it is not said how often
RUNNING, INTERRUPTED = "running", "interrupted"

OnChunk = Callable[[TrainState, np.ndarray], None]
Evaluated = Callable[[Any, Any], Any]  # (the rule's state, the parameters it moves) -> those to score


class TrainingResult(NamedTuple):
    """How a run ended.

    Attributes:
        train_state: where it ended.
        status: 'ok', 'diverged', 'nonfinite', or 'interrupted' where it was asked to stop and can go on.
        seconds: time spent, that of earlier calls on the same folder included.
        scores: split -> metric -> value; empty unless the run came to its end.
        resumed_from: the step of the checkpoint that this call went on from, 0 where it started the run. That of the end where
            there was nothing left to do.
        search_steps: steps beside those of the run that a search for the schedule took meanwhile.
    """

    train_state: TrainState
    status: str
    seconds: float
    scores: dict[str, dict[str, float]]
    resumed_from: int = 0
    search_steps: int = 0

    @property
    def steps(self) -> int:
        """Steps done."""
        return int(self.train_state.step)


class _Stop(Exception):
    """Leaves `train` between two chunks."""


def train_and_score(
    task: Task,
    transformation: optax.GradientTransformation,
    *,
    seed: int = 0,
    steps: int | None = None,
    on_chunk: OnChunk | None = None,
    data: Data | None = None,
    evaluated: Evaluated | None = None,
) -> TrainingResult:
    """`training.train` and the scores of every split, at the parameters that `evaluated` gives; writes nothing.

    Example:
        >>> from stepsmith.tasks import get
        >>> result = train_and_score(get("digits_mlp"), optax.adam(0.01))
        >>> result.status, result.steps, result.scores["test"]["accuracy"] > 0.9
        ('ok', 200, True)
    """
    began = time.monotonic()
    data = load_on_device(task) if data is None else data
    trained = train(task, transformation, seed, steps, on_chunk, data=data, chunk=CHUNK)
    status, scored = scored_splits(task, trained.train_state, trained.status, data, evaluated)
    return TrainingResult(trained.train_state, status, time.monotonic() - began, scored)


def train_with_checkpoints(
    task: Task,
    transformation: optax.GradientTransformation,
    folder: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    every: int | None = None,
    settings: Mapping[str, Any] | None = None,
    on_chunk: OnChunk | None = None,
    data: Data | None = None,
    evaluated: Evaluated | None = None,
) -> TrainingResult:
    """Trains, or goes on where the folder's latest checkpoint is; a finished run is left as it is.

    Killed at any moment and called again, it ends with the same parameters bit for bit (on a CPU) and the same
    curve.csv. Ctrl-C ends it after the current chunk of at most 20 steps, with a checkpoint; a second one at once.

    Args:
        task: what to train.
        transformation: any optax transformation.
        folder: new, empty, or of the same run.
        seed: as in `training.train`.
        steps: length of the whole run; the task's where None.
        every: steps from one checkpoint to the next, rounded up to chunks; a tenth of the run where None. The
            validation metrics of the curve are taken then.
        settings: what else the run is, JSON values by name, such as the optimizer: they are written to run.json and must be
            the same to go on. The transformation itself cannot be compared, so name it here.
        on_chunk: as in `training.train`.
        data: as in `training.train`.
        evaluated: gives the parameters to score of the rule's state and those that it moves; the latter where None.

    Raises:
        CheckpointError: where the folder holds something else, another run, or a damaged checkpoint, or cannot be written.
        CurveError: where the curve's file does not hold what the run wrote.

    Example:
        >>> import tempfile
        >>> from stepsmith.tasks import get
        >>> folder = tempfile.mkdtemp()
        >>> task = get("digits_mlp")
        >>> rule, settings = optax.adam(0.01), {"optimizer": "adam", "learning_rate": 0.01}
        >>> first = train_with_checkpoints(task, rule, folder, steps=40, settings=settings)
        >>> again = train_with_checkpoints(task, rule, folder, steps=40, settings=settings)
        >>> first.status, first.resumed_from, again.status, again.resumed_from
        ('ok', 0, 'ok', 40)
    """
    steps = task.steps if steps is None else steps
    length = chunk_length(steps, CHUNK)
    every = max(steps // CHECKPOINTS_IN_A_RUN, 1) if every is None else every
    if every < 1:
        raise ValueError(f"steps between checkpoints must be at least 1, got {every}")
    began, folder = time.monotonic(), Path(folder)
    identity = {"format": FORMAT, "task": task.name, "task_version": task.version, "steps": steps, "seed": seed, **(settings or {})}
    data = load_on_device(task) if data is None else data
    with claimed(folder, json.loads(json.dumps(identity))), asked_to_stop() as stop, Store(folder / CHECKPOINTS) as store:
        state, notes = _begin(task, transformation, seed, store)
        resumed_from, before = int(state.step), notes.get("seconds", 0.0)
        if notes.get("status", RUNNING) != RUNNING:
            return TrainingResult(state, notes["status"], before, notes["scores"], resumed_from)
        with CurveLog(folder, _metric_names(task, state, data), resumed_from) as curve:
            recorder = _Recorder(task, data, steps, every, store, curve, stop, began - before, on_chunk, state, evaluated)
            try:
                trained = train(task, transformation, seed, steps, recorder, data=data, resume_from=state, chunk=length)
            except _Stop:
                status, scored, state = INTERRUPTED, {}, recorder.state
            else:
                state = trained.train_state
                status, scored = scored_splits(task, state, trained.status, data, evaluated)
            seconds = time.monotonic() - began + before
            curve.sync()
            curves.draw(curves.read(folder / curves.CSV), folder / curves.PICTURE, _title(identity))
            if status != INTERRUPTED:  # the last act: whoever finds this checkpoint finds a finished run
                store.save(state, {"status": status, "seconds": seconds, "scores": scored})
        return TrainingResult(state, status, seconds, scored, resumed_from)


@dataclasses.dataclass
class _Recorder:
    """Called after each chunk: writes the curve, and a checkpoint where one is due."""

    task: Task
    data: Data
    steps: int
    every: int
    store: Store
    curve: CurveLog
    stop: threading.Event
    began: float  # by the monotonic clock, earlier calls' seconds taken off
    on_chunk: OnChunk | None
    state: TrainState
    evaluated: Evaluated | None

    def __call__(self, state: TrainState, losses: np.ndarray) -> None:
        step = int(state.step)
        last = step >= self.steps
        failed = not (np.isfinite(losses[-1]) and losses[-1] <= self.task.loss_threshold)  # `train` stops by itself
        due = last or step // self.every > (step - len(losses)) // self.every
        measured = due and not failed
        params = _scored_params(state, self.evaluated)
        self.curve.append(losses, scores(self.task, params, state.state, self.data, "validation") if measured else None)
        self.state = state
        # The end, good or bad, gets its checkpoint from the caller, with the scores.
        if not last and not failed:
            if due or self.stop.is_set():
                self.curve.sync()
                self.store.save(state, {"status": RUNNING, "seconds": time.monotonic() - self.began})
            if self.stop.is_set():
                raise _Stop
        if self.on_chunk is not None:
            self.on_chunk(state, losses)


def _begin(task: Task, transformation: optax.GradientTransformation, seed: int, store: Store) -> tuple[TrainState, dict[str, Any]]:
    """The latest checkpoint's state and notes, or the state before the first step and none."""

    def begin(key: Array) -> TrainState:
        return start(task, transformation, key)

    key = jax.random.key(seed)
    if store.latest is not None:
        return store.restore(jax.eval_shape(begin, key))
    first = jax.jit(begin)(key)
    return from_arrays(to_arrays(first), first), {}


def scored_splits(
    task: Task, state: TrainState, status: int, data: Data, evaluated: Evaluated | None = None
) -> tuple[str, dict[str, dict[str, float]]]:
    """The status' name and the scores of every split; a validation loss that is not finite is a failure, as in `make_run`."""
    splits: list[Split] = [split for split in SPLITS if split != "train" or not isinstance(task, HostFed)]
    params = _scored_params(state, evaluated)
    scored = {split: scores(task, params, state.state, data, split) for split in splits}
    if status == OK and not np.isfinite(scored["validation"]["loss"]):
        status = NONFINITE
    return STATUS_NAMES[status], scored


def _scored_params(state: TrainState, evaluated: Evaluated | None) -> Any:
    return state.params if evaluated is None else evaluated(state.opt_state, state.params)


def _metric_names(task: Task, state: TrainState, data: Data) -> list[str]:
    def metric(validation: Any) -> Any:
        return task.metric(state.params, state.state, task.examples({"validation": validation}, "validation"))

    return sorted(jax.eval_shape(metric, data["validation"]), key=lambda name: (name != "loss", name))


def _title(identity: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{identity[name]}" if name == "task" else f"{name} {identity[name]}" for name in ("task", "optimizer", "seed") if name in identity
    )


@contextlib.contextmanager
def claimed(folder: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """The folder, checked or made, for this process alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in folder.iterdir()}
        if names - {LOCK, RUN, RUN + ".tmp"} and RUN not in names:
            raise CheckpointError(f"{folder}: holds other files ({sorted(names)[0]}, ...); give a new or empty folder")
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be used for checkpoints: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
        except OSError:
            raise CheckpointError(f"{folder}: another process is training there") from None
        if RUN in names:
            _compare(folder, identity)
        else:
            beside = folder / (RUN + ".tmp")
            beside.write_text(json.dumps(identity, indent=1) + "\n")
            beside.replace(folder / RUN)
        yield


def _compare(folder: Path, identity: Mapping[str, Any]) -> None:
    try:
        there = dict(json.loads((folder / RUN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / RUN}: cannot be read: {error}") from None
    for name in dict.fromkeys([*identity, *there]):
        if there.get(name) != identity.get(name):
            found, given = there.get(name), identity.get(name)
            raise CheckpointError(f"{folder}: holds another run: {name} is {found!r} there and {given!r} here; give another folder")


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C; the second one acts as always. Other threads than the first cannot listen to it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)
