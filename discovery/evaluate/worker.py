"""A worker process: compiles each task's training loop once and runs programs through it.

Started by the pool as ``python -m stepsmith.discovery.evaluate.worker DESCRIPTOR``. It may be killed at any moment; it holds nothing
that is not elsewhere.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import numpy as np

from ...schedules import registry as schedules
from ...tasks import registry as tasks
from ...tasks.base import load_on_device
from ...tasks.training import CHUNK, chunk_length, make_runner
from .. import failpoints
from ..language.compose import with_schedule
from ..language.program import Program, ProgramError
from ..language.types import infer
from ..vm import Bytecode, Clock, assemble, register_machine
from .extrapolate import Limits, at_checkpoints, chunk_limits
from .fitness import Evaluation, Status, Yardstick, mean_score
from .identity import identity
from .process import limit_memory, run
from .protocol import Job, WorkerSpec, receive, send

_OUTCOMES = (Status.OK, Status.DIVERGED, Status.NONFINITE, Status.STOPPED)


class Prepared(NamedTuple):
    """A task ready to train any program."""

    name: str
    clock: Clock
    num_chunks: int  # of steps, each of which a limit may end
    run: Callable[[Bytecode, int, np.ndarray], Any]  # (code, seed, limits [chunks]) -> outcome of the training loop
    extended: bool  # whether it runs programs of the extended language
    rule: Program | None = None  # that schedules are tried with
    base_factor: float = 1.0  # of all learning rates


def prepare(name: str, schedule: str, extended: bool = False) -> Prepared:
    """Loads a task's data and makes its jitted loop; compiles at the first run."""
    task = tasks.get(name)
    data = load_on_device(task)
    loop = make_runner(task, partial(register_machine, extended=extended))
    relative = schedules.create(schedule, 1.0, task.steps)
    clock = Clock.create(np.asarray(jax.vmap(relative)(np.arange(task.steps))))
    num_chunks = task.steps // chunk_length(task.steps, CHUNK)
    return Prepared(name, clock, num_chunks, lambda code, seed, limits: loop(data, code, seed, limits), extended)


def evaluate(
    prepared: Prepared, program: Program, seed: int, learning_rate_factor: float = 1.0, limits: Limits = (), curve: bool = False
) -> Evaluation:
    """One training run; every failure that leaves the process alive becomes a status.

    Args:
        prepared: the task.
        program: the rule, or a schedule where the task was prepared with a rule.
        seed: of the initial parameters and the batches.
        learning_rate_factor: of the update as a whole.
        limits: of the training loss; those of other tasks and factors do not count.
        curve: whether the evaluation holds the training losses at the checkpoints.
    """
    start = time.perf_counter()
    try:
        infer(program)
        rule = with_schedule(prepared.rule, program) if prepared.rule is not None else program
        code = assemble(rule, prepared.clock, learning_rate_factor * prepared.base_factor, prepared.extended)
        chunks = chunk_limits(limits, prepared.name, learning_rate_factor, prepared.num_chunks)
        result = jax.block_until_ready(prepared.run(code, seed, chunks))
    except ProgramError:
        return Evaluation(prepared.name, seed, learning_rate_factor, Status.INVALID, None, 0, time.perf_counter() - start)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Evaluation(prepared.name, seed, learning_rate_factor, Status.OOM, None, 0, time.perf_counter() - start)
    status, loss = _OUTCOMES[int(result.status)], float(result.loss)
    if status is Status.OK and not math.isfinite(loss):
        status = Status.NONFINITE
    points = at_checkpoints(result.curve.tolist()) if curve and status is Status.OK else ()
    seconds = time.perf_counter() - start
    loss = loss if status is Status.OK else None
    return Evaluation(prepared.name, seed, learning_rate_factor, status, loss, int(result.steps), seconds, points)


def evaluate_all(prepared: dict[str, Prepared], yardsticks: Mapping[str, Yardstick], job: Job) -> list[Evaluation]:
    """The runs of a job in a fixed order, up to the first failure or until their mean is above its hurdle.

    The factors of a seed belong together; the largest comes first, for it is the one that a rule most often fails at. Where the best
    factor counts, the smallest comes first, and a failure ends the job only if no smaller factor is left without one.
    """
    program = Program.from_json(job.program)
    done: list[Evaluation] = []
    for name in job.tasks or prepared:
        for seed in job.seeds:
            failed = False
            for factor in sorted(job.learning_rate_factors, reverse=not job.best_factor):
                done.append(evaluate(prepared[name], program, seed, factor, job.limits, job.curves))
                failed = done[-1].status is not Status.OK
                if failed and not job.best_factor:
                    return done
            if failed and all(run.status is not Status.OK for run in done[-len(job.learning_rate_factors) :]):
                return done
            if job.hurdle is not None and mean_score(done, yardsticks) > job.hurdle:
                return done
    return done


def serve(connection: Connection) -> None:
    """Answers jobs until the coordinator is gone."""
    spec = WorkerSpec(**receive(connection))
    failpoints.reached("worker.start")
    initial = Program.from_json(spec.initial)
    rule = Program.from_json(spec.rule) if spec.rule else None
    prepared = {
        name: prepare(name, spec.schedule, spec.extended)._replace(rule=rule, base_factor=spec.base_factors.get(name, 1.0))
        for name in spec.tasks
    }
    seconds = 0.0
    for task in prepared.values():
        evaluate(task, initial, 0)  # compiles
        seconds += evaluate(task, initial, 0).seconds
    limit_memory(spec.memory_limit_mb)
    prepared = {name: _fallible(task) for name, task in prepared.items()}
    yardsticks = {name: Yardstick(*values) for name, values in spec.yardsticks.items()}
    send(connection, {"ready": seconds, "identity": identity()})
    late: list[dict[str, Any]] = []
    while True:
        job = Job(**receive(connection))
        failpoints.reached("worker.receive")
        answer = {"key": job.key, "evaluations": evaluate_all(prepared, yardsticks, job)}
        fault = failpoints.reached("worker.send")
        for message in (answer, *late, *([answer] if fault == "duplicate" else [])):
            send(connection, message)
        late = [answer] if fault == "late" else []


def _fallible(task: Prepared) -> Prepared:
    """The task with the failpoint of its runs; those that only compile are behind it."""

    def run(code: Bytecode, seed: int, limits: np.ndarray) -> Any:
        failpoints.reached("worker.evaluate")
        return task.run(code, seed, limits)

    return task._replace(run=run)


if __name__ == "__main__":
    run(serve)
