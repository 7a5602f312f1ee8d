"""What a selection found: the finalists of searches on the levels of a funnel, and the course of each search on tasks that it has not seen.

A selection has a folder and a ledger of its own; `funnel.select` fills it. What a level asks for and what its results mean is in
placing.py, when a search overfits in validation.py.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import config as configs
from ..config import ConfigError
from ..export import Provenance, to_python
from ..finalists import Finalist, best_confirmed, make_finalist, ranked_by_level
from ..ledger import Ledger, LedgerError, LevelRow, is_locked
from .levels import BASELINES, VALIDATION, Level, SelectionConfig
from .validation import CurvePoint, meta_overfitting

LEDGER, LOCK, BEST = "ledger.sqlite", "ledger.lock", "best.py"
FOLDER = "selection"  # of a single run's, inside the run's folder
KIND = "selection"


@dataclasses.dataclass(frozen=True)
class Selection:
    """A selection's folder, read afresh at each call."""

    path: Path | str

    @property
    def folder(self) -> Path:
        return Path(self.path)

    def config(self) -> SelectionConfig:
        return self._read(config_of)

    def status(self) -> dict[str, Any]:
        """Status (running, interrupted or finished), elapsed seconds, the searches, and the funnel's levels."""
        running = is_locked(self.folder / LOCK)

        def read(ledger: Ledger) -> dict[str, Any]:
            run = ledger.run()
            status = run.status if run.status == "finished" else "running" if running else "interrupted"
            programs = len(run.versions["entrants"])
            return {"name": run.name, "status": status, "elapsed": run.elapsed, "runs": run.versions["runs"], "programs": programs}

        return self._read(read) | {"levels": self.levels(), "courses": self.courses()}

    def levels(self) -> list[dict[str, Any]]:
        """For each level that was entered: who was placed there, best first, who goes on, and the baselines beside them.

        A program has hash, run, fitness, error (standard error over seeds), status, passed and tasks (task -> learning-rate factor,
        mean log loss and score); of a baseline the run is the baseline's name.
        """

        def read(ledger: Ledger) -> list[dict[str, Any]]:
            runs, known = dict(ledger.run().versions["entrants"]), dict(ledger.run().versions.get("baselines", []))
            rows, entered, found = ledger.levels(), len(runs), []
            for level in config_of(ledger).funnel:
                placed = [row for row in rows if row.level == level.config.name]
                beside = [row for row in rows if row.level == baseline_level(level.config.name)]
                compared = _level_summary(level, beside, known)["programs"]
                compared = [program | {"passed": False} for program in compared]
                found.append(_level_summary(level, placed, runs) | {"entered": entered, "baselines": compared})
                if len(placed) < entered:
                    break
                entered = found[-1]["passed"]
            return found

        return self._read(read)

    def courses(self) -> dict[str, dict[str, Any]]:
        """Run -> its curve on the validation tasks, as far as it is measured, and the tell after which it overfits its own tasks."""

        def read(ledger: Ledger) -> dict[str, dict[str, Any]]:
            rows, seeds = {(row.level, row.hash): row for row in ledger.levels()}, config_of(ledger).validation.seeds
            curves = {}
            for name, points in ledger.run().versions["courses"].items():
                found = [(point, rows.get((course_level(name), point[2]))) for point in points]
                curve = [
                    CurvePoint(told, h, fitness, math.inf if row.fitness is None else row.fitness, row.error)
                    for (told, _, h, fitness), row in found
                    if row is not None
                ]
                curves[name] = {"curve": [_as_json(point) for point in curve], "overfits_after": meta_overfitting(curve, seeds)}
            return curves

        return self._read(read)

    def hall_of_fame(self) -> list[Finalist]:
        """All entrants: those of the last level first, by their fitness there."""

        def read(ledger: Ledger) -> list[Finalist]:
            pairs = best_confirmed(ledger, len(ledger.run().versions["entrants"]))
            return [make_finalist(rank, best, confirmed) for rank, (best, confirmed) in enumerate(pairs, 1)]

        return self.ranked(self._read(read))

    def ranked(self, finalists: Sequence[Finalist]) -> list[Finalist]:
        """Programs with their last levels: those of a later level first, by their fitness there, the others in the order they come in."""

        def read(ledger: Ledger) -> list[Finalist]:
            return ranked_by_level(finalists, [level.name for level in config_of(ledger).levels], ledger.levels())

        return self._read(read)

    def best(self, rank: int = 1) -> Finalist:
        """The entrant of a rank, from 1.

        Raises:
            ConfigError: there is none of that rank.
        """
        finalists = self.hall_of_fame()
        if not 1 <= rank <= len(finalists):
            raise ConfigError(f"{self.path} has no rank {rank}: {len(finalists)} program(s) entered it")
        return finalists[rank - 1]

    def export(self, rank: int = 1, name: str = "discovered") -> str:
        """The text of a Python file with the rule as an optax transformation."""
        best = self.best(rank)
        status = self._read(lambda ledger: ledger.run().versions)
        notes = (
            f"selection {self.folder.name}, rank {best.rank}, found by run {dict(status['entrants'])[best.hash]}",
            *self.notes(best),
            f"program {best.hash}, {best.statements} statements",
        )
        return to_python(best.program, name, Provenance(notes, metadata.version("stepsmith")))

    def notes(self, best: Finalist) -> tuple[str, ...]:
        """What its last level said of a program, for its exported file."""
        level = next((level for level in self.config().levels if level.name == best.level), None)
        if level is None:
            return (f"fitness {best.score:.4f} in its search (0 is tuned AdamW, lower is better)",)
        error = "" if best.level_error is None else f" +- {best.level_error:.4f}"
        told = f"fitness {best.score:.4f}{error}, its learning rate tuned as AdamW's was (0 is tuned AdamW, lower is better)"
        return (f"level {level.name}, {', '.join(level.tasks)}: {told}",)

    def _read(self, query: Callable[[Ledger], Any]) -> Any:
        with Ledger.open(self.folder / LEDGER) as ledger:
            if ledger.run().versions.get("kind") != KIND:
                raise LedgerError(f"{self.path} holds no selection")
            return query(ledger)


