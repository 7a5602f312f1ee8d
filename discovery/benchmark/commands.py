"""`stepsmith score` and `stepsmith evaluate`."""

import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..config import ConfigError
from ..terminal.options import INTERRUPTED, Workers, check_workers, option
from ..terminal.output import out, print_json, print_standing, print_table
from ..terminal.view import counted
from . import algoperf, baselines, looks, report, targets, workloads
from .budgets.command import compare_budgets, long_enough, with_schedules
from .budgets.study import SCHEDULES, BudgetConfig
from .comparison import PER_STUDY, STUDIES
from .evaluate import evaluate
from .performance import earliest, fastest
from .record import Comparison, EvaluateConfig
from .trial import entry, search_steps

TRIALS, TRIALS_PER_RATE = 40, 3  # of comparisons by time to target, of studies of budgets


@dataclass(frozen=True)
class Score:
    """Score the submissions in AlgoPerf's logs against each other."""

    logs: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LOGS")]
    """AlgoPerf's folder of submissions, or a CSV file, gzipped or not"""
    targets: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """JSON of the workloads and the validation metric that each must reach"""
    base_only: bool = False
    """a missed held-out variant does not cost its workload"""
    by_time: bool = False
    """a study's best trial is that of least time, not that of fewest evaluations"""
    json: bool = False
    """print {submission: score} as JSON, and nothing else"""

    def __call__(self) -> int:
        targets = algoperf.read_targets(self.targets)
        logs = algoperf.read_logs(self.logs, targets)
        standing = algoperf.score_logs(logs, targets, not self.base_only, fastest if self.by_time else earliest)
        if self.json:
            return print_json(dict(zip(standing.submissions, standing.scores.tolist(), strict=True)))
        print_standing(standing)
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Compare update rules and schedules by their time to target."""

    entries: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RULE[@SCHEDULE]")] = ()
    """what competes: names and files as `stepsmith train` takes them"""
    workloads: Annotated[tuple[str, ...], option("NAME ...", "the eight base ones; with --budgets those of them with enough steps")] = ()
    """what they train"""
    ruleset: Literal["external", "self"] = "external"
    """external: tuned in the common space; self: not tuned, three times the budget"""
    budgets: tuple[int, ...] = ()
    """percent of the workloads' steps: rank schedules at each, their learning rates tuned; the REX paper's are 1 5 10 25 50 100"""
    schedules: tuple[str, ...] = SCHEDULES
    """with --budgets, those of rules that name none"""
    trials: Annotated[int | None, option("N", "40; with --budgets 3, at each learning rate")] = None
    """of each entry on each workload, from which studies are drawn"""
    trials_per_study: int = PER_STUDY
    """of which the first to reach the target counts"""
    studies: int = STUDIES
    """of which the median counts"""
    reference: Annotated[str | None, option("ENTRY", "adamw@linear, else the first; with --budgets none")] = None
    """what speed-ups are over; with --budgets a schedule, which the others' losses are compared with"""
    alone: bool = False
    """leave the committed baselines out"""
    batch: int = 1
    """trials that run as one vmapped batch"""
    run: Annotated[Path | None, option("FOLDER", "comparisons/ and a time stamp")] = None
    """the comparison's folder; the same command goes on there"""
    workers: Workers = 0
    """worker processes"""
    final: Annotated[str, option("REASON", "none")] = ""
    """who looks at final variants, and what for; looks are counted"""
    set_targets: bool = False
    """set the targets of the workloads by tuned AdamW"""
    keep: bool = False
    """of the package's own source: keep the trials as baselines, or the targets"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        check_workers(self.workers)
        path = self.run or Path("comparisons") / time.strftime("%Y%m%d-%H%M%S")
        going_on = sys.argv[1:] if self.run else [*sys.argv[1:], "--run", str(path)]
        if self.budgets:
            self._check_budgets()
            entries = with_schedules(self.entries, self.schedules)
            names = self.workloads or long_enough(workloads.names(), self.budgets)
            study = BudgetConfig(entries, names, self.budgets, TRIALS_PER_RATE if self.trials is None else self.trials)
            return compare_budgets(study, path, self.workers, going_on, self.reference, self.json)
        trials = TRIALS if self.trials is None else self.trials
        self._check(trials)
        entries = (targets.BASELINE,) if self.set_targets else self.entries
        trials = targets.TRIALS if self.set_targets else trials
        purpose = "targets" if self.set_targets else "comparison"
        config = EvaluateConfig(entries, self.workloads or workloads.names(), self.ruleset, trials, self.batch, purpose)
        with counted(out, "trials", self.json) as on_progress:
            done = evaluate(config, path, self.workers, on_progress, self.final)
        if done.missing:
            sys.stderr.write(f"interrupted, {done.missing} trials are missing; go on with: stepsmith {shlex.join(going_on)}\n")
            return INTERRUPTED
        return self._set_targets(done) if self.set_targets else self._report(done)

    def _check_budgets(self) -> None:
        """Refuses what a study of budgets has no place for."""
        usual = Evaluate()
        of_comparisons = ("ruleset", "trials_per_study", "studies", "alone", "batch", "final", "set_targets", "keep")
        given = [f"--{name.replace('_', '-')}" for name in of_comparisons if getattr(self, name) != getattr(usual, name)]
        if given:
            raise ConfigError(f"{', '.join(given)}: of comparisons by time to target; leave it out, or --budgets")

    def _check(self, trials: int) -> None:
        """What would otherwise be noticed after the training."""
        if self.schedules != SCHEDULES:
            raise ConfigError("--schedules is for --budgets; without, an entry names its schedule: RULE@SCHEDULE")
        if self.set_targets == bool(self.entries):
            mend = (
                "leave the rules out, AdamW sets the targets"
                if self.set_targets
                else "name one or more rules, such as lion or adamw@cosine"
            )
            raise ConfigError(f"{'nothing to choose' if self.set_targets else 'nothing to compare'}: {mend}")
        per_study = self.trials_per_study if self.ruleset == "external" else 1
        if not 1 <= per_study <= trials:
            raise ConfigError(f"trials-per-study must be at least 1 and at most the number of trials, {trials}, got {per_study}")
        if not 1 <= self.studies <= 100_000:
            raise ConfigError(f"studies must be at least 1 and at most 100000, got {self.studies}")
        if self.keep and self.ruleset != "external":
            raise ConfigError("--keep is for baselines of the external ruleset")
        known = {entry(name).label for name in self.entries} | (set() if self.alone else baselines.entries())
        if self.reference is not None and entry(self.reference).label not in known:
            raise ConfigError(f"the reference {self.reference} takes no part; there are {', '.join(sorted(known))}")

    def _set_targets(self, done: Comparison) -> int:
        found = targets.put(done.curves(), targets.PATH if self.keep else targets.cache_path())
        return print_table([{"workload": name, "target": value} for name, value in found.items()], self.json)

    def _report(self, done: Comparison) -> int:
        if self.keep:
            baselines.write(done.rows)
        chosen = {"studies": self.studies, **({"per_study": self.trials_per_study} if self.ruleset == "external" else {})}
        searched = search_steps(done.config.entries)
        by = {unit: done.standings(self.reference, unit == "seconds", not self.alone, **chosen) for unit in ("steps", "seconds")}
        if searched:
            by["steps_with_search"] = done.standings(self.reference, False, not self.alone, added=searched, **chosen)
        for unit, standings in by.items():
            report.write_csv(done.path / f"{unit}.csv", standings, unit)
            report.draw(done.path / f"{unit}.png", standings, unit, f"{len(standings[0].ratios)} workloads, {self.ruleset} tuning")
        if self.json:
            standings_by_unit = {unit: [report.as_json(s) for s in standings] for unit, standings in by.items()}
            return print_json({**standings_by_unit, "search_steps": searched})
        for unit, standings in by.items():
            over = next(s.entry for s in standings if math.isnan(s.p_value))
            out.print(f"by {unit.replace('_', ' ')} to the target, speed-ups over {over}:", style="bold")
            print_table(report.rows(standings), False)
        for line in report.of_search(searched, "counted in the last table alone"):
            out.print(line, markup=False)
        if held_out := [name for name in done.config.workloads if name not in by["steps"][0].ratios]:
            out.print(f"held out, a miss costs the base workload: {', '.join(held_out)}")
        failed = sum(row.status != "ok" for row in done.rows)
        out.print(f"{failed} of {len(done.rows)} trials failed" + ("" if self.alone else f"; {done.about_baselines()}"))
        if num_looks := done.num_looks:
            level = 1 - looks.level(num_looks)
            out.print(f"look {num_looks} at final variants: these intervals have {level:.1%}, and the p-values pay for it too")
        out.print(f"tables and profiles: {done.path}")
        return 0
