"""Unique evaluations a second with two workers on the reference proxy, one seed.

    python tests/benchmarks/throughput.py [--quick]

Unique mutants of AdamW, as a search meets them: some diverge and stop early, so the rate of those that ran all 200 steps
is measured separately. Target: at least 300.
"""

import statistics
import sys
import time
from random import Random

from stepsmith.discovery.evaluate import Job, Status, WorkerPool, WorkerSpec
from stepsmith.discovery.language import canonical_hash, load, prune
from stepsmith.discovery.search import MutationConfig, mutate


def timed(pool, programs):
    """Evaluations a second, and which programs came to a loss."""
    start = time.perf_counter()
    for key, program in enumerate(programs):
        pool.submit(Job(key, program, (0,)))
    finished = []
    while len(finished) < len(programs):
        finished += pool.poll(0.1)
    rate = len(programs) / (time.perf_counter() - start)
    completed = {programs[r.key] for r in finished if r.evaluations and r.evaluations[0].status is Status.OK}
    return rate, completed


def main():
    quick = "--quick" in sys.argv
    parent = load("adamw")
    children = (mutate(parent, canonical_hash(parent), Random(i), MutationConfig()) for i in range(500 if quick else 6_000))
    programs = list({child.hash: prune(child.program).to_json() for child in children}.values())
    with WorkerPool(WorkerSpec(("digits_mlp",), initial=parent.to_json()), 2) as pool:
        pool.wait_until_ready()
        _, completed = timed(pool, programs)  # also warms up
        alive = [program for program in programs if program in completed]
        pairs = [(timed(pool, programs)[0], timed(pool, alive)[0]) for _ in range(1 if quick else 5)]
    mixed, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{len(programs)} programs, {len(alive) / len(programs):.0%} ran all steps; medians of {len(pairs)}")
    print(f"throughput evaluations_per_second={mixed:.0f} completed_only_per_second={whole:.0f}")


if __name__ == "__main__":
    main()
