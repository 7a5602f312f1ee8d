"""Injects every fault of `discovery/failpoints.py`, and a full disk, into real searches; resumes each; writes a table.

    python tests/benchmarks/faults.py [--repeats 2] [--output FILE.md]

A fault happens once in a run, at a random arrival at its step. What is in the ledger at that moment is acknowledged: the
resumed run must hold it unchanged, hold nothing twice and have the digest of a run that nothing disturbed. Takes about 25 s
a fault on two free cores, most of it the start of the sessions. Exit code 1 if anything is lost, counted twice or different.
"""

import argparse
import contextlib
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stepsmith.discovery import Run
from stepsmith.discovery.failpoints import ACTIONS, COORDINATOR, VARIABLE, WORKER

# Commits often, loses patience early.
DRIVER = """
import stepsmith.discovery.recorder as recorder, stepsmith.discovery.evaluate.pool as pool
recorder.COMMIT_SECONDS, pool.SHORTEST_TIME_LIMIT, pool.TIME_LIMIT_FACTOR, pool.STARTUP_SECONDS = 0.02, 3.0, 1.0, 60.0
from stepsmith.discovery.cli import main
main()
"""
SEARCH = ("--tasks", "digits_mlp", "--seeds-per-task", "1", "--budget", "40", "--population-size", "12", "--tournament-size", "3")
SEARCH += ("--finalists", "3", "--finalist-seeds", "2")
# Arrivals at which each step surely happens in such a search; a worker counts for itself.
LATEST = {"ask": 40, "submit": 40, "receive": 38, "tell": 38, "finalists": 1, "export": 1, "worker.start": 1}
SESSION_SECONDS = 240.0
DISK_BYTES = 260_000  # room for a new ledger, not for a search of 40 evaluations with its write-ahead log


class Acknowledged(NamedTuple):
    """What a ledger holds at one moment."""

    evaluations: frozenset[tuple[object, ...]]
    told: frozenset[tuple[object, ...]]
    outcomes: int


class Verdict(NamedTuple):
    """What became of a fault."""

    happened: bool
    acknowledged: int  # evaluations, when it happened
    lost: int
    twice: int
    same: bool


