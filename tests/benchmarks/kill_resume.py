"""Kills a search at ten random moments and resumes it; prints one line for the table of claims.

    python tests/benchmarks/kill_resume.py [--kills 10] [--budget 1000]

Each session is killed at a random moment of the half second after its first commit.
Takes about three minutes on two free cores, most of it the start of the sessions.
"""

import argparse
import contextlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import acknowledged, counted_twice

from stepsmith.discovery import Run, SearchConfig, resume, search

SEARCH = ["search", "--tasks", "digits_mlp", "--seeds-per-task", "1"]
COMMAND = [sys.executable, "-c", "from stepsmith.discovery.cli import main; main()"]


def elapsed(path: Path) -> float:
    """Seconds searched, of the committed state; 0 where there is none."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{path / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger,
    ):
        return ledger.execute("SELECT elapsed FROM run").fetchone()[0]
    return 0.0


def kill_once(command: list[str], path: Path, delay: float) -> bool:
    """Runs a session and kills it that many seconds after its first commit; False if it ended before that."""
    before = elapsed(path)
    with subprocess.Popen(COMMAND + command, stdout=subprocess.DEVNULL) as process:
        while elapsed(path) <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
    return process.returncode == -9


def main() -> None:
    """Runs the search twice, once whole and once with kills."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--budget", default="1000")
    arguments = parser.parse_args()
    delays = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole = search(SearchConfig(tasks=("digits_mlp",), seeds_per_task=1, budget=arguments.budget), Path(folder) / "whole")
        path = Path(folder) / "killed"
        command, kills, kept = [*SEARCH, "--budget", arguments.budget, "--run", str(path)], 0, set()
        while kills < arguments.kills and kill_once(command, path, delays.uniform(0.0, 0.5)):
            command, kills = ["resume", str(path)], kills + 1
            kept |= acknowledged(path).evaluations
        resume(path)
        lost, same = len(kept - acknowledged(path).evaluations), Run(path).digest() == whole.digest()
        twice = counted_twice(path)
        print(f"kill_resume kills={kills} same_digest={same} lost={lost} counted_twice={twice} evaluations={arguments.budget}")


if __name__ == "__main__":
    main()
