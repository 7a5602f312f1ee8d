"""Faults on purpose: what the search must survive, made to happen at a named step.

Off unless the environment variable STEPSMITH_FAILPOINT says ``NAME=ACTION@COUNT``, or ``NAME=ACTION@COUNT:MARKER``: the
action is taken when this process arrives at the step for the COUNT-th time. Workers count for themselves, each from 1. With a
MARKER, the path of a file that is made when the fault happens, it happens once in all processes and all sessions.

    STEPSMITH_FAILPOINT=commit.inside=kill@3 stepsmith search --budget 100 --run runs/killed; stepsmith resume runs/killed
"""

import functools
import os
import resource
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

VARIABLE = "STEPSMITH_FAILPOINT"

# The steps, in the order in which a search meets them.
COORDINATOR = (
    "ask",
    "submit",
    "receive",
    "tell",
    "commit.before",
    "commit.inside",  # rows are written, the search's state is not
    "checkpoint",  # the state too; only COMMIT is missing
    "commit.after",
    "finalists",
    "export",
)
WORKER = ("worker.start", "worker.receive", "worker.evaluate", "worker.send")
ACTIONS = {  # action -> where it can happen
    "kill": (*COORDINATOR, *WORKER),  # SIGKILL
    "abort": (*COORDINATOR, *WORKER),  # what a failed assertion of a C++ library does
    "hang": (*COORDINATOR, *WORKER),  # inside a compiled loop that never ends
    "allocate": ("worker.evaluate",),  # more than any memory limit
    "duplicate": ("worker.send",),  # the result is sent twice
    "late": ("worker.send",),  # the result is sent again after the next one
}


class FailpointError(ValueError):
    """The variable asks for something that there is not; says what there is."""


class Failpoint(NamedTuple):
    """One fault."""

    name: str
    action: str
    arrival: int
    marker: Path | None

    @staticmethod
    def parse(text: str) -> "Failpoint":
        """Reads ``NAME=ACTION@COUNT:MARKER``.

        Raises:
            FailpointError: another form, or a name, an action or a count that there is not.

        >>> Failpoint.parse("tell=kill@3").arrival
        3
        """
        name, _, rest = text.partition("=")
        action, _, rest = rest.partition("@")
        count, _, marker = rest.partition(":")
        if name not in (*COORDINATOR, *WORKER):
            raise FailpointError(f"{VARIABLE}: unknown step {name!r}; there are {', '.join((*COORDINATOR, *WORKER))}")
        if action not in ACTIONS:
            raise FailpointError(f"{VARIABLE}: unknown action {action!r}; there are {', '.join(ACTIONS)}")
        if name not in ACTIONS[action]:
            raise FailpointError(f"{VARIABLE}: {action} happens at {', '.join(ACTIONS[action])} only, not at {name}")
        if not (count.isascii() and count.isdecimal() and 0 < int(count) < 10**9):
            raise FailpointError(f"{VARIABLE}: {text!r} has no count from 1; the form is NAME=ACTION@COUNT or NAME=ACTION@COUNT:MARKER")
        return Failpoint(name, action, int(count), Path(marker) if marker else None)


@functools.cache
def armed() -> Failpoint | None:
    """The fault that this process is to meet; read once.

    Raises:
        FailpointError: the variable cannot be understood.
    """
    text = os.environ.get(VARIABLE)
    return Failpoint.parse(text) if text else None


_arrivals = 0


def reached(name: str) -> str | None:
    """Says that a step is reached; the fault happens here if it is due.

    Returns:
        An action that the caller must take itself (duplicate, late), None otherwise.
    """
    global _arrivals
    point = armed()
    if point is None or point.name != name:
        return None
    _arrivals += 1
    if _arrivals != point.arrival or not _first(point.marker):
        return None
    if (act := _HERE.get(point.action)) is None:
        return point.action
    act()
    return None


def _first(marker: Path | None) -> bool:
    """Makes the marker; False if the fault has happened already."""
    if marker is None:
        return True
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _abort() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # leaves no file behind
    os.abort()


def _hang() -> None:
    jax.block_until_ready(jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 2.0, lambda x: x * 0.5 + 0.5, x))(0.0))


def _allocate() -> None:
    jnp.zeros((2**20, 2**20)).block_until_ready()  # 4 TiB


_HERE = {"kill": _kill, "abort": _abort, "hang": _hang, "allocate": _allocate}
