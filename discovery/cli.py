"""The `stepsmith` command: one frozen dataclass a subcommand, its fields are the options, its docstring the help."""

import argparse
import dataclasses
import json
import logging
import math
import os
import shlex
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from ..optimizers import registry as optimizers
from ..schedules import registry as schedules
from ..tasks import reference
from ..tasks import registry as tasks
from ..tasks.base import DataError
from ..tasks.checks import check
from ..tasks.cost import cost, seconds_per_step
from . import config as configs
from . import usage
from .benchmark import algoperf, looks, report, targets
from .benchmark import baselines as committed
from .benchmark import evaluate as benchmark
from .benchmark.comparison import PER_STUDY, STUDIES
from .benchmark.performance import earliest, fastest
from .config import SearchConfig
from .evaluate import Devices, WorkerError
from .export import to_optax
from .language import Program, load, to_text
from .language import names as program_names
from .language.message import one_line
from .run import BEST, LEDGER, Finalist, Run, resume, runs, search
from .simplify.command import Simplify
from .table import table_lines
from .view import counted, seconds_text, view

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
_out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)  # a folder may be called [/b]


def _option(metavar: str, default: str, *aliases: str) -> Any:
    """An option that may be left out, with its default in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", aliases=aliases or None)


RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Workers = Annotated[int, tyro.conf.arg(help_behavior_hint="(default: one a core, gpu or tpu)")]
WorkersOn = Annotated[tyro.conf.OmitArgPrefixes[Devices], tyro.conf.arg(name="devices")]


@dataclass(frozen=True)
class Search:
    """Search for update rules; ends with the best of them as an optax file."""

    settings: Annotated[tyro.conf.OmitArgPrefixes[SearchConfig], tyro.conf.arg(name="search")]
    config: Annotated[Path | None, _option("FILE", "none")] = None
    """a TOML file of the settings below; options given beside it win"""
    run: Annotated[Path | None, _option("FOLDER", "runs/ and a time stamp")] = None
    """the run's folder"""
    workers: Workers = 0
    """worker processes; they do not change the result in deterministic mode"""
    devices: WorkersOn = Devices()

    def __call__(self) -> int:
        settings = self.settings.check()
        _check_workers(self.workers)
        with view(_out, settings.budget) as on_progress:
            finished = search(settings, self.run, self.workers, on_progress, self.devices)
        return _report(finished)


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted or killed run to the result that it would have had."""

    run: RunFolder
    """the run's folder"""
    workers: Workers = 0
    """worker processes"""
    devices: WorkersOn = Devices()

    def __call__(self) -> int:
        _check_workers(self.workers)
        with view(_out, Run(self.run).config().budget) as on_progress:
            finished = resume(self.run, self.workers, on_progress, self.devices)
        return _report(finished)


@dataclass(frozen=True)
class Status:
    """Where a run stands: counts, failures, hall of fame."""

    run: RunFolder
    """the run's folder"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        run = Run(self.run)
        status, finalists = run.status(), run.hall_of_fame()
        if self.json:
            return _print_json({**status, "hall_of_fame": [dataclasses.asdict(f) for f in finalists]})
        hits = status.get("cached", 0) / max(status.get("told", 0), 1)
        elapsed = seconds_text(status["elapsed"])
        _out.print(f"{self.run}: {status['status']}, {elapsed}, {status.get('evaluated', 0)} programs evaluated, cache hits {hits:.0%}")
        _out.print("outcomes: " + ", ".join(f"{name} {count}" for name, count in status["statuses"].items()))
        _print_hall_of_fame(finalists)
        return 0


@dataclass(frozen=True)
class Runs:
    """List the runs of a folder."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """where the runs are"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        rows = [run.summary() for run in runs(self.folder)]
        return _print_table(rows, self.json, empty=f"no runs in {self.folder}")


