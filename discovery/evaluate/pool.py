"""Workers as processes of their own: the only way to stop a compiled loop is to kill the process it runs in."""

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any, NamedTuple

from .devices import Place, plan
from .fitness import Status
from .protocol import Spec, Work, receive, send

_DISCOVERY = __name__.rsplit(".", 2)[0]

STARTUP_SECONDS = 600.0
TIME_LIMIT_FACTOR = 20.0
SHORTEST_TIME_LIMIT = 10.0  # seconds
QUEUE_PER_WORKER = 2  # one running, one waiting, so that a worker never idles for the coordinator
ROUNDS = 2  # capacities that a worker in batches is given at once: as its runs end, those of the second take their places
STRIKES = 2  # a program that costs this many workers is charged


class WorkerError(RuntimeError):
    """Workers cannot be started, or cannot go on; says what they said last."""


class Result(NamedTuple):
    """What came of a job: evaluations, as it reads them, or a status without any."""

    key: int
    evaluations: Sequence[Any]
    status: Status | None  # only where the workers died on it
    identity: Mapping[str, str]  # of the worker; empty where the workers died


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    jobs: deque[Work] = field(default_factory=deque)  # the first one runs
    since: float = field(default_factory=time.monotonic)  # start of the running job, or of the process
    ready: bool = False
    identity: dict[str, str] = field(default_factory=dict)  # once ready
    time_limit: float | None = None  # seconds for one run; once ready
    affinity: str = ""  # of the latest job
    batch: int = 1  # runs that it trains at once; beyond 1 all its jobs run together


