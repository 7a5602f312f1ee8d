"""`stepsmith select`, and how a selection is shown."""

import contextlib
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import config as configs
from ..config import ConfigError
from ..evaluate import Devices
from ..run import Run
from ..session import refresh
from ..terminal.options import INTERRUPTED, Workers, WorkersOn, check_workers, option
from ..terminal.output import out, print_best_file, print_hall_of_fame, print_json, print_table
from ..terminal.view import counted, seconds_text
from .funnel import OnProgress, Progress, select
from .result import BEST, FOLDER, Selection


@dataclass(frozen=True)
class Select:
    """Select among the finalists of runs on larger tasks; the same command goes on there."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """folders of finished runs, whose finalists meet on the same levels"""
    config: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """a TOML file with [[selection.levels]] or [selection.validation]; a search's own will do, the rest of it is not read"""
    folder: Annotated[Path | None, option("FOLDER", "in the folder of a single run, else selections/ and a time stamp")] = None
    """the selection's folder"""
    workers: Workers = 0
    """worker processes"""
    devices: WorkersOn = Devices()
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        check_workers(self.workers)
        places = self.devices.places(self.workers)
        if not self.runs:
            raise ConfigError("nothing to select from: name one or more folders of runs")
        selected = configs.load(self.config).selection
        folder = self.folder or (self.runs[0] / FOLDER if len(self.runs) == 1 else Path("selections") / time.strftime("%Y%m%d-%H%M%S"))
        sources = [run.source(selected, name) for run, name in zip(map(Run, self.runs), _names(self.runs), strict=True)]
        with _levels(self.json) as on_progress:
            done = select(sources, selected, folder, places, on_progress)
        if folder == self.runs[0] / FOLDER:
            refresh(self.runs[0])
        if done.status()["status"] == "interrupted":
            given = sys.argv[1:] if self.folder or len(self.runs) == 1 else [*sys.argv[1:], "--folder", str(folder)]
            sys.stderr.write(f"interrupted; go on with: stepsmith {shlex.join(given)}\n")
            return INTERRUPTED
        return show(done, self.json)


def show(selection: Selection, as_json: bool) -> int:
    """Prints a selection: its levels, its courses and its best program; returns the exit code 0."""
    status = selection.status()
    if as_json:
        return print_json(status | {"hall_of_fame": [vars(finalist) for finalist in selection.hall_of_fame()]})
    out.print(f"{selection.path}: {status['status']}, {seconds_text(status['elapsed'])}, from {', '.join(status['runs'])}")
    print_selection(status)
    placed = [finalist for finalist in selection.hall_of_fame() if finalist.level is not None]
    print_hall_of_fame(placed[:20])
    print_best_file(selection.folder / BEST, placed)
    return 0


def print_selection(status: dict[str, Any]) -> None:
    """The funnel, level by level, and the searches' courses, of a selection's status."""
    for level in status["levels"]:
        numbers = f"{level['entered']} programs entered, {level['placed']} are placed, {level['passed']} passed"
        out.print(f"level {level['level']} ({', '.join(level['tasks'])}): {numbers}", style="bold")
        rows = level["programs"] + [program | {"run": f"baseline: {program['run']}"} for program in level["baselines"]]
        rows.sort(key=lambda program: math.inf if program["fitness"] is None else program["fitness"])
        print_table([_program_row(program) for program in rows], False, empty="none is placed yet")
    for name, course in status["courses"].items():
        out.print(f"course of {name}: the programs that led it, on the validation tasks", style="bold")
        print_table([_point_row(point) for point in course["curve"]], False, empty="no point measured yet")
        out.print(course_text(course))


def course_text(course: dict[str, Any]) -> str:
    """What a course says, in one sentence.

    >>> course_text({"curve": [{"told": 0}, {"told": 900}], "overfits_after": None})
    'no meta-overfitting: the last program is not significantly worse on the validation tasks than any before it'
    """
    if len(course["curve"]) < 2:
        return "too few points to tell meta-overfitting"
    after = course["overfits_after"]
    if after is None:
        return "no meta-overfitting: the last program is not significantly worse on the validation tasks than any before it"
    return f"meta-overfitting after {after} tells: later programs are fitter in the search and worse on the validation tasks"


def _program_row(program: dict[str, Any]) -> dict[str, Any]:
    return {
        "program": program["hash"][:8],
        "run": program["run"],
        "fitness": _number(program["fitness"]),
        "error": _number(program["error"], ""),
        "status": program["status"],
        "passed": "yes" if program["passed"] else "",
        "factors": " ".join("-" if task["factor"] is None else f"{task['factor']:g}" for task in program["tasks"].values()),
    }


def _point_row(point: dict[str, Any]) -> dict[str, Any]:
    return {
        "told": point["told"],
        "program": point["hash"][:8],
        "search": _number(point["search"]),
        "validation": "failed" if point["validation"] is None else _number(point["validation"]),
        "error": _number(point["error"], ""),
    }


def _number(value: float | None, sign: str = "+") -> str:
    return "" if value is None else format(value, f"{sign}.4f")


def _names(paths: Sequence[Path]) -> list[str | None]:
    """What distinguishes the runs: their own names, or their folders where names are shared."""
    if len(set(paths)) != len(paths):
        raise ConfigError(f"the same run twice: {', '.join(map(str, paths))}")
    names = [path.resolve().name for path in paths]
    return [None] if len(paths) == 1 else [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


@contextmanager
def _levels(silent: bool) -> Iterator[OnProgress]:
    """Shows how many programs of each level are placed."""
    with contextlib.ExitStack() as stack:
        current: list[Any] = [None, None]  # the level that is shown, and its view

        def show_progress(progress: Progress) -> None:
            if progress.level != current[0]:
                stack.close()
                current[:] = progress.level, stack.enter_context(counted(out, f"programs on level {progress.level}", silent))
            current[1](progress.done, progress.total, progress.seconds)

        yield show_progress