@dataclass(frozen=True)
class Verify:
    """Print the digest that two runs of the same search share (no times in it)."""

    run: RunFolder
    """the run's folder"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        run = Run(self.run)
        digest, status = run.digest(), run.status()
        if self.json:
            return _print_json({"digest": digest, "status": status["status"], "programs": status["programs"]})
        _out.print(f"{digest}  {status['programs']} programs, {status['status']}")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a run's rule, or any program, as an optax file, as text or as JSON."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """a run's folder, a program file or a shipped program's name"""
    as_: Annotated[Literal["optax", "text", "json"], tyro.conf.arg(name="as")] = "optax"
    """what to write"""
    rank: int = 1
    """place in the run's hall of fame"""
    name: Annotated[str | None, _option("NAME", "discovered, or the program's name")] = None
    """of the function in an optax file"""
    output: Annotated[Path | None, _option("FILE", "standard output", "-o")] = None
    """where to write"""

    def __call__(self) -> int:
        text = self._text()
        if self.output is None:
            sys.stdout.write(text)
        else:
            self.output.write_text(text)
            _out.print(f"wrote {self.output}")
        return 0

    def _text(self) -> str:
        folder = Path(self.source)
        if (folder / LEDGER).exists() or folder.is_dir():
            run = Run(folder)
            if self.as_ == "optax":
                return run.export(self.rank, self.name or "discovered")
            program: Program = run.best(self.rank).program
        else:
            program = load(self.source)
            if self.as_ == "optax":
                return to_optax(program, self.name or folder.stem)
        return (to_text(program) if self.as_ == "text" else program.to_json()) + "\n"


@dataclass(frozen=True)
class Tasks:
    """List the tasks with their cost and tuned AdamW (blank where data are missing)."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """which (default: all), with scales such as digits_mlp@10, or your own as module:attribute"""
    time: bool = False
    """measure the time of a training step on this machine"""
    check: bool = False
    """check that each keeps the rules that searches rely on"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        if self.check:
            for name in self.names or tasks.names():
                passed = len(check(tasks.get(name)))
                _out.print(f"{name}: keeps all {passed} rules")
            return 0
        return _print_table([self._row(name) for name in self.names or tasks.names()], self.json)

    def _row(self, name: str) -> dict[str, Any]:
        task = tasks.get(name)
        takes = cost(task)
        try:
            version, found = task.version, reference.stored(task)
            milliseconds = round(1e3 * seconds_per_step(task), 3) if self.time else None
        except DataError:  # its data are not on this machine: nothing to take a version of
            version, found, milliseconds = None, None, None
        return {
            "task": name,
            "steps": task.steps,
            "batch": task.batch_size,
            "parameters": takes.parameters,
            "state_bytes": takes.parameter_bytes + takes.state_bytes,
            "mflop_a_step": round(takes.step_flops / 1e6, 3),
            **({"ms_a_step": milliseconds} if self.time else {}),
            "version": version,
            "adamw_rate": found.best_learning_rate if found else None,
            "adamw_log_loss": round(found.log_loss, 4) if found else None,
            "what": task.summary,
        }


@dataclass(frozen=True)
class Optimizers:
    """List the update rules that are known by name, and the shipped programs."""

    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        rows = [{"optimizer": name, "kind": "optax", "what": optimizers.get(name).summary} for name in optimizers.names()]
        rows += [{"optimizer": name, "kind": "program", "what": f"{len(load(name).statements)} statements"} for name in program_names()]
        return _print_table(rows, self.json)


@dataclass(frozen=True)
class Schedules:
    """List the learning-rate schedules that are known by name."""

    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        rows = []
        for name in schedules.names():
            schedule = schedules.create(name, 1.0, 100)
            values = " ".join(f"{np.asarray(schedule(t)):.3f}" for t in (0, 25, 50, 75, 100))
            rows.append({"schedule": name, "what": schedules.get(name).summary, "at 0, 25, 50, 75, 100 %": values})
        return _print_table(rows, self.json)


