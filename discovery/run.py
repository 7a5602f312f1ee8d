"""Runs from Python: `search` starts one, `resume` continues one, `Run` reads one."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w

from ..schedules import registry as schedules
from ..tasks import reference
from ..tasks import registry as tasks
from . import config as configs
from .config import ConfigError, SearchConfig
from .coordinator import Coordinator, Snapshot
from .evaluate import WorkerPool, WorkerSpec, Yardstick
from .export import Provenance, to_optax
from .language import Program, depends_on_gradient, infer, load, parse, prune
from .ledger import Ledger
from .search import Strategy, random_search, regularized_evolution

LEDGER = "ledger.sqlite"
CONFIG = "config.toml"
BEST = "best.py"
FORMAT = "1"  # of the language, the canonical form and the seeds; part of what makes runs comparable

OnProgress = Callable[[Snapshot], None]


@dataclass(frozen=True)
class Finalist:
    """A program of the hall of fame; `confirmed` is its fitness on the finalists' seeds, once the run has finished."""

    rank: int
    hash: str
    fitness: float
    confirmed: float | None
    statements: int
    text: str

    @property
    def program(self) -> Program:
        return parse(self.text)


@dataclass(frozen=True)
class Run:
    """A run's folder, read afresh at each call."""

    path: Path | str

    @property
    def folder(self) -> Path:
        return Path(self.path)

    def config(self) -> SearchConfig:
        return configs.from_dict(SearchConfig, self._read(lambda ledger: ledger.run().config))

    def status(self) -> dict[str, Any]:
        """Status, elapsed seconds and counts."""

        def read(ledger: Ledger) -> dict[str, Any]:
            run, counts, state = ledger.run(), ledger.counts(), ledger.state()
            return {
                "name": run.name,
                "status": run.status,
                "elapsed": run.elapsed,
                **counts,
                **state.get("counters", {}),
                "versions": run.versions,
            }

        return self._read(read)

    def hall_of_fame(self) -> list[Finalist]:
        """The best programs: by confirmed fitness where the run has finished, else by that of the search."""

        def read(ledger: Ledger) -> list[Finalist]:
            confirmed = dict(ledger.state().get("finalists", []))
            size = configs.from_dict(SearchConfig, ledger.run().config).finalists
            best = ledger.best(size)
            best.sort(key=lambda b: (confirmed.get(b.hash, float("inf")), b.fitness, b.hash))
            return [Finalist(i + 1, b.hash, b.fitness, confirmed.get(b.hash), b.statements, b.text) for i, b in enumerate(best)]

        return self._read(read)

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
        best, config = self.best(rank), self.config()
        score = best.fitness if best.confirmed is None else best.confirmed
        seeds = "new seeds" if best.confirmed is not None else "the search's seeds"
        notes = (
            f"run {self.folder.name}, rank {rank}: {config.strategy} from {config.initial}, seed {config.seed}",
            f"searched on {', '.join(config.tasks)}",
            f"fitness {score:.4f} on {seeds} (0 is tuned AdamW, lower is better)",
            f"program {best.hash}, {best.statements} statements",
        )
        return to_optax(best.program, name, Provenance(notes, metadata.version("stepsmith")))

    def _read(self, query: Callable[[Ledger], Any]) -> Any:
        with Ledger.open(self.folder / LEDGER) as ledger:
            return query(ledger)


def search(config: SearchConfig, path: Path | str | None = None, workers: int = 0, on_progress: OnProgress = lambda snapshot: None) -> Run:
    """Searches from the start.

    Args:
        config: what to search for.
        path: the run's folder, which must not hold a run yet; by default runs/ and a time stamp.
        workers: processes; 0 for one a core. Does not change the result in deterministic mode.
        on_progress: called about twice a second.

    Returns:
        The finished run, or an interrupted one after Ctrl-C.

    Raises:
        ConfigError, ProgramError: settings that cannot be used. LedgerError: the folder cannot be written.
    """
    path = Path(path) if path is not None else _fresh_path()
    initial = load(config.initial)
    infer(initial)
    if not depends_on_gradient(prune(initial)):
        raise ConfigError(f"initial {config.initial!r}: the gradient does not reach its update")
    schedules.get(config.schedule)
    references = {name: _reference(name) for name in config.tasks}
    versions = {name: found.version for name, found in references.items()}
    yardsticks = {name: [found.log_loss, found.scale] for name, found in references.items()}
    known = {"tasks": versions, "yardsticks": yardsticks, "format": FORMAT, "initial": initial.to_json()}
    with Ledger.create(path / LEDGER, path.name, configs.to_dict(config), known) as ledger:
        (path / CONFIG).write_text(tomli_w.dumps(configs.to_dict(config)))
        return _session(path, config, ledger, workers, on_progress)


def resume(path: Path | str, workers: int = 0, on_progress: OnProgress = lambda snapshot: None) -> Run:
    """Continues an interrupted or killed run to the result that it would have had.

    Raises:
        LedgerError: no run there, or it is damaged. ConfigError: it cannot be continued with this installation.
    """
    path = Path(path)
    with Ledger.open(path / LEDGER) as ledger:
        run = ledger.run()
        config = configs.from_dict(SearchConfig, run.config)
        if run.status == "finished":
            return Run(path)
        for name, version in run.versions["tasks"].items():
            if (now := tasks.get(name).version) != version:
                raise ConfigError(
                    f"task {name} is version {now} here and {version} in the run: results would not be comparable; start a new run"
                )
        if run.versions["format"] != FORMAT:
            raise ConfigError(f"the run has format {run.versions['format']}, this stepsmith {FORMAT}; start a new run")
        return _session(path, config, ledger, workers, on_progress)


def runs(folder: Path | str = "runs") -> list[Run]:
    """The runs below a folder, by name."""
    folder = Path(folder)
    return [Run(path.parent) for path in sorted(folder.glob(f"*/{LEDGER}"))]


def _session(path: Path, config: SearchConfig, ledger: Ledger, workers: int, on_progress: OnProgress) -> Run:
    known = ledger.run().versions
    yardsticks = {name: Yardstick(*values) for name, values in known["yardsticks"].items()}
    initial = Program.from_json(known["initial"])
    spec = WorkerSpec(config.tasks, config.schedule, prune(initial).to_json(), config.memory_limit_mb)
    with WorkerPool(spec, workers or _cores()) as pool:
        pool.wait_until_ready()
        coordinator = Coordinator(config, _strategy(config, initial), ledger, pool, yardsticks, known["tasks"])
        with _interruptible(coordinator):
            coordinator.run(on_progress)
    run = Run(path)
    if run.hall_of_fame():
        (path / BEST).write_text(run.export())
    return run


def _strategy(config: SearchConfig, initial: Program) -> Strategy:
    if config.strategy == "random_search":
        return random_search(initial, config.mutation)
    return regularized_evolution(initial, config.evolution, config.mutation)


def _reference(name: str) -> reference.Reference:
    return reference.stored_or_measured(tasks.get(name))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fresh_path() -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidates = (Path("runs") / name for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 100))))
    return next(path for path in candidates if not path.exists())


@contextmanager
def _interruptible(coordinator: Coordinator) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the session cleanly; a second Ctrl-C ends it at once (nothing committed is lost)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if coordinator.stopping:
            raise KeyboardInterrupt
        coordinator.stopping = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
