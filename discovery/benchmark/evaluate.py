"""`stepsmith evaluate`: trains every competitor on every workload, in workers, into a ledger; the same command goes on after a kill."""

import dataclasses
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import config as configs
from ..config import ConfigError
from ..evaluate import Status, WorkerPool, plan
from ..interrupt import interruptible
from ..ledger import EventRow, Ledger, LedgerError, Step, TrialRow, locked
from . import baselines, looks, space, targets, workloads
from .comparison import Pool, Standing, compare, pool_of
from .trial import SELF_TUNING_BUDGET, Entry, TrialResult, as_json, as_losses, entry
from .worker import TrialJob, TrialSpec

LEDGER, LOCK = "ledger.sqlite", "ledger.lock"
FIRST_SEED, FIRST_TARGET_SEED = 7_000_000, 8_000_000  # of the trials; targets are set on seeds of their own
TRIALS_A_JOB = 5  # what a kill can cost, and the grain of the progress
RUN_SECONDS = 900.0  # after which a trial's worker is killed
FORMAT = 1  # of the space, the trials and their seeds

OnProgress = Callable[[int, int, float], None]  # trials done, trials in all, seconds so far


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """A comparison; two runs of it on one machine and versions end in the same table of steps."""

    entries: tuple[str, ...] = ("adamw",)
    """RULE or RULE@SCHEDULE"""
    workloads: tuple[str, ...] = workloads.names()
    """names of workloads"""
    ruleset: Literal["external", "self"] = "external"
    """external: every trial is another point of the common space; self: no tuning, and three times the budget"""
    trials: int = 40
    """of each entry on each workload; the pool that studies are drawn from"""
    batch: int = 1
    """trials that run as one vmapped batch"""
    purpose: Literal["comparison", "targets"] = "comparison"
    """targets have seeds of their own"""

    def check(self) -> "EvaluateConfig":
        """The config itself, if it can be run.

        Raises:
            ConfigError: a value outside its range.
        """
        for name in ("entries", "workloads"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be one or more different names, got {', '.join(values) or 'none'}")
        for name, most in (("trials", 10_000), ("batch", 1_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be at least 1 and at most {most}, got {getattr(self, name)}")
        return self

    @property
    def budget(self) -> int:
        """Times the steps of each workload."""
        return SELF_TUNING_BUDGET if self.ruleset == "self" else 1


class Comparison(NamedTuple):
    """A finished, or interrupted, comparison.

    Attributes:
        path: its folder.
        config: what was compared.
        rows: its trials, from the ledger.
        missing: trials that were not run.
        looks: at the final variants so far, this one included; 0 where it has none.
    """

    path: Path
    config: EvaluateConfig
    rows: list[TrialRow]
    missing: int
    looks: int

    def pool(self, with_baselines: bool = True) -> Pool:
        """The trials as arrays; with the committed baselines that ran the same points on the same versions."""
        rows = list(self.rows)
        if with_baselines and self.config.ruleset == "external":
            own = {row.entry for row in rows}
            rows += [row for row in baselines.rows(_versions(self.config.workloads), self.config.trials) if row.entry not in own]
        curves: dict[tuple[str, str], list[tuple[float, ...]]] = {}
        seconds: dict[tuple[str, str], list[float]] = {}
        if self.missing:
            raise ValueError(f"{self.path}: {self.missing} trials are missing; run the comparison to its end first")
        order = {name: place for place, name in enumerate((*self.config.entries, *sorted({row.entry for row in rows})), -len(rows))}
        order |= {name: place for place, name in enumerate(self.config.entries, -2 * len(rows))}
        for row in sorted(rows, key=lambda row: (order[row.entry], self.config.workloads.index(row.workload), row.trial)):
            if row.trial < self.config.trials:
                curves.setdefault((row.entry, row.workload), []).append(as_losses(json.loads(row.losses)))
                seconds.setdefault((row.entry, row.workload), []).extend([row.seconds / row.steps] if row.steps else [])
        names = self.config.workloads
        tasks = {name: workloads.get(name).task for name in names}
        return pool_of(
            curves,
            {pair: statistics.median(values) if values else math.inf for pair, values in seconds.items()},
            {name: targets.get(name) for name in names},
            {name: task.steps // workloads.EVALUATIONS for name, task in tasks.items()},
            dict.fromkeys(names, workloads.EVALUATIONS * self.config.budget),
        )

    def baselines(self) -> str:
        """What became of the committed baselines, in words."""
        if self.config.ruleset != "external":
            return "baselines are of the external ruleset and were left out"
        found = {row.entry for row in baselines.rows(_versions(self.config.workloads), self.config.trials)}
        absent = baselines.entries() - found
        return f"{len(found)} baselines" + (
            f", {len(absent)} left out: no {self.config.trials} trials of theirs on these workloads" if absent else ""
        )

    def curves(self) -> dict[str, Sequence[Sequence[float]]]:
        """Workload -> losses of each trial; for a comparison of one entry."""
        found: dict[str, Sequence[Sequence[float]]] = {}
        for name in self.config.workloads:
            found[name] = [as_losses(json.loads(row.losses)) for row in self.rows if row.workload == name]
        return found

    def standings(
        self, reference: str | None = None, seconds: bool = False, with_baselines: bool = True, **settings: Any
    ) -> list[Standing]:
        """The ranking; see `comparison.compare` for the settings.

        Args:
            reference: what speed-ups are over; AdamW with linear decay where it takes part, else the first entry.
            seconds: time in seconds; the baselines are left out then, for they ran on another machine.
            with_baselines: whether the committed baselines take part.
        """
        pool = self.pool(with_baselines and not seconds)
        usual = targets.BASELINE if targets.BASELINE in pool.entries else pool.entries[0]
        chosen = usual if reference is None else entry(reference).label
        if chosen not in pool.entries:
            if not seconds:
                raise ConfigError(f"the reference {chosen} takes no part; there are {', '.join(pool.entries)}")
            chosen = usual  # a baseline, which has no seconds of this machine
        if self.config.ruleset == "self":
            settings = {"per_study": 1, **settings}
        return compare(pool, chosen, seconds, level=looks.level(self.looks), **settings)


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
        ValueError: something that cannot be compared, or a folder that holds another comparison.
    """
    competitors = [entry(name) for name in config.check().entries]
    config = dataclasses.replace(config, entries=tuple(competitor.label for competitor in competitors))
    if len(set(config.entries)) != len(config.entries):
        raise ConfigError(f"entries must be different, got {', '.join(config.entries)}")
    found = [workloads.get(name) for name in config.workloads]
    final = [workload.name for workload in found if workload.kind == workloads.FINAL]
    if final and config.purpose == "comparison" and not reason.strip():
        raise ConfigError(f"{', '.join(final)}: the final variants are looked at once; say who looks and what for with --final REASON")
    if reason and not final:
        raise ConfigError("--final says who looks at final variants; none of the workloads is one")
    if config.purpose == "targets" and config.ruleset != "external":
        raise ConfigError("targets are set by the tuned baseline: leave --ruleset out")
    if config.purpose == "comparison":
        for workload in found:
            targets.get(workload.name)  # says what to do where there is none
    versions = {"kind": "comparison", "format": FORMAT, "workloads": _versions(config.workloads)}
    versions["rules"] = {competitor.label: competitor.source.digest for competitor in competitors}
    with locked(path / LOCK), _ledger(path, config, versions) as ledger:
        num_looks = looks.record(reason, config.entries, final, path) if final and config.purpose == "comparison" else 0
        jobs = _jobs(config, competitors, {(row.entry, row.workload, row.trial) for row in ledger.trials()})
        _run(config, competitors, ledger, jobs, workers, on_progress)
        rows = ledger.trials()
    total = len(config.entries) * len(config.workloads) * config.trials
    return Comparison(path, config, rows, total - len(rows), num_looks)


@contextmanager
def _ledger(path: Path, config: EvaluateConfig, versions: dict[str, Any]) -> Iterator[Ledger]:
    said = json.loads(json.dumps(dataclasses.asdict(config)))
    if not (path / LEDGER).exists():
        with Ledger.create(path / LEDGER, path.name, said, versions) as ledger:
            yield ledger
        return
    with Ledger.open(path / LEDGER) as ledger:
        run = ledger.run()
        if run.versions.get("kind") != "comparison":
            raise LedgerError(f"{path} holds a search, not a comparison; give another folder")
        for there, here in ((run.config, said), (run.versions, versions)):
            changed = next((key for key in {**there, **here} if there.get(key) != here.get(key)), None)
            if changed is not None:
                said_there, said_here = there.get(changed), here.get(changed)
                raise ConfigError(
                    f"{path} holds another comparison: {changed} is {said_there} there, {said_here} here; give another folder"
                )
        yield ledger


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {name: workloads.get(name).task.version for name in names}


def _jobs(config: EvaluateConfig, competitors: Sequence[Entry], done: set[tuple[str, str, int]]) -> list[TrialJob]:
    """What is missing; jobs of one entry and workload follow each other, for they share what a worker compiles."""
    points = space.points(config.trials)
    first = FIRST_TARGET_SEED if config.purpose == "targets" else FIRST_SEED
    size = -(-TRIALS_A_JOB // config.batch) * config.batch
    jobs: list[TrialJob] = []
    for workload in config.workloads:
        for competitor in competitors:
            missing = [trial for trial in range(config.trials) if (competitor.label, workload, trial) not in done]
            for begin in range(0, len(missing), size):
                trials = tuple(missing[begin : begin + size])
                settings = tuple(_settings(config, competitor, points[trial]) for trial in trials)
                seeds = tuple(first + trial for trial in trials)
                jobs.append(TrialJob(len(jobs), competitor.label, workload, trials, settings, seeds))
    return jobs


def _settings(config: EvaluateConfig, competitor: Entry, point: Any) -> dict[str, float]:
    return space.own_settings(competitor.source) if config.ruleset == "self" else space.settings(competitor.source, point)


def _run(
    config: EvaluateConfig, competitors: Sequence[Entry], ledger: Ledger, jobs: list[TrialJob], workers: int, on_progress: OnProgress
) -> None:
    if not jobs:
        return
    by_key, digests = {job.key: job for job in jobs}, {c.label: c.source.digest or "" for c in competitors}
    versions, before, began = _versions(config.workloads), ledger.run().elapsed, time.monotonic()
    total = len(competitors) * len(config.workloads) * config.trials
    done = total - sum(len(job.trials) for job in jobs)
    identities: dict[str, Any] = ledger.state().get("identities", {})
    on_progress(done, total, before)
    with interruptible() as stop, WorkerPool(TrialSpec(config.batch, config.budget), workers or _cores(), RUN_SECONDS) as pool:
        for job in jobs:
            pool.submit(job)
        while by_key and not stop.requested:
            rows: list[TrialRow] = []
            events: list[EventRow] = []
            for result in pool.poll(0.2):
                job = by_key.pop(result.key)
                digest = hashlib.sha256(json.dumps(dict(result.identity), sort_keys=True).encode()).hexdigest()[:16]
                identities[digest] = dict(result.identity)
                measured = result.evaluations or [TrialResult(t, result.status or Status.CRASHED, 0, 0.0, ()) for t in job.trials]
                if result.status:
                    events.append(EventRow(time.time(), str(result.status), f"{job.affinity} cost its workers"))
                settings = dict(zip(job.trials, zip(job.settings, job.seeds, strict=True), strict=True))
                for trial in measured:
                    chosen, seed = settings[trial.trial]
                    said = (
                        json.dumps(chosen),
                        seed,
                        str(trial.status),
                        trial.steps,
                        trial.seconds,
                        json.dumps(as_json(trial.losses)),
                        digest,
                    )
                    rows.append(TrialRow(job.entry, job.workload, trial.trial, versions[job.workload], digests[job.entry], *said))
            if rows:
                done += len(rows)
                elapsed = before + time.monotonic() - began
                status = None if by_key else "finished"
                ledger.commit(Step(trials=rows, events=events, state={"identities": identities}, elapsed=elapsed, status=status))
                on_progress(done, total, elapsed)


def _cores() -> int:
    return len(plan("cpu"))


def read(path: Path) -> Comparison:
    """A comparison from its folder; nothing is run.

    Raises:
        LedgerError: there is none.
    """
    with Ledger.open(path / LEDGER) as ledger:
        run, rows = ledger.run(), ledger.trials()
    if run.versions.get("kind") != "comparison":
        raise LedgerError(f"{path} holds a search, not a comparison")
    config = configs.from_dict(EvaluateConfig, run.config)
    total = len(config.entries) * len(config.workloads) * config.trials
    final = [name for name in config.workloads if workloads.get(name).kind == workloads.FINAL]
    return Comparison(path, config, rows, total - len(rows), looks.number(config.entries, final, path))
