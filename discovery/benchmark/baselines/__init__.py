"""Trials of optax's rules on the base workloads, committed so that a comparison only runs its own entries.

trials.csv.gz holds one row a trial with the fields of `ledger.TrialRow`; EXPERIMENTS.md has the command, the date and the cost.
"""

import csv
import functools
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...ledger import TrialRow

PATH = Path(__file__).with_name("trials.csv.gz")


def rows(versions: Mapping[str, str], trials: int) -> list[TrialRow]:
    """The trials that ran on these versions, of entries that have at least so many of them on every workload.

    Args:
        versions: workload -> its version here.
        trials: of each entry on each workload.
    """
    fitting = [row for row in _all() if versions.get(row.workload) == row.version and row.trial < trials]
    counts: dict[str, int] = {}
    for row in fitting:
        counts[row.entry] = counts.get(row.entry, 0) + 1
    return [row for row in fitting if counts[row.entry] == trials * len(versions)]


def entries() -> set[str]:
    """All that have trials, of whatever version."""
    return {row.entry for row in _all()}


def write(found: Sequence[TrialRow], path: Path = PATH) -> None:
    """Writes trials, those of earlier versions and equal entries replaced; the same rows give the same bytes."""
    replaced = {(row.entry, row.workload) for row in found}
    kept = [row for row in (_all() if path == PATH else ()) if (row.entry, row.workload) not in replaced]
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TrialRow._fields)
        writer.writerows(row._replace(seconds=f"{row.seconds:.6g}") for row in sorted([*kept, *found]))
    _all.cache_clear()


@functools.cache
def _all() -> tuple[TrialRow, ...]:
    if not PATH.exists():
        return ()
    with gzip.open(PATH, "rt", encoding="utf-8", newline="") as file:
        return tuple(_row(cells) for cells in csv.DictReader(file))


def _row(cells: Mapping[str, str]) -> TrialRow:
    numbers = {"trial": int, "seed": int, "steps": int, "seconds": float}
    return TrialRow(**{name: numbers.get(name, str)(cells[name]) for name in TrialRow._fields})
