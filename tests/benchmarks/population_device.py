"""Candidates a second: batches on the population kernel, the CPU's one at a time, and compiled optax rules under vmap.

    python tests/benchmarks/population_device.py [--quick]

Run by hand it prints its rows as JSON lines; `device.py` has them too. Before a task is timed the kernel is checked against the
reference machine. All sides take the same mutants of AdamW from program to validation loss, whole runs of the task. The CPU path
runs in a process of its own on one core, then in two on two. The optax side
is one rule (AdamW) at as many learning rates: what a compiler can do with a population whose program it knows. --quick is a smoke
on any machine: few candidates, few steps, the kernel simulated.
"""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

TASKS = ("digits_mlp", "stdlib_lm")
SIZES = (64, 256, 1024, 4096)
REPEATS = 5
FIRST_GUESS = 100.0  # seconds that a task's first size takes, mostly for the figures of the CPU
QUICK_STEPS = 20


def candidates(count: int) -> list[Any]:
    """Different mutants of AdamW that the kernel runs."""
    from stepsmith.discovery.language import canonical_hash, load
    from stepsmith.discovery.search import MutationConfig, mutate

    found: dict[str, Any] = {}
    parent, seed = load("adamw"), 0
    while len(found) < count:
        child = mutate(parent, canonical_hash(parent), Random(seed), MutationConfig())
        found.setdefault(child.hash, child.program)
        seed += 1
        if seed % 4 == 0:  # further from AdamW every few children, for its own are fewer than a population
            parent = child.program
        if seed % 40 == 0:
            parent = load("adamw")
    return list(found.values())


def prepared_task(name: str, quick: bool) -> Any:
    """The task, or a short one."""
    from stepsmith.discovery.evaluate.training_run import prepare_task
    from stepsmith.tasks import get

    return prepare_task(dataclasses.replace(get(name), steps=QUICK_STEPS) if quick else get(name), "linear")


def cpu_rate(name: str, quick: bool, cores: int = 1) -> float | None:
    """Candidates a second of processes that train one at a time on a core each of this host's CPU; None if it has fewer cores."""
    if cores > len(_cores()):
        return None
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "1"}
    command = [sys.executable, os.path.abspath(__file__), "--cpu", name, *(["--quick"] if quick else [])]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*command, "--core", str(core)], env=environment, stdout=pipe, stderr=pipe, text=True) for core in range(cores)
    ]
    outputs = [(*process.communicate(), process.returncode) for process in started]
    for _, error, code in outputs:
        if code:
            raise RuntimeError(f"the CPU side failed: {(error.strip() or 'without a word').splitlines()[-1]}")
    return sum(float(output.split()[-1]) for output, *_ in outputs)


def _cores() -> list[int]:
    """That this process may use, the last first."""
    return sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1), reverse=True)


def one_at_a_time(name: str, quick: bool, core: int) -> float:
    """What `cpu_rate` asks its process for."""
    from stepsmith.discovery.evaluate.training_run import evaluate

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {_cores()[core]})
    prepared = prepared_task(name, quick)
    programs = candidates(8 if quick else 64)
    evaluate(prepared, programs[0], 0)  # compiles
    begin = time.perf_counter()
    for program in programs:
        evaluate(prepared, program, 0)
    return len(programs) / (time.perf_counter() - begin)


def optax_rate(prepared: Any, size: int, repeats: int) -> float:
    """Candidates a second of `optax.adamw` at as many learning rates, one compiled loop under vmap."""
    import jax
    import jax.numpy as jnp
    import optax

    from stepsmith.tasks.training import make_run

    run = make_run(prepared.task, optax.adamw)
    train = jax.jit(jax.vmap(lambda data, rate, key: run(data, rate, key).loss, in_axes=(None, 0, None)))
    rates, key = jnp.geomspace(1e-4, 1e-2, size), jax.random.key(0)
    return size / _median_seconds(lambda: jax.block_until_ready(train(prepared.data, rates, key)), repeats)


def batch_rate(prepared: Any, size: int, repeats: int, simulated: bool) -> float:
    """Candidates a second in batches on the population kernel, from programs to losses."""
    from stepsmith.discovery.evaluate.batched import Trial, evaluate_batch, prepare_batch

    batched = prepare_batch(prepared, size, interpret=simulated)
    trials = [Trial(program, 0) for program in candidates(size)]
    return size / _median_seconds(lambda: evaluate_batch(batched, trials), repeats)


