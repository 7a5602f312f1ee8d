"""`stepsmith evaluate`: trains every competitor on every workload, in workers, into a ledger; the same command goes on after a kill."""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..evaluate import Result, Status, WorkerPool, plan
from ..evaluate.identity import digest_of
from ..interrupt import interruptible
from ..ledger import EventRow, Ledger, LedgerError, Step, TrialRow, locked
from ..training.rules import find
from . import looks, space, targets, workloads
from .record import KIND, LEDGER, Comparison, EvaluateConfig
from .trial import Entry, TrialResult, as_json, entry
from .worker import TrialJob, TrialSpec

LOCK = "ledger.lock"
FIRST_SEED, FIRST_TARGET_SEED = 7_000_000, 8_000_000  # of the trials; targets are set on seeds of their own
TRIALS_A_JOB = 5  # what a kill can cost, and the grain of the progress
RUN_SECONDS = 900.0  # after which a trial's worker is killed
FORMAT = 1  # of the space, the trials and their seeds

OnProgress = Callable[[int, int, float], None]  # trials done, trials in all, seconds so far


def evaluate(
    config: EvaluateConfig,
    path: Path,
    workers: int = 0,
    on_progress: OnProgress = lambda done, total, seconds: None,
    reason: str = "",
) -> Comparison:
    """Runs the trials that the folder's ledger lacks.

    Args:
        config: what to compare.
        path: the comparison's folder, new or of the same comparison.
        workers: processes; 0 for one a core.
        on_progress: called as trials end.
        reason: who looks at final variants, and what for; needed where the workloads have any.

    Returns:
        The comparison; trials are missing after Ctrl-C.

    Raises:
        ValueError: something that cannot be compared, a folder that holds another comparison, or a rule's file that was edited
            meanwhile; what was done until then is kept.
    """
    competitors = {found.label: found for found in map(entry, config.check().entries)}
    if len(competitors) != len(config.entries):
        raise ConfigError(f"entries must be different, got {', '.join(config.entries)}")
    config = dataclasses.replace(config, entries=tuple(competitors))
    _check(config, reason)
    versions = {"kind": KIND, "format": FORMAT, "workloads": config.versions()}
    versions["rules"] = {label: competitor.source.digest for label, competitor in competitors.items()}
    with locked(path / LOCK), _ledger(path, config, versions) as ledger:
        if config.final:
            looks.record(reason, config.entries, config.final, path)
        jobs = _jobs(config, competitors, {(row.entry, row.workload, row.trial) for row in ledger.trials()})
        if jobs and (edited := _run(config, competitors, ledger, jobs, workers, on_progress)):
            raise ConfigError(
                f"{edited} was edited while it was compared; the trials until then are kept in {path}: "
                "undo the edit and give the same command to go on, or another folder to compare the new rule"
            )
        return Comparison(path, config, ledger.trials())


def _check(config: EvaluateConfig, reason: str) -> None:
    """What the config alone cannot say: reasons and targets."""
    found = [workloads.get(name) for name in config.workloads]
    if config.final and not reason.strip():
        raise ConfigError(
            f"{', '.join(config.final)}: the final variants are looked at once; say who looks and what for with --final REASON"
        )
    if reason and not any(workload.kind == workloads.FINAL for workload in found):
        raise ConfigError("--final says who looks at final variants; none of the workloads is one")
    if config.purpose == "targets" and config.ruleset != "external":
        raise ConfigError("targets are set by the tuned baseline: leave --ruleset out")
    if config.purpose == "comparison":
        for workload in found:
            targets.get(workload.name)  # says what to do where there is none


@contextmanager
def _ledger(path: Path, config: EvaluateConfig, versions: dict[str, Any]) -> Iterator[Ledger]:
    said = json.loads(json.dumps(dataclasses.asdict(config)))
    if not (path / LEDGER).exists():
        with Ledger.create(path / LEDGER, path.name, said, versions) as ledger:
            yield ledger
        return
    with Ledger.open(path / LEDGER) as ledger:
        run = ledger.run()
        if run.versions.get("kind") != KIND:
            raise LedgerError(f"{path} holds a search, not a comparison; give another folder")
        for there, here in ((run.config, said), (run.versions, versions)):
            changed = next((key for key in {**there, **here} if not _grows(key, there.get(key), here.get(key))), None)
            if changed is not None:
                said_there, said_here = there.get(changed), here.get(changed)
                raise ConfigError(
                    f"{path} holds another comparison: {changed} is {said_there} there, {said_here} here; give another folder"
                )
        ledger.commit(Step(config=said, versions=versions))
        yield ledger


