"""A worker process that runs trials, started by the pool as ``python -m stepsmith.discovery.benchmark.worker DESCRIPTOR``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from .. import failpoints
from ..evaluate import Status
from ..evaluate.identity import identity
from ..evaluate.process import run
from ..evaluate.protocol import receive, send
from ..training.rules import RuleError
from . import workloads
from .trial import Entry, Trainer, TrialResult, as_json, as_losses, entry

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
    rule: str  # digest of the rule where its name does not say all, else empty

    @property
    def runs(self) -> int:
        return len(self.trials)

    count = runs

    @property
    def what(self) -> str:
        return f"{self.affinity} {self.trials}"

    @property
    def affinity(self) -> str:
        return f"{self.entry} {self.workload}"

    def one_by_one(self, keys: Iterator[int]) -> list["TrialJob"]:
        """A job for each of its trials, with keys of their own; none where it has one trial."""
        if len(self.trials) == 1:
            return []
        parts = zip(self.trials, self.settings, self.seeds, strict=True)
        return [replace(self, key=next(keys), trials=(trial,), settings=(settings,), seeds=(seed,)) for trial, settings, seed in parts]

    def read(self, rows: list[list[Any]]) -> Sequence[TrialResult]:
        return [TrialResult(trial, Status(status), steps, seconds, as_losses(losses)) for trial, status, steps, seconds, losses in rows]


def competitor(name: str, digest: str) -> Entry:
    """What a job trains.

    Raises:
        RuleError: a file is another one than the job asks for. It ends the worker, and the coordinator sees why.
    """
    found = entry(name)
    if (found.digest or "") != digest:
        raise RuleError(f"{name} is another file than when the comparison began")
    return found


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
            trainers[pair] = Trainer(competitor(job.entry, job.rule), workloads.get(job.workload), spec.batch, spec.budget)
        failpoints.reached("worker.evaluate")
        results = trainers[pair].run(job.trials, job.settings, job.seeds)
        rows = [[r.trial, str(r.status), r.steps, r.seconds, as_json(r.losses)] for r in results]
        send(connection, {"key": job.key, "evaluations": rows})


if __name__ == "__main__":
    run(serve)
