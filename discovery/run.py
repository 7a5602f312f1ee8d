"""`Run`: what a search has left in its folder, read afresh at each call."""

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import config as configs
from .benchmark.runner import KINDS
from .config import FORMAT, ConfigError, SearchConfig
from .counters import Counters
from .export import Provenance, to_python
from .finalists import Finalist, best_confirmed, make_finalist
from .language import Program, prune
from .ledger import Ledger, RunRow, is_locked
from .selection import SelectionConfig
from .selection.funnel import Source
from .selection.result import FOLDER as SELECTION
from .selection.result import Selection, is_selection
from .selection.validation import improvements, thinned

LEDGER = "ledger.sqlite"
BEST = "best.py"
LOCK = "ledger.lock"  # held by the session that writes the run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run's folder, read afresh at each call."""

    path: Path | str

    @property
    def folder(self) -> Path:
        return Path(self.path)

    def config(self) -> SearchConfig:
        run = self._read(lambda ledger: ledger.run())
        check_search(self.folder, run)
        return configs.from_dict(SearchConfig, run.config)

    def status(self) -> dict[str, Any]:
        """Status (running, interrupted or finished), elapsed seconds and counts.

        A run is running while a session holds its lock: one that was killed is interrupted, whatever it wrote last.
        """
        running = is_locked(self.folder / LOCK)  # asked first: a session that ends meanwhile has written its status

        selection = self.selection()

        def read(ledger: Ledger) -> dict[str, Any]:
            run, counts, state = ledger.run(), ledger.counts(), ledger.state()
            counters = Counters(**state.get("counters", {}))
            return {
                "name": run.name,
                "status": run.status if run.status == "finished" else "running" if running else "interrupted",
                "elapsed": run.elapsed,
                **counts,
                **counters._asdict(),
                "savings": counters.savings,
                "speedups": counters.speedups,
                "restarts": state.get("search", {}).get("restarts", 0),
                "winners_curse": winners_curse(
                    {h: scores for h, (_, scores) in ledger.outcomes().items()}, dict(state.get("finalists", []))
                ),
                "selection": selection and selection.status(),
                "versions": run.versions,
            }

        return self._read(read)

    def hall_of_fame(self) -> list[Finalist]:
        """The best programs: by confirmed fitness where the run has finished, else by that of the search."""

        def read(ledger: Ledger) -> list[Finalist]:
            run = ledger.run()
            check_search(self.folder, run)
            size = configs.from_dict(SearchConfig, run.config).finalists
            return [make_finalist(i, b, confirmed) for i, (b, confirmed) in enumerate(best_confirmed(ledger, size), 1)]

        found, selection = self._read(read), self.selection()
        return found if selection is None else selection.ranked(found)

    def selection(self) -> Selection | None:
        """What became of the finalists afterwards, if they were selected from in the run's own folder."""
        selection = Selection(self.folder / SELECTION)
        return selection if is_selection(selection.folder) else None

    def source(self, selected: SelectionConfig, name: str | None = None) -> Source:
        """What a selection takes from the run, which must have finished.

        Raises:
            ConfigError: it has not, or another version of stepsmith made it.
        """

        def read(ledger: Ledger) -> Source:
            run = ledger.run()
            check_search(self.folder, run)
            if run.status != "finished":
                raise ConfigError(f"{self.path} has not finished, its finalists are not known; run: stepsmith resume {self.path}")
            if run.versions["format"] != FORMAT:
                raise ConfigError(f"{self.path} has format {run.versions['format']}, this stepsmith {FORMAT}: its programs may differ here")
            config = configs.from_dict(SearchConfig, run.config)
            pairs = best_confirmed(ledger, config.finalists)
            births = ledger.births()
            programs = {birth.index: birth.program for birth in births}
            led = thinned(improvements(births), selected.points)
            course = [(one, prune(Program.from_json(programs[one.birth]))) for one in led]
            rule = run.versions.get("rule", "")
            initial = Program.from_json(run.versions["initial"])
            return Source(name or self.folder.name, config.schedule, rule, initial, [(b, c) for b, c in pairs if c is not None], course)

        return self._read(read)

    def front(self) -> list[Finalist]:
        """The Pareto front: programs that no other one beats in fitness, statements, states and operations alike.

        Fitness is that on new seeds between two finalists, else the search's.
        """

        def read(ledger: Ledger) -> list[Finalist]:
            confirmed = dict(ledger.state().get("finalists", []))
            return [make_finalist(i, best, confirmed.get(best.hash)) for i, best in enumerate(ledger.front(), 1)]

        return self._read(read)

    def summary(self) -> dict[str, Any]:
        """One row of a list of runs; a ledger that cannot be read has the status damaged, and the reason is logged."""
        row = {"run": str(self.path), "kind": None, "status": "damaged", "seconds": None, "programs": None, "trials": None, "best": None}
        try:
            here = Selection(self.path) if is_selection(self.path) else self
            status = here.status()
            kind = "selection" if here is not self else status["versions"].get("kind", "search")
            known = {"kind": kind, "status": status["status"], "seconds": round(status["elapsed"], 1)}
            if kind in KINDS:
                return row | known | {"trials": self._read(lambda ledger: len(ledger.trials()))}
            best = here.hall_of_fame()[:1]
        except ValueError as error:  # of the ledger, or of a config that this stepsmith does not know
            _log.warning("%s", error)
            return row
        return row | known | {"programs": status["programs"], "best": best[0].score if best else None}

    def best(self, rank: int = 1) -> Finalist:
        """The finalist of a rank, from 1.

        Raises:
            ConfigError: there is none of that rank.
        """
        finalists = self.hall_of_fame()
        if not 1 <= rank <= len(finalists):
            raise ConfigError(f"{self.path} has no rank {rank}: its hall of fame holds {len(finalists)} program(s)")
        return finalists[rank - 1]

    def digest(self) -> str:
        """What two runs of the same search share, bit for bit."""
        return self._read(lambda ledger: ledger.digest())

    def export(self, rank: int = 1, name: str = "discovered") -> str:
        """The text of a Python file with the rule as an optax transformation."""
        best = self.best(rank)
        return to_python(best.program, name, Provenance(self._notes(best), metadata.version("stepsmith")))

    def exported(self) -> bool:
        """Whether best.py holds the best rule of now; the folder may have got another name since."""
        try:
            text = (self.folder / BEST).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return all(note in text for note in self._notes(self.best())[1:])

    def _notes(self, best: Finalist) -> tuple[str, ...]:
        config, selection = self.config(), self.selection()
        score = best.fitness if best.confirmed is None else best.confirmed
        seeds = "new seeds" if best.confirmed is not None else "the search's seeds"
        levels = () if selection is None or best.level is None else selection.notes(best)
        return (
            f"run {self.folder.name}, rank {best.rank}: {config.strategy} from {config.initial}, seed {config.seed}",
            f"searched on {', '.join(config.tasks)}",
            f"fitness {score:.4f} on {seeds} (0 is tuned AdamW, lower is better)",
            *levels,
            f"program {best.hash}, {best.statements} statements",
        )

    def _read(self, query: Callable[[Ledger], Any]) -> Any:
        with Ledger.open(self.folder / LEDGER) as ledger:
            return query(ledger)


def winners_curse(scores: Mapping[str, Sequence[float]], confirmed: Mapping[str, float]) -> float | None:
    """By how much finalists are worse on new seeds than they were on the search's first block, median; None without any.

    Args:
        scores: hash -> fitness on each block of seeds.
        confirmed: hash of a finalist -> fitness on new seeds.
    """
    rises = [fitness - scores[h][0] for h, fitness in confirmed.items() if scores.get(h)]
    return statistics.median(rises) if rises else None


def runs(folder: Path | str = "runs") -> list[Run]:
    """The runs below a folder, by name."""
    folder = Path(folder)
    return [Run(path.parent) for path in sorted(folder.glob(f"*/{LEDGER}"))]


def check_search(path: Path, run: RunRow) -> None:
    if (kind := run.versions.get("kind")) in KINDS:
        raise ConfigError(f"{path} holds a {kind}; go on with its own command: stepsmith evaluate ... --run {path}")
