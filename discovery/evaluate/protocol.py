"""What coordinator and worker say to each other: framed JSON, nothing else."""

import json
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

from .fitness import Evaluation, Status


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker prepares before its first job."""

    tasks: tuple[str, ...]  # evaluated in this order; the first failure ends a job
    schedule: str = "linear"  # of the learning rate relative to its peak
    initial: str = ""  # JSON of a program to warm up with
    memory_limit_mb: int = 4096  # beyond what the warmed-up worker has; 0: none

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """A program to be trained."""

    key: int
    program: str  # JSON
    seeds: tuple[int, ...]
    learning_rate_factor: float = 1.0
    tasks: tuple[str, ...] | None = None  # default: all of the spec


def send(connection: Connection, message: Any) -> None:
    connection.send_bytes(json.dumps(message, separators=(",", ":")).encode())


def receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def evaluations_from(rows: list[list[Any]]) -> tuple[Evaluation, ...]:
    return tuple(Evaluation(task, seed, Status(status), loss, steps, seconds) for task, seed, status, loss, steps, seconds in rows)
