"""Workers as processes of their own: the only way to stop a compiled loop is to kill the process it runs in."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe, connection
from typing import IO, Any, NamedTuple

from .fitness import Evaluation, Status
from .protocol import Job, WorkerSpec, evaluations_from, receive, send

STARTUP_SECONDS = 600.0
TIME_LIMIT_FACTOR = 20.0
SHORTEST_TIME_LIMIT = 10.0  # seconds
QUEUE_PER_WORKER = 2  # one running, one waiting, so that a worker never idles for the coordinator
STRIKES = 2  # a program that costs this many workers is charged


class WorkerError(RuntimeError):
    """Workers cannot be started; says what they said last."""


class Result(NamedTuple):
    """What came of a job: evaluations, or a status without any."""

    key: int
    evaluations: tuple[Evaluation, ...]
    status: Status | None  # only where the workers died on it


@dataclass
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: connection.Connection
    jobs: deque[Job] = field(default_factory=deque)  # the first one runs
    since: float = field(default_factory=time.monotonic)  # start of the running job, or of the process
    ready: bool = False


class WorkerPool:
    """Runs jobs on killable worker processes.

    A job whose worker dies or exceeds the time limit (20 times the measured time of the initial program) is tried
    once more while nothing else runs; if that costs a worker too, its status says so and the pool goes on.

    Args:
        spec: what each worker prepares.
        num_workers: processes, each on one core.
    """

    def __init__(self, spec: WorkerSpec, num_workers: int, time_limit: float | None = None):
        self._spec = spec
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the pool
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._pending: deque[Job] = deque()
        self._alone: deque[Job] = deque()  # to be tried again, one at a time with nothing beside
        self._strikes: dict[int, int] = {}
        self._failed_starts = 0
        self._time_limit = time_limit
        self.identity: dict[str, str] = {}
        self.workers_lost = 0
        self._workers = [self._start(number) for number in range(num_workers)]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_ready(self) -> None:
        """Returns when the first worker has compiled its tasks."""
        while not any(worker.ready for worker in self._workers):
            self._pump(0.2, [])

    def submit(self, job: Job) -> None:
        self._pending.append(job)
        self._dispatch()

    def poll(self, timeout: float) -> list[Result]:
        """Waits up to ``timeout`` seconds for results."""
        results: list[Result] = []
        self._pump(timeout, results)
        return results

    def close(self) -> None:
        for worker in self._workers:
            _kill(worker)
        self._errors.close()

    def _start(self, number: int) -> _Worker:
        ours, theirs = Pipe()
        environment = dict(os.environ, JAX_PLATFORMS="cpu", NPROC="1", PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path))
        command = [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno())]
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
        if self._cores:
            os.sched_setaffinity(process.pid, {self._cores[number % len(self._cores)]})
        send(ours, self._spec.to_json())
        return _Worker(number, process, ours)

    def _dispatch(self) -> None:
        ready = [worker for worker in self._workers if worker.ready]
        if self._alone:
            if ready and not any(worker.jobs for worker in self._workers):
                self._give(ready[0], self._alone.popleft())
            return
        if any(job.key in self._strikes for worker in self._workers for job in worker.jobs):
            return
        for depth in range(QUEUE_PER_WORKER):
            for worker in ready:
                if self._pending and len(worker.jobs) <= depth:
                    self._give(worker, self._pending.popleft())

    def _give(self, worker: _Worker, job: Job) -> None:
        if not worker.jobs:
            worker.since = time.monotonic()
        worker.jobs.append(job)
        with contextlib.suppress(OSError):  # it died; the next pump notices, with the job in its queue
            send(worker.connection, asdict(job))

    def _pump(self, timeout: float, results: list[Result]) -> None:
        by_connection = {worker.connection: worker for worker in self._workers}
        for ready in connection.wait(list(by_connection), timeout):
            worker = by_connection[ready]  # pyright: ignore[reportArgumentType]
            try:
                self._receive(worker, receive(worker.connection), results)
            except (EOFError, OSError):
                self._lost(worker, Status.CRASHED, results)
        now = time.monotonic()
        for worker in list(self._workers):
            limit = self._limit(worker)
            if (worker.jobs or not worker.ready) and now - worker.since > limit:
                self._lost(worker, Status.TIMEOUT, results)
        self._dispatch()

    def _limit(self, worker: _Worker) -> float:
        if not worker.ready or self._time_limit is None:
            return STARTUP_SECONDS
        return self._time_limit * (len(worker.jobs[0].seeds) if worker.jobs else 1)

    def _receive(self, worker: _Worker, message: dict[str, Any], results: list[Result]) -> None:
        worker.since = time.monotonic()
        if "ready" in message:
            worker.ready, self.identity, self._failed_starts = True, message["identity"], 0
            if self._time_limit is None:
                self._time_limit = max(SHORTEST_TIME_LIMIT, TIME_LIMIT_FACTOR * message["ready"])
            return
        job = worker.jobs.popleft()
        self._strikes.pop(job.key, None)
        results.append(Result(message["key"], evaluations_from(message["evaluations"]), None))

    def _lost(self, worker: _Worker, why: Status, results: list[Result]) -> None:
        """Replaces a dead worker; its running job gets a strike, the waiting ones go back."""
        _kill(worker)
        self.workers_lost += 1
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts > len(self._workers):
                raise WorkerError(f"workers die while they start; the last one said: {_tail(self._errors)}")
        if worker.jobs:
            job = worker.jobs.popleft()
            self._pending.extendleft(reversed(worker.jobs))
            self._strikes[job.key] = self._strikes.get(job.key, 0) + 1
            if self._strikes[job.key] < STRIKES:
                self._alone.append(job)
            else:
                del self._strikes[job.key]
                results.append(Result(job.key, (), why))
        self._workers[self._workers.index(worker)] = self._start(worker.number)


def _kill(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    worker.connection.close()


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read()[-4000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"
