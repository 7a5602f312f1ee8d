"""The stages of simplification: exact, tolerant, evolution without insertion, constants, names; each change is a step of the record."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from ..evaluate.fitness import Evaluation, yardstick
from ..evaluate.rates import best_factor
from ..evaluate.training_run import evaluate, prepare
from ..language import SCHEDULE, Program, ProgramError, extended_operations, infer, is_live, simplify_exact
from ..language.message import shown
from ..selection.funnel import refuse_final
from .exact import exact
from .judge import EXTENSION, Judge, Verdict
from .naming import readable
from .probe import Recording, record
from .rounding import constants, rounded, with_constant
from .shrink import shorter_mutants
from .tolerant import proposals

SEED_BLOCK = 1_000  # seeds apart: those that decide and those that confirm
FIRST_SEED = 2_000_000  # beyond the seeds of searches and references
MAX_SEEDS, MAX_MUTANTS = 1_000, 100_000
TUNING_SEEDS, TUNING_GAIN = 4, 0.1

OnProgress = Callable[[int, int, float], None]  # done, of how many, seconds so far


@dataclass(frozen=True)
class Settings:
    """How much may be lost, and how hard it is tried."""

    tolerance: float = 0.02  # of fitness: the 95 % upper bound of what a simpler program may lose against the original
    gain: float = 0.1  # likewise the lower bound of what it may do better: beyond that it is another rule; inf: any
    seeds: int = 8  # at least so many for a change to be accepted; where the test is undecided up to 16 times as many
    seed: int = 0  # of the mutations, and of which seeds are trained
    mutants: int = 200  # walks of the evolution without insertion
    learning_rate_factor: float | None = None  # of all runs; None: near 1, where the original does best
    schedule: str = "linear"  # of the learning rate

    def check(self) -> "Settings":
        """The settings themselves; a ValueError where one is outside its range."""
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be above 0 and finite, got {self.tolerance}")
        if not self.gain >= 0:
            raise ValueError(f"gain must be at least 0, got {self.gain}")
        if not 2 <= self.seeds <= MAX_SEEDS:
            raise ValueError(f"seeds must be 2 to {MAX_SEEDS}, got {shown(self.seeds)}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be 0 to {2**31 - 1}, got {shown(self.seed)}")
        if not 0 <= self.mutants <= MAX_MUTANTS:
            raise ValueError(f"mutants must be 0 to {MAX_MUTANTS}, got {shown(self.mutants)}")
        if self.learning_rate_factor is not None and not 0 < self.learning_rate_factor < math.inf:
            raise ValueError(f"learning_rate_factor must be above 0 and finite, got {self.learning_rate_factor}")
        return self


class Step(NamedTuple):
    """One change. The difference of fitness is that to the original, as when the change was accepted; None where it is exact."""

    stage: str  # exact, tolerant, evolution, constants, names
    what: str
    before: int  # statements
    after: int
    verdict: Verdict | None


@dataclass(frozen=True)
class Simplified:
    """What came of it.

    Attributes:
        program: the readable one.
        steps: what was done, in order.
        original_fitness: mean and one-sided 95 % bounds over the confirming seeds; None without tasks, or if interrupted.
        confirmed: the program against the original on seeds that decided nothing; None like it.
        better: the best of the shorter programs that were refused for doing better, which makes them other rules; None if there was none.
        learning_rate_factor: at which all runs were.
        interrupted: by Ctrl-C; the program is the shortest that had been accepted.
        runs: training runs in all.
        seconds: taken.
    """

    program: Program
    steps: tuple[Step, ...]
    original_fitness: tuple[float, float, float] | None = None
    confirmed: Verdict | None = None
    better: tuple[Program, Verdict] | None = None
    learning_rate_factor: float = 1.0
    interrupted: bool = False
    runs: int = 0
    seconds: float = 0.0


def simplify(
    program: Program,
    tasks: Sequence[str] = (),
    settings: Settings = Settings(),  # frozen
    on_progress: OnProgress = lambda done, total, seconds: None,
) -> Simplified:
    """A short readable program that is as good as the given one.

    Args:
        program: any rule.
        tasks: names of those that it is tried on; without any only what can be proved is done, and names are given.
        settings: tolerance, seeds and effort.
        on_progress: is called with each candidate that is tried.

    Raises:
        ProgramError: the program is none. ValueError: a setting outside its range, or the program fails on the tasks.
        ConfigError: a task is a final variant. DataError: a task's data are missing.

    >>> from ..language import load, to_text
    >>> print(to_text(simplify(load("momentum")).program))
    def train(w, g, m, lr):
        m = interp(g, m, 0.9)
        update = m * lr
        return update, m
    """
    settings.check()
    refuse_final(tasks)
    infer(program)
    if not is_live(program):
        raise ProgramError("the gradient never reaches the update: nothing that can be simplified and still learn")
    if program.kind == SCHEDULE:
        if tasks:
            raise ProgramError("a schedule is simplified exactly or not at all; leave the tasks out")
        return Simplified(
            simplify_exact(program),
            (Step("exact", "dead code, equal values, identities", len(program.statements), len(simplify_exact(program).statements), None),),
        )
    session = _Session(program, settings, on_progress)
    session.adopt(exact(program), "exact", "dead code, equal values, identities", None)
    if not tasks:
        return session.finish()
    try:
        judge = _judge(program, tasks, settings)
        session.judge = judge
        _tolerant(session, judge, [record(task, program, judge.factor) for task in tasks])
        _evolution(session, judge)
        session.adopt(readable(session.program), "names", "rate gathered, statements ordered, values named", None)
        _constants(session, judge)
        return session.finish(_confirming(judge))
    except KeyboardInterrupt:
        return session.finish(interrupted=True)


class _Session:
    """The best program so far and how it came about."""

    def __init__(self, program: Program, settings: Settings, on_progress: OnProgress):
        self.program, self.settings, self.on_progress = program, settings, on_progress
        self.judge: Judge | None = None
        self._accepted: list[tuple[Program, int]] = []  # with the number of steps up to it
        self._steps: list[Step] = []
        self._started = time.monotonic()

    def adopt(self, program: Program, stage: str, what: str, verdict: Verdict | None) -> None:
        if program != self.program:
            self._steps.append(Step(stage, what, len(self.program.statements), len(program.statements), verdict))
        self.program = program
        self._accepted.append((program, len(self._steps)))

    def tried(self, done: int, total: int) -> None:
        self.on_progress(done, total, time.monotonic() - self._started)

    def finish(self, confirming: Judge | None = None, interrupted: bool = False) -> Simplified:
        """The last program that new seeds do not speak against, readable."""
        confirmed, fitness = None, None
        if confirming is not None:
            proven = self._accepted[0][0]  # the exact form, equal whatever seeds say
            for program, steps in reversed(self._accepted):
                confirmed = confirming(program)
                if confirmed.accepted or confirmed.difference < self.settings.tolerance or program == proven:
                    self.program, self._steps = program, self._steps[:steps]
                    break
            fitness = confirming.standing()
        if not self._steps or self._steps[-1].stage not in ("names", "constants"):
            self.adopt(readable(self.program), "names", "rate gathered, statements ordered, values named", None)
        judges = [judge for judge in (self.judge, confirming) if judge is not None]
        return Simplified(
            self.program,
            tuple(self._steps),
            fitness,
            confirmed,
            self.judge.better() if self.judge else None,
            self.judge.factor if self.judge else 1.0,
            interrupted,
            sum(judge.runs for judge in judges),
            time.monotonic() - self._started,
        )


def _tolerant(session: _Session, judge: Judge, recordings: Sequence[Recording]) -> None:
    """Takes the least of the changes that the judge accepts, until it accepts none."""
    while (found := _first_accepted(session, judge, ((p.program, p.what) for p in proposals(session.program, recordings)))) is not None:
        session.adopt(found[0], "tolerant", found[1], judge(found[0]))


def _evolution(session: _Session, judge: Judge) -> None:
    random, mutants = Random(session.settings.seed), session.settings.mutants
    while (found := _first_accepted(session, judge, shorter_mutants(session.program, random, mutants))) is not None:
        session.adopt(found[0], "evolution", found[1], judge(found[0]))


def _first_accepted(session: _Session, judge: Judge, candidates: Iterator[tuple[Program, str]]) -> tuple[Program, str] | None:
    found = list(candidates)
    for index, (program, what) in enumerate(found):
        session.tried(index, len(found))
        if judge(program).accepted:
            return program, what
    session.tried(len(found), len(found))
    return None


def _constants(session: _Session, judge: Judge) -> None:
    """Each constant with the fewest digits that the judge accepts, the others being as they are by then."""
    places = constants(session.program)
    for index, place in enumerate(places):
        session.tried(index, len(places))
        statement, argument = place
        value = session.program.statements[statement].args[argument]
        assert isinstance(value, float)
        for short in rounded(value):
            if short == value:
                break
            program = with_constant(session.program, place, short)
            if judge(program).accepted:
                session.adopt(program, "constants", f"{value!r} becomes {short!r}", judge(program))
                break
    session.tried(len(places), len(places))


def _judge(program: Program, names: Sequence[str], settings: Settings) -> Judge:
    extended = bool(extended_operations(program))
    prepared = {name: prepare(name, settings.schedule, extended) for name in names}

    def run(candidate: Program, task: str, seed: int, factor: float) -> Evaluation:
        return evaluate(prepared[task], candidate, seed, factor)

    yardsticks = {name: yardstick(name) for name in names}
    first_seed = FIRST_SEED + 2 * SEED_BLOCK * settings.seed
    judge = Judge(program, run, yardsticks, settings.tolerance, settings.gain, settings.seeds, 1.0, first_seed)
    factor = settings.learning_rate_factor or best_factor(partial(_mean_fitness, judge), TUNING_GAIN)
    if not math.isfinite(_mean_fitness(judge, factor)):
        raise ValueError(
            f"the program fails on {', '.join(names)} at {factor:g} times its learning rate; give another learning-rate factor"
        )
    judge.factor = factor
    return judge


def _confirming(judge: Judge) -> Judge:
    """The same judge with seeds that have decided nothing."""
    return Judge(
        judge.original,
        judge.run,
        judge.yardsticks,
        judge.tolerance,
        math.inf,
        judge.seeds,
        judge.factor,
        judge.first_seed + SEED_BLOCK * (1 + judge.seeds * EXTENSION // SEED_BLOCK),
    )


def _mean_fitness(judge: Judge, factor: float) -> float:
    return math.fsum(judge.fitness(judge.original, judge.first_seed + i, factor) for i in range(TUNING_SEEDS)) / TUNING_SEEDS
