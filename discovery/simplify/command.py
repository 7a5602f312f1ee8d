"""`stepsmith simplify`."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..config import ConfigError
from ..language import Program, to_text
from ..language.message import one_line
from ..sources import program_of
from ..terminal.options import INTERRUPTED, option
from ..terminal.output import out, print_json, print_table
from ..terminal.view import counted, seconds_text
from .judge import Verdict
from .layout import to_short_text
from .naming import readable
from .pipeline import Settings, Simplified, Step, simplify


@dataclass(frozen=True)
class Simplify:
    """Make a program short and readable; with tasks, as good as it was on them."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """a program file, a shipped program's name or a run's folder"""
    tasks: tuple[str, ...] = ()
    """that changes are tried on; without any only what can be proved is done"""
    rank: int = 1
    """place in the run's hall of fame"""
    seeds: int = Settings.seeds
    """at least so many for a change to be accepted"""
    tolerance: float = Settings.tolerance
    """of fitness, that a simpler program may lose (95 % upper bound)"""
    gain: float = Settings.gain
    """of fitness; what is better by more is another rule and left alone (inf: take it)"""
    mutants: int = Settings.mutants
    """walks of the evolution without insertion"""
    learning_rate_factor: Annotated[float | None, option("FLOAT", "near 1, where the program does best")] = None
    """that the program is trained with"""
    seed: int = Settings.seed
    """of mutations and training"""
    output: Annotated[Path | None, option("FILE", "standard output", "-o")] = None
    """where to write the program"""
    json: bool = False
    """print the result as JSON, and nothing else"""

    def __call__(self) -> int:
        settings = Settings(self.tolerance, self.gain, self.seeds, self.seed, self.mutants, self.learning_rate_factor).check()
        program = program_of(self.source, self.rank)
        if self.output is not None and not self.output.absolute().parent.is_dir():  # noticed before the training
            raise ConfigError(f"{self.output}: there is no folder {self.output.parent} to write it to")
        with counted(out, "candidates of this stage", self.json) as on_progress:
            done = simplify(program, self.tasks, settings, on_progress)
        text = commented(self.source, self.tasks, settings, program, done)
        if self.output is not None:
            self.output.write_text(text)
        if self.json:
            print_json(as_json(done))
        else:
            self._print(done, text)
        return INTERRUPTED if done.interrupted else 0

    def _print(self, done: Simplified, text: str) -> None:
        if done.steps:
            print_table([_row(step) for step in done.steps], False)
        if self.tasks:
            out.print(f"{done.runs} training runs in {seconds_text(done.seconds)}")
        if done.better is not None:
            program, verdict = done.better
            out.print(
                f"left alone, since it is better by {-verdict.difference:.2f} ({len(program.statements)} statements, --gain inf takes it):"
            )
            out.print(to_short_text(readable(program)))
        if self.output is None:
            sys.stdout.write("\n" + text)
        else:
            out.print(f"wrote {self.output}")


def commented(source: str, tasks: tuple[str, ...], settings: Settings, program: Program, done: Simplified) -> str:
    """The simplified program as the text of a file, headed by how it came about."""
    before, after = len(program.statements), len(done.program.statements)
    lines = [f"From {source}, {before} statements, to {after}."]
    if tasks and done.original_fitness is not None:
        mean, low, high = done.original_fitness
        factor = f", at {done.learning_rate_factor:g} times its learning rate" if done.learning_rate_factor != 1 else ""
        lines.append(f"Fitness of the original on {', '.join(tasks)}{factor}: {mean:+.3f} ({low:+.3f} to {high:+.3f}).")
        lines.append(f"A change may cost {settings.tolerance:g} against the original, the 95 % bound of the paired difference.")
    if done.confirmed is not None:
        lines.append(f"Difference on new seeds: {_written(done.confirmed)}.")
    if done.interrupted:
        lines.append("Interrupted: it may be possible to go further.")
    lines += [f"{s.stage}, {s.before} -> {s.after}: {s.what}" + (f"; {_written(s.verdict)}" if s.verdict else "") for s in done.steps]
    return "".join(f"# {one_line(line)}\n" for line in lines) + to_short_text(done.program) + "\n"


def as_json(done: Simplified) -> dict[str, Any]:
    """Of JSON's own types."""
    better = None if done.better is None else {"program": to_text(done.better[0]), **done.better[1]._asdict()}
    return {
        **{name: value for name, value in dataclasses.asdict(done).items() if name not in ("program", "better")},
        "program": to_text(done.program),
        "statements": len(done.program.statements),
        "steps": [{**step._asdict(), "verdict": step.verdict and step.verdict._asdict()} for step in done.steps],
        "confirmed": done.confirmed and done.confirmed._asdict(),
        "better": better,
    }


def _row(step: Step) -> dict[str, Any]:
    verdict = step.verdict
    return {
        "stage": step.stage,
        "statements": f"{step.before} -> {step.after}",
        "fitness": "" if verdict is None else f"{verdict.difference:+.3f}",
        "low": "" if verdict is None else f"{verdict.low:+.3f}",
        "high": "" if verdict is None else f"{verdict.high:+.3f}",
        "seeds": "" if verdict is None else str(verdict.seeds),
        "what": one_line(step.what),
    }


def _written(verdict: Verdict) -> str:
    return f"{verdict.difference:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f}, {verdict.seeds} seeds)"
