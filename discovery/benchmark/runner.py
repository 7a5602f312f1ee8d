"""What comparisons of every kind share: a folder with a ledger, and jobs on workers, whose rows are kept as they come."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..config import ConfigError
from ..evaluate import Result, WorkerPool, plan
from ..evaluate.identity import digest_of
from ..evaluate.protocol import Spec, Work
from ..interrupt import interruptible
from ..ledger import EventRow, Ledger, LedgerError, Step, TrialRow
from .trial import Entry

LEDGER, LOCK = "ledger.sqlite", "ledger.lock"
COMPARISON, BUDGET_STUDY = KINDS = ("comparison", "budget study")  # what the ledger's versions say it holds
RUN_SECONDS = 900.0  # for one training run, after which its worker is killed

OnProgress = Callable[[int, int, float], None]  # done, of how many, seconds so far


@runtime_checkable
class Job(Work, Protocol):
    """Training runs of one entry."""

    @property
    def entry(self) -> str:
        """Whose runs these are."""
        ...

    @property
    def what(self) -> str:
        """For the reader of an event."""
        ...

    @property
    def count(self) -> int:
        """What it adds to the progress."""
        ...

    def one_by_one(self, keys: Iterator[int]) -> list[Any]:
        """Jobs for its parts, with keys of their own, where a part may be to blame for all of it; else none."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)


@contextmanager
def opened(path: Path, said: dict[str, Any], versions: dict[str, Any]) -> Iterator[Ledger]:
    """The folder's ledger, new or of the same comparison, which may have grown.

    Args:
        path: the folder.
        said: the config, plain data.
        versions: of what is compared, with the ``kind`` of the comparison.

    Raises:
        LedgerError: it holds something else.
        ConfigError: it holds another comparison; says in what it differs.
    """
    said = json.loads(json.dumps(said))
    if not (path / LEDGER).exists():
        with Ledger.create(path / LEDGER, path.name, said, versions) as ledger:
            yield ledger
        return
    with Ledger.open(path / LEDGER) as ledger:
        run = ledger.run()
        _check_kind(path, run.versions, versions["kind"])
        for there, here in ((run.config, said), (run.versions, versions)):
            changed = next((key for key in {**there, **here} if not _grows(key, there.get(key), here.get(key))), None)
            if changed is not None:
                said_there, said_here = there.get(changed), here.get(changed)
                raise ConfigError(
                    f"{path} holds another comparison: {changed} is {said_there} there, {said_here} here; give another folder"
                )
        ledger.commit(Step(config=said, versions=versions))
        yield ledger


def _check_kind(path: Path, versions: dict[str, Any], kind: str) -> None:
    """Refuses a ledger that holds something else.

    Raises:
        LedgerError: it does.
    """
    there = versions.get("kind", "search")
    if there != kind:
        raise LedgerError(f"{path} holds a {there}, not a {kind}; give another folder")


def held(path: Path, kind: str) -> tuple[dict[str, Any], list[TrialRow]]:
    """The config and the rows of a folder's ledger; nothing is run.

    Raises:
        LedgerError: there is none, or it holds something else.
    """
    with Ledger.open(path / LEDGER) as ledger:
        run, rows = ledger.run(), ledger.trials()
    _check_kind(path, run.versions, kind)
    return run.config, rows


def _grows(key: str, there: Any, here: Any) -> bool:
    """Whether a setting is what it was, or asks for more of the same: further entries, workloads, budgets or trials.

    >>> _grows("entries", ["lion"], ["adamw", "lion"]), _grows("trials", 40, 20), _grows("ruleset", "self", "external")
    (True, False, False)
    """
    if key in ("entries", "workloads", "rules", "budgets") and type(there) is type(here):
        return there.items() <= here.items() if isinstance(there, dict) else set(there) <= set(here)
    return there <= here if key == "trials" else there == here


def run_jobs(
    path: Path,
    ledger: Ledger,
    jobs: Sequence[AnyJob],
    entries: Mapping[str, Entry],
    spec: Spec,
    rows_of: Callable[[AnyJob, Result], list[TrialRow]],
    total: int,
    workers: int,
    on_progress: OnProgress,
) -> None:
    """Runs the jobs until all are done or Ctrl-C.

    Args:
        path: the ledger's folder.
        ledger: where the rows go.
        jobs: what is missing.
        entries: whose jobs these are.
        spec: what a worker prepares.
        rows_of: the rows of a job's result.
        total: what the counts of all jobs, done ones included, add up to.
        workers: processes; 0 for one a core.
        on_progress: called as jobs end.

    Raises:
        ConfigError: an entry's file was edited meanwhile; what was done until then is kept.
    """
    open_jobs, new_keys = {job.key: job for job in jobs}, itertools.count(len(jobs))
    before, began = ledger.run().elapsed, time.monotonic()
    done = total - sum(job.count for job in jobs)
    identities: dict[str, Any] = ledger.state().get("identities", {})
    on_progress(done, total, before)
    if not jobs:
        return
    with interruptible() as stop, WorkerPool(spec, plan("cpu", workers), RUN_SECONDS) as pool:
        for job in jobs:
            pool.submit(job)
        while open_jobs and not stop.requested:
            rows: list[TrialRow] = []
            events: list[EventRow] = []
            edited: str | None = None
            for result in pool.poll(0.2):
                job = open_jobs.pop(result.key)
                if entries[job.entry].is_edited():
                    edited = job.entry
                    continue
                if result.status:
                    events.append(EventRow(time.time(), str(result.status), f"{job.what} cost its workers"))
                if result.status and (parts := job.one_by_one(new_keys)):
                    for part in parts:
                        open_jobs[part.key] = part
                        pool.submit(part)
                    continue
                identities[digest_of(result.identity)] = dict(result.identity)
                rows += rows_of(job, result)
                done += job.count
            if rows or events:
                elapsed = before + time.monotonic() - began
                status = "finished" if done == total else None
                ledger.commit(Step(trials=rows, events=events, state={"identities": identities}, elapsed=elapsed, status=status))
                on_progress(done, total, elapsed)
            if edited is not None:
                raise ConfigError(
                    f"{edited} was edited while it was compared; the trials until then are kept in {path}: "
                    "undo the edit and give the same command to go on, or another folder to compare the new file"
                )
