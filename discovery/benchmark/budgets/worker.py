"""A worker process that fills cells, started by the pool as ``python -m stepsmith.discovery.benchmark.budgets.worker DESCRIPTOR``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from ... import failpoints
from ...evaluate import Status
from ...evaluate.identity import identity
from ...evaluate.process import run
from ...evaluate.protocol import receive, send
from ...evaluate.rates import STEPS
from .. import workloads
from ..trial import as_json, as_losses
from ..worker import competitor
from .cell import CellRun, CellTrainer

RATES = STEPS + 2  # that a walk comes by at most, for the time limit of a cell


@dataclass(frozen=True)
class CellSpec:
    """A worker of budget studies prepares nothing: it compiles what its jobs ask for."""

    module: ClassVar[str] = "benchmark.budgets.worker"

    memory_limit_mb: int = 0


@dataclass(frozen=True)
class CellJob:
    """One entry on one workload at one budget, in percent of the workload's steps."""

    key: int
    entry: str
    executable: str  # jobs that share it share what is compiled
    workload: str
    budget: int
    trials: int
    rule: str  # digest of the entry's files where its name does not say all, else empty

    @property
    def runs(self) -> int:
        return RATES * self.trials

    @property
    def count(self) -> int:
        return 1

    @property
    def what(self) -> str:
        return f"{self.entry} {self.workload} at {self.budget} %"

    @property
    def affinity(self) -> str:
        return f"{self.executable} {self.workload} {self.budget}"

    def one_by_one(self, keys: Iterator[int]) -> list["CellJob"]:
        """None: the learning rates of a cell follow each other."""
        del keys
        return []

    def read(self, rows: list[list[Any]]) -> Sequence[CellRun]:
        return [CellRun(Status(status), rate, seed, steps, *as_losses([loss])) for status, rate, seed, steps, loss in rows]


def serve(connection: Connection) -> None:
    """Answers jobs until the coordinator is gone."""
    CellSpec(**receive(connection))
    kept: tuple[str, CellTrainer] | None = None
    send(connection, {"ready": 0.0, "identity": identity()})
    while True:
        job = CellJob(**receive(connection))
        found = competitor(job.entry, job.rule)
        if kept is None or kept[0] != job.affinity:
            kept = job.affinity, CellTrainer(found, workloads.get(job.workload), job.budget)
        failpoints.reached("worker.evaluate")
        runs = kept[1].run(found, job.trials)
        rows = [[str(r.status), r.learning_rate, r.seed, r.steps, *as_json([r.loss])] for r in runs]
        send(connection, {"key": job.key, "evaluations": rows})


if __name__ == "__main__":
    run(serve)
