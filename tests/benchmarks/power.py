"""How small a speed-up a comparison can see, how often it sees one where there is none, and how many studies a ranking needs.

    stepsmith evaluate adamw tests/benchmarks/adamw_twice.py --alone --trials 40 --run comparisons/power
    python tests/benchmarks/power.py comparisons/power

False positives: two pools of 20 trials of AdamW, drawn from its 40 without a trial in common, are compared as if they were two
rules. Power: the same with one of them sped up by a factor, and with the rule whose learning rates are all twice as high
(adamw_twice.py). Ranking: the committed baselines, two draws of studies with different seeds.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from stepsmith.discovery.benchmark.comparison import Pool, compare, draw_studies, times
from stepsmith.discovery.benchmark.evaluate import EvaluateConfig, read
from stepsmith.discovery.benchmark.performance import MAX_RATIO, ratios, score

SPEEDUPS = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3)
POOL = 20


def pair(pool: Pool, one: str, other: str, generator: np.random.Generator, speedup: float, names: list[int]) -> Pool:
    """Two pools without a trial in common, the second `speedup` times as fast, on some workloads."""
    order = generator.permutation(pool.reached.shape[-1])
    first = pool.reached[pool.entries.index(one)][names][:, order[:POOL]]
    second = pool.reached[pool.entries.index(other)][names][:, order[POOL : 2 * POOL]] / speedup
    ones = np.ones((2, len(names)))
    return Pool(
        ("one", "other"), tuple(pool.workloads[i] for i in names), np.stack([first, second]), pool.steps[names], pool.budgets[names], ones
    )


def share_found(pool: Pool, one: str, other: str, speedup: float, repeats: int, studies: int) -> tuple[float, float]:
    """Share of repeats whose interval excludes 1, and the median of the speed-ups."""
    generator, found, values = np.random.default_rng(0), 0, []
    for repeat in range(repeats):
        drawn = pair(pool, one, other, generator, speedup, list(range(len(pool.workloads))))
        standing = next(s for s in compare(drawn, "one", studies=studies, seed=repeat, replicates=200) if s.entry == "other")
        low, high = standing.speedup_interval
        found += not low <= 1 <= high
        values.append(standing.speedup)
    return found / repeats, float(np.median(values))


def same_top_three(pool: Pool, studies: int, repeats: int) -> float:
    """Share of pairs of draws whose three best are the same, in the same order."""
    costs, tops = pool.costs(seconds=False), []
    for seed in range(2 * repeats):
        drawn = draw_studies(np.random.default_rng(seed), costs.shape[-1], studies, 5)
        found = score(ratios(times(costs, drawn), MAX_RATIO))
        tops.append(tuple(np.argsort(-found, kind="stable")[:3]))
    return sum(a == b for a, b in zip(tops[::2], tops[1::2], strict=True)) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    done = read(arguments.path)
    pool = done.pool(with_baselines=False)
    plain = "adamw@linear"
    twice = next(entry for entry in pool.entries if entry != plain)
    print("| speed-up | interval excludes 1 | median speed-up found |\n|---|---|---|")
    for speedup in SPEEDUPS:
        share, middle = share_found(pool, plain, plain, speedup, arguments.repeats, studies=25)
        print(f"| {speedup:g} | {share:.1%} | {middle:.3f} |", flush=True)
    share, middle = share_found(pool, plain, twice, 1.0, arguments.repeats, studies=25)
    print(f"| learning rates twice as high | {share:.1%} | {middle:.3f} |")
    config = dataclasses.replace(EvaluateConfig(), entries=())
    baselines = done._replace(config=config, rows=[]).pool()
    print(f"\n{', '.join(baselines.entries)}\n\n| studies | same first three in two draws |\n|---|---|")
    for studies in (1, 5, 25, 100, 400):
        print(f"| {studies} | {same_top_three(baselines, studies, arguments.repeats):.1%} |", flush=True)


if __name__ == "__main__":
    main()
