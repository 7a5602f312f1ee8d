"""Processor time of the coordinator per unique evaluation, in real searches on digits_mlp with two workers.

    python tests/benchmarks/overhead.py [--quick]

From the first report of a search to its end, start-up and finalists apart: asking, hashing, sending, receiving, telling and
the ledger's commits. What an evaluation costs depends on the course that a search takes, by how many births there are to each most of
all; so several seeds, and their median. Target: at most 0.7 ms.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from stepsmith.discovery import SearchConfig, search


def measured(seed, budget):
    """Milliseconds a unique evaluation, and births for each."""
    seen = []

    def on_progress(snapshot):
        if snapshot.phase in ("searching", "finalists"):  # the latter is reported before any finalist runs
            seen.append((time.process_time(), snapshot.counters))

    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(tasks=("digits_mlp",), seeds_per_task=1, budget=budget, seed=seed)
        search(config, Path(folder) / "run", workers=2, on_progress=on_progress)
    (start, first), (end, last) = seen[0], seen[-1]
    evaluated, told = last.evaluated - first.evaluated, last.told - first.told
    milliseconds = 1e3 * (end - start) / evaluated
    print(f"seed {seed}: {evaluated} unique evaluations, {milliseconds:.3f} ms each, {told / evaluated:.2f} births each", flush=True)
    return milliseconds, told / evaluated


def main():
    budget, seeds = ("400", 1) if "--quick" in sys.argv else ("5000", 10)
    each, births = (statistics.median(column) for column in zip(*(measured(seed, budget) for seed in range(seeds)), strict=True))
    print(f"overhead ms_per_evaluation={each:.3f} births_per_evaluation={births:.2f}; medians of {seeds} seeds")


if __name__ == "__main__":
    main()
