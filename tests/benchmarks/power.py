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
from stepsmith.discovery.benchmark.performance import MAX_RATIO, ratios, score
from stepsmith.discovery.benchmark.record import EvaluateConfig, read

SPEEDUPS = (1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)
POOL = 20


def pair(pool: Pool, one: str, other: str, generator: np.random.Generator, speedup: float, paired: bool) -> Pool:
    """Two pools of 20 trials, the same ones if paired, else none in common; the second `speedup` times as fast."""
    order = generator.permutation(pool.reached.shape[-1])
    first = pool.reached[pool.entries.index(one)][:, order[:POOL]]
    second = pool.reached[pool.entries.index(other)][:, order[:POOL] if paired else order[POOL : 2 * POOL]] / speedup
    return pool._replace(entries=("one", "other"), reached=np.stack([first, second]), step_seconds=np.ones((2, len(pool.workloads))))


def share_found(pool: Pool, one: str, other: str, speedup: float, repeats: int, paired: bool = False) -> tuple[float, float]:
    """Share of repeats whose interval excludes 1, and the median of the speed-ups."""
    generator, found, values = np.random.default_rng(0), 0, []
    for repeat in range(repeats):
        drawn = pair(pool, one, other, generator, speedup, paired)
        standing = next(s for s in compare(drawn, "one", studies=100, seed=repeat, replicates=200) if s.entry == "other")
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
        share, middle = share_found(pool, plain, plain, speedup, arguments.repeats)
        print(f"| {speedup:g} | {share:.1%} | {middle:.3f} |", flush=True)
    for paired, name in ((False, ""), (True, ", the same trials of both")):
        share, middle = share_found(pool, plain, twice, 1.0, arguments.repeats, paired)
        print(f"| learning rates twice as high{name} | {share:.1%} | {middle:.3f} |")
    config = dataclasses.replace(EvaluateConfig(), entries=())
    baselines = done._replace(config=config, rows=[]).pool()
    print(f"\n{', '.join(baselines.entries)}\n\n| studies | same first three in two draws |\n|---|---|")
    for studies in (1, 5, 25, 100, 400, 1000, 4000):
        print(f"| {studies} | {same_top_three(baselines, studies, arguments.repeats):.1%} |", flush=True)


if __name__ == "__main__":
    main()