def largest_difference(prepared: Any, count: int, simulated: bool) -> float:
    """Of the updates of the kernel and of the reference machine, three steps of each candidate, as a share of the step's largest number.

    Candidates that a nudge of the gradients by a millionth moves as far are left out: what rounding makes of them says nothing.

    Raises:
        AssertionError: they are more than a quarter, or the others differ by more than rounding.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stepsmith.discovery.evaluate.training_run import bytecode
    from stepsmith.discovery.vm import pallas, register_machine
    from stepsmith.discovery.vm.population import Candidates, population_machine

    codes = [bytecode(prepared, program, 1.0) for program in candidates(count)]
    params, target = prepared.task.init(jax.random.key(0))[0], pallas.require(simulated)
    gradients = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), (3, *x.shape)), params)

    def updates(machine: Any, gradients: Any) -> Any:  # [steps, elements]
        def step(state: Any, g: Any) -> Any:
            found, state = machine.update(g, state, params)
            return state, jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(found)])

        return jax.lax.scan(step, machine.init(params), gradients)[1]

    batch, stacked = Candidates.of(codes), jax.tree.map(lambda *each: np.stack(each), *codes)
    kernel = jax.jit(jax.vmap(lambda one: updates(population_machine(one, 6, target, simulated), gradients)))(batch)
    reference = jax.jit(lambda g: jax.lax.map(lambda code: updates(register_machine(code), g), stacked))
    expected, nudged = (reference(jax.tree.map(lambda x, by=by: x * by, gradients)) for by in (1.0, 1.000001))
    size = jnp.maximum(jnp.max(jnp.abs(expected), 2, keepdims=True), 1e-30)
    apart, sensitive = (jnp.max(jnp.abs(each - expected) / size, (1, 2)) for each in (kernel, nudged))
    steady = np.asarray(sensitive < 1e-4)  # false also where something is not finite
    assert steady.mean() >= 0.75, f"only {steady.mean():.0%} of the candidates can be compared"
    assert np.all(np.asarray(apart)[steady] < 1e-3), f"updates differ by up to {np.max(np.asarray(apart)[steady]):.2g}"
    return float(np.max(np.asarray(apart)[steady]))


def _median_seconds(action: Any, repeats: int) -> float:
    action()  # compiles
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def population_cases(
    quick: bool = False,
    tasks: tuple[str, ...] = TASKS,
    sizes: tuple[int, ...] = SIZES,
    repeats: int = REPEATS,
    seconds_left: Callable[[], float] = lambda: math.inf,
) -> Iterator[dict[str, Any]]:
    """A row for each task and size of the population; a side that does not fit into memory has None.

    Args:
        quick: a smoke that any machine can run, with the kernel simulated where there is no device; its figures mean nothing.
        tasks: by name.
        sizes: of the population.
        repeats: of which the median counts.
        seconds_left: until the end; a size that would take longer, by what the one before it took, is skipped.

    Yields:
        task, candidates, then "skipped" or "failed" with the reason in a line, or parameters, difference (see `largest_difference`),
        candidates a second: batch, optax_vmap, cpu_one_core, cpu_two_cores, and the ratios of the first to those.
    """
    if quick:
        tasks, sizes, repeats = tasks[:1], (4,), 1
    for name in tasks:
        common, seconds, before = None, 0.0 if quick else FIRST_GUESS, sizes[0]
        for size in sizes:
            row: dict[str, Any] = {"task": name, "candidates": size}
            needed, left, begin = seconds * size / before, seconds_left(), time.perf_counter()
            if left <= needed:
                yield row | {"skipped": f"may take {needed:.0f} s, {max(left, 0):.0f} s are left"}
                continue
            try:
                common = common or _common(name, quick)
                begin = time.perf_counter()
                row |= _rates(common, size, repeats)
            except Exception as error:  # of any kind: of compilers, of a check
                row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            yield row
            seconds, before = time.perf_counter() - begin, size


class _Common(NamedTuple):
    """What all sizes of a task share."""

    prepared: Any
    simulated: bool
    figures: dict[str, Any]


def _common(name: str, quick: bool) -> _Common:
    import jax

    from stepsmith.discovery.vm import pallas

    prepared, simulated = prepared_task(name, quick), quick and pallas.available() is None
    figures = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(prepared.task.init(jax.random.key(0))[0])),
        "difference": largest_difference(prepared, 8 if quick else 64, simulated),
        "cpu_one_core": cpu_rate(name, quick),
        "cpu_two_cores": cpu_rate(name, quick, cores=2),
    }
    return _Common(prepared, simulated, figures)


def _rates(common: _Common, size: int, repeats: int) -> dict[str, Any]:
    row = dict(common.figures)
    row["batch"] = _unless_out_of_memory(batch_rate, common.prepared, size, repeats, common.simulated)
    row["optax_vmap"] = _unless_out_of_memory(optax_rate, common.prepared, size, repeats)
    others = ("optax_vmap", "cpu_one_core", "cpu_two_cores")
    return row | {f"batch / {other}": row["batch"] / row[other] if row["batch"] and row[other] else None for other in others}


def _unless_out_of_memory(measure: Any, *arguments: Any) -> float | None:
    from stepsmith.discovery.evaluate.training_run import out_of_memory

    try:
        return measure(*arguments)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return None


def main() -> None:
    quick = "--quick" in sys.argv
    if "--cpu" in sys.argv:
        print(one_at_a_time(sys.argv[sys.argv.index("--cpu") + 1], quick, int(sys.argv[sys.argv.index("--core") + 1])))
        return
    for row in population_cases(quick):
        print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}))


if __name__ == "__main__":
    main()
