"""Valid children a second on one core: mutate, infer kinds, remove dead code, hash.

    python tests/benchmarks/front_end.py [--quick]

From AdamW, and along an evolution whose fitness is a pure function of the hash. Target: at least 5,000; the search space
that the paper's authors released made 18.7 valid, hash-changing mutants of AdamW a second on such a core.
"""

import statistics
import sys
import time
from random import Random

from stepsmith.discovery.language import canonical_hash, load
from stepsmith.discovery.search import EvolutionConfig, MutationConfig, mutate, regularized_evolution


def from_adamw(count, repeat):
    parent, config = load("adamw"), MutationConfig()
    parent_hash = canonical_hash(parent)
    start = time.perf_counter()
    hashes = {mutate(parent, parent_hash, Random(repeat * count + i), config).hash for i in range(count)}
    return count / (time.perf_counter() - start), len(hashes)


def along_evolution(count, repeat):
    strategy = regularized_evolution(load("adamw"), EvolutionConfig(), MutationConfig())
    state = strategy.init(repeat)
    start = time.perf_counter()
    for _ in range(count):
        candidate, state = strategy.ask(state)
        state = strategy.tell(state, candidate, float(int(candidate.hash[:8], 16)))
    return count / (time.perf_counter() - start)


def main():
    count, repeats = (1_000, 2) if "--quick" in sys.argv else (20_000, 5)
    rates = [from_adamw(count, repeat) for repeat in range(repeats)]
    children, evolution = statistics.median(rate for rate, _ in rates), statistics.median(along_evolution(count, r) for r in range(repeats))
    print(f"from AdamW: {children:.0f} valid children a second, {rates[0][1] / count:.0%} of them different programs")
    print(f"ask and tell along an evolution: {evolution:.0f} a second")
    print(f"front_end children_per_second={children:.0f} evolution_children_per_second={evolution:.0f}")


if __name__ == "__main__":
    main()
