"""`stepsmith evaluate`: trains every competitor on every workload, in workers, into a ledger; the same command goes on after a kill."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..evaluate import Result, Status
from ..evaluate.identity import digest_of
from ..ledger import TrialRow, locked
from . import looks, space, targets, workloads
from .record import Comparison, EvaluateConfig
from .runner import COMPARISON, LOCK, OnProgress, opened, run_jobs
from .trial import Entry, TrialResult, as_json, entries_of
from .worker import TrialJob, TrialSpec

FIRST_SEED, FIRST_TARGET_SEED = 7_000_000, 8_000_000  # of the trials; targets are set on seeds of their own
TRIALS_A_JOB = 5  # what a kill can cost, and the grain of the progress
FORMAT = 1  # of the space, the trials and their seeds


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
    competitors = entries_of(config.check().entries)
    config = dataclasses.replace(config, entries=tuple(competitors))
    _check(config, reason)
    versions = {"kind": COMPARISON, "format": FORMAT, "workloads": config.versions()}
    versions["rules"] = {label: competitor.digest for label, competitor in competitors.items()}
    with locked(path / LOCK), opened(path, dataclasses.asdict(config), versions) as ledger:
        if config.final:
            looks.record(reason, config.entries, config.final, path)
        jobs = _jobs(config, competitors, {(row.entry, row.workload, row.trial) for row in ledger.trials()})
        spec, rows_of = TrialSpec(config.batch, config.budget), functools.partial(_rows, config.versions())
        run_jobs(path, ledger, jobs, competitors, spec, rows_of, config.num_trials, workers, on_progress)
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
                jobs.append(TrialJob(len(jobs), label, workload, trials, settings, seeds, competitor.digest or ""))
    return jobs


def _settings(config: EvaluateConfig, competitor: Entry, point: Any) -> dict[str, float]:
    return space.own_settings(competitor.source) if config.ruleset == "self" else space.settings(competitor.source, point)


def _rows(versions: Mapping[str, str], job: TrialJob, result: Result) -> list[TrialRow]:
    """The trials of a job; failed where it cost its workers."""
    measured = result.evaluations or [TrialResult(trial, result.status or Status.CRASHED, 0, 0.0, ()) for trial in job.trials]
    chosen = dict(zip(job.trials, zip(job.settings, job.seeds, strict=True), strict=True))
    rows = []
    for trial in measured:
        settings, seed = chosen[trial.trial]
        came = (str(trial.status), trial.steps, trial.seconds, json.dumps(as_json(trial.losses)), digest_of(result.identity))
        rows.append(TrialRow(job.entry, job.workload, trial.trial, versions[job.workload], job.rule, json.dumps(settings), seed, *came))
    return rows
