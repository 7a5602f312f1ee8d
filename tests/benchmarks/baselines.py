"""The committed baselines among themselves, as the table of EXPERIMENTS.md; nothing is trained.

python tests/benchmarks/baselines.py
"""

import dataclasses
import math
from pathlib import Path

from stepsmith.discovery.benchmark.comparison import Standing, compare
from stepsmith.discovery.benchmark.record import Comparison, EvaluateConfig
from stepsmith.discovery.benchmark.targets import BASELINE


def row(standing: Standing) -> list[str]:
    """The cells of one baseline."""
    low, high = standing.score_interval
    least, most = standing.speedup_interval
    return [
        standing.entry,
        f"{standing.score:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{standing.speedup:.2f}",
        f"{least:.2f} to {most:.2f}",
        "" if math.isnan(standing.p_value) else f"{standing.p_value:.3f}",
        f"{standing.reached} of {len(standing.times)}",
        *("-" if math.isinf(time) else f"{time:.0f}" for time in standing.times.values()),
    ]


def main() -> None:
    pool = Comparison(Path(), dataclasses.replace(EvaluateConfig(), entries=()), []).pool()
    standings = compare(pool, BASELINE)
    heading = ["entry", "score", "95 %", "speed-up over AdamW", "95 %", "p", "reached", *pool.workloads]
    print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for standing in standings:
        print(f"| {' | '.join(row(standing))} |")
    in_seconds = ", ".join(f"{s.entry} {s.score:.3f}" for s in compare(pool, BASELINE, seconds=True))
    print(f"\nby the seconds of the machine that they ran on: {in_seconds}")


if __name__ == "__main__":
    main()
