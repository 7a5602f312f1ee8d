"""A worker process: compiles each task's training loop once and runs programs through it.

Started by the pool as ``python -m stepsmith.discovery.evaluate.worker DESCRIPTOR``. It may be killed at any moment; it holds nothing
that is not elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ...tasks.base import HostFed
from .. import failpoints
from ..language.program import Program
from ..vm import Bytecode, pallas
from .batched import Batched, Trial, evaluate_batch, prepare_batch, warm_up
from .fitness import Evaluation, Status, Yardstick, mean_score
from .identity import identity
from .process import limit_memory, run
from .protocol import Job, WorkerSpec, receive, send
from .training_run import Prepared, evaluate, prepare


def evaluate_all(prepared: Mapping[str, Prepared], yardsticks: Mapping[str, Yardstick], job: Job) -> list[Evaluation]:
    """The runs of a job, one after the other up to its end."""
    program = Program.from_json(job.program)

    def train(name: str, seed: int, factor: float) -> Evaluation:
        return evaluate(prepared[name], program, seed, factor, job.limits, job.curves)

    return in_order(train, tuple(prepared), yardsticks, job)


def in_order(
    train: Callable[[str, int, float], Evaluation], tasks: Sequence[str], yardsticks: Mapping[str, Yardstick], job: Job
) -> list[Evaluation]:
    """The runs of a job in a fixed order, up to the first failure or until their mean is above its hurdle.

    The factors of a seed belong together; the largest comes first, for it is the one that a rule most often fails at. Where the best
    factor counts, the smallest comes first, and a failure ends the job only if no smaller factor is left without one.

    Args:
        train: what makes a run of a task, a seed and a factor.
        tasks: of the worker, in its order.
        yardsticks: for jobs with a hurdle.
        job: what is asked.
    """
    done: list[Evaluation] = []
    for name in job.tasks or tasks:
        for seed in job.seeds:
            failed = False
            for factor in sorted(job.learning_rate_factors, reverse=not job.best_factor):
                done.append(train(name, seed, factor))
                failed = done[-1].status is not Status.OK
                if failed and not job.best_factor:
                    return done
            if failed and all(run.status is not Status.OK for run in done[-len(job.learning_rate_factors) :]):
                return done
            if job.hurdle is not None and mean_score(done, yardsticks) > job.hurdle:
                return done
    return done


class _NotTrained(Exception):
    """A run that is needed next; its task."""


def evaluate_together(batches: Mapping[str, Batched], yardsticks: Mapping[str, Yardstick], jobs: Sequence[Job]) -> list[list[Evaluation]]:
    """The runs of several jobs: task by task all runs of the jobs that have come so far, in batches.

    Each job's answer is the same as alone: what was trained beyond its end is left out.
    """
    programs = [Program.from_json(job.program) for job in jobs]
    known: dict[tuple[int, str, int, float], Evaluation] = {}
    answers: dict[int, list[Evaluation]] = {}

    def trained(index: int, *asked: Any) -> Evaluation:
        if (index, *asked) not in known:
            raise _NotTrained(asked[0])
        return known[index, *asked]

    while len(answers) < len(jobs):
        wanted: dict[str, list[tuple[int, Trial]]] = {}
        for index, job in enumerate(jobs):
            if index in answers:
                continue
            try:
                answers[index] = in_order(partial(trained, index), tuple(batches), yardsticks, job)
            except _NotTrained as missing:
                pairs = [(seed, factor) for seed in job.seeds for factor in job.learning_rate_factors]
                trials = [(index, Trial(programs[index], *pair, job.limits, job.curves)) for pair in pairs]
                wanted.setdefault(str(missing), []).extend(trials)
        for name, trials in wanted.items():
            found = evaluate_batch(batches[name], [trial for _, trial in trials])
            known |= {(i, name, t.seed, t.learning_rate_factor): one for (i, t), one in zip(trials, found, strict=True)}
    return [answers[index] for index in range(len(jobs))]


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
    batches = _batches(prepared, spec)
    seconds = sum(warm_up(batched, initial) for batched in batches.values()) if batches else _compiled(prepared, initial)
    limit_memory(spec.memory_limit_mb)
    prepared = {name: _fallible(task) for name, task in prepared.items()}
    yardsticks = {name: Yardstick(*values) for name, values in spec.yardsticks.items()}
    of_batches = next(iter(batches.values())).identity if batches else {}
    capacity = min((batched.capacity for batched in batches.values()), default=1)
    send(connection, {"ready": seconds, "identity": identity() | of_batches, "batch": capacity})
    late: list[dict[str, Any]] = []
    while True:
        message = receive(connection)
        jobs = [Job(**job) for job in message.get("jobs", [message])]
        failpoints.reached("worker.receive")
        if batches:
            failpoints.reached("worker.evaluate")
            found: Iterable[list[Evaluation]] = evaluate_together(batches, yardsticks, jobs)
        else:
            found = (evaluate_all(prepared, yardsticks, job) for job in jobs)
        for job, evaluations in zip(jobs, found, strict=True):
            answer = {"key": job.key, "evaluations": evaluations}
            fault = failpoints.reached("worker.send")
            for each in (answer, *late, *([answer] if fault == "duplicate" else [])):
                send(connection, each)
            late = [answer] if fault == "late" else []


def _compiled(prepared: Mapping[str, Prepared], program: Program) -> float:
    """Compiles every task's loop; the seconds of a run on each."""
    return sum([evaluate(task, program, 0).seconds for _ in range(2)][1] for task in prepared.values())


def _batches(prepared: Mapping[str, Prepared], spec: WorkerSpec) -> dict[str, Batched]:
    """How each task is trained in batches; empty where this worker trains one program at a time.

    On a CPU it does so unless the spec names a machine: there a batch runs every branch of an instruction. So it does where the host
    feeds a task.
    """
    machine = spec.machine if spec.machine != "auto" else "pallas"
    here = spec.machine != "auto" or pallas.available() is not None
    if spec.batch == 1 or not here or any(isinstance(task.task, HostFed) for task in prepared.values()):
        return {}
    most = 1 << (spec.in_flight - 1).bit_length()
    batches = {name: prepare_batch(task, spec.batch, spec.fixed_batch, machine) for name, task in prepared.items()}  # pyright: ignore[reportArgumentType]
    capacity = min(most, *(batched.capacity for batched in batches.values()))
    return {name: batched._replace(capacity=capacity) for name, batched in batches.items()}


def _fallible(task: Prepared) -> Prepared:
    """The task with the failpoint of its runs; those that only compile are behind it."""

    def run(code: Bytecode, seed: int, limits: np.ndarray) -> Any:
        failpoints.reached("worker.evaluate")
        return task.run(code, seed, limits)

    return task._replace(run=run)


if __name__ == "__main__":
    run(serve)
