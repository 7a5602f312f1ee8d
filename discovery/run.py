"""Runs from Python: `search` starts one, `resume` continues one, `Run` reads one."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w

from ..schedules import registry as schedules
from ..tasks import reference
from ..tasks import registry as tasks
from . import config as configs
from . import failpoints
from .benchmark.workloads import is_final
from .config import ConfigError, SearchConfig
from .coordinator import Coordinator, Counters, Snapshot, check_one_moment
from .evaluate import Devices, Place, WorkerPool, WorkerSpec, Yardstick, plan
from .export import Provenance, to_optax
from .interrupt import interruptible
from .language import Program, depends_on_gradient, infer, load, parse, prune
from .ledger import Ledger, LedgerError, RunRow, is_locked, locked
from .search import Strategy, random_search, regularized_evolution

LEDGER = "ledger.sqlite"
CONFIG = "config.toml"
BEST = "best.py"
LOCK = "ledger.lock"  # held by the session that writes the run
FORMAT = "1"  # of the language, the canonical form and the seeds; part of what makes runs comparable

OnProgress = Callable[[Snapshot], None]
_log = logging.getLogger(__name__)


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
        run = self._read(lambda ledger: ledger.run())
        _check_search(self.folder, run)
        return configs.from_dict(SearchConfig, run.config)

    def status(self) -> dict[str, Any]:
        """Status (running, interrupted or finished), elapsed seconds and counts.

        A run is running while a session holds its lock: one that was killed is interrupted, whatever it wrote last.
        """
        running = is_locked(self.folder / LOCK)  # asked first: a session that ends meanwhile has written its status

        def read(ledger: Ledger) -> dict[str, Any]:
            run, counts, state = ledger.run(), ledger.counts(), ledger.state()
            return {
                "name": run.name,
                "status": run.status if run.status == "finished" else "running" if running else "interrupted",
                "elapsed": run.elapsed,
                **Counters()._asdict(),
                **counts,
                **state.get("counters", {}),
                "versions": run.versions,
            }

        return self._read(read)

    def hall_of_fame(self) -> list[Finalist]:
        """The best programs: by confirmed fitness where the run has finished, else by that of the search."""

        def read(ledger: Ledger) -> list[Finalist]:
            confirmed = dict(ledger.state().get("finalists", []))
            run = ledger.run()
            _check_search(self.folder, run)
            best = ledger.best(configs.from_dict(SearchConfig, run.config).finalists)
            best.sort(key=lambda b: (confirmed.get(b.hash, float("inf")), b.fitness, b.hash))
            return [Finalist(i + 1, b.hash, b.fitness, confirmed.get(b.hash), b.statements, b.text) for i, b in enumerate(best)]

        return self._read(read)

    def summary(self) -> dict[str, Any]:
        """One row of a list of runs; a ledger that cannot be read has the status damaged, and the reason is logged."""
        row = {"run": str(self.path), "kind": None, "status": "damaged", "seconds": None, "programs": None, "trials": None, "best": None}
        try:
            status = self.status()
            known = {"kind": status["versions"].get("kind", "search"), "status": status["status"], "seconds": round(status["elapsed"], 1)}
            if known["kind"] != "search":
                return row | known | {"trials": self._read(lambda ledger: len(ledger.trials()))}
            best = self.hall_of_fame()[:1]
        except ValueError as error:  # of the ledger, or of a config that this stepsmith does not know
            _log.warning("%s", error)
            return row
        score = (best[0].fitness if best[0].confirmed is None else best[0].confirmed) if best else None
        return row | known | {"programs": status["programs"], "best": score}

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
        return to_optax(best.program, name, Provenance(self._notes(best), metadata.version("stepsmith")))

    def exported(self) -> bool:
        """Whether best.py holds the best rule of now; the folder may have got another name since."""
        try:
            text = (self.folder / BEST).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return all(note in text for note in self._notes(self.best())[1:])

    def _notes(self, best: Finalist) -> tuple[str, ...]:
        config = self.config()
        score = best.fitness if best.confirmed is None else best.confirmed
        seeds = "new seeds" if best.confirmed is not None else "the search's seeds"
        return (
            f"run {self.folder.name}, rank {best.rank}: {config.strategy} from {config.initial}, seed {config.seed}",
            f"searched on {', '.join(config.tasks)}",
            f"fitness {score:.4f} on {seeds} (0 is tuned AdamW, lower is better)",
            f"program {best.hash}, {best.statements} statements",
        )

    def _read(self, query: Callable[[Ledger], Any]) -> Any:
        with Ledger.open(self.folder / LEDGER) as ledger:
            return query(ledger)


def search(
    config: SearchConfig,
    path: Path | str | None = None,
    workers: int = 0,
    on_progress: OnProgress = lambda snapshot: None,
    devices: Devices = Devices(),  # noqa: B008  # frozen
) -> Run:
    """Searches from the start.

    Args:
        config: what to search for.
        path: the run's folder, which must not hold a run yet; by default runs/ and a time stamp.
        workers: processes; 0 for one a core, or one a gpu or tpu. Does not change the result in deterministic mode.
        on_progress: called about twice a second.
        devices: what the workers run on. Before a search on a gpu set JAX_PLATFORMS=cpu for this process, so that it leaves the
            gpu's memory to the workers; the command does so.

    Returns:
        The finished run, or an interrupted one after Ctrl-C.

    Raises:
        ConfigError, ProgramError: settings that cannot be used. LedgerError: the folder cannot be written.
    """
    failpoints.armed()  # says at once what is wrong with it
    path = Path(path) if path is not None else _fresh_path()
    initial = load(config.check().initial)
    infer(initial)
    if not depends_on_gradient(prune(initial)):
        raise ConfigError(f"initial {config.initial!r}: the gradient does not reach its update")
    schedules.get(config.schedule)
    for name in config.tasks:
        if is_final(tasks.get(name)):
            raise ConfigError(f"task {name!r} is a final variant, which no search may train on; its NAME_meta is for selection")
    places = _places(config, devices, workers, "cpu")
    references = {name: _reference(name) for name in config.tasks}
    versions = {name: found.version for name, found in references.items()}
    yardsticks = {name: [found.log_loss, found.scale] for name, found in references.items()}
    platform = places[0].platform
    known = {"tasks": versions, "yardsticks": yardsticks, "format": FORMAT, "initial": initial.to_json(), "platform": platform}
    with locked(path / LOCK), Ledger.create(path / LEDGER, path.name, configs.to_dict(config), known) as ledger:
        return _session(path, config, ledger, places, on_progress)


def resume(
    path: Path | str,
    workers: int = 0,
    on_progress: OnProgress = lambda snapshot: None,
    devices: Devices = Devices(),  # noqa: B008  # frozen
) -> Run:
    """Continues an interrupted or killed run to the result that it would have had, on the device that it began on.

    On another one (`devices`), or with other versions, a deterministic run goes on too; its events and a warning say what changed.

    Raises:
        LedgerError: no run there, it is damaged, or another session writes it. ConfigError: it cannot be continued with this installation.
    """
    failpoints.armed()
    path = Path(path)
    with contextlib.ExitStack() as stack:
        if (path / LEDGER).is_file():  # else opening it says what is missing, and nothing is left behind
            stack.enter_context(locked(path / LOCK))
        ledger = stack.enter_context(Ledger.open(path / LEDGER))
        run = ledger.run()
        _check_search(path, run)
        config = configs.from_dict(SearchConfig, run.config)
        if run.status == "finished":
            _write_files(path, config)  # it may have been killed between its last commit and these
            return Run(path)
        for name, version in run.versions["tasks"].items():
            if (now := tasks.get(name).version) != version:
                raise ConfigError(
                    f"task {name} is version {now} here and {version} in the run: results would not be comparable; start a new run"
                )
        if run.versions["format"] != FORMAT:
            raise ConfigError(f"the run has format {run.versions['format']}, this stepsmith {FORMAT}; start a new run")
        check_one_moment(ledger)
        places = _places(config, devices, workers, run.versions.get("platform", "cpu"))
        return _session(path, config, ledger, places, on_progress)


def runs(folder: Path | str = "runs") -> list[Run]:
    """The runs below a folder, by name."""
    folder = Path(folder)
    return [Run(path.parent) for path in sorted(folder.glob(f"*/{LEDGER}"))]


def _check_search(path: Path, run: RunRow) -> None:
    if run.versions.get("kind") == "comparison":
        raise ConfigError(f"{path} holds a comparison; go on with its own command: stepsmith evaluate ... --run {path}")


def _places(config: SearchConfig, devices: Devices, workers: int, usual: str) -> tuple[Place, ...]:
    """Where the workers run; `usual` is the device of auto."""
    device = usual if devices.device == "auto" else devices.device
    if device != "cpu" and devices.cpu_workers > 0 and config.mode == "deterministic":
        raise ConfigError(f"cpu_workers beside a {device} need mode async: the two differ in the last bits of a result")
    return plan(device, workers, devices.cpu_workers, devices.memory_fraction)


def _session(path: Path, config: SearchConfig, ledger: Ledger, places: tuple[Place, ...], on_progress: OnProgress) -> Run:
    known = ledger.run().versions
    yardsticks = {name: Yardstick(*values) for name, values in known["yardsticks"].items()}
    initial = Program.from_json(known["initial"])
    spec = WorkerSpec(config.tasks, config.schedule, prune(initial).to_json(), config.memory_limit_mb)
    try:
        _write(path / CONFIG, tomli_w.dumps(configs.to_dict(config)))
        with interruptible() as stop, WorkerPool(spec, places) as pool:
            pool.wait_until_ready(lambda: stop.requested)
            strategy = _strategy(config, initial)
            coordinator = Coordinator(config, strategy, ledger, pool, yardsticks, known["tasks"], lambda: stop.requested)
            coordinator.run(on_progress)
        _write_files(path, config)
    except LedgerError as error:
        raise LedgerError(f"{error}; what was committed is kept, continue with: stepsmith resume {path}") from error
    return Run(path)


def _write_files(path: Path, config: SearchConfig) -> None:
    """What a run leaves beside its ledger, made from it."""
    _write(path / CONFIG, tomli_w.dumps(configs.to_dict(config)))
    run = Run(path)
    if run.hall_of_fame() and not run.exported():
        failpoints.reached("export")
        _write(path / BEST, run.export())


def _write(file: Path, text: str) -> None:
    """Replaces a file as a whole: whoever reads it sees the old text or the new one."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if file.read_text(encoding="utf-8") == text:
            return
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LedgerError(f"cannot write {file}: {error.strerror}") from error


def _strategy(config: SearchConfig, initial: Program) -> Strategy:
    if config.strategy == "random_search":
        return random_search(initial, config.mutation)
    return regularized_evolution(initial, config.evolution, config.mutation)


def _reference(name: str) -> reference.Reference:
    return reference.stored_or_measured(tasks.get(name))


def _fresh_path() -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidates = (Path("runs") / name for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 100))))
    return next(path for path in candidates if not path.exists())
