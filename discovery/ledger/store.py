"""`Ledger`: one database a run, one transaction a step."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Table, bindparam, insert, update
from sqlalchemy.dialects import postgresql, sqlite

from .. import failpoints
from . import models, queries
from .database import (
    LedgerError,
    check_intact,
    connect,
    current_revision,
    fold_log,
    one_line_errors,
    parse_location,
    sqlite_file,
    upgrade,
)
from .intact import check_rows
from .models import BirthRow, EvaluationRow, EventRow, RunRow, Step

_P = ParamSpec("_P")
_T = TypeVar("_T")

_INSERT_OR_SKIP = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_MAY_BE_NONFINITE = frozenset({"fitness", "loss", "error"})
_BIRTHS = insert(models.birth)
_EVENTS = insert(models.event)
_TOLD = (
    update(models.birth)
    .where(models.birth.c.index == bindparam("birth_"))
    .values(told=bindparam("order_"), fitness=bindparam("fitness_"), status=bindparam("status_"), cached=bindparam("cached_"))
)


class Ledger:
    """The record of one search.

    Args to `create` and `open`: the path of an SQLite file, or an SQLAlchemy URL (`postgresql://...`) of a database that
    holds this run alone. All methods raise `LedgerError` if the database cannot be read or written.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "ledger.sqlite"
    >>> with Ledger.create(path, "demo", config={}, versions={}) as ledger:
    ...     ledger.commit(Step(outcomes=[models.OutcomeRow("a1", float("nan"), "nonfinite", "[]")], state={"births": 1}))
    ...     ledger.outcomes(), ledger.state()
    ({'a1': ('nonfinite', ())}, {'births': 1})
    """

    def __init__(self, engine: Engine, location: str):
        self._engine = engine
        self._location = location
        insert_or_skip = _INSERT_OR_SKIP[engine.dialect.name]
        self._programs = insert_or_skip(models.program).on_conflict_do_nothing()
        self._evaluations = insert_or_skip(models.evaluation).on_conflict_do_nothing()
        outcomes = insert_or_skip(models.outcome)
        newest = {name: outcomes.excluded[name] for name in ("fitness", "status", "scores")}
        self._outcomes = outcomes.on_conflict_do_update(index_elements=["hash"], set_=newest)
        self._levels = insert_or_skip(models.level).on_conflict_do_nothing()
        self._trials = insert_or_skip(models.trial).on_conflict_do_nothing()

    @classmethod
    def create(cls, path_or_url: str | Path, name: str, config: Mapping[str, Any], versions: Mapping[str, Any]) -> "Ledger":
        """Makes a new ledger with status `running`; an existing one is never overwritten."""
        url = parse_location(path_or_url)
        file = sqlite_file(url)
        location = str(file or url.render_as_string(hide_password=True))
        row = {"id": 1, "name": name, "config": json.dumps(config), "versions": json.dumps(versions)}
        with one_line_errors(f"cannot create the ledger {location}"):
            with _new_file(file), _open_engine(url) as engine:
                with engine.begin() as connection:
                    upgrade(connection)
                    if queries.read_run(connection) is not None:
                        raise LedgerError("it holds a run already; resume it, or choose another database")
                    connection.execute(insert(models.run), row | {"created": time.time(), "status": "running", "elapsed": 0.0})
                    connection.execute(insert(models.search_state), {"run": 1, "state": "{}"})
                fold_log(engine)
            return cls(engine, location)

    @classmethod
    def open(cls, path_or_url: str | Path) -> "Ledger":
        """Opens a ledger, checks that it is whole, and migrates it if an older stepsmith wrote it."""
        url = parse_location(path_or_url)
        file = sqlite_file(url)
        location = str(file or url.render_as_string(hide_password=True))
        if file is not None and not file.is_file():
            raise LedgerError(f"there is no ledger at {location}")
        if file is not None and file.stat().st_size == 0:  # opening it would make a database of it
            raise LedgerError(
                f"cannot open the ledger {location}: it is not a stepsmith ledger, the file is empty; delete it and start again"
            )
        with one_line_errors(f"cannot open the ledger {location}"):
            with _open_engine(url) as engine, engine.begin() as connection:
                _check(connection)
            return cls(engine, location)

    def commit(self, step: Step) -> None:
        """Writes a step, all of it or nothing. Programs, evaluations, trials and levels that are there already stay."""
        with one_line_errors(f"cannot write to the ledger {self._location}"), self._engine.begin() as connection:
            _execute(connection, self._programs, _rows(models.program, step.programs))
            _execute(connection, _BIRTHS, _rows(models.birth, step.births))
            _tell(connection, step.told)
            _execute(connection, self._evaluations, _rows(models.evaluation, step.evaluations))
            _execute(connection, self._outcomes, _rows(models.outcome, step.outcomes))
            _execute(connection, self._trials, _rows(models.trial, step.trials))
            _execute(connection, self._levels, _rows(models.level, step.levels))
            _execute(connection, _EVENTS, [dict(zip(EventRow._fields, row, strict=True)) for row in step.events])
            failpoints.reached("commit.inside")
            _update_run(connection, step)
            failpoints.reached("checkpoint")

    def run(self) -> RunRow:
        """Name, config, versions, status and elapsed seconds of the run."""
        found = self._read(queries.read_run)
        assert found is not None  # create wrote it, open checked it
        return found

    def state(self) -> dict[str, Any]:
        """The search's state at the last commit that carried one; empty before it."""
        return self._read(queries.state)

    def outcomes(self) -> dict[str, tuple[str, tuple[float, ...]]]:
        """Canonical hash -> (status, fitness on each block of seeds)."""
        return self._read(queries.outcomes)

    def births(self) -> list[BirthRow]:
        """All births, by index."""
        return self._read(queries.births)

    def programs(self) -> list[models.ProgramRow]:
        """All distinct programs, by hash."""
        return self._read(queries.programs)

    def best(self, num: int = 1) -> list[queries.Best]:
        """The `num` fittest programs, lowest fitness first, ties by hash; only those with status ok."""
        return self._read(queries.best, num)

    def counts(self) -> queries.Counts:
        """How many births, told births, programs, evaluations, cached births, and outcomes by status."""
        return self._read(queries.counts)

    def events(self) -> list[EventRow]:
        """All events, oldest first."""
        return self._read(queries.events)

    def lineage(self, birth: int) -> list[BirthRow]:
        """The ancestors of a birth, its parent first, the seed program last."""
        return self._read(queries.lineage, birth)

    def evaluations(self, program_hash: str) -> list[EvaluationRow]:
        """The training runs of a program, by task and seed."""
        return self._read(queries.evaluations, program_hash)

    def front(self) -> list[queries.Best]:
        """The programs that no other one beats in fitness, statements, states and operations alike, best fitness first."""
        return self._read(queries.front)

    def levels(self) -> list[models.LevelRow]:
        """What the funnel found, by level and hash."""
        return self._read(queries.levels)

    def trials(self) -> list[models.TrialRow]:
        """The trials of a comparison, by entry, workload and number."""
        return self._read(queries.trials)

    def digest(self) -> str:
        """SHA-256 that two runs of the same search share: lineage, statuses, fitness and losses, but no times."""
        return self._read(queries.digest)

    def close(self) -> None:
        """Closes the database; SQLite then folds its write-ahead log into the file."""
        self._engine.dispose()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, query: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with one_line_errors(f"cannot read the ledger {self._location}"), self._engine.begin() as connection:
            return query(connection, *args, **kwargs)


