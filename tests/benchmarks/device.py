"""Checks every kernel against its reference on this machine's device, and times it against jitted optax. Run by hand:

    python tests/benchmarks/device.py [--quick] [--minutes 7] [--only TEXT] [--seed N] [--output device.json]

On a bare machine with jax and this checkout (`pip install -e .`), meant for under 8 minutes. It measures the bandwidth of a copy,
then for each case checks the kernel on random inputs, the second step of a run, so that states are no zeros, and times it, its
plain-XLA reference and optax's update with apply_updates, all jitted and donated: medians over many steps. Sizes are 1e8, 1e7, 1e6
and 1e9 parameters, in this order, in one tensor and then in 500; a case whose arrays would take more than 70 % of the device's
memory is skipped and said to be (at 1e9, AdamW in float32 takes 20 GB, optax's states counted), and above 1e8 parameters a kernel
is timed and not checked. Only what is larger than the device's cache says something about its memory: 1e6 parameters fit into
many. Then come the candidates a second of populations, by `population_device.py`, whose kernel is checked likewise. A case that
would not end within `--minutes`, by what the ones before it took, is skipped; populations may use the last third of them. What
fails is noted in the table and the JSON, and the rest goes on. `--only` runs the cases whose name has the text in it (of a
population: "population of TASK"); `--seed` repeats the random inputs of another run, whose JSON has it. On a CPU, `--quick` runs the
same with plain XLA, and checks the interpreted kernels, at 1e4 and 1e5 parameters in one tensor and in 20, which say nothing about
speed.
"""

import argparse
import itertools
import json
import platform
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from population_device import TASKS, population_cases

from stepsmith import optimizers
from stepsmith.optimizers.kernels import backend, bytes_moved

# The most telling first: what time leaves out is at the end.
SIZES = (10**8, 10**7, 10**6, 10**9)
QUICK_SIZES = (10**4, 10**5)
# Steps that a sample runs without waiting between them, and samples: the median of samples counts.
STEPS, SAMPLES = 10, 15
# Of the device's memory, what parameters, gradients and states may take together.
MEMORY_SHARE = 0.7
# Of the minutes, what may pass before the populations' turn.
UPDATES_SHARE = 2 / 3
# Elements above which the kernel is timed and not checked: a check holds everything several times.
LARGEST_CHECK = 10**8
# Seconds that a case takes beside moving its bytes, mostly compiling, until one like it was measured: in one tensor, in many.
FIRST_GUESS = (10.0, 60.0)
# Of a copy's bandwidth, what an estimate counts with.
PESSIMISM = 0.5


class Way(NamedTuple):
    """One way to do a case's work."""

    step: Callable[[Any, Any], Any]  # carry, rest -> carry; jitted, donates the carry
    begin: Callable[[], Any]  # -> the first carry
    rest: Callable[[], Any]  # -> what each step reads beside it


@dataclass(frozen=True)
class Case:
    """Ways to do the same work.

    Attributes:
        name: what is done, at which size.
        tensors: in how many arrays.
        bytes: moved by a step at least.
        resident: bytes that must be in memory at once.
        make: key -> the ways: "kernel" where the device has one, "xla", "optax", and "chain": ours as an optax transformation.
        check: key and the ways -> largest difference between kernel and reference, None where it is not checked; raises
            AssertionError where it is too large.
    """

    name: str
    tensors: int
    bytes: int
    resident: int
    make: Callable[[jax.Array], dict[str, Way]]
    check: Callable[[jax.Array, dict[str, Way]], float | None]