def is_selection(path: Path | str) -> bool:
    """Whether a folder holds a selection, of any state.

    Raises:
        LedgerError: it holds a ledger that cannot be read.
    """
    if not (Path(path) / LEDGER).is_file():
        return False
    with Ledger.open(Path(path) / LEDGER) as ledger:
        return ledger.run().versions.get("kind") == KIND


def config_of(ledger: Ledger) -> SelectionConfig:
    """The levels of a selection's ledger."""
    return configs.from_dict(SelectionConfig, ledger.run().config)


def course_level(run: str) -> str:
    """The level under which the ledger keeps a run's course."""
    return f"{VALIDATION} of {run}"


def baseline_level(level: str) -> str:
    """The level under which the ledger keeps the baselines of a level of the funnel."""
    return f"{BASELINES} of {level}"


def _level_summary(level: Level, rows: Sequence[LevelRow], runs: Mapping[str, str]) -> dict[str, Any]:
    ok = [(row.fitness, row.hash) for row in rows if row.fitness is not None and row.fitness < level.config.beats]
    passed = {program_hash for _, program_hash in sorted(ok)[: level.config.promote]}
    ranked = sorted(rows, key=lambda row: (math.inf if row.fitness is None else row.fitness, row.hash))
    programs = [
        {
            "hash": row.hash,
            "run": runs[row.hash],
            "fitness": row.fitness,
            "error": row.error,
            "status": row.status,
            "passed": row.hash in passed,
            "tasks": json.loads(row.detail),
        }
        for row in ranked
    ]
    return {"level": level.config.name, "tasks": list(level.config.tasks), "placed": len(rows), "passed": len(passed), "programs": programs}


def _as_json(point: CurvePoint) -> dict[str, Any]:
    return point._asdict() | {"validation": point.validation if math.isfinite(point.validation) else None}