@dataclass(frozen=True)
class Train:
    """Train a task with an update rule; with a folder, killed runs go on."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """a task's name, or module:attribute"""
    optimizer: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")]
    """an optax rule, a shipped program (program:NAME where both have the name), a program file, or an exported best.py"""
    schedule: str = "linear"
    """learning-rate schedule, relative to the learning rate"""
    learning_rate: Annotated[float | None, _option("FLOAT", "the rule's own")] = None
    """the highest; of a program that holds its rate inside its formula, a factor of it"""
    weight_decay: Annotated[float | None, _option("FLOAT", "the rule's own")] = None
    """decoupled, times the learning rate"""
    steps: Annotated[int | None, _option("INT", "the task's")] = None
    """length of the run"""
    seed: int = 0
    """of the initial parameters and the batches"""
    checkpoint: Annotated[Path | None, _option("DIR", "nothing is written")] = None
    """a folder for checkpoints and curves; the same command goes on there"""
    checkpoint_every: Annotated[int | None, _option("INT", "a tenth of the run")] = None
    """steps from one checkpoint, and validation, to the next"""
    json: bool = False
    """print the result as JSON, and nothing else"""

    def __call__(self) -> int:
        from . import train  # orbax takes a second to import, which no other command owes

        job = train.make_job(
            self.task,
            self.optimizer,
            schedule=self.schedule,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            seed=self.seed,
        )
        return train.command(_out, job, self.checkpoint, self.checkpoint_every, self.json)


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
            return _print_json(dict(zip(standing.submissions, standing.scores.tolist(), strict=True)))
        _print_standing(standing)
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Compare update rules and schedules by their time to target."""

    entries: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RULE[@SCHEDULE]")] = ()
    """what competes: names and files as `stepsmith train` takes them"""
    workloads: tuple[str, ...] = benchmark.workloads.names()
    """what they train"""
    ruleset: Literal["external", "self"] = "external"
    """external: tuned in the common space; self: not tuned, three times the budget"""
    trials: int = 40
    """of each entry on each workload, from which studies are drawn"""
    trials_per_study: int = PER_STUDY
    """of which the first to reach the target counts"""
    studies: int = STUDIES
    """of which the median counts"""
    reference: Annotated[str | None, _option("ENTRY", "adamw@linear, else the first")] = None
    """what speed-ups are over"""
    alone: bool = False
    """leave the committed baselines out"""
    batch: int = 1
    """trials that run as one vmapped batch"""
    run: Annotated[Path | None, _option("FOLDER", "comparisons/ and a time stamp")] = None
    """the comparison's folder; the same command goes on there"""
    workers: Workers = 0
    """worker processes"""
    final: Annotated[str, _option("REASON", "none")] = ""
    """who looks at final variants, and what for; looks are counted"""
    set_targets: bool = False
    """set the targets of the workloads by tuned AdamW"""
    keep: bool = False
    """of the package's own source: keep the trials as baselines, or the targets"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        _check_workers(self.workers)
        self._check()
        entries = (targets.BASELINE,) if self.set_targets else self.entries
        trials = targets.TRIALS if self.set_targets else self.trials
        purpose = "targets" if self.set_targets else "comparison"
        config = benchmark.EvaluateConfig(entries, self.workloads, self.ruleset, trials, self.batch, purpose)
        path = self.run or Path("comparisons") / time.strftime("%Y%m%d-%H%M%S")
        with counted(_out, "trials", self.json) as on_progress:
            done = benchmark.evaluate(config, path, self.workers, on_progress, self.final)
        if done.missing:
            given = sys.argv[1:] if self.run else [*sys.argv[1:], "--run", str(path)]
            sys.stderr.write(f"interrupted, {done.missing} trials are missing; go on with: stepsmith {shlex.join(given)}\n")
            return INTERRUPTED
        return self._set_targets(done) if self.set_targets else self._report(done)

    def _check(self) -> None:
        """What would otherwise be noticed after the training."""
        if self.set_targets == bool(self.entries):
            mend = (
                "leave the rules out, AdamW sets the targets"
                if self.set_targets
                else "name one or more rules, such as lion or adamw@cosine"
            )
            raise configs.ConfigError(f"{'nothing to choose' if self.set_targets else 'nothing to compare'}: {mend}")
        per_study = self.trials_per_study if self.ruleset == "external" else 1
        if not 1 <= per_study <= self.trials:
            raise configs.ConfigError(
                f"trials-per-study must be at least 1 and at most the number of trials, {self.trials}, got {per_study}"
            )
        if not 1 <= self.studies <= 100_000:
            raise configs.ConfigError(f"studies must be at least 1 and at most 100000, got {self.studies}")
        if self.keep and self.ruleset != "external":
            raise configs.ConfigError("--keep is for baselines of the external ruleset")
        known = {benchmark.entry(name).label for name in self.entries} | (set() if self.alone else committed.entries())
        if self.reference is not None and benchmark.entry(self.reference).label not in known:
            raise configs.ConfigError(f"the reference {self.reference} takes no part; there are {', '.join(sorted(known))}")

    def _set_targets(self, done: benchmark.Comparison) -> int:
        found = targets.put(done.curves(), targets.PATH if self.keep else targets.cache_path())
        return _print_table([{"workload": name, "target": value} for name, value in found.items()], self.json)

    def _report(self, done: benchmark.Comparison) -> int:
        if self.keep:
            committed.write(done.rows)
        chosen = {"studies": self.studies, **({"per_study": self.trials_per_study} if self.ruleset == "external" else {})}
        by = {unit: done.standings(self.reference, unit == "seconds", not self.alone, **chosen) for unit in ("steps", "seconds")}
        for unit, standings in by.items():
            report.write_csv(done.path / f"{unit}.csv", self.workloads, standings, unit)
            report.draw(done.path / f"{unit}.png", standings, unit, f"{len(self.workloads)} workloads, {self.ruleset} tuning")
        if self.json:
            return _print_json({unit: [report.as_json(s) for s in standings] for unit, standings in by.items()})
        for unit, standings in by.items():
            over = next(s.entry for s in standings if math.isnan(s.p_value))
            _out.print(f"by {unit} to the target, speed-ups over {over}:", style="bold")
            _print_table(report.rows(standings, len(self.workloads)), False)
        failed = sum(row.status != "ok" for row in done.rows)
        _out.print(f"{failed} of {len(done.rows)} trials failed" + ("" if self.alone else f"; {done.baselines()}"))
        if done.looks:
            _out.print(f"look {done.looks} at final variants: these intervals have {1 - looks.level(done.looks):.1%}")
        _out.print(f"tables and profiles: {done.path}")
        return 0


DESCRIPTION = "Discovers update rules for neural networks.\n`stepsmith search` alone gives a result on real digits in two minutes."
COMMANDS: dict[str, Any] = {
    "search": Search,
    "resume": Resume,
    "status": Status,
    "runs": Runs,
    "verify": Verify,
    "export": Export,
    "simplify": Simplify,
    "tasks": Tasks,
    "optimizers": Optimizers,
    "schedules": Schedules,
    "train": Train,
    "score": Score,
    "evaluate": Evaluate,
}


def main() -> None:
    """Runs one command; bad input ends with one line and exit code 2."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("stepsmith").setLevel(logging.INFO)
    try:
        sys.exit(read_command(sys.argv[1:])())
    except (ValueError, OSError) as error:
        _fail(str(error), USAGE_ERROR)
    except WorkerError as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        _fail("stopped at once; what was committed is kept, see `stepsmith runs`", INTERRUPTED)


