"""`stepsmith tune`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..config import ConfigError
from ..evaluate import Devices, Outcome
from ..language import to_text
from ..run import Run
from ..sources import is_run, program_of
from ..terminal.options import Workers, WorkersOn, check_workers, option
from ..terminal.output import out, print_json, print_table
from ..terminal.view import counted
from .tune import TuneConfig, Tuned, tune


@dataclass(frozen=True)
class Tune:
    """Tune the constants of one rule by CMA-ES; keep them if new seeds say so."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """a run's folder, a selection's, a program file or a shipped program's name"""
    rank: int = 1
    """place in the run's hall of fame"""
    tasks: Annotated[tuple[str, ...], option("TASK", "the run's own")] = ()
    """what it is trained on"""
    budget: int = TuneConfig.budget
    """evaluated programs; each is trained once for each task and seed"""
    seed: int = TuneConfig.seed
    """of the strategy's draws"""
    seeds: int = TuneConfig.seeds
    """training runs on each task"""
    test_seeds: int = TuneConfig.test_seeds
    """new ones, for the comparison with the original"""
    schedule: str = TuneConfig.schedule
    """of the learning rate relative to its peak"""
    output: Annotated[Path | None, option("FILE", "standard output", "-o")] = None
    """where to write the program, as JSON if it ends in .json"""
    workers: Workers = 0
    """worker processes"""
    devices: WorkersOn = Devices()
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        check_workers(self.workers)
        places = self.devices.places(self.workers)
        names = self.tasks or (Run(self.source).config().tasks if is_run(self.source) else ())
        if not names:
            raise ConfigError(f"{self.source} is no run, whose tasks would serve: name one or more, such as --tasks digits_mlp")
        config = TuneConfig(names, self.budget, self.seed, self.seeds, self.test_seeds, self.schedule)
        program = program_of(self.source, self.rank)
        with counted(out, "evaluations", self.json) as on_progress:
            done = tune(program, config, places, on_progress)
        text = to_text(done.program) + "\n"
        if self.output is not None:
            self.output.write_text(done.program.to_json() + "\n" if self.output.suffix == ".json" else text, encoding="utf-8")
        return print_json(_as_json(done)) if self.json else self._report(done, text)

    def _report(self, done: Tuned, text: str) -> int:
        rows = [{"constant": number, "before": f"{b:g}", "after": f"{a:g}"} for number, (b, a) in enumerate(done.constants, 1)]
        print_table(rows, False)
        stopped = ", stopped before the budget was spent" if done.stopped else ""
        out.print(f"{done.evaluations} programs evaluated{stopped}")
        kept = "the new constants are better and are kept" if done.better else "no better by more than chance: the program stays as it was"
        out.print(f"on {self.test_seeds} new seeds: {_fitness(done.before)} before, {_fitness(done.after)} after, p = {done.p_value:.2g}")
        out.print(kept)
        out.print(text if self.output is None else f"wrote {self.output}")
        return 0


def _fitness(result: Outcome) -> str:
    if not result.scores:
        return str(result.status)
    return f"{result.fitness:+.4f}" + ("" if result.error is None else f" +- {result.error:.4f}")


def _as_json(done: Tuned) -> dict[str, Any]:
    sides = {"before": done.before, "after": done.after}
    return {
        "program": to_text(done.program),
        "better": done.better,
        "p_value": done.p_value,
        "constants": [list(pair) for pair in done.constants],
        "evaluations": done.evaluations,
        "stopped": done.stopped,
        **{
            name: {"status": str(side.status), "fitness": side.fitness if math.isfinite(side.fitness) else None, "error": side.error}
            for name, side in sides.items()
        },
    }
