"""One writer a run: a lock that the system takes back when its process ends, however it ends.

It guards a run's folder, whose ledger is SQLite; a ledger on PostgreSQL that is opened by hand through `Ledger` has none.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .database import LedgerError

_PATIENCE = 1.0  # seconds; `is_locked` of another process holds the lock for a moment


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock at a path, which is made with its folder; the file stays behind, empty.

    Raises:
        LedgerError: another session holds it, or it cannot be made.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.lock"
    >>> with locked(path):
    ...     is_locked(path)
    True
    >>> is_locked(path)
    False
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise LedgerError(f"cannot lock the run {path.parent}: {error.strerror}: {error.filename}") from error
    try:
        if not _acquired(descriptor, time.monotonic() + _PATIENCE):
            raise LedgerError(f"the run {path.parent} is in use by another search or resume; wait until it ends, or stop it")
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a live session holds the lock at a path."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # never locked, or not for us to see
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _acquired(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
