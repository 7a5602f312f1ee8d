"""Ctrl-C and SIGTERM as a wish that a session looks at between two results."""

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
    """Ctrl-C and SIGTERM end the session cleanly; a second Ctrl-C ends it at once (nothing committed is lost).

    Outside the main thread, where Python has no signal handlers, nothing ever asks for the end.
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
