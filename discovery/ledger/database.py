"""Opening the database: SQLite from a path, any other from its URL, checked and migrated, its errors in one line."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ..language.message import one_line
from .models import metadata

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_SECONDS = 30.0  # a reader may hold a lock for the moment of a checkpoint
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


class LedgerError(ValueError):
    """The ledger cannot be opened, read or written; the message says which one and why, in one line."""


@contextmanager
def one_line_errors(doing: str) -> Iterator[None]:
    """Turns the database's errors into a `LedgerError` that says what was being done, with the original as its cause."""
    try:
        yield
    except (LedgerError, SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise LedgerError(one_line(f"{doing}: {lines[0]}")) from error


def parse_location(path_or_url: str | Path) -> URL:
    """The URL of a ledger given as a path to an SQLite file or as an SQLAlchemy URL."""
    if isinstance(path_or_url, Path) or "://" not in path_or_url:
        return URL.create("sqlite", database=str(path_or_url))
    try:
        url = make_url(path_or_url)
    except ArgumentError as error:
        # The URL may hold a password, so the message does not repeat it.
        raise LedgerError("a ledger is a path or a URL such as postgresql://user@host/name; this URL cannot be parsed") from error
    backend = url.get_backend_name()
    if backend not in _DRIVERS:
        raise LedgerError(f"a ledger lives in {' or '.join(_DRIVERS)}, not in {backend!r}")
    return url.set(drivername=_DRIVERS[backend]) if url.drivername == backend else url


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite ledger, None for a database server."""
    if url.get_backend_name() != "sqlite":
        return None
    if url.database in (None, "", ":memory:"):
        raise LedgerError("a ledger must outlive its process: give the path of a file, not an SQLite database in memory")
    return Path(url.database)


def connect(url: URL) -> Engine:
    """An engine for the URL; SQLite gets its write-ahead log and real transactions."""
    try:
        if sqlite_file(url) is None:
            return create_engine(url)
        engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    except ImportError as error:
        raise LedgerError(f"{url.drivername} needs a driver: pip install 'stepsmith[postgres]' ({error})") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Python's sqlite3 begins a transaction before the first INSERT only, so reads would see different moments and
    # migrations would not roll back; without an isolation level it leaves BEGIN to us.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def fold_log(engine: Engine) -> None:
    """Moves SQLite's write-ahead log into the file, which can then be read without it."""
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()


def check_intact(connection: Connection) -> None:
    """Raises if SQLite finds its file damaged (a server looks after its own files)."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise LedgerError(f"damaged file: {' '.join(str(found).split())}")


def current_revision(connection: Connection) -> str | None:
    """The revision of the database's schema, None where Alembic never ran."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection, target: str = "head") -> None:
    """Brings the schema to the newest revision (or a target), inside the connection's transaction; does nothing if it is there."""
    config = Config(attributes={"connection": connection, "metadata": metadata})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))  # % interpolates there
    scripts = ScriptDirectory.from_config(config)
    revision = current_revision(connection)
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise LedgerError(f"its schema {revision!r} comes from a newer stepsmith (known: {', '.join(sorted(known))}); upgrade stepsmith")
    if revision != scripts.get_current_head():
        command.upgrade(config, target)