def sizes_of(total: int, tensors: int) -> list[tuple[int, ...]]:
    """Shapes of tensors of mixed sizes, matrices and vectors, some odd, with about that many elements together."""
    if tensors == 1:
        return [(total // 1024, 1024)]  # which all kernels take, also with coded states
    weights = np.exp(np.random.default_rng(0).normal(0, 2, tensors))
    counts = np.maximum(1, total * weights / weights.sum()).astype(int)
    return [(int(n),) if i % 2 or n < 256 else (int(n) // 128, 128) for i, n in enumerate(counts)]


def _draw(key: jax.Array, shapes: list[tuple[int, ...]], dtype: Any) -> dict[str, jax.Array]:
    keys = jax.random.split(key, len(shapes))
    return {str(i): jax.random.normal(k, shape, dtype) for i, (k, shape) in enumerate(zip(keys, shapes, strict=True))}


RULES = {"lion": (optimizers.fused_lion, optax.lion), "adamw": (optimizers.fused_adamw, optax.adamw)}


def optimizer_cases(quick: bool) -> Iterator[Case]:
    """Lion and AdamW, float32 and bfloat16, full states and states of one byte, one tensor and 500."""
    sizes, many = (QUICK_SIZES, 20) if quick else (SIZES, 500)
    first = [(1, sizes[0]), (many, min(sizes))]  # one large tensor, and small ones, whose launches are what counts
    for tensors, total in dict.fromkeys([*first, *itertools.product((1, many), sizes)]):
        for name in RULES:
            shapes = sizes_of(total, tensors)
            for dtype in (jnp.float32, jnp.bfloat16) if tensors == 1 else (jnp.float32,):
                yield _optimizer_case(name, shapes, dtype, False)
                yield _optimizer_case(name, shapes, dtype, True)
                if dtype == jnp.bfloat16:
                    yield _optimizer_case(name, shapes, dtype, True, stochastic=True)


def _optimizer_case(name: str, shapes: list[tuple[int, ...]], dtype: Any, eight_bit: bool, stochastic: bool = False) -> Case:
    ours, theirs = RULES[name]
    ways = {"kernel": backend.AUTO} if backend.resolve(backend.AUTO) != backend.XLA else {}
    # Beside bfloat16 weights a full average of gradients is float32, as it is usually kept: 14 bytes for Lion, against 8.
    settings: dict[str, Any] = {"mu_dtype": jnp.float32} if dtype == jnp.bfloat16 and not eight_bit else {}
    make_ours = partial(ours, 1e-3, eight_bit=eight_bit, stochastic_rounding=stochastic, **settings)
    fused = {way: make_ours(backend=which) for way, which in (ways | {"xla": backend.XLA}).items()}
    params = {str(i): jax.ShapeDtypeStruct(shape, dtype) for i, shape in enumerate(shapes)}
    state = jax.eval_shape(fused["xla"].init, params)
    reference = theirs(1e-3, **settings)

    chains = {"optax": reference} | ({} if stochastic else {"chain": fused["kernel" if ways else "xla"].transformation})

    def make(key: jax.Array) -> dict[str, Way]:
        start, gradients = (partial(_draw, k, shapes, dtype) for k in jax.random.split(key))
        steps = {way: partial(_in_place, f.step) for way, f in fused.items()} | {way: partial(_chained, c) for way, c in chains.items()}
        inits = {way: each.init for way, each in (fused | chains).items()}
        # Each way has buffers of its own, made when its turn comes, as it writes over them.
        return {way: Way(jax.jit(step, donate_argnums=0), partial(_begin, start, inits[way]), gradients) for way, step in steps.items()}

    def check(key: jax.Array, ways: dict[str, Way]) -> float | None:
        if total > (LARGEST_CHECK if "kernel" in ways else QUICK_SIZES[0]):
            return None
        interpreted = make_ours(backend=backend.INTERPRET_TRITON).step
        kernel = ways["kernel"].step if "kernel" in ways else jax.jit(partial(_in_place, interpreted))
        carry, gradients = ways["xla"].step(ways["xla"].begin(), _draw(key, shapes, dtype)), ways["xla"].rest()
        one = kernel(jax.tree.map(jnp.copy, carry), gradients)
        two = ways["xla"].step(carry, gradients)
        return max(_difference(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))

    total = sum(int(np.prod(shape)) for shape in shapes)
    kind = f"{'8-bit ' if eight_bit else ''}{name} {jnp.dtype(dtype).name}{', stochastic' if stochastic else ''}"
    moved = bytes_moved(params, params, state)
    full = jax.tree.leaves(jax.eval_shape(reference.init, params))
    resident = sum(x.size * x.dtype.itemsize for x in [*jax.tree.leaves(params) * 3, *full])
    return Case(f"{kind}, {total:.2e} in {len(shapes)}", len(shapes), moved, resident, make, check)


def _in_place(step: Callable[..., Any], carry: Any, gradients: Any) -> Any:
    return step(carry[0], gradients, carry[1])


def _chained(rule: optax.GradientTransformation, carry: Any, gradients: Any) -> Any:
    updates, state = rule.update(gradients, carry[1], carry[0])
    return optax.apply_updates(carry[0], updates), state


def _begin(start: Callable[[], Any], init: Callable[[Any], Any]) -> Any:
    params = start()
    return params, init(params)


def _difference(a: jax.Array, b: jax.Array) -> float:
    """The largest difference; a code or a rounded bfloat16 may lie one place off where the last bit of a float differs.

    Raises:
        AssertionError: too many elements differ by more, or one of the two is not finite anywhere.
    """
    if not a.size:
        return 0.0
    x, y = (v.astype(jnp.float32) for v in (a, b))
    assert bool(jnp.isfinite(y).all()), "the reference is not finite"
    assert bool(jnp.isfinite(x).all()), f"{float(jnp.mean(~jnp.isfinite(x))):.2%} of the kernel's elements are not finite"
    coded = a.dtype in (jnp.int8, jnp.uint8)
    allowed = 1.0 if coded else (1e-2 if a.dtype == jnp.bfloat16 else 1e-4) * jnp.abs(y) + 1e-6
    wrong = float(jnp.mean(~(jnp.abs(x - y) <= allowed)))
    # Lion: where b1 * m + (1 - b1) * g is zero but for rounding its sign may differ.
    assert wrong <= 1e-4, f"{wrong:.2%} of the elements differ"
    return float(jnp.max(jnp.abs(x - y))) if not coded else 0.0


def copy_bandwidth(quick: bool) -> float:
    """Bytes a second, read and written, of a copy larger than any cache."""
    x = jnp.ones(2**20 if quick else 2**29, jnp.float32)
    flip = jax.jit(jnp.negative, donate_argnums=0)
    seconds = statistics.median(_samples(lambda carry, _: flip(carry), x, None))
    return 2 * 4 * 2 ** (20 if quick else 29) / seconds


def _samples(step: Callable[[Any, Any], Any], carry: Any, rest: Any, count: int = SAMPLES) -> list[float]:
    """Seconds a step of each sample; the first two steps compile and warm up."""
    carry = jax.block_until_ready(step(step(carry, rest), rest))
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        for _ in range(STEPS):
            carry = step(carry, rest)
        jax.block_until_ready(carry)
        samples.append((time.perf_counter() - start) / STEPS)
    return samples


def _attempt(what: str, failures: dict[str, str], action: Callable[[], Any]) -> Any:
    """What the action gives; None where it fails, noted in one line."""
    try:
        return action()
    except Exception as error:  # of any kind: of compilers, of memory, of a check
        failures[what] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return None


def measure(case: Case, bandwidth: float, key: jax.Array) -> dict[str, Any]:
    """One row: times of each way, and what share of the bandwidth they reach; a kernel whose check fails is not timed."""
    begin, failures = time.perf_counter(), {}
    inputs, other = jax.random.split(key)
    ways = case.make(inputs)
    row: dict[str, Any] = {"case": case.name, "tensors": case.tensors, "bytes": case.bytes}
    row["difference"] = _attempt("check", failures, partial(case.check, other, ways))
    seconds = {}
    for way, (step, first, rest) in ways.items():
        if way == "kernel" and "check" in failures:
            continue
        samples = _attempt(way, failures, lambda step=step, first=first, rest=rest: _samples(step, first(), rest()))
        if samples:
            seconds[way] = statistics.median(samples)
            row[f"{way}_us"] = 1e6 * seconds[way]
    best = seconds.get("kernel" if "kernel" in ways else "xla")
    row["share"] = case.bytes / best / bandwidth if best else None
    row["optax_over_ours"] = seconds["optax"] / best if best and "optax" in seconds else None
    return row | {"failed": failures, "seconds": time.perf_counter() - begin}


def _moving(row_bytes: int, bandwidth: float) -> float:
    """Seconds that all steps of a case's ways take to move its bytes; the chains of two move up to 1.6 times as many."""
    return 5 * (SAMPLES * STEPS + 2) * row_bytes / (PESSIMISM * bandwidth)


def estimate(case: Case, rows: Sequence[dict[str, Any]], bandwidth: float) -> float:
    """Seconds that a case may take, from those before it in as many tensors."""
    like = [row["seconds"] - _moving(row["bytes"], bandwidth) for row in rows if row["tensors"] == case.tensors]
    return max(like, default=FIRST_GUESS[case.tensors > 1]) + _moving(case.bytes, bandwidth)


def _updates(cases: Iterator[Case], deadline: float, memory: int, bandwidth: float, result: dict[str, Any]) -> None:
    print(f"{'case':45} {'MB':>9} {'kernel us':>10} {'xla us':>10} {'optax us':>10} {'chain us':>10} {'of copy':>8} {'optax/ours':>10}")
    for number, case in enumerate(cases):
        needed, left = estimate(case, result["rows"], bandwidth), deadline - time.perf_counter()
        why = "too large for the memory" if case.resident > MEMORY_SHARE * memory else None
        why = why or (f"may take {needed:.0f} s, {max(left, 0):.0f} s are left" if needed > left else None)
        if why:
            result["skipped"].append({"case": case.name, "why": why})
            print(f"{case.name:45} {why}")
            continue
        row = measure(case, bandwidth, jax.random.fold_in(jax.random.key(result["seed"]), number))
        result["rows"].append(row)
        times = " ".join(_cell(row.get(way), "10.1f") for way in ("kernel_us", "xla_us", "optax_us", "chain_us"))
        shares = f"{_cell(row['share'], '8.1%')} {_cell(row['optax_over_ours'], '10.2f')}"
        print(f"{row['case']:45} {row['bytes'] / 1e6:9.2f} {times} {shares}", flush=True)
        for what, line in row["failed"].items():
            print(f"    FAILED, {what}: {line}", flush=True)


def _cell(number: float | None, form: str) -> str:
    return format("-", ">" + form.partition(".")[0]) if number is None else format(number, form)


def _populations(rows: Iterator[dict[str, Any]], result: dict[str, Any]) -> None:
    columns = ("batch", "optax_vmap", "cpu_one_core", "cpu_two_cores", "batch / cpu_one_core", "batch / cpu_two_cores")
    print(f"\n{'candidates a second':25} {'parameters':>10} {'difference':>10} " + " ".join(f"{name:>21}" for name in columns))
    for row in rows:
        result["population"].append(row)
        name = f"{row['task']}, {row['candidates']}"
        if "failed" in row or "skipped" in row:
            print(f"{name:25} " + (f"FAILED: {row['failed']}" if "failed" in row else row["skipped"]), flush=True)
            continue
        rates = " ".join(_cell(row[each], "21.2f") for each in columns)
        print(f"{name:25} {row['parameters']:10} {row['difference']:10.1e} {rates}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a smoke test")
    parser.add_argument("--minutes", type=float, default=7.0, help="within which all cases are to end")
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    parser.add_argument("--seed", type=int, default=None, help="of the random inputs; another one each time where it is not given")
    parser.add_argument("--output", type=Path, default=Path("device.json"))
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    device = jax.devices()[0]
    if device.platform == "cpu" and not options.quick:
        parser.error("jax runs on the CPU here, whose times this is not about: use --quick")
    memory = (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)
    bandwidth = copy_bandwidth(options.quick)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    result: dict[str, Any] = {"device": device.device_kind, "date": time.strftime("%Y-%m-%d"), "jax": jax.__version__, "seed": seed}
    result |= {"host": platform.processor() or platform.machine(), "copy_gb_s": bandwidth / 1e9, "quick": options.quick}
    result |= {"rows": [], "skipped": [], "population": []}
    print(
        f"{device.device_kind}, jax {jax.__version__}, copy {bandwidth / 1e9:.1f} GB/s, seed {seed}"
        f"{', sizes of a smoke test' if options.quick else ''}"
    )
    end = start + 60 * options.minutes
    cases = (case for case in optimizer_cases(options.quick) if options.only in case.name)
    tasks = tuple(name for name in TASKS if options.only in f"population of {name}")
    try:
        _updates(cases, start + 60 * UPDATES_SHARE * options.minutes, memory, bandwidth, result)
        _populations(population_cases(options.quick, tasks, seconds_left=lambda: end - time.perf_counter()), result)
    finally:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