def _grows(key: str, there: Any, here: Any) -> bool:
    """Whether a setting is what it was, or asks for more of the same: further entries, workloads or trials.

    >>> _grows("entries", ["lion"], ["adamw", "lion"]), _grows("trials", 40, 20), _grows("ruleset", "self", "external")
    (True, False, False)
    """
    if key in ("entries", "workloads", "rules") and type(there) is type(here):
        return there.items() <= here.items() if isinstance(there, dict) else set(there) <= set(here)
    return there <= here if key == "trials" else there == here


def _jobs(config: EvaluateConfig, competitors: Mapping[str, Entry], done: set[tuple[str, str, int]]) -> list[TrialJob]:
    """What is missing; jobs of one entry and workload follow each other, for they share what a worker compiles."""
    points = space.points(config.trials)
    first = FIRST_TARGET_SEED if config.purpose == "targets" else FIRST_SEED
    size = -(-TRIALS_A_JOB // config.batch) * config.batch
    jobs: list[TrialJob] = []
    for workload in config.workloads:
        for label, competitor in competitors.items():
            missing = [trial for trial in range(config.trials) if (label, workload, trial) not in done]
            for begin in range(0, len(missing), size):
                trials = tuple(missing[begin : begin + size])
                settings = tuple(_settings(config, competitor, points[trial]) for trial in trials)
                seeds = tuple(first + trial for trial in trials)
                rule = competitor.source.digest or ""
                jobs.append(TrialJob(len(jobs), label, workload, trials, settings, seeds, rule))
    return jobs


def _settings(config: EvaluateConfig, competitor: Entry, point: Any) -> dict[str, float]:
    return space.own_settings(competitor.source) if config.ruleset == "self" else space.settings(competitor.source, point)


def _run(
    config: EvaluateConfig,
    competitors: Mapping[str, Entry],
    ledger: Ledger,
    jobs: Sequence[TrialJob],
    workers: int,
    on_progress: OnProgress,
) -> str | None:
    """Runs the jobs until all are done, Ctrl-C, or a rule's file is another one, whose name it returns."""
    open_jobs, new_keys = {job.key: job for job in jobs}, itertools.count(len(jobs))
    versions, edited = config.versions(), None
    before, began = ledger.run().elapsed, time.monotonic()
    done = config.num_trials - sum(len(job.trials) for job in jobs)
    identities: dict[str, Any] = ledger.state().get("identities", {})
    on_progress(done, config.num_trials, before)
    with interruptible() as stop, WorkerPool(TrialSpec(config.batch, config.budget), plan("cpu", workers), RUN_SECONDS) as pool:
        for job in jobs:
            pool.submit(job)
        while open_jobs and not stop.requested and edited is None:
            rows: list[TrialRow] = []
            events: list[EventRow] = []
            for result in pool.poll(0.2):
                job = open_jobs.pop(result.key)
                if _edited(competitors[job.entry]):
                    edited = competitors[job.entry].rule
                    continue
                if result.status:
                    events.append(EventRow(time.time(), str(result.status), f"{job.affinity} {job.trials} cost its workers"))
                if result.status and len(job.trials) > 1:  # one trial may be to blame for all of them
                    for single in job.one_by_one(new_keys):
                        open_jobs[single.key] = single
                        pool.submit(single)
                    continue
                identities[digest_of(result.identity)] = dict(result.identity)
                rows += _rows(job, result, versions[job.workload])
            if rows or events:
                done, elapsed = done + len(rows), before + time.monotonic() - began
                status = "finished" if done == config.num_trials else None
                ledger.commit(Step(trials=rows, events=events, state={"identities": identities}, elapsed=elapsed, status=status))
                on_progress(done, config.num_trials, elapsed)
    return edited


def _edited(competitor: Entry) -> bool:
    """Whether the rule's file is another one than when the comparison began, or none."""
    if competitor.source.digest is None:
        return False
    try:
        return find(competitor.rule).digest != competitor.source.digest
    except (ValueError, OSError):
        return True


def _rows(job: TrialJob, result: Result, version: str) -> list[TrialRow]:
    """The trials of a job; failed where it cost its workers."""
    measured = result.evaluations or [TrialResult(trial, result.status or Status.CRASHED, 0, 0.0, ()) for trial in job.trials]
    chosen = dict(zip(job.trials, zip(job.settings, job.seeds, strict=True), strict=True))
    rows = []
    for trial in measured:
        settings, seed = chosen[trial.trial]
        came = (str(trial.status), trial.steps, trial.seconds, json.dumps(as_json(trial.losses)), digest_of(result.identity))
        rows.append(TrialRow(job.entry, job.workload, trial.trial, version, job.rule, json.dumps(settings), seed, *came))
    return rows
