"""The cost of a new candidate: compile each one, or run it on the register machine.

    python tests/benchmarks/candidate.py [--quick]

One core (the script pins itself). Both sides take unseen mutants of AdamW from program to validation loss on digits_mlp.
Target: a ratio of at least 50. `ratio` compiles the whole of `make_run` for each candidate; initial parameters and score do not
depend on the candidate, so `loop_ratio` compiles only the loop and shares the rest: what a careful rival would do.
"""

import dataclasses
import os
import statistics
import sys
import time
from random import Random


def measure(quick):
    """Seconds of each new candidate: (whole run compiled, loop compiled, ours)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stepsmith.discovery.evaluate.training_run import evaluate, prepare
    from stepsmith.discovery.language import as_transformation, canonical_hash, load, prune
    from stepsmith.discovery.search import MutationConfig, mutate
    from stepsmith.tasks import Supervised, get
    from stepsmith.tasks.training import make_run

    parent = load("adamw")
    parent_hash = canonical_hash(parent)
    children = (mutate(parent, parent_hash, Random(i), MutationConfig()) for i in range(900))
    programs = list({child.hash: child.program for child in children}.values())
    task, key = get("digits_mlp"), jax.random.key(0)
    data, steps, params = jax.device_put(task.load()), task.steps, jax.jit(task.init)(jax.random.split(key)[0])[0]
    score = jax.jit(lambda params, data: task.metric(params, {}, task.examples(data, "validation"))["loss"])
    jax.block_until_ready(score(params, data))

    class LoopOnly(Supervised):
        def init(self, key):
            return params, {}

        def metric(self, params, state, batch):
            return {"loss": jnp.float32(0)}

    loop_only = LoopOnly(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})

    def compiled(task, program):
        run = jax.jit(make_run(task, lambda _: as_transformation(prune(program), lambda count: 1 - count / steps, steps)))
        return run(data, np.float32(0), key)

    prepared = prepare("digits_mlp", "linear")
    evaluate(prepared, parent, 0)  # compiles the machine
    sides = {
        "whole": lambda program: compiled(task, program),
        "loop": lambda program: score(compiled(loop_only, program).params, data),
        "ours": lambda program: evaluate(prepared, program, 0),
    }
    times = {name: [] for name in sides}

    def timed(name, program):
        start = time.perf_counter()
        jax.block_until_ready(sides[name](program))
        times[name].append(time.perf_counter() - start)

    queue = iter(programs)
    for _ in range(2 if quick else 10):  # 20 of ours between two compiled ones, so that all sides see the same machine
        program = next(queue)
        timed("whole", program)
        timed("loop", program)
        for _ in range(20):
            timed("ours", next(queue))
    return times


def main():
    os.environ.update(NPROC="1", JAX_PLATFORMS="cpu")  # before jax is imported
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    times = measure("--quick" in sys.argv)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    print(f"{'':32}{'median ms':>10}{'mean ms':>10}{'candidates':>12}")
    labels = {"whole": "compile the whole run, run it", "loop": "compile the loop, run it", "ours": "register machine"}
    for name, values in times.items():
        print(f"{labels[name]:32}{medians[name]:10.2f}{1e3 * statistics.mean(values):10.2f}{len(values):12}")
    ratio, loop_ratio = medians["whole"] / medians["ours"], medians["loop"] / medians["ours"]
    print(f"candidate ratio={ratio:.1f} loop_ratio={loop_ratio:.1f} compile_ms={medians['whole']:.1f} ours_ms={medians['ours']:.2f}")


if __name__ == "__main__":
    main()