class WorkerPool:
    """Runs jobs on killable worker processes.

    A job whose worker dies or exceeds the time limit (20 times the measured time of the initial program) is tried
    once more while nothing else runs; if that costs a worker too, its status says so and the pool goes on. A job that runs
    out of memory is tried once more in the same way, in a fresh worker. A result that a worker was not asked for, or sends a
    second time, is dropped.

    A worker that trains in batches is given as many jobs as fill one, or its share of what waits if several of them are idle, and
    answers all of them at once. Where a batch does not fit into memory it tries smaller ones, and a run that does not fit alone is
    out of memory for good; a batch that has to keep its shape ends the pool's work with a `WorkerError` instead.

    Args:
        spec: what each worker prepares.
        places: where its processes run, as `devices.plan` gives them; a number: as many on the CPU, each on one core.
        time_limit: seconds for one run, instead of what a worker measures.
    """

    def __init__(self, spec: Spec, places: Sequence[Place] | int, time_limit: float | None = None):
        self._spec = spec
        self._places = plan("cpu", places) if isinstance(places, int) else tuple(places)
        self._selector = selectors.DefaultSelector()  # kept, for to make one costs more than to ask it
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the pool
        self._pending: deque[Work] = deque()
        self._alone: deque[Work] = deque()  # to be tried again, one at a time with nothing beside
        self._strikes: dict[int, int] = {}
        self._failed_starts = 0
        self._time_limit = time_limit
        self.workers_lost = 0
        self.dropped: deque[int] = deque()  # keys of results that no running job was waiting for
        self._workers = [self._watched(self._start(number)) for number in range(len(self._places))]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_ready(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Returns when the first worker has compiled its tasks, or when `stopping` says so."""
        while not any(worker.ready for worker in self._workers) and not stopping():
            self._pump(0.2, [])

    def submit(self, job: Work) -> None:
        self._pending.append(job)
        self._dispatch(batches=False)

    def poll(self, timeout: float) -> list[Result]:
        """Waits up to ``timeout`` seconds for results."""
        results: list[Result] = []
        self._pump(timeout, results)
        return results

    def close(self) -> None:
        for worker in self._workers:
            self._kill(worker)
        self._selector.close()
        self._errors.close()

    def _start(self, number: int) -> _Worker:
        ours, theirs = Pipe()
        place = self._places[number]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), **place.environment}
        command = [sys.executable, "-m", f"{_DISCOVERY}.{self._spec.module}", str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is the coordinator's business
        )
        theirs.close()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, place.cores)
        limit = {} if place.address_space_limit else {"memory_limit_mb": 0}
        send(ours, asdict(self._spec) | limit)  # pyright: ignore[reportArgumentType]
        return _Worker(number, process, ours)

    def _watched(self, worker: _Worker) -> _Worker:
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        return worker

    def _dispatch(self, batches: bool = True) -> None:
        ready = [worker for worker in self._workers if worker.ready]
        if self._alone:
            if ready and not any(worker.jobs for worker in self._workers):
                self._give(ready[0], [self._alone.popleft()])
            return
        if self._strikes and any(job.key in self._strikes for worker in self._workers for job in worker.jobs):
            return
        for depth in range(QUEUE_PER_WORKER):
            for worker in ready:
                if not self._pending:
                    return
                if worker.batch == 1 and len(worker.jobs) <= depth:
                    self._give(worker, [self._next_for(worker)])
                elif worker.batch > 1 and batches and not worker.jobs:
                    idle = sum(other.batch > 1 and not other.jobs for other in ready)
                    self._give(worker, self._next_batch(worker.batch, idle))

    def _next_batch(self, capacity: int, idle: int) -> list[Work]:
        """The first jobs for a worker's places and for those that take them as runs end, or its share among the idle ones."""
        wanted = min(ROUNDS * capacity, -(-sum(job.runs for job in self._pending) // idle))
        jobs = [self._pending.popleft()]
        runs = jobs[0].runs
        while self._pending and runs + self._pending[0].runs <= wanted:
            runs += self._pending[0].runs
            jobs.append(self._pending.popleft())
        return jobs

    def _next_for(self, worker: _Worker) -> Work:
        """The first job that the worker is warm for, else the first that no other one is warm for, else the first."""
        others = {other.affinity for other in self._workers if other is not worker}
        for wanted in (lambda job: job.affinity == worker.affinity, lambda job: job.affinity not in others):
            found = next((job for job in self._pending if wanted(job)), None) if self._pending[0].affinity else None
            if found is not None:
                self._pending.remove(found)
                return found
        return self._pending.popleft()

    def _give(self, worker: _Worker, jobs: list[Work]) -> None:
        worker.affinity = jobs[-1].affinity
        if not worker.jobs:
            worker.since = time.monotonic()
        worker.jobs.extend(jobs)
        messages = [vars(job) for job in jobs]
        with contextlib.suppress(OSError):  # it died; the next pump notices, with the jobs in its queue
            send(worker.connection, {"jobs": messages} if worker.batch > 1 else messages[0])

    def _pump(self, timeout: float, results: list[Result]) -> None:
        self._dispatch()
        while self._read(timeout, results):  # all that has come
            timeout = 0.0
        now = time.monotonic()
        for worker in list(self._workers):
            limit = self._limit(worker)
            if (worker.jobs or not worker.ready) and now - worker.since > limit:
                self._lost(worker, Status.TIMEOUT, results)
        self._dispatch(batches=False)  # a batch waits for what is submitted on these results

    def _read(self, timeout: float, results: list[Result]) -> bool:
        """Takes in a message of each worker that has sent one; whether any had."""
        found = self._selector.select(timeout)
        for key, _ in found:
            worker: _Worker = key.data
            try:
                self._receive(worker, receive(worker.connection), results)
            except (EOFError, OSError):
                self._lost(worker, Status.CRASHED, results)
        return bool(found)

    def _limit(self, worker: _Worker) -> float:
        if worker.time_limit is None:
            return STARTUP_SECONDS
        if worker.batch > 1:  # the time limit is for a batch; as many runs that cannot be in one take no more
            runs = [job.runs for job in worker.jobs]
            return worker.time_limit * max([1, -(-sum(runs) // worker.batch), *runs])
        return worker.time_limit * (worker.jobs[0].runs if worker.jobs else 1)

    def _receive(self, worker: _Worker, message: dict[str, Any], results: list[Result]) -> None:
        if "failed" in message:
            raise WorkerError(message["failed"])
        if "ready" in message:
            worker.since = time.monotonic()
            worker.ready, worker.identity, self._failed_starts = True, message["identity"], 0
            worker.batch = message.get("batch", 1)
            worker.time_limit = self._time_limit or max(SHORTEST_TIME_LIMIT, TIME_LIMIT_FACTOR * message["ready"])
            return
        for answer in message.get("answers", [message]):
            self._answered(worker, answer, results)

    def _answered(self, worker: _Worker, answer: dict[str, Any], results: list[Result]) -> None:
        if not worker.jobs or answer["key"] != worker.jobs[0].key:
            self.dropped.append(answer["key"])
            return
        evaluations = worker.jobs[0].read(answer["evaluations"])
        key = worker.jobs[0].key
        if worker.batch == 1 and any(e.status is Status.OOM for e in evaluations) and key not in self._strikes:
            self._lost(worker, Status.OOM, results)  # it may be the worker that has too little left, not the job that wants too much
            return
        worker.since = time.monotonic()
        worker.jobs.popleft()
        self._strikes.pop(key, None)
        results.append(Result(key, evaluations, None, worker.identity))

    def _lost(self, worker: _Worker, why: Status, results: list[Result]) -> None:
        """Replaces a worker that is dead or has to go; what it ran gets a strike, the waiting jobs go back.

        Of a batch nobody knows whose fault it was: each of its jobs is tried alone.
        """
        self._kill(worker)
        self.workers_lost += 1
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts > len(self._workers):
                raise WorkerError(f"workers die while they start; the last one said: {_tail(self._errors)}")
        running = [worker.jobs.popleft() for _ in range(len(worker.jobs) if worker.batch > 1 else min(len(worker.jobs), 1))]
        self._pending.extendleft(reversed(worker.jobs))
        for job in running:
            self._strikes[job.key] = self._strikes.get(job.key, 0) + 1
            if self._strikes[job.key] < STRIKES:
                self._alone.append(job)
            else:
                del self._strikes[job.key]
                results.append(Result(job.key, (), why, {}))
        self._workers[self._workers.index(worker)] = self._watched(self._start(worker.number))

    def _kill(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.wait()
        if not worker.connection.closed:
            self._selector.unregister(worker.connection)
            worker.connection.close()


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read()[-4000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"