def start(*arguments: object, fault: str = "") -> subprocess.Popen[str]:
    """A session of the command, with a fault in the form of the environment variable."""
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "FORCE_COLOR", "TTY_COMPATIBLE")}
    command = [sys.executable, "-c", DRIVER, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment | ({VARIABLE: fault} if fault else {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def acknowledged(path: Path) -> Acknowledged:
    """Evaluations and tells of the committed state of a run's folder."""
    empty = Acknowledged(frozenset(), frozenset(), 0)
    if not (path / "ledger.sqlite").exists():
        return empty
    with contextlib.closing(
        sqlite3.connect(f"file:{path / 'ledger.sqlite'}?mode=ro", uri=True, isolation_level=None, timeout=30)
    ) as ledger:
        ledger.execute("BEGIN")
        if not ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'evaluation'").fetchone():
            return empty
        evaluations = ledger.execute("SELECT hash, task, seed, status, loss FROM evaluation").fetchall()
        told = ledger.execute('SELECT "index", told, hash, fitness, status, cached FROM birth WHERE told IS NOT NULL').fetchall()
        return Acknowledged(frozenset(evaluations), frozenset(told), ledger.execute("SELECT count(*) FROM outcome").fetchone()[0])


def counted_twice(path: Path) -> int:
    """Tells beyond one a birth, outcomes charged to more than one birth, and counters that say more than the tables."""
    after, counters = acknowledged(path), Run(path).status()
    orders = [row[1] for row in after.told]
    charged = [row[2] for row in after.told if not row[5]]
    return (len(orders) - len(set(orders))) + (len(charged) - len(set(charged))) + abs(counters["evaluated"] - after.outcomes)


def judge(path: Path, before: Acknowledged, digest: str, happened: bool = True) -> Verdict:
    """Compares a finished run with what was acknowledged when the fault happened, and with an undisturbed run."""
    after = acknowledged(path)
    lost = len(before.evaluations - after.evaluations) + len(before.told - after.told)
    same = Run(path).status()["status"] == "finished" and Run(path).digest() == digest and (path / "best.py").exists()
    return Verdict(happened, len(before.evaluations), lost, counted_twice(path), same)


def inject(path: Path, fault: str, workers: int = 2) -> tuple[bool, Acknowledged, str]:
    """Runs a search into a fault; a coordinator that hangs is killed.

    Returns:
        Whether the fault happened, what was acknowledged then, and what the session printed.
    """
    marker = path.with_name(f"{path.name}.marker")
    with start("search", *SEARCH, "--workers", workers, "--run", path, fault=f"{fault}:{marker}") as process:
        deadline = time.monotonic() + SESSION_SECONDS
        while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        in_worker = fault.startswith("worker.")
        if "=hang@" in fault and not in_worker:
            time.sleep(0.5)
            process.kill()
        before = acknowledged(path) if in_worker else None
        output = process.communicate(timeout=SESSION_SECONDS)[0]
    return marker.exists(), before or acknowledged(path), output


def resume(path: Path) -> None:
    """Continues a run to its end, in a session of its own."""
    with start("resume", path, "--workers", 1) as process:
        output = process.communicate(timeout=SESSION_SECONDS)[0]
    if process.returncode != 0:
        raise RuntimeError(f"resume ended with {process.returncode}: {output}")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 2 MB, nearly full: a real one where this user may mount it. Removing the file `filler` makes space."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True, capture_output=True)
    try:
        (folder / "filler").write_bytes(b"x" * (2 * 2**20 - DISK_BYTES))
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_disk(path: Path, workers: int = 2) -> tuple[int, Acknowledged, str]:
    """Runs a search on a disk that gets full, then makes space; returns exit code, what was acknowledged, what was printed."""
    with start("search", *SEARCH, "--workers", workers, "--run", path) as process:
        output = process.communicate(timeout=SESSION_SECONDS)[0]
    (path.parent / "filler").unlink()
    return process.returncode, acknowledged(path), output


def faults() -> list[tuple[str, str]]:
    """Every step with every action that can happen there."""
    return [(step, action) for step in (*COORDINATOR, *WORKER) for action, steps in ACTIONS.items() if step in steps]


def measure(step: str, action: str, digest: str, folder: Path, draws: random.Random) -> Verdict:
    """One injection of one fault."""
    path = folder / "run"
    if step == "disk":
        with small_disk(folder / "disk") as disk:
            code, before, output = fill_disk(disk / "run")
            resume(disk / "run")
            return judge(disk / "run", before, digest, code in (1, 2) and bool(re.search("full|No space", output)))
    happened, before, _ = inject(path, f"{step}={action}@{draws.randint(1, LATEST.get(step, 5))}")
    resume(path)
    return judge(path, before, digest, happened)


def row(step: str, action: str, verdicts: list[Verdict]) -> str:
    """One line of the table."""
    where = "disk" if step == "disk" else "worker" if step in WORKER else "coordinator"
    happened, acknowledged_, lost, twice, same = (sum(column) for column in zip(*verdicts, strict=True))
    return f"| {action} | {where}: {step} | {happened} | {acknowledged_} | {lost} | {twice} | {same} of {len(verdicts)} |"


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default="", help="steps whose names contain this")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    draws, good = random.Random(0), True
    head = "| fault | where | times injected | acknowledged evaluations | lost | counted twice | same digest after resume |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as parent:
        with start("search", *SEARCH, "--run", Path(parent) / "whole") as process:
            process.communicate(timeout=SESSION_SECONDS)
        digest = Run(Path(parent) / "whole").digest()
        for step, action in [*faults(), *([("disk", "full")] if os.geteuid() == 0 else [])]:
            if arguments.only not in step:
                continue
            verdicts = []
            for repeat in range(arguments.repeats):
                folder = Path(parent) / f"{step}-{action}-{repeat}"
                folder.mkdir()
                verdicts.append(measure(step, action, digest, folder, draws))
            good = good and all(v.happened and v.same and not v.lost and not v.twice for v in verdicts)
            lines.append(row(step, action, verdicts))
            print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
