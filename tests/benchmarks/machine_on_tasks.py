"""Overhead of the register machine on every task, and its growth with the number of parameters.

    python tests/benchmarks/machine_on_tasks.py [NAMES]

A whole training run by the machine against the same run compiled with optax's rule, in turns, on one core, each task in
fresh processes. `digits_mlp_1e5` and its like are the reference proxy with a hidden layer of any width, 40 steps.
Target: a ratio of at most 1.10 on all but the smallest tasks. "Extended" is the machine that has the operations of the extended
language too: Lion in it shows what they cost a program without them, Muon what orthogonalization costs.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial

PROCESSES, PAIRS, SECONDS = 3, 15, 20.0  # of each process at most so many pairs, or so many seconds
SIZES = {"digits_mlp_1e3": 13, "digits_mlp_1e4": 133, "digits_mlp_1e5": 1333, "digits_mlp_1e6": 13333}
# heading -> rule, learning rate, whether in the extended machine
CASES = {
    "Lion": ("lion", 0.0003, False),
    "AdamW": ("adamw", 0.001, False),
    "Lion, extended": ("lion", 0.0003, True),
    "Muon, extended": ("muon", 0.02, True),
}


def task_of(name):
    from stepsmith import tasks
    from stepsmith.tasks.models import MLP

    if name in SIZES:
        return dataclasses.replace(tasks.get("digits_mlp"), model=MLP((64, SIZES[name], 10)), steps=40)
    return tasks.get(name)


def process(name):
    """Milliseconds of both sides for each case."""
    import jax
    import numpy as np
    from register_machine import optax_rule

    from stepsmith import tasks
    from stepsmith.discovery.language import load
    from stepsmith.discovery.vm import Clock, assemble, register_machine

    task = task_of(name)
    data, steps = tasks.load_on_device(task), task.steps
    clock = Clock.create(1 - np.arange(steps) / steps)
    machines = [tasks.make_runner(task, partial(register_machine, extended=extended)) for extended in (False, True)]
    found = {"parameters": tasks.cost(task).parameters}
    for case, (rule, peak, extended) in CASES.items():
        code = jax.device_put(assemble(load(rule), clock, extended=extended))
        compiled = tasks.make_runner(task, lambda rate, rule=rule: optax_rule(rule, lambda step: rate * (1 - step / steps)))
        sides = {"machine": (machines[extended], code), "optax": (compiled, peak)}
        times = {side: [] for side in sides}
        for run, argument in sides.values():
            assert int(jax.block_until_ready(run(data, argument, 0)).steps) == steps, f"{rule} stops early on {name}"
        began = time.perf_counter()
        while len(times["optax"]) < PAIRS and (time.perf_counter() - began < SECONDS or len(times["optax"]) < 3):
            for side, (run, argument) in sides.items():
                start = time.perf_counter()
                jax.block_until_ready(run(data, argument, 0))
                times[side].append(1e3 * (time.perf_counter() - start))
        found[case] = {side: statistics.median(values) for side, values in times.items()}
    return found


def main():
    if "--process" in sys.argv:
        print(json.dumps(process(sys.argv[-1])))
        return
    from stepsmith import tasks

    names = sys.argv[1:] or [*tasks.available(), *SIZES]
    environment = dict(os.environ, JAX_PLATFORMS="cpu", NPROC="1")
    columns = ["task", "parameters", *(column for case in CASES for column in (f"{case} ms", "optax ms", "ratio (min to max)"))]
    print(f"| {' | '.join(columns)} |\n|" + "---|" * len(columns), flush=True)
    for name in names:
        runs = []
        for _ in range(PROCESSES):
            child = subprocess.Popen([sys.executable, __file__, "--process", name], env=environment, stdout=subprocess.PIPE, text=True)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(child.pid, {max(os.sched_getaffinity(0))})
            output = child.communicate()[0]
            if child.returncode:
                sys.exit(child.returncode)
            runs.append(json.loads(output.splitlines()[-1]))
        cells = [name, f"{runs[0]['parameters']:,}"]
        for case in CASES:
            ratios = [run[case]["machine"] / run[case]["optax"] for run in runs]
            machine, compiled = (statistics.median(run[case][side] for run in runs) for side in ("machine", "optax"))
            cells += [f"{machine:.4g}", f"{compiled:.4g}", f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
