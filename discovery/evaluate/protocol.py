"""What coordinator and worker say to each other: framed JSON, nothing else.

The pool serves every kind of job: `Spec` says what its workers are, `Work` what it gives them. `WorkerSpec` and `Job` are those
of searches.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, ClassVar, Protocol, runtime_checkable

from .extrapolate import Limits
from .fitness import Evaluation, Status

_ENCODER = json.JSONEncoder(separators=(",", ":"))


@runtime_checkable
class Spec(Protocol):
    """What a worker prepares before its first job; a frozen dataclass of JSON values."""

    module: ClassVar[str]  # that runs as the worker, relative to `stepsmith.discovery`

    @property
    def memory_limit_mb(self) -> int:
        """That a job may allocate beyond the worker's own; 0: no limit."""
        ...


@runtime_checkable
class Measured(Protocol):
    """What came of one training run."""

    @property
    def status(self) -> Status:
        """How it ended."""
        ...


@runtime_checkable
class Work(Protocol):
    """One job; a frozen dataclass of JSON values."""

    @property
    def key(self) -> int:
        """Tells it from all others."""
        ...

    @property
    def runs(self) -> int:
        """Training runs that it asks for; the time limit is for one."""
        ...

    @property
    def affinity(self) -> str:
        """Jobs that share it are given to the same worker where that makes no other wait; empty: any."""
        ...

    def read(self, rows: list[list[Any]]) -> Sequence[Measured]:
        """The worker's answer."""
        ...


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker prepares before its first job."""

    module: ClassVar[str] = "evaluate.worker"

    tasks: tuple[str, ...]  # evaluated in this order; the first failure ends a job
    yardsticks: dict[str, list[float]] = field(default_factory=dict)  # task -> log loss and scale, for jobs with a hurdle
    schedule: str = "linear"  # of the learning rate relative to its peak
    initial: str = ""  # JSON of a program to warm up with
    memory_limit_mb: int = 4096  # beyond what the warmed-up worker has; 0: none
    extended: bool = False  # whether programs may be of the extended language
    rule: str = ""  # JSON of the rule that schedules are tried with
    base_factors: dict[str, float] = field(default_factory=dict)  # task -> factor of all learning rates; default: 1
    batch: int = 1  # runs that a worker on an accelerator trains at once; 0: as many as fit, up to `in_flight`
    in_flight: int = 1  # runs that may be asked for at a time
    fixed_batch: bool = True  # whether results may not depend on what else is in a batch
    machine: str = "auto"  # of batches: pallas on accelerators; xla is its reference and runs anywhere, slowly


@dataclass(frozen=True)
class Job:
    """A program to be trained on each task from each seed with each learning-rate factor."""

    key: int
    program: str  # JSON
    seeds: tuple[int, ...]
    learning_rate_factors: tuple[float, ...] = (1.0,)  # of the update as a whole
    tasks: tuple[str, ...] | None = None  # default: all of the spec
    hurdle: float | None = None  # mean fitness of the runs so far above which the rest is not run
    limits: Limits = ()  # log training losses above which a run is stopped
    curves: bool = False  # whether the answer holds the training losses that limits are made from
    best_factor: bool = False  # whether only the best factor counts, so that one that fails does not end the job

    @property
    def runs(self) -> int:
        return len(self.seeds) * len(self.learning_rate_factors)

    @property
    def affinity(self) -> str:
        return ""  # every worker is warm for every program

    def read(self, rows: list[list[Any]]) -> tuple[Evaluation, ...]:
        return tuple(
            Evaluation(task, seed, factor, Status(status), loss, steps, seconds, tuple(curve))
            for task, seed, factor, status, loss, steps, seconds, curve in rows
        )


def send(connection: Connection, message: Any) -> None:
    connection.send_bytes(_ENCODER.encode(message).encode())


def receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())
