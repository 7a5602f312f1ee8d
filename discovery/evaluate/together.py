"""Several jobs in the batches of an accelerator. Imported there alone: Pallas, which it needs, takes half a second."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...tasks.base import HostFed
from ..language.program import Program
from .batched import Batched, Trial, evaluate_batch, prepare_batch, warm_up
from .fitness import Evaluation, Yardstick
from .job import in_order
from .protocol import Job, WorkerSpec
from .training_run import Prepared


class Together(NamedTuple):
    """A worker's tasks, each ready to train the runs of several jobs at once.

    Attributes:
        batches: task -> how it is trained.
    """

    batches: dict[str, Batched]

    @property
    def capacity(self) -> int:
        """Runs in a batch."""
        return next(iter(self.batches.values())).capacity

    @property
    def identity(self) -> dict[str, str]:
        """What of the batches decides the last bits of a result."""
        return next(iter(self.batches.values())).identity

    def warm_up(self, program: Program) -> float:
        """Compiles every shape of every task; the seconds of a full batch on each."""
        return sum(warm_up(batched, program) for batched in self.batches.values())

    def evaluate(self, yardsticks: Mapping[str, Yardstick], jobs: Sequence[Job]) -> list[list[Evaluation]]:
        """The answer to each job."""
        return evaluate_together(self.batches, yardsticks, jobs)


def prepare_together(prepared: Mapping[str, Prepared], spec: WorkerSpec) -> Together | None:
    """The batches that a spec asks for; None where the host feeds a task, whose programs are trained one at a time."""
    if any(isinstance(task.task, HostFed) for task in prepared.values()):
        return None
    machine = "xla" if spec.machine == "xla" else "pallas"
    most = 1 << (spec.in_flight - 1).bit_length()
    batches = {name: prepare_batch(task, spec.batch, spec.fixed_batch, machine) for name, task in prepared.items()}
    capacity = min(most, *(batched.capacity for batched in batches.values()))
    return Together({name: batched._replace(capacity=capacity) for name, batched in batches.items()})


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
