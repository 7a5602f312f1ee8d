"""A worker process that runs trials, started by the pool as ``python -m stepsmith.discovery.benchmark.worker DESCRIPTOR``."""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from .. import failpoints
from ..evaluate import Status
from ..evaluate.identity import identity
from ..evaluate.process import run
from ..evaluate.protocol import receive, send
from . import workloads
from .trial import Trainer, TrialResult, as_json, as_losses, entry

KEPT = 3  # trainers in memory; jobs of the same entry and workload come one after the other


@dataclass(frozen=True)
class TrialSpec:
    """A worker of comparisons prepares nothing: it compiles what its jobs ask for."""

    module: ClassVar[str] = "benchmark.worker"

    batch: int = 1
    budget: int = 1
    memory_limit_mb: int = 0


@dataclass(frozen=True)
class TrialJob:
    """Some trials of one entry on one workload."""

    key: int
    entry: str
    workload: str
    trials: tuple[int, ...]
    settings: tuple[dict[str, float], ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        return len(self.trials)

    @property
    def affinity(self) -> str:
        return f"{self.entry} {self.workload}"

    def read(self, rows: list[list[Any]]) -> Sequence[TrialResult]:
        return [TrialResult(trial, Status(status), steps, seconds, as_losses(losses)) for trial, status, steps, seconds, losses in rows]


def serve(connection: Connection) -> None:
    """Answers jobs until the coordinator is gone."""
    spec = TrialSpec(**receive(connection))
    trainers: dict[tuple[str, str], Trainer] = {}
    send(connection, {"ready": 0.0, "identity": identity() | {"batch": str(spec.batch)}})
    while True:
        job = TrialJob(**receive(connection))
        pair = (job.entry, job.workload)
        if pair not in trainers:
            while len(trainers) >= KEPT:
                trainers.pop(next(iter(trainers)))
            trainers[pair] = Trainer(entry(job.entry), workloads.get(job.workload), spec.batch, spec.budget)
        failpoints.reached("worker.evaluate")
        results = trainers[pair].run(job.trials, job.settings, job.seeds)
        rows = [[r.trial, str(r.status), r.steps, r.seconds, as_json(r.losses)] for r in results]
        send(connection, {"key": job.key, "evaluations": rows})


if __name__ == "__main__":
    run(serve)
