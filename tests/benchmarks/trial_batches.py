"""Trials one by one against trials in one vmapped batch, in turns in one process.

    python tests/benchmarks/trial_batches.py [NAMES]

Seconds a trial on one core, compilation apart, and the ratio of one by one to batched: above 1 a batch is faster.
"""

import os
import statistics
import sys
import time

os.environ["NPROC"], os.environ["JAX_PLATFORMS"] = "1", "cpu"

from stepsmith.discovery.benchmark import space, workloads  # noqa: E402
from stepsmith.discovery.benchmark.trial import Trainer, entry  # noqa: E402

BATCH, ROUNDS = 5, 3


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    competitor = entry("adamw")
    chosen = [space.settings(competitor.source, point) for point in space.points(BATCH)]
    print(f"| workload | one by one, s a trial | batch of {BATCH} | ratio (min to max) |\n|---|---|---|---|")
    for name in sys.argv[1:] or workloads.names():
        trainers = [Trainer(competitor, workloads.get(name), batch) for batch in (1, BATCH)]
        rounds = []
        for _ in range(ROUNDS + 1):  # the first one compiles
            seconds = []
            for trainer in trainers:
                began = time.perf_counter()
                trainer.run(range(BATCH), chosen, range(BATCH))
                seconds.append((time.perf_counter() - began) / BATCH)
            rounds.append(seconds)
        alone, together = zip(*rounds[1:], strict=True)
        ratios = [one / other for one, other in zip(alone, together, strict=True)]
        middle = statistics.median
        print(
            f"| {name} | {middle(alone):.2f} | {middle(together):.2f} | {middle(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