@contextmanager
def _open_engine(url: Any) -> Iterator[Engine]:
    """The engine of the URL, closed again if what follows fails."""
    engine = connect(url)
    try:
        yield engine
    except BaseException:
        engine.dispose()
        raise


@contextmanager
def _new_file(file: Path | None) -> Iterator[None]:
    """Makes the file, and takes it away again if what follows fails: no half-made ledger stays on a full disk."""
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        raise LedgerError("it exists already; resume that run, or choose another name") from None
    try:
        yield
    except BaseException:
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        raise


def _check(connection: Connection) -> None:
    check_intact(connection)
    # Someone else's database is not migrated, so this comes first.
    if current_revision(connection) is None:
        raise LedgerError("it is not a stepsmith ledger (no schema revision in it)")
    upgrade(connection)
    check_rows(connection)
    if queries.read_run(connection) is None:
        raise LedgerError("it holds no run, its creation was cut off; delete it and start again")


def _execute(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(statement, rows)


def _rows(table: Table, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    names = table.columns.keys()
    named = [dict(zip(names, row, strict=True)) for row in rows]
    for number in _MAY_BE_NONFINITE.intersection(names):
        for row in named:
            row[number] = _finite(row[number])
    return named


def _finite(value: float | None) -> float | None:
    """A Python float, None for nan and infinities; + 0.0 turns -0.0, which SQLite would not keep, into 0.0."""
    return float(value) + 0.0 if value is not None and isfinite(value) else None


def _tell(connection: Connection, told: Sequence[tuple[Any, ...]]) -> None:
    if not told:
        return
    rows = [
        {"birth_": birth, "order_": order, "fitness_": _finite(fitness), "status_": status, "cached_": cached}
        for birth, order, fitness, status, cached in told
    ]
    found = connection.execute(_TOLD, rows).rowcount
    if connection.dialect.supports_sane_multi_rowcount and found != len(rows):
        raise LedgerError(f"{len(rows) - found} of {len(rows)} told births were never recorded as born")


def _update_run(connection: Connection, step: Step) -> None:
    changed = {name: value for name in ("elapsed", "status") if (value := getattr(step, name)) is not None}
    changed |= {name: json.dumps(value) for name in ("config", "versions") if (value := getattr(step, name)) is not None}
    if changed:
        connection.execute(update(models.run), changed)
    if step.state is not None:
        connection.execute(update(models.search_state), {"state": json.dumps(step.state)})
