"""Processor time of the coordinator per unique evaluation, in a real search on digits_mlp with two workers.

    python tests/benchmarks/overhead.py [--quick]

From the first report of the search to its end, start-up and finalists apart: asking, hashing, sending, receiving, telling and
the ledger's commits. Target: at most 0.7 ms.
"""

import sys
import tempfile
import time
from pathlib import Path

from stepsmith.discovery import SearchConfig, search


def main():
    budget = "400" if "--quick" in sys.argv else "5000"
    seen = []

    def on_progress(snapshot):
        if snapshot.phase in ("searching", "finalists"):  # the latter is reported before any finalist runs
            seen.append((time.process_time(), snapshot.counters))

    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(tasks=("digits_mlp",), seeds_per_task=1, budget=budget)
        search(config, Path(folder) / "run", workers=2, on_progress=on_progress)
    (start, first), (end, last) = seen[0], seen[-1]
    evaluated, told = last.evaluated - first.evaluated, last.told - first.told
    milliseconds = 1e3 * (end - start) / evaluated
    print(f"{evaluated} unique evaluations, {told} births told, {last.cached / last.told:.0%} cache hits")
    print(f"overhead ms_per_evaluation={milliseconds:.3f} births_per_evaluation={told / evaluated:.2f}")


if __name__ == "__main__":
    main()
