"""Sends finalists of searches through the levels of a funnel, and the course of each search over validation tasks.

Like a search, it may be killed at any moment: what the ledger holds is not run again. Start with `_Session`; what a level asks for
and what its results mean is in placing.py.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ...tasks import registry as tasks
from ..benchmark.workloads import is_final
from ..config import FORMAT, ConfigError
from ..evaluate import Evaluation, Job, Place, Result, Status, WorkerPool, WorkerSpec, Yardstick, yardstick
from ..evaluate.pool import QUEUE_PER_WORKER
from ..evaluate.rates import base_factors
from ..interrupt import Stop, interruptible
from ..language import Program, extended_operations, load, operations, parse, prune, to_text
from ..language.equality import different
from ..ledger import Best, EvaluationRow, Ledger, LedgerError, LevelRow, OutcomeRow, ProgramRow, Step, locked
from ..recorder import Recorder
from ..search.hall_of_fame import distinct
from .baselines import baselines
from .levels import Level, SelectionConfig, make_level
from .placing import Placing, Request, placing, promoted, wanted
from .result import BEST, KIND, LEDGER, LOCK, Selection, baseline_level, config_of, course_level
from .validation import Improvement


class Progress(NamedTuple):
    """How far a level is."""

    level: str
    done: int  # programs placed
    total: int
    seconds: float  # of all sessions


OnProgress = Callable[[Progress], None]


class Source(NamedTuple):
    """What a selection takes from a finished search.

    Attributes:
        name: of the run.
        schedule: of the learning rate, on every task.
        rule: JSON of the one that schedules were tried with; empty where rules were searched for.
        initial: what the search began with.
        finalists: best first, each with its fitness on new seeds.
        course: the programs that led the search, thinned.
    """

    name: str
    schedule: str
    rule: str
    initial: Program
    finalists: list[tuple[Best, float]]
    course: list[tuple[Improvement, Program]]


def select(
    sources: Sequence[Source],
    config: SelectionConfig,
    path: Path,
    places: tuple[Place, ...],
    on_progress: OnProgress = lambda progress: None,
) -> Selection:
    """Sends the finalists of searches through the funnel, then validates the searches' courses; runs what the folder's ledger lacks.

    Args:
        sources: what each search gives, with names that differ.
        config: the levels.
        path: the selection's folder, new or of the same selection.
        places: where its workers run, as `evaluate.plan` gives them.
        on_progress: called as programs are placed.

    Returns:
        The finished selection, or an interrupted one after Ctrl-C.

    Raises:
        ConfigError: something that cannot be selected from, or a folder that holds another selection. LedgerError: it cannot be written.
    """
    try:
        config.check()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not config.asked:
        raise ConfigError("nothing to select by: give one or more [[selection.levels]], or [selection.validation], in the config")
    known = baselines(config.baselines if config.levels else (), {source.name: source.initial for source in sources})
    names = sorted({name for level in (*config.levels, config.validation) for name in level.tasks})
    refuse_final(names)
    versions = _versions(sources, config, known, {name: tasks.get(name).version for name in names})
    with locked(path / LOCK):
        # Before Ctrl-C becomes a wish: it may take long.
        measured = {} if (path / LEDGER).exists() else _measured(names, versions["rule"])
        with interruptible() as stop, _ledger(path, sources, config, known, versions, measured) as ledger:
            if ledger.run().status != "finished":
                _Session(ledger, places, stop, on_progress).run()
    selection = Selection(path)
    if selection.status()["status"] == "finished" and config.levels:
        (path / BEST).write_text(selection.export(), encoding="utf-8")
    return selection


def refuse_final(names: Sequence[str]) -> None:
    """Raises ConfigError where one of the tasks is a final variant, on which nothing may be chosen."""
    for name in names:
        if is_final(tasks.get(name)):
            raise ConfigError(f"task {name!r} is a final variant, which no search may train on; its NAME_meta is for selection")


def _measured(names: Sequence[str], rule: str) -> dict[str, Any]:
    """What AdamW reaches on the tasks of all levels and, for schedules, the learning rates that their rule wants there."""
    measured: dict[str, Any] = {"yardsticks": {name: list(yardstick(name)) for name in names}}
    return measured | ({"base_factors": base_factors(Program.from_json(rule), names)} if rule else {})


def _versions(
    sources: Sequence[Source], config: SelectionConfig, known: Mapping[str, tuple[str, Program]], task_versions: dict[str, str]
) -> dict[str, Any]:
    """What makes a selection this one: its entrants, its courses, and what they are measured by."""
    schedules, rules = {source.schedule for source in sources}, {source.rule for source in sources}
    if len(rules) != 1:
        raise ConfigError(
            "the searches are for different things, for rules or for schedules of different rules; select among those of one kind"
        )
    if len(schedules) != 1:
        raise ConfigError(f"the searches have different schedules ({', '.join(sorted(schedules))}); select among those of one")
    finalists = [(best, source.name) for source in sources for best, _ in source.finalists[: config.entrants]]
    entrants: dict[str, str] = {}
    for best, name in different(distinct(finalists, lambda finalist: finalist[0].scores), lambda finalist: parse(finalist[0].text)):
        entrants.setdefault(best.hash, name)
    if not entrants:
        raise ConfigError("none of the searches has a finalist")
    courses = {s.name: [list(improvement) for improvement, _ in s.course] for s in sources} if config.validation.tasks else {}
    return {
        "kind": KIND,
        "format": FORMAT,
        "schedule": schedules.pop(),
        "rule": rules.pop(),
        "tasks": task_versions,
        "runs": [source.name for source in sources],
        "entrants": [[program_hash, name] for program_hash, name in entrants.items()],
        "baselines": [[program_hash, name] for program_hash, (name, _) in known.items()],
        "courses": courses,
    }


@contextmanager
def _ledger(
    path: Path,
    sources: Sequence[Source],
    config: SelectionConfig,
    known: Mapping[str, tuple[str, Program]],
    versions: dict[str, Any],
    measured: dict[str, Any],
) -> Iterator[Ledger]:
    said = json.loads(json.dumps(dataclasses.asdict(config)))
    if (path / LEDGER).exists():
        with Ledger.open(path / LEDGER) as ledger:
            _check_same(path, ledger, said, versions)
            yield ledger
        return
    with Ledger.create(path / LEDGER, path.name, said, versions | measured) as ledger:
        ledger.commit(_entry(sources, known, versions))
        yield ledger


def _check_same(path: Path, ledger: Ledger, config: dict[str, Any], versions: dict[str, Any]) -> None:
    run = ledger.run()
    if run.versions.get("kind") != KIND:
        raise LedgerError(f"{path} holds no selection; give another folder")
    for there, here in ((run.config, config), (run.versions, versions)):
        changed = next((key for key in here if there.get(key) != json.loads(json.dumps(here[key]))), None)
        if changed is not None:
            raise ConfigError(f"{path} holds another selection: what is asked for here differs in {changed}; give another folder")


def _entry(sources: Sequence[Source], known: Mapping[str, tuple[str, Program]], versions: dict[str, Any]) -> Step:
    """The programs with what their searches knew of them, as the first thing in the ledger."""
    chosen = {program_hash for program_hash, _ in versions["entrants"]}
    programs: dict[str, ProgramRow] = {}
    outcomes: dict[str, OutcomeRow] = {}
    finalists: dict[str, float] = {}
    for number, source in enumerate(sources):
        for best, confirmed in source.finalists:
            if best.hash in chosen and best.hash not in finalists:
                programs[best.hash] = ProgramRow(best.hash, best.statements, best.text, number, best.states, best.operations)
                outcomes[best.hash] = OutcomeRow(best.hash, best.fitness, str(Status.OK), json.dumps(best.scores))
                finalists[best.hash] = confirmed
        for improvement, program in source.course if versions["courses"] else ():
            programs.setdefault(improvement.hash, _program_row(improvement.hash, program, number))
    for program_hash, (_, program) in known.items():
        programs.setdefault(program_hash, _program_row(program_hash, program, 0))
    return Step(programs=list(programs.values()), outcomes=list(outcomes.values()), state={"finalists": [[*f] for f in finalists.items()]})


def _program_row(program_hash: str, program: Program, source: int) -> ProgramRow:
    return ProgramRow(program_hash, len(program.statements), to_text(program), source, len(program.states), operations(program))


class _Session:
    """One session of a selection, from wherever its ledger stands."""

    def __init__(self, ledger: Ledger, places: tuple[Place, ...], stop: Stop, on_progress: OnProgress):
        self._ledger, self._places, self._stop, self._on_progress = ledger, places, stop, on_progress
        run = ledger.run()
        self._config, self._versions = config_of(ledger), run.versions
        self._yardsticks = {name: Yardstick(*values) for name, values in run.versions["yardsticks"].items()}
        self._recorder = Recorder(ledger, run.versions["tasks"], deterministic=True)
        self._state = {"finalists": ledger.state()["finalists"]}
        self._programs = {row.hash: parse(row.text).to_json() for row in ledger.programs()}
        self._runs: dict[str, dict[tuple[str, float, int], Evaluation]] = {}
        for row in (row for program_hash in self._programs for row in ledger.evaluations(program_hash)):
            self._runs.setdefault(row.hash, {})[row.task, row.learning_rate_factor, row.seed] = _evaluation(row)
        self._keys = itertools.count()  # of jobs
        self._before, self._began = run.elapsed, time.monotonic()

    def run(self) -> None:
        """Places all that there is to place, unless it is to stop before the end."""
        self._commit("finished" if self._placed_all() else "interrupted")

    def _placed_all(self) -> bool:
        """Level by level, then course by course; False once a wish to stop has left one of them incomplete."""
        entrants = [program_hash for program_hash, _ in self._versions["entrants"]]
        known = dict.fromkeys(program_hash for program_hash, _ in self._versions["baselines"])
        for level in self._config.funnel:
            placings = self._place(level, level.config.name, dict.fromkeys(entrants))
            if len(placings) < len(entrants):
                return False
            if entrants and len(self._place(level, baseline_level(level.config.name), known)) < len(known):
                return False
            entrants = promoted(level, placings)
        for name, points in self._versions["courses"].items():
            told = {program_hash: told for told, _, program_hash, _ in reversed(points)}
            if len(self._place(make_level(self._config.validation, 0), course_level(name), told)) < len(told):
                return False
        return True

    def _place(self, level: Level, name: str, told: Mapping[str, int | None]) -> dict[str, Placing]:
        """The placings of programs on a level; those that a wish to stop left out are missing."""
        placings: dict[str, Placing] = {}
        open_programs = list(told)
        self._settle(level, name, told, open_programs, placings)
        if open_programs and not self._stop.requested:
            with WorkerPool(self._spec(level, open_programs), self._places) as pool:
                pool.wait_until_ready(lambda: self._stop.requested)
                in_flight: dict[int, tuple[str, Request]] = {}
                while open_programs and not self._stop.requested:
                    self._submit(level, open_programs, pool, in_flight)
                    for result in pool.poll(0.1):
                        self._receive(*in_flight.pop(result.key), result)
                    self._settle(level, name, told, open_programs, placings)
        self._commit()
        return placings

    def _spec(self, level: Level, programs: Sequence[str]) -> WorkerSpec:
        rule = self._versions["rule"]
        trained = [rule] if rule else [self._programs[program_hash] for program_hash in programs]
        return WorkerSpec(
            level.config.tasks,
            schedule=self._versions["schedule"],
            initial=prune(load("linear" if rule else "adamw")).to_json(),
            memory_limit_mb=self._config.memory_limit_mb,
            extended=any(extended_operations(Program.from_json(text)) for text in trained),
            rule=rule,
            base_factors=self._versions.get("base_factors", {}),
        )

    def _submit(self, level: Level, programs: list[str], pool: WorkerPool, in_flight: dict[int, tuple[str, Request]]) -> None:
        """Gives the workers no more than they have room for: what a program needs next depends on what comes back."""
        room = QUEUE_PER_WORKER * len(self._places) - len(in_flight)
        under_way = set(in_flight.values())
        for program_hash in programs:
            for request in wanted(level, self._runs.get(program_hash, {})):
                if room <= 0:
                    return
                if (program_hash, request) in under_way:
                    continue
                job = Job(next(self._keys), self._programs[program_hash], request.seeds, (request.factor,), (request.task,))
                in_flight[job.key] = (program_hash, request)
                pool.submit(job)
                room -= 1

    def _receive(self, program_hash: str, request: Request, result: Result) -> None:
        """Takes in what came of a request; one that cost its workers is remembered as a failure of its first seed."""
        if result.status:
            lost = Evaluation(request.task, request.seeds[0], request.factor, result.status, None, 0, 0.0)
            result = result._replace(evaluations=(lost,))
            self._recorder.event(str(lost.status), f"{program_hash} cost its workers on {request.task}")
        self._recorder.evaluated(program_hash, result)
        for run in result.evaluations:
            self._runs.setdefault(program_hash, {})[run.task, run.learning_rate_factor, run.seed] = run

    def _settle(
        self, level: Level, name: str, told: Mapping[str, int | None], open_programs: list[str], placings: dict[str, Placing]
    ) -> None:
        """Places the programs that need no more runs, and commits now and then."""
        for program_hash in [h for h in open_programs if not wanted(level, self._runs.get(h, {}))]:
            found = placing(level, self._runs[program_hash], self._yardsticks)
            open_programs.remove(program_hash)
            placings[program_hash] = found
            fitness, error, status = found.outcome.fitness, found.outcome.error, str(found.outcome.status)
            self._recorder.placed(LevelRow(name, program_hash, told[program_hash], fitness, error, status, json.dumps(found.tasks)))
        if self._recorder.due:
            self._commit()
        self._on_progress(Progress(name, len(placings), len(told), self._elapsed))

    @property
    def _elapsed(self) -> float:
        return self._before + time.monotonic() - self._began

    def _commit(self, status: str | None = None) -> None:
        self._recorder.commit(self._state, self._elapsed, status)


def _evaluation(row: EvaluationRow) -> Evaluation:
    return Evaluation(row.task, row.seed, row.learning_rate_factor, Status(row.status), row.loss, row.steps, row.seconds)
