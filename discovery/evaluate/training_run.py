"""One training run of a program on a task's jitted loop, which is compiled once and runs any program."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ...schedules import registry as schedules
from ...tasks import registry as tasks
from ...tasks.base import Data, Task, load_on_device
from ...tasks.training import CHUNK, chunk_length, make_runner
from ..language.compose import with_schedule
from ..language.program import Program, ProgramError
from ..language.types import infer
from ..vm import Bytecode, Clock, assemble, register_machine
from .extrapolate import Limits, at_checkpoints, chunk_limits
from .fitness import Evaluation, Status

OUTCOMES = (Status.OK, Status.DIVERGED, Status.NONFINITE, Status.STOPPED)


class BatchError(MemoryError):
    """A batch that has to keep its shape does not fit into memory; says which would."""


class Prepared(NamedTuple):
    """A task ready to train any program."""

    name: str
    clock: Clock
    num_chunks: int  # of steps, each of which a limit may end
    run: Callable[[Bytecode, int, np.ndarray], Any]  # (code, seed, limits [chunks]) -> outcome of the training loop
    extended: bool  # whether it runs programs of the extended language
    task: Task
    data: Data
    rule: Program | None = None  # that schedules are tried with
    base_factor: float = 1.0  # of all learning rates


def prepare(name: str, schedule: str, extended: bool = False) -> Prepared:
    """Loads the data of a task by name and makes its jitted loop; compiles at the first run."""
    return prepare_task(tasks.get(name), schedule, extended)._replace(name=name)


def prepare_task(task: Any, schedule: str, extended: bool = False) -> Prepared:
    """The same of any `Task`."""
    data = load_on_device(task)
    loop = make_runner(task, partial(register_machine, extended=extended))
    relative = schedules.create(schedule, 1.0, task.steps)
    clock = Clock.create(np.asarray(jax.vmap(relative)(np.arange(task.steps))))
    num_chunks = task.steps // chunk_length(task.steps, CHUNK)
    return Prepared(task.name, clock, num_chunks, lambda code, seed, limits: loop(data, code, seed, limits), extended, task, data)


def bytecode(prepared: Prepared, program: Program, learning_rate_factor: float) -> Bytecode:
    """A program, or a schedule with the task's rule, for the machine.

    Raises:
        ProgramError: it is not sound, or asks for more than the machine has.
    """
    infer(program)
    rule = with_schedule(prepared.rule, program) if prepared.rule is not None else program
    return assemble(rule, prepared.clock, learning_rate_factor * prepared.base_factor, prepared.extended)


def out_of_memory(error: Exception) -> bool:
    """Whether a run failed at an allocation."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


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
        code = bytecode(prepared, program, learning_rate_factor)
        chunks = chunk_limits(limits, prepared.name, learning_rate_factor, prepared.num_chunks)
        result = jax.block_until_ready(prepared.run(code, seed, chunks))
    except ProgramError:
        return Evaluation(prepared.name, seed, learning_rate_factor, Status.INVALID, None, 0, time.perf_counter() - start)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Evaluation(prepared.name, seed, learning_rate_factor, Status.OOM, None, 0, time.perf_counter() - start)
    status, loss = OUTCOMES[int(result.status)], float(result.loss)
    if status is Status.OK and not math.isfinite(loss):
        status = Status.NONFINITE
    points = at_checkpoints(result.curve.tolist()) if curve and status is Status.OK else ()
    seconds = time.perf_counter() - start
    loss = loss if status is Status.OK else None
    return Evaluation(prepared.name, seed, learning_rate_factor, status, loss, int(result.steps), seconds, points)
