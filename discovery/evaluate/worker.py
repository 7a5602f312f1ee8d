"""A worker process: compiles each task's training loop once and runs programs through it.

Started by the pool as ``python -m stepsmith.discovery.evaluate.worker DESCRIPTOR``. It may be killed at any moment; it holds nothing
that is not elsewhere.
"""

from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .. import failpoints
from ..language.program import Program
from ..vm import Bytecode
from .fitness import Evaluation, Yardstick
from .identity import identity
from .job import evaluate_all
from .process import limit_memory, run
from .protocol import Job, WorkerSpec, receive, send
from .training_run import BatchError, Prepared, evaluate, prepare

if TYPE_CHECKING:
    from .together import Together


def serve(connection: Connection) -> None:
    """Answers jobs until the coordinator is gone, or says why it cannot go on."""
    try:
        _serve(connection)
    except BatchError as error:
        send(connection, {"failed": str(error)})


def _serve(connection: Connection) -> None:
    spec = WorkerSpec(**receive(connection))
    failpoints.reached("worker.start")
    initial = Program.from_json(spec.initial)
    rule = Program.from_json(spec.rule) if spec.rule else None
    prepared = {
        name: prepare(name, spec.schedule, spec.extended)._replace(rule=rule, base_factor=spec.base_factors.get(name, 1.0))
        for name in spec.tasks
    }
    together = _together(prepared, spec)
    seconds = _compiled(prepared, initial) if together is None else together.warm_up(initial)
    limit_memory(spec.memory_limit_mb)
    prepared = {name: _fallible(task) for name, task in prepared.items()}
    yardsticks = {name: Yardstick(*values) for name, values in spec.yardsticks.items()}
    batch, of_batches = (1, {}) if together is None else (together.capacity, together.identity)
    send(connection, {"ready": seconds, "identity": identity() | of_batches, "batch": batch})
    late: list[dict[str, Any]] = []
    while True:
        message = receive(connection)
        jobs = [Job(**job) for job in message.get("jobs", [message])]
        failpoints.reached("worker.receive")
        if together is None:
            found: Iterable[list[Evaluation]] = (evaluate_all(prepared, yardsticks, job) for job in jobs)
        else:
            failpoints.reached("worker.evaluate")
            found = together.evaluate(yardsticks, jobs)
        answers: list[dict[str, Any]] = []
        for job, evaluations in zip(jobs, found, strict=True):
            answer = {"key": job.key, "evaluations": evaluations}
            fault = failpoints.reached("worker.send")
            answers += [answer, *late, *([answer] if fault == "duplicate" else [])]
            late = [answer] if fault == "late" else []
        send(connection, {"answers": answers})


def _compiled(prepared: Mapping[str, Prepared], program: Program) -> float:
    """Compiles every task's loop; the seconds of a run on each."""
    return sum([evaluate(task, program, 0).seconds for _ in range(2)][1] for task in prepared.values())


def _together(prepared: Mapping[str, Prepared], spec: WorkerSpec) -> "Together | None":
    """How jobs are trained in batches; None where this worker trains one run at a time.

    On a CPU it does unless the spec names a machine, for there a batch runs every branch of an instruction.
    """
    if spec.batch == 1 or (spec.machine == "auto" and jax.default_backend() == "cpu"):
        return None
    from .together import prepare_together  # with Pallas, whose import takes half a second

    return prepare_together(prepared, spec)


def _fallible(task: Prepared) -> Prepared:
    """The task with the failpoint of its runs; those that only compile are behind it."""

    def run(code: Bytecode, seed: int, limits: np.ndarray) -> Any:
        failpoints.reached("worker.evaluate")
        return task.run(code, seed, limits)

    return task._replace(run=run)


if __name__ == "__main__":
    run(serve)
