"""The `stepsmith` command: one frozen dataclass a subcommand, its fields are the options, its docstring the help."""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ..optimizers import registry as optimizers
from ..schedules import registry as schedules
from ..tasks import reference
from ..tasks import registry as tasks
from . import config as configs
from .config import SearchConfig
from .evaluate import WorkerError
from .export import to_optax
from .language import Program, load, to_text
from .language import names as program_names
from .run import BEST, LEDGER, Finalist, Run, resume, runs, search
from .view import seconds_text, view

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
PIPE_WIDTH = 10_000  # a file or a pipe has no edge: names are not cut off
_out = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Search:
    """Search for update rules; ends with a hall of fame and the best rule as an optax file."""

    settings: tyro.conf.OmitArgPrefixes[SearchConfig]
    config: Path | None = None
    """a TOML file of these settings; options given beside it win"""
    run: Path | None = None
    """the run's folder (default: runs/ and a time stamp)"""
    workers: int = 0
    """worker processes (default: one a core); does not change the result in deterministic mode"""

    def __call__(self) -> int:
        _check_workers(self.workers)
        with view(_out, self.settings.budget) as on_progress:
            finished = search(self.settings, self.run, self.workers, on_progress)
        return _report(finished)


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted or killed run to the result that it would have had."""

    run: tyro.conf.Positional[Path]
    workers: int = 0
    """worker processes (default: one a core)"""

    def __call__(self) -> int:
        _check_workers(self.workers)
        with view(_out, Run(self.run).config().budget) as on_progress:
            finished = resume(self.run, self.workers, on_progress)
        return _report(finished)


@dataclass(frozen=True)
class Status:
    """Where a run stands: counts, failures, hall of fame."""

    run: tyro.conf.Positional[Path]
    json: bool = False

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

    folder: Path = Path("runs")
    json: bool = False

    def __call__(self) -> int:
        rows = []
        for run in runs(self.folder):
            status, best = run.status(), run.hall_of_fame()[:1]
            score = (best[0].fitness if best[0].confirmed is None else best[0].confirmed) if best else None
            seconds = round(status["elapsed"], 1)
            rows.append(
                {"run": str(run.path), "status": status["status"], "seconds": seconds, "programs": status["programs"], "best": score}
            )
        return _print_table(rows, self.json, empty=f"no runs in {self.folder}")


@dataclass(frozen=True)
class Verify:
    """Print the digest that two runs of the same search share: programs, lineage, statuses, fitness, no times."""

    run: tyro.conf.Positional[Path]
    json: bool = False

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

    source: tyro.conf.Positional[str]
    """a run's folder, a program file or a shipped program's name"""
    as_: Annotated[Literal["optax", "text", "json"], tyro.conf.arg(name="as")] = "optax"
    rank: int = 1
    """of the run's hall of fame"""
    name: str | None = None
    """of the function (default: discovered, or the program's name)"""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """default: standard output"""

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
    """List the tasks, each with its tuned AdamW."""

    json: bool = False

    def __call__(self) -> int:
        rows = []
        for name in tasks.names():
            task = tasks.get(name)
            found = reference.stored(task)
            rows.append(
                {
                    "task": name,
                    "steps": task.steps,
                    "batch": task.batch_size,
                    "version": task.version,
                    "adamw_learning_rate": found.best_learning_rate if found else None,
                    "adamw_log_loss": round(found.log_loss, 4) if found else None,
                    "what": task.summary,
                }
            )
        return _print_table(rows, self.json)


@dataclass(frozen=True)
class Optimizers:
    """List the update rules that are known by name, and the shipped programs."""

    json: bool = False

    def __call__(self) -> int:
        rows = [{"optimizer": name, "kind": "optax", "what": optimizers.get(name).summary} for name in optimizers.names()]
        rows += [{"optimizer": name, "kind": "program", "what": f"{len(load(name).statements)} statements"} for name in program_names()]
        return _print_table(rows, self.json)


@dataclass(frozen=True)
class Schedules:
    """List the learning-rate schedules that are known by name."""

    json: bool = False

    def __call__(self) -> int:
        rows = []
        for name in schedules.names():
            schedule = schedules.create(name, 1.0, 100)
            values = " ".join(f"{np.asarray(schedule(t)):.3f}" for t in (0, 25, 50, 75, 100))
            rows.append({"schedule": name, "what": schedules.get(name).summary, "at 0, 25, 50, 75, 100 %": values})
        return _print_table(rows, self.json)


def main() -> None:
    """Runs one command; bad input ends with one line and exit code 2."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("stepsmith").setLevel(logging.INFO)
    try:
        sys.exit(_parse(sys.argv[1:])())
    except (ValueError, OSError) as error:
        _fail(str(error), USAGE_ERROR)
    except WorkerError as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        _fail("stopped at once; what was committed is kept, see `stepsmith runs`", INTERRUPTED)


def _parse(arguments: list[str]) -> Any:
    if arguments == ["--version"]:
        _out.print(f"stepsmith {metadata.version('stepsmith')}")
        sys.exit(0)
    # The config file gives the defaults of the options, so it is read before they are.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", type=Path)
    known, _ = early.parse_known_args(arguments)
    settings = configs.load(known.config) if known.config and arguments[:1] == ["search"] else SearchConfig()
    default = Search(settings)
    commands = (
        Annotated[Search, tyro.conf.subcommand("search", default=default)]
        | Annotated[Resume, tyro.conf.subcommand("resume")]
        | Annotated[Status, tyro.conf.subcommand("status")]
        | Annotated[Runs, tyro.conf.subcommand("runs")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Tasks, tyro.conf.subcommand("tasks")]
        | Annotated[Optimizers, tyro.conf.subcommand("optimizers")]
        | Annotated[Schedules, tyro.conf.subcommand("schedules")]
    )
    description = "Discovers update rules for neural networks. `stepsmith search` alone gives a result on real digits in two minutes."
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(commands, args=arguments, prog="stepsmith", description=description)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except SystemExit as ended:
        if (refusal := _refusal(ended)) is not None:
            raise refusal from None
        sys.stderr.write(said.getvalue())
        raise


def _refusal(ended: SystemExit) -> ValueError | None:
    """The error of a config's own check, for which tyro shows a box that names its internals; None for other endings."""
    error = ended.__context__
    while error is not None:
        if isinstance(error, ValueError) and any(frame.name == "__post_init__" for frame in traceback.extract_tb(error.__traceback__)):
            return error
        error = error.__context__
    return None


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"stepsmith: {' '.join(message.split())}\n")
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


def _print_json(value: Any) -> int:
    sys.stdout.write(json.dumps(value) + "\n")
    return 0


def _print_table(rows: list[dict[str, Any]], as_json: bool, empty: str = "nothing to list") -> int:
    if as_json:
        return _print_json(rows)
    if not rows:
        _out.print(empty)
        return 0
    table = Table(box=None, pad_edge=False)
    for column, value in rows[0].items():
        table.add_column(column, justify="right" if isinstance(value, int | float) else "left", no_wrap=column != "what")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    if not _out.is_terminal:
        _out.width = PIPE_WIDTH
    _out.print(table)
    return 0
