"""Searches from Python: `search` starts one, `resume` continues one."""

import contextlib
import dataclasses
import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tomli_w

from ..schedules import registry as schedules
from ..tasks import registry as tasks
from . import config as configs
from . import failpoints
from .config import FORMAT, ConfigError, SearchConfig
from .coordinator import Coordinator, check_one_moment
from .counters import Counters, Snapshot
from .evaluate import Devices, Place, WorkerPool, WorkerSpec, Yardstick, yardstick
from .evaluate.rates import base_factors
from .interrupt import interruptible
from .language import SCHEDULE, Program, extended_operations, holds_schedule, is_live, load, prune, schedule_names, with_schedule
from .ledger import Ledger, LedgerError, locked
from .run import BEST, LEDGER, LOCK, Run, check_search
from .search import Strategy, constants_only, random_search, regularized_evolution
from .selection.baselines import baselines
from .selection.funnel import Progress, refuse_final, select
from .selection.result import FOLDER as SELECTION

CONFIG = "config.toml"
COLLECTED_AFTER = 50_000  # objects; by default 700, which took 3 % of a search's own time

OnProgress = Callable[[Snapshot], None]


def search(
    config: SearchConfig,
    path: Path | str | None = None,
    workers: int = 0,
    on_progress: OnProgress = lambda snapshot: None,
    devices: Devices = Devices(),
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
    config = config.check().resolved()
    initial, rule = _programs(config)
    pruned = prune(initial)
    if len(pruned.states) > config.mutation.max_states:
        raise ConfigError(
            f"initial {config.initial!r} carries {len(pruned.states)} states, mutation.max_states allows {config.mutation.max_states}; "
            "start from a smaller one, such as lion or sgd"
        )
    if config.language == "paper" and (used := extended_operations(initial)):
        raise ConfigError(f"initial {config.initial!r} uses {', '.join(used)}, which the language paper has not; set language to extended")
    baselines(config.selection.baselines, {path.name: initial})  # all are of one kind
    schedules.get(config.schedule)
    refuse_final([*config.tasks, *(name for level in (*config.selection.levels, config.selection.validation) for name in level.tasks)])
    places = _places(config, devices, workers, "cpu")
    versions = {name: tasks.get(name).version for name in config.tasks}
    yardsticks = {name: list(yardstick(name)) for name in config.tasks}
    known = {"tasks": versions, "yardsticks": yardsticks, "format": FORMAT, "initial": initial.to_json()}
    known |= {"platform": places[0].platform, "batch": devices.batch}
    if rule is not None:
        known |= {"rule": rule.to_json(), "base_factors": base_factors(rule, config.tasks)}
    with locked(path / LOCK), Ledger.create(path / LEDGER, path.name, configs.to_dict(config), known) as ledger:
        _session(path, config, ledger, places, devices.batch, on_progress)
    return _selected(path, config, places, on_progress)


def _programs(config: SearchConfig) -> tuple[Program, Program | None]:
    """Where a search starts, and the rule that schedules are tried with."""
    initial = load(config.initial)
    if (initial.kind == SCHEDULE) != (config.kind == "schedule"):
        mend = "; for schedules set kind to schedule" if initial.kind == SCHEDULE else f"; shipped are {', '.join(schedule_names())}"
        raise ConfigError(
            f"initial {config.initial!r} is of kind {initial.kind}, which a search of kind {config.kind} cannot start from{mend}"
        )
    if not is_live(initial):
        what = (
            "its multiplier depends neither on the time nor on what a schedule may observe"
            if initial.kind == SCHEDULE
            else "the gradient does not reach its update"
        )
        raise ConfigError(f"initial {config.initial!r}: {what}")
    if config.kind == "joint" and not holds_schedule(initial):
        initial = with_schedule(initial, load("linear"))
    if config.kind != "schedule":
        return initial, None
    rule = load(config.rule)
    if rule.kind == SCHEDULE or not is_live(rule):
        raise ConfigError(f"rule {config.rule!r} is no update rule that the gradient reaches")
    with_schedule(rule, initial)
    return initial, rule


def resume(
    path: Path | str,
    workers: int = 0,
    on_progress: OnProgress = lambda snapshot: None,
    devices: Devices = Devices(),
) -> Run:
    """Continues an interrupted or killed run to the result that it would have had, on the device that it began on, in its batches.

    On another one or in others (`devices`), or with other versions, a deterministic run goes on too; its events and a warning say
    what changed.

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
        check_search(path, run)
        config = configs.from_dict(SearchConfig, run.config)
        places = _places(config, devices, workers, run.versions.get("platform", "cpu"))
        if run.status == "finished":
            _write_files(path, config)  # it may have been killed between its last commit and these
            return _selected(path, config, places, on_progress)
        for name, version in run.versions["tasks"].items():
            if (now := tasks.get(name).version) != version:
                raise ConfigError(
                    f"task {name} is version {now} here and {version} in the run: results would not be comparable; start a new run"
                )
        if run.versions["format"] != FORMAT:
            raise ConfigError(f"the run has format {run.versions['format']}, this stepsmith {FORMAT}; start a new run")
        check_one_moment(ledger)
        _session(path, config, ledger, places, devices.batch or run.versions.get("batch", 0), on_progress)
    return _selected(path, config, places, on_progress)


def refresh(path: Path | str) -> None:
    """Writes the files beside a run's ledger anew, after a selection in its folder."""
    with locked(Path(path) / LOCK):
        _write_files(Path(path), Run(path).config())


def _places(config: SearchConfig, devices: Devices, workers: int, usual: str) -> tuple[Place, ...]:
    """Where the workers run; `usual` is the device of auto."""
    device = usual if devices.device == "auto" else devices.device
    if device != "cpu" and devices.cpu_workers > 0 and config.mode == "deterministic":
        raise ConfigError(f"cpu_workers beside a {device} need mode async: the two differ in the last bits of a result")
    return dataclasses.replace(devices, device=device).places(workers, batches=True)


def _session(path: Path, config: SearchConfig, ledger: Ledger, places: tuple[Place, ...], batch: int, on_progress: OnProgress) -> None:
    known = ledger.run().versions
    yardsticks = {name: Yardstick(*values) for name, values in known["yardsticks"].items()}
    initial = Program.from_json(known["initial"])
    extended = config.language == "extended" or bool("rule" in known and extended_operations(Program.from_json(known["rule"])))
    inside = (prune(initial).to_json(), config.memory_limit_mb, extended)
    held = {name: known[name] for name in ("rule", "base_factors") if name in known}
    runs = config.in_flight * config.seeds_per_task * len(config.learning_rate_factors)
    at_once = {"batch": batch, "in_flight": runs, "fixed_batch": config.mode == "deterministic"}
    spec = WorkerSpec(config.tasks, known["yardsticks"], config.schedule, *inside, **held, **at_once)
    try:
        _write(path / CONFIG, tomli_w.dumps(configs.to_dict(config)))
        with interruptible() as stop, WorkerPool(spec, places) as pool, _imports_frozen():
            pool.wait_until_ready(lambda: stop.requested)
            strategy = _strategy(config, initial)
            coordinator = Coordinator(config, strategy, ledger, pool, yardsticks, known["tasks"], lambda: stop.requested)
            coordinator.run(on_progress)
        _write_files(path, config)
    except LedgerError as error:
        raise LedgerError(f"{error}; what was committed is kept, continue with: stepsmith resume {path}") from error


@contextlib.contextmanager
def _imports_frozen() -> Iterator[None]:
    """Keeps the garbage collector off what is imported by now, and calls it seldom: programs are many objects and no cycles."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _selected(path: Path, config: SearchConfig, places: tuple[Place, ...], on_progress: OnProgress) -> Run:
    """The run, with its finalists selected from where it has finished and its config asks for that."""
    run = Run(path)
    if not config.selection.asked or (status := run.status())["status"] != "finished":
        return run
    counters = Counters(**{name: status[name] for name in Counters._fields})

    def show(progress: Progress) -> None:
        note = f"{progress.level}: {progress.done} of {progress.total} programs"
        share = progress.done / max(progress.total, 1)
        on_progress(Snapshot("selecting", progress.seconds, share, counters, 0.0, {}, (), status["restarts"], note))

    select([run.source(config.selection)], config.selection, path / SELECTION, places, show)
    _write_files(path, config)
    return run


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
    extended = config.language == "extended"
    if config.strategy == "random_search":
        return random_search(initial, config.mutation, extended)
    evolution = constants_only if config.strategy == "constants_only" else regularized_evolution
    return evolution(initial, config.evolution, config.mutation, extended)


def _fresh_path() -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidates = (Path("runs") / name for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 100))))
    return next(path for path in candidates if not path.exists())
