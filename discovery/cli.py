"""The `stepsmith` command: one frozen dataclass a subcommand, its fields are the options, its docstring the help.

The subcommands `score` and `evaluate` are in benchmark/commands.py, `select` and `tune` in files of their own.
"""

import argparse
import dataclasses
import logging
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..optimizers import registry as optimizers
from ..tasks import reference
from ..tasks import registry as tasks
from ..tasks.base import DataError
from ..tasks.checks import check
from ..tasks.cost import cost, seconds_per_step
from . import config as configs
from .benchmark.commands import Evaluate, Score
from .config import SearchConfig
from .evaluate import Devices, WorkerError
from .export import to_pallas, to_python
from .language import load, to_text
from .language import names as program_names
from .language.message import one_line
from .run import BEST, Run, runs
from .selection.command import Select, print_selection, show
from .selection.result import Selection
from .session import resume, search
from .simplify.command import Simplify
from .sources import found, program_of
from .terminal import usage
from .terminal.options import FAILED, INTERRUPTED, USAGE_ERROR, RunFolder, Workers, WorkersOn, check_workers, option
from .terminal.output import out, print_best_file, print_finalists, print_hall_of_fame, print_json, print_table
from .terminal.view import savings_text, seconds_text, view
from .training.command import Train
from .training.schedule_listing import Schedules
from .tuning.command import Tune


@dataclass(frozen=True)
class Search:
    """Search for update rules; ends with the best of them as an optax file."""

    settings: Annotated[tyro.conf.OmitArgPrefixes[SearchConfig], tyro.conf.arg(name="search")]
    config: Annotated[Path | None, option("FILE", "none")] = None
    """a TOML file of the settings below; options given beside it win"""
    run: Annotated[Path | None, option("FOLDER", "runs/ and a time stamp")] = None
    """the run's folder"""
    workers: Workers = 0
    """worker processes; they do not change the result in deterministic mode"""
    devices: WorkersOn = Devices()

    def __call__(self) -> int:
        settings = self.settings.check()
        check_workers(self.workers)
        with view(out, settings.budget) as on_progress:
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
        check_workers(self.workers)
        with view(out, Run(self.run).config().budget) as on_progress:
            finished = resume(self.run, self.workers, on_progress, self.devices)
        return _report(finished)


@dataclass(frozen=True)
class Status:
    """Where a run stands: counts, failures, hall of fame."""

    run: RunFolder
    """the run's folder"""
    front: bool = False
    """also the Pareto front of fitness against length, memory and cost"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        folder = found(self.run)
        if isinstance(folder, Selection):
            return show(folder, self.json)
        run = Run(self.run)
        status, finalists, front = run.status(), run.hall_of_fame(), run.front()
        if self.json:
            lists = {"hall_of_fame": finalists} | ({"front": front} if self.front else {})
            return print_json({**status, **{name: [dataclasses.asdict(f) for f in fs] for name, fs in lists.items()}})
        out.print(f"{self.run}: {status['status']}, {seconds_text(status['elapsed'])}, {status['evaluated']} programs evaluated")
        out.print("outcomes: " + ", ".join(f"{name} {count}" for name, count in status["statuses"].items()))
        out.print("children: " + savings_text(status["savings"], status["speedups"]))
        out.print(f"known programs evaluated again on new seeds {status['repeated']} times, {status['restarts']} restarts")
        if status["winners_curse"] is not None:
            out.print(f"winner's curse: finalists are worse on new seeds by {status['winners_curse']:+.3f} (median)")
        if status["selection"] is not None:
            out.print(f"selection: {status['selection']['status']}, {seconds_text(status['selection']['elapsed'])}")
            print_selection(status["selection"])
        print_hall_of_fame(finalists, front)
        if self.front:
            out.print("Pareto front of fitness (on new seeds between two finalists, else the search's), statements, states and operations:")
            print_finalists(front)
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
        return print_table(rows, self.json, empty=f"no runs in {self.folder}")


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
            return print_json({"digest": digest, "status": status["status"], "programs": status["programs"]})
        out.print(f"{digest}  {status['programs']} programs, {status['status']}")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a run's rule, or any program: as optax code, a kernel, text or JSON."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """a run's folder, a selection's, a program file or a shipped program's name"""
    as_: Annotated[Literal["optax", "pallas", "text", "json"], tyro.conf.arg(name="as")] = "optax"
    """what to write"""
    rank: int = 1
    """place in the run's hall of fame"""
    name: Annotated[str | None, option("NAME", "discovered, or the program's name")] = None
    """of the function that is written, as optax or pallas"""
    output: Annotated[Path | None, option("FILE", "standard output", "-o")] = None
    """where to write"""

    def __call__(self) -> int:
        text = self._text()
        if self.output is None:
            sys.stdout.write(text)
        else:
            self.output.write_text(text)
            out.print(f"wrote {self.output}")
        return 0

    def _text(self) -> str:
        folder = found(self.source)
        if self.as_ == "optax":
            if folder is not None:
                return folder.export(self.rank, self.name or "discovered")
            return to_python(load(self.source), self.name or Path(self.source).stem)
        program = program_of(self.source, self.rank)
        if self.as_ == "pallas":
            return to_pallas(program, self.name or ("discovered" if folder is not None else Path(self.source).stem))
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
                out.print(f"{name}: keeps all {passed} rules")
            return 0
        return print_table([self._row(name) for name in self.names or tasks.names()], self.json)

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
        return print_table(rows, self.json)


DESCRIPTION = "Discovers update rules for neural networks.\n`stepsmith search` alone gives a result on real digits in two minutes."
COMMANDS: dict[str, Any] = {
    "search": Search,
    "resume": Resume,
    "status": Status,
    "runs": Runs,
    "select": Select,
    "tune": Tune,
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
        out.print(f"stepsmith {metadata.version('stepsmith')}")
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


def _report(run: Run) -> int:
    status, finalists = run.status(), run.hall_of_fame()
    print_hall_of_fame(finalists, run.front())
    hits = status["cached"] / max(status["told"], 1)
    elapsed, digest = seconds_text(status["elapsed"]), run.digest()[:16]
    out.print(f"{status['evaluated']} programs evaluated in {elapsed}, {status['births']} born, cache hits {hits:.0%}; digest {digest}")
    selection = status["selection"]
    if selection is not None:
        print_selection(selection)
    if "interrupted" in (status["status"], selection and selection["status"]):
        out.print(f"interrupted; continue with: stepsmith resume {run.path}")
        return INTERRUPTED
    print_best_file(run.folder / BEST, finalists)
    return 0