def read_command(arguments: list[str]) -> Any:
    """The subcommand that the arguments ask for, ready to be called.

    Raises:
        UsageError, ConfigError: they cannot be understood. SystemExit(0) after printing a help text or the version.
    """
    if arguments == ["--version"]:
        _out.print(f"stepsmith {metadata.version('stepsmith')}")
        sys.exit(0)
    # The config file gives the defaults of the options, so it is read before they are.
    settings = SearchConfig()
    if arguments[:1] == ["search"] and (path := _config_path(arguments)) is not None:
        settings = configs.load(path)
    return usage.parse("stepsmith", COMMANDS | {"search": Search(settings)}, arguments, DESCRIPTION)


def _config_path(arguments: list[str]) -> Path | None:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config", type=Path)
    try:
        return early.parse_known_args(arguments)[0].config
    except argparse.ArgumentError:
        return None  # the full reading of the options says what is wrong


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"stepsmith: {one_line(message) or 'failed'}\n")
    sys.exit(code)


def _check_workers(workers: int) -> None:
    if workers < 0:
        raise configs.ConfigError(f"workers must be 0 (one a core) or more, got {workers}")


def _report(run: Run) -> int:
    status = run.status()
    _print_hall_of_fame(run.hall_of_fame())
    hits = status["cached"] / max(status["told"], 1)
    elapsed, digest = seconds_text(status["elapsed"]), run.digest()[:16]
    _out.print(f"{status['evaluated']} programs evaluated in {elapsed}, {status['births']} born, cache hits {hits:.0%}; digest {digest}")
    if status["status"] == "interrupted":
        _out.print(f"interrupted; continue with: stepsmith resume {run.path}")
        return INTERRUPTED
    if (run.folder / BEST).exists():
        _out.print(f"the best rule, ready for an optax chain: {run.folder / BEST}")
    return 0


