"""Ctrl-C and SIGTERM as a request that a loop reads, so that it ends where it can go on from."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """Whether the session is to end; set from a signal handler."""

    requested: bool = False


@contextmanager
def interruptible() -> Iterator[Stop]:
    """While it lasts, Ctrl-C and SIGTERM only make the request; a second one ends the session at once, as KeyboardInterrupt.

    Outside the main thread, which alone may handle signals, nothing is ever requested.

    >>> with interruptible() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stop.requested
    True
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
