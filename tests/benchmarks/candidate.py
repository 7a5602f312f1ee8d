"""The cost of a new candidate: compile each one, or run it on the register machine.

    NPROC=1 JAX_PLATFORMS=cpu taskset -c 0 python tests/benchmarks/candidate.py [--quick]

Both sides take unseen mutants of AdamW from text to validation loss on digits_mlp. Target: a ratio of at least 50.
"""

import statistics
import sys
import time
from random import Random

import jax
import numpy as np

from stepsmith.discovery.evaluate.worker import evaluate, prepare
from stepsmith.discovery.language import as_transformation, canonical_hash, load, prune
from stepsmith.discovery.search import MutationConfig, mutate
from stepsmith.tasks import DigitsMLP
from stepsmith.tasks.training import make_run


def main():
    quick = "--quick" in sys.argv
    parent = load("adamw")
    programs = list(
        {(child := mutate(parent, canonical_hash(parent), Random(i), MutationConfig())).hash: child.program for i in range(600)}.values()
    )
    task = DigitsMLP()
    data, steps = jax.device_put(task.load()), task.steps
    prepared = prepare("digits_mlp", "linear")
    evaluate(prepared, parent, 0)
    ours, compiled = [], []
    per_compiled = 10  # candidates of ours between two compiled ones, so that both sides see the same machine
    for index in range(3 if quick else 12):
        program = programs[index]
        start = time.perf_counter()
        run = jax.jit(make_run(task, lambda _, program=program: as_transformation(prune(program), lambda count: 1 - count / steps, steps)))
        jax.block_until_ready(run(data, np.float32(0), jax.random.key(0)))
        compiled.append(time.perf_counter() - start)
        for other in programs[100 + index * per_compiled : 100 + (index + 1) * per_compiled]:
            start = time.perf_counter()
            evaluate(prepared, other, 0)
            ours.append(time.perf_counter() - start)
    a, b = 1e3 * statistics.median(compiled), 1e3 * statistics.median(ours)
    print(f"compile, then run: {a:.1f} ms (median of {len(compiled)}); register machine: {b:.2f} ms (median of {len(ours)})")
    print(f"candidate ratio={a / b:.1f} compile_ms={a:.1f} ours_ms={b:.2f}")


if __name__ == "__main__":
    main()
