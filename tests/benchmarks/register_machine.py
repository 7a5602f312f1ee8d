"""The register machine against compiled optax on the reference proxy, and the update alone.

    python tests/benchmarks/register_machine.py [--quick]

Each process is fresh, pinned to one core, and times all sides in turn; ratios are machine / optax and machine / the program
compiled through `as_transformation`. Whole runs (digits_mlp, 200 steps, early stop included): target <= 1.20, goal 1.10. The
paper's AdamW has no bias correction, optax.adamw has; `adamw_corrected` does the work of optax.adamw. The update alone (the
same gradient each time) shows what the gradient of a model hides; update_N in the last line is Lion's, the table has both.
"""

import json
import os
import statistics
import subprocess
import sys
import time

WHOLE = ("lion", "adamw", "adamw_corrected")
ALONE = ("lion", "adamw")
SIZES = (2_410, 50_000, 500_000)


def timed_pairs(pairs, repeats):
    """Medians of each side in milliseconds, both timed in turn."""
    import jax

    times = {name: [] for name in pairs}
    for fn in pairs.values():
        jax.block_until_ready(fn())  # compiles
    for _ in range(repeats):
        for name, fn in pairs.items():
            start = time.perf_counter()
            jax.block_until_ready(fn())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def optax_rule(name, learning_rate):
    import optax

    if name == "lion":
        return optax.lion(learning_rate, b1=0.9, b2=0.99, weight_decay=0.1)
    if name == "muon":
        return optax.contrib.muon(learning_rate)
    return optax.adamw(learning_rate, weight_decay=0.01)


def many(transformation, params, gradients, updates):
    """The parameters after that many updates with the same gradients."""
    import jax
    import optax

    def body(_, carry):
        params, state = carry
        change, state = transformation.update(gradients, state, params)
        return optax.apply_updates(params, change), state

    return jax.lax.fori_loop(0, updates, body, (params, transformation.init(params)))[0]


def process(quick):
    """What one fresh process measures."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from stepsmith.discovery.language import as_transformation, load, prune
    from stepsmith.discovery.vm import Clock, assemble, register_machine
    from stepsmith.tasks import get
    from stepsmith.tasks.training import make_run

    task = get("digits_mlp")
    data, key, steps = jax.device_put(task.load()), jax.random.key(0), task.steps
    clock = Clock.create(1 - np.arange(steps) / steps)
    machine = jax.jit(make_run(task, register_machine))
    peaks = {"lion": 0.0003, "adamw": 0.001, "adamw_corrected": 0.001}
    result = {}
    for name in WHOLE:
        code = jax.device_put(assemble(load(name), clock))
        compiled = jax.jit(make_run(task, lambda peak, name=name: optax_rule(name, lambda step: peak * (1 - step / steps))))
        program = prune(load(name))
        traced = jax.jit(make_run(task, lambda _, p=program: as_transformation(p, lambda step: 1 - step / steps, steps)))
        sides = {
            "machine": lambda code=code: machine(data, code, key),
            "optax": lambda c=compiled, n=name: c(data, peaks[n], key),
            "program": lambda t=traced: t(data, 0.0, key),
        }
        done = {side: int(fn().steps) for side, fn in sides.items()}
        assert set(done.values()) == {steps}, f"{name}: a side stopped early, so times cannot be compared: {done}"
        result[name] = timed_pairs(sides, 10 if quick else 60)
    updates = 20 if quick else 200
    for size in SIZES:
        params = {"w": jnp.zeros((size,), jnp.float32)}
        gradients = {"w": jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32)}

        long_clock = Clock.create(1 - np.arange(updates) / updates)
        by_code = jax.jit(lambda code, params, gradients: many(register_machine(code), params, gradients, updates))
        for name in ALONE:
            code = jax.device_put(assemble(load(name), long_clock))
            schedule = optax.linear_schedule(peaks[name], 0.0, updates)
            rule = jax.jit(lambda p, g, n=name, schedule=schedule: many(optax_rule(n, schedule), p, g, updates))
            sides = {
                "machine": lambda code=code, p=params, g=gradients, f=by_code: f(code, p, g),
                "optax": lambda rule=rule, p=params, g=gradients: rule(p, g),
            }
            milliseconds = timed_pairs(sides, 3 if quick else 7)
            result[f"{name}_{size}"] = {side: 1e3 * value / updates for side, value in milliseconds.items()}
    return result


def main():
    quick = "--quick" in sys.argv
    if "--process" in sys.argv:
        print(json.dumps(process(quick)))
        return
    environment = dict(os.environ, JAX_PLATFORMS="cpu", NPROC="1")
    runs = []
    for _ in range(2 if quick else 7):
        command = [sys.executable, __file__, "--process", *sys.argv[1:]]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(child.pid, {max(os.sched_getaffinity(0))})
        output = child.communicate()[0]
        if child.returncode:
            sys.exit(child.returncode)
        runs.append(json.loads(output.splitlines()[-1]))
    ratios = {}
    print(f"{'':16}{'machine':>12}{'optax':>12}{'ratio':>8}{'min':>7}{'max':>7}{'/program':>10}   medians over {len(runs)} fresh processes")
    for name in runs[0]:
        values = [run[name]["machine"] / run[name]["optax"] for run in runs]
        ratios[name] = statistics.median(values)
        machine, optax_side = (statistics.median(run[name][side] for run in runs) for side in ("machine", "optax"))
        unit = "ms/run" if name in WHOLE else "us/update"
        programs = [run[name]["machine"] / run[name]["program"] for run in runs if "program" in run[name]]
        to_program = f"{statistics.median(programs):10.3f}" if programs else " " * 10
        print(f"{name:16}{machine:12.3f}{optax_side:12.3f}{ratios[name]:8.3f}{min(values):7.3f}{max(values):7.3f}{to_program}   {unit}")
    keys = {name: name for name in ALONE} | {f"update_{size}": f"lion_{size}" for size in SIZES}
    print("register_machine " + " ".join(f"{key}={ratios[name]:.3f}" for key, name in keys.items()))


if __name__ == "__main__":
    main()
