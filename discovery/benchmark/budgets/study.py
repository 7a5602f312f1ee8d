"""A budget study as its ledger holds it, and how what the ledger lacks is run."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ... import config as configs
from ...config import ConfigError
from ...evaluate import Result, Status
from ...evaluate.identity import digest_of
from ...ledger import TrialRow, locked
from ...training.schedule_sources import PLATEAU
from .. import workloads
from ..runner import BUDGET_STUDY, LOCK, OnProgress, held, opened, run_jobs
from ..trial import Entry, as_json, as_losses, entries_of
from .cell import MULTIPLE, CellRun, steps_at
from .worker import CellJob, CellSpec

FORMAT = 1  # of the walk, the trials and their seeds
BUDGETS = (1, 5, 10, 25, 50, 100)  # percent, those of the paper
SCHEDULES = ("constant", "step", PLATEAU, "linear", "cosine", "exponential", "one_cycle", "rex")  # those of the paper


@dataclass(frozen=True)
class BudgetConfig:
    """A budget study; two runs of it on one machine and versions end in the same table."""

    entries: tuple[str, ...]
    """RULE@SCHEDULE"""
    workloads: tuple[str, ...]
    """names of workloads"""
    budgets: tuple[int, ...] = BUDGETS
    """percent of each workload's steps"""
    trials_per_rate: int = 3
    """seeds at each learning rate"""

    def check(self) -> "BudgetConfig":
        """The config itself, if it can be run.

        Raises:
            ValueError: a value outside its range.
        """
        for name in ("entries", "workloads", "budgets"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be one or more different ones, got {', '.join(map(str, values)) or 'none'}")
        if not all(1 <= budget <= 1_000 for budget in self.budgets):
            raise ConfigError(
                f"budgets are percent of a workload's steps, at least 1 and at most 1000, got {', '.join(map(str, self.budgets))}"
            )
        if not 1 <= self.trials_per_rate <= 100:
            raise ConfigError(f"trials of a budget study must be at least 1 and at most 100, got {self.trials_per_rate}")
        for workload in map(workloads.get, self.workloads):
            if workload.kind == workloads.FINAL:
                raise ConfigError(f"{workload.name} is a final variant; those are looked at by comparisons alone, without --budgets")
            for budget in self.budgets:
                steps_at(workload, budget)
        return self

    def versions(self) -> dict[str, str]:
        """Workload -> its version here."""
        return {name: workloads.get(name).task.version for name in self.workloads}

    @property
    def num_cells(self) -> int:
        return len(self.entries) * len(self.workloads) * len(self.budgets)


class Cell(NamedTuple):
    """What a schedule reached at a budget.

    Attributes:
        rule: the entry without its schedule.
        schedule: the entry's.
        workload: what was trained.
        budget: percent of the workload's steps.
        learning_rate: the best; NaN where none succeeded.
        losses: validation losses of its trials at the end.
        at_edge: whether the best has a neighbour, up or down, that was not tried.
    """

    rule: str
    schedule: str
    workload: str
    budget: int
    learning_rate: float
    losses: tuple[float, ...]
    at_edge: bool

    @property
    def mean(self) -> float:
        """Of the losses; infinite where no learning rate succeeded."""
        return math.fsum(self.losses) / len(self.losses) if self.losses else math.inf


class BudgetStudy(NamedTuple):
    """A finished, or interrupted, study.

    Attributes:
        path: its folder.
        config: what was asked for.
        cells: in the order of the config.
    """

    path: Path
    config: BudgetConfig
    cells: list[Cell]

    @property
    def missing(self) -> int:
        """Cells that were not run."""
        return self.config.num_cells - len(self.cells)


def evaluate_budgets(
    config: BudgetConfig, path: Path, workers: int = 0, on_progress: OnProgress = lambda done, total, seconds: None
) -> BudgetStudy:
    """Fills the cells that the folder's ledger lacks.

    Args:
        config: what to compare.
        path: the study's folder, new or of the same study.
        workers: processes; 0 for one a core.
        on_progress: called as cells are filled.

    Returns:
        The study; cells are missing after Ctrl-C.

    Raises:
        ValueError: something that cannot be compared, a folder that holds something else, or a file that was edited meanwhile; what
            was done until then is kept.
    """
    competitors = entries_of(config.check().entries)
    for competitor in competitors.values():
        if competitor.averages:
            raise ConfigError(f"{competitor.label}: this rule averages in place of a schedule; leave it out of a study of schedules")
    config = dataclasses.replace(config, entries=tuple(competitors))
    versions = {"kind": BUDGET_STUDY, "format": FORMAT, "workloads": config.versions()}
    versions["rules"] = {label: competitor.digest for label, competitor in competitors.items()}
    with locked(path / LOCK), opened(path, dataclasses.asdict(config), versions) as ledger:
        jobs = _jobs(config, competitors, {(row.entry, row.workload) for row in ledger.trials()})
        run_jobs(
            path, ledger, jobs, competitors, CellSpec(), functools.partial(_rows, config.versions()), config.num_cells, workers, on_progress
        )
        return BudgetStudy(path, config, _cells(config, ledger.trials()))


def read(path: Path) -> BudgetStudy:
    """A study from its folder; nothing is run.

    Raises:
        LedgerError: there is none.
    """
    said, rows = held(path, BUDGET_STUDY)
    config = configs.from_dict(BudgetConfig, said)
    return BudgetStudy(path, config, _cells(config, rows))


def _jobs(config: BudgetConfig, competitors: Mapping[str, Entry], done: set[tuple[str, str]]) -> list[CellJob]:
    """What is missing, long budgets first; entries that share an executable follow each other."""
    jobs: list[CellJob] = []
    order = sorted(competitors, key=lambda label: _executable(competitors[label]))
    for workload in config.workloads:
        for budget in sorted(config.budgets, reverse=True):
            for label in order:
                found = competitors[label]
                if (label, _at(workload, budget)) not in done:
                    digest = found.digest or ""
                    jobs.append(CellJob(len(jobs), label, _executable(found), workload, budget, config.trials_per_rate, digest))
    return jobs


def _executable(found: Entry) -> str:
    """What schedules of one rule share; decay on plateau has a state of its own."""
    rule = f"{found.rule}@{PLATEAU}" if found.schedule == PLATEAU else found.rule
    return f"{rule} {found.source.digest or ''}"


def _at(workload: str, budget: int) -> str:
    return f"{workload}@{budget}%"


def _rows(versions: Mapping[str, str], job: CellJob, result: Result) -> list[TrialRow]:
    """The runs of a cell; one that failed where it cost its workers."""
    lost = CellRun(result.status or Status.CRASHED, math.nan, 0, 0, math.nan)
    rows = []
    for trial, run in enumerate(result.evaluations or [lost]):
        settings = json.dumps({"learning_rate": run.learning_rate} if run.learning_rate > 0 else {})
        came = (str(run.status), run.steps, 0.0, json.dumps(as_json([run.loss])), digest_of(result.identity))
        place = (job.entry, _at(job.workload, job.budget), trial, versions[job.workload], job.rule)
        rows.append(TrialRow(*place, settings, run.seed, *came))
    return rows


def _cells(config: BudgetConfig, rows: Sequence[TrialRow]) -> list[Cell]:
    by_place: dict[tuple[str, str], list[TrialRow]] = {}
    for row in rows:
        by_place.setdefault((row.entry, row.workload), []).append(row)
    return [
        _cell(label, workload, budget, by_place[place], config.trials_per_rate)
        for label in config.entries
        for workload in config.workloads
        for budget in config.budgets
        if (place := (label, _at(workload, budget))) in by_place
    ]


def _cell(label: str, workload: str, budget: int, rows: Sequence[TrialRow], trials: int) -> Cell:
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        losses = by_rate.setdefault(json.loads(row.settings).get("learning_rate", math.nan), [])
        losses += as_losses(json.loads(row.losses)) if row.status == Status.OK else ()
    rule, _, schedule = label.rpartition("@")
    tried = {rate: tuple(losses) for rate, losses in by_rate.items() if len(losses) == trials}
    if not tried:
        return Cell(rule, schedule, workload, budget, math.nan, (), at_edge=False)
    best = min(tried, key=lambda rate: math.fsum(tried[rate]))
    neighbours = [any(math.isclose(best * step, rate, rel_tol=0.02) for rate in by_rate) for step in (MULTIPLE, 1 / MULTIPLE)]
    return Cell(rule, schedule, workload, budget, best, tried[best], not all(neighbours))