def _print_hall_of_fame(finalists: list[Finalist]) -> None:
    if not finalists:
        _out.print("no program has succeeded yet")
        return
    rows = [
        {
            "rank": f.rank,
            "fitness": f"{f.fitness:+.4f}",
            "on new seeds": "" if f.confirmed is None else f"{f.confirmed:+.4f}",
            "statements": f.statements,
            "program": f.hash[:8],
        }
        for f in finalists
    ]
    _print_table(rows, False)
    _out.print("fitness: log loss against tuned AdamW (0), in units of a learning rate off by a factor of 3.2; lower is better\n")
    _out.print(finalists[0].text + "\n")


def _print_standing(standing: algoperf.Standing) -> None:
    """The scores, and the ratios of each workload where they fit beside them."""
    scores, ratios = [], []
    for submission, score, row in zip(standing.submissions, standing.scores, standing.ratios, strict=True):
        scores.append({"submission": submission, "score": f"{score:.4f}", "reached": f"{np.isfinite(row).sum()} of {len(row)}"})
        ratios.append({name: f"{r:.2f}" if np.isfinite(r) else "" for name, r in zip(standing.workloads, row, strict=True)})
    rows = [{**left, **right} for left, right in zip(scores, ratios, strict=True)]
    heading, lines = table_lines(rows, _out.width)
    if _out.is_terminal and max(map(len, [*heading, *lines])) > _out.width:
        _print_table(scores, False)
        return
    _print_table(rows, False)
    _out.print("by workload: the time in units of the best; blank: missed, above 4, or lost with a held-out variant of it")


def _print_json(value: Any) -> int:
    sys.stdout.write(json.dumps(value) + "\n")
    return 0


def _print_table(rows: list[dict[str, Any]], as_json: bool, empty: str = "nothing to list") -> int:
    if as_json:
        return _print_json(rows)
    if not rows:
        _out.print(empty)
        return 0
    heading, lines = table_lines(rows, _out.width if _out.is_terminal else None)
    for line in heading:
        _out.print(line, style="bold")
    for line in lines:
        _out.print(line)
    return 0
