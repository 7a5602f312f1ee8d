"""How a running search looks: a live table on a terminal, plain lines in a pipe."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..counters import Snapshot
from ..language import operations
from ..search.hall_of_fame import Entry

PREPARING = "preparing: each worker compiles the tasks once"
PLAIN_SECONDS = 10.0  # between two plain lines


class View(Protocol):
    """Is called with each snapshot."""

    def __call__(self, snapshot: Snapshot) -> None: ...


@contextmanager
def view(console: Console, budget: str) -> Iterator[View]:
    """The view that fits the console; used while a search runs."""
    if console.is_terminal:
        with Live(Text(PREPARING), console=console, refresh_per_second=2, transient=True) as live:
            yield lambda snapshot: live.update(render(snapshot, budget))
    else:
        console.print(PREPARING)
        yield _Plain()


@contextmanager
def counted(console: Console, what: str, silent: bool = False) -> Iterator[Callable[[int, int, float], None]]:
    """Shows how many of many are done: a bar on a terminal, plain lines in a pipe."""
    if silent:
        yield lambda done, total, seconds: None
    elif console.is_terminal:
        columns = (TextColumn("{task.completed} of {task.total} " + what), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            row = progress.add_task(what, total=None)
            yield lambda done, total, seconds: progress.update(row, completed=done, total=total)
    else:
        yield _Counted(what)


class _Counted:
    def __init__(self, what: str) -> None:
        self._what, self._last = what, -math.inf

    def __call__(self, done: int, total: int, seconds: float) -> None:
        if time.monotonic() - self._last >= PLAIN_SECONDS or done == total:
            self._last = time.monotonic()
            sys.stdout.write(f"{seconds_text(seconds)}  {done} of {total} {self._what}\n")
            sys.stdout.flush()


def seconds_text(seconds: float) -> str:
    """A duration for people.

    >>> seconds_text(75.0)
    '1m15s'
    """
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = int(seconds) // 60
    return f"{minutes}m{int(seconds) % 60:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def summary(snapshot: Snapshot) -> str:
    """One line."""
    if snapshot.note:
        return f"{seconds_text(snapshot.elapsed)} {snapshot.share:4.0%}  {snapshot.note}"
    counters = snapshot.counters
    best = f"best {fitness_text(snapshot.hall_of_fame[0])}" if snapshot.hall_of_fame else "no result yet"
    failed = sum(snapshot.failures.values())
    restarts = f", {snapshot.restarts} restarts" if snapshot.restarts else ""
    return (
        f"{seconds_text(snapshot.elapsed)} {snapshot.share:4.0%}  {counters.evaluated} programs evaluated, {snapshot.rate:.0f}/s, "
        f"{savings_text(counters.savings, counters.speedups)}, failed {failed}{restarts}, {best} (AdamW tuned: 0)"
    )


def savings_text(savings: Mapping[str, float], speedups: Mapping[str, float]) -> str:
    """What abstract execution found, how many times the work that saves, and the hits if children that change nothing were born.

    >>> from stepsmith.discovery.counters import Counters
    >>> counters = Counters(told=10, cached=5, rejected=10, neutral=15, statements=100, redundant=60)
    >>> savings_text(counters.savings, counters.speedups)
    'invalid 50% (2.0x), redundant 60% (2.5x), cache hits 50% (2.0x; 80% with neutral children)'
    """
    invalid, redundant, hits = (f"{savings[name]:.0%} ({speedups[name]:.1f}x" for name in ("invalid", "redundant", "cached"))
    return f"invalid {invalid}), redundant {redundant}), cache hits {hits}; {savings['cached_with_neutral']:.0%} with neutral children)"


def fitness_text(entry: Entry) -> str:
    """The fitness with its standard error where it was measured on several blocks of seeds."""
    error = entry.outcome.error
    return f"{entry.fitness:+.3f}" + ("" if error is None else f" +- {error:.3f}")


def render(snapshot: Snapshot, budget: str) -> Group:
    """The live table."""
    bar = Padding(ProgressBar(total=1.0, completed=snapshot.share, width=60), (0, 0))
    if snapshot.note:
        return Group(Text(snapshot.phase, style="bold"), bar, Text(summary(snapshot)))
    table = Table(title="hall of fame (fitness: tuned AdamW is 0, lower is better)", title_justify="left", expand=False)
    tasks = list(snapshot.hall_of_fame[0].losses) if snapshot.hall_of_fame else []
    for column in ("rank", "fitness", *(f"{task} loss" for task in tasks), "statements", "states", "operations", "program"):
        table.add_column(column, justify="right" if column != "program" else "left")
    for rank, entry in enumerate(snapshot.hall_of_fame[:10], 1):
        losses = [f"{entry.losses[task]:.4f}" for task in tasks]
        program = entry.program
        sizes = (len(program.statements), len(program.states), operations(program))
        table.add_row(str(rank), fitness_text(entry), *losses, *map(str, sizes), entry.hash[:8])
    title = {"searching": f"searching, budget {budget}", "finalists": "scoring the finalists on new seeds", "done": "done"}[snapshot.phase]
    return Group(Text(title, style="bold"), bar, Text(summary(snapshot)), table)


class _Plain:
    """One line now and then, flushed, so that a log file can be followed."""

    def __init__(self) -> None:
        self._last = 0.0
        self._phase = ""

    def __call__(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        placed = snapshot.note and snapshot.share == 1  # a level's last program
        if now - self._last < PLAIN_SECONDS and snapshot.phase == self._phase and not placed:
            return
        self._last, self._phase = now, snapshot.phase
        sys.stdout.write(f"{snapshot.phase}: {summary(snapshot)}\n")
        sys.stdout.flush()
