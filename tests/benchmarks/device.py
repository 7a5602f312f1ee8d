"""Checks every kernel against its reference on this machine's device, and times it against jitted optax. Run by hand:

    python tests/benchmarks/device.py [--quick] [--minutes 7] [--output device.json]

On a bare machine with jax and this checkout (`pip install -e .`), meant for under 8 minutes. It measures the bandwidth of a copy,
then for each case checks the kernel on fresh random inputs and times it, its plain-XLA reference and optax's update with
apply_updates, all jitted and donated: medians over many steps. Sizes are 1e8, 1e9, 1e7 and 1e6 parameters, in this order, in one
tensor and in 500; a case whose arrays would take more than 70 % of the device's memory is skipped and said to be (at 1e9, AdamW in
float32 takes 20 GB, optax's states counted), and above 1e8 parameters a kernel is timed and not checked. Only what is larger than
the device's cache says something about its memory: 1e6 parameters fit into many. Then come the candidates a second of
populations, by `population_device.py`, whose kernel is checked likewise. After `--minutes` no further case begins; populations may
use the last third of them. On a CPU, `--quick` runs the same with plain XLA, and checks the interpreted kernels, at 1e4 and 1e5
parameters in one tensor and in 20, which say nothing about speed.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from population_device import population_cases

from stepsmith import optimizers
from stepsmith.optimizers.kernels import backend, bytes_moved

# The most telling first: what time leaves out is at the end.
SIZES = (10**8, 10**9, 10**7, 10**6)
QUICK_SIZES = (10**4, 10**5)
# Steps that a sample runs without waiting between them, and samples: the median of samples counts.
STEPS, SAMPLES = 10, 15
# Of the device's memory, what parameters, gradients and states may take together.
MEMORY_SHARE = 0.7
# Of the minutes, what may pass before the populations' turn.
UPDATES_SHARE = 2 / 3
# Elements above which the kernel is timed and not checked: a check holds everything several times.
LARGEST_CHECK = 10**8


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
        bytes: moved by a step at least.
        resident: bytes that must be in memory at once.
        make: key -> the ways.
        check: key -> largest difference between kernel and reference, None where it is not checked; raises AssertionError where
            it is too large.
    """

    name: str
    bytes: int
    resident: int
    make: Callable[[jax.Array], dict[str, Way]]
    check: Callable[[jax.Array], float | None]


def sizes_of(total: int, tensors: int) -> list[tuple[int, ...]]:
    """Shapes of tensors of mixed sizes, matrices and vectors, some odd, with about that many elements together."""
    if tensors == 1:
        return [(total // 1000, 1000)]
    weights = np.exp(np.random.default_rng(0).normal(0, 2, tensors))
    counts = np.maximum(1, total * weights / weights.sum()).astype(int)
    return [(int(n),) if i % 2 or n < 256 else (int(n) // 128, 128) for i, n in enumerate(counts)]


def _draw(key: jax.Array, shapes: list[tuple[int, ...]], dtype: Any) -> dict[str, jax.Array]:
    keys = jax.random.split(key, len(shapes))
    return {str(i): jax.random.normal(k, shape, dtype) for i, (k, shape) in enumerate(zip(keys, shapes, strict=True))}


RULES = {"lion": (optimizers.fused_lion, optax.lion), "adamw": (optimizers.fused_adamw, optax.adamw)}


def optimizer_cases(quick: bool) -> Iterator[Case]:
    """Lion and AdamW, float32 and bfloat16, full states and states of one byte, one tensor and 500."""
    for total in QUICK_SIZES if quick else SIZES:
        for tensors in (1, 20 if quick else 500):
            for name in RULES:
                yield _optimizer_case(name, sizes_of(total, tensors), jnp.float32, False)
                yield _optimizer_case(name, sizes_of(total, tensors), jnp.float32, True)
                if tensors == 1:
                    yield _optimizer_case(name, sizes_of(total, tensors), jnp.bfloat16, True)


def _optimizer_case(name: str, shapes: list[tuple[int, ...]], dtype: Any, eight_bit: bool) -> Case:
    ours, theirs = RULES[name]
    ways = {"kernel": None} if backend.resolve(None) != backend.XLA else {}
    fused = {way: ours(1e-3, eight_bit=eight_bit, backend=which) for way, which in (ways | {"xla": "xla"}).items()}
    params = {str(i): jax.ShapeDtypeStruct(shape, dtype) for i, shape in enumerate(shapes)}
    state = jax.eval_shape(fused["xla"].init, params)
    reference = theirs(1e-3)

    def optax_step(carry: Any, gradients: Any) -> Any:
        updates, new = reference.update(gradients, carry[1], carry[0])
        return optax.apply_updates(carry[0], updates), new

    def make(key: jax.Array) -> dict[str, Way]:
        start, gradients = (partial(_draw, k, shapes, dtype) for k in jax.random.split(key))
        steps = {way: partial(_in_place, f.step) for way, f in fused.items()} | {"optax": optax_step}
        inits = {way: f.init for way, f in fused.items()} | {"optax": reference.init}
        # Each way has buffers of its own, made when its turn comes, as it writes over them.
        return {way: Way(jax.jit(step, donate_argnums=0), partial(_begin, start, inits[way]), gradients) for way, step in steps.items()}

    def check(key: jax.Array) -> float | None:
        kernel = fused.get("kernel") or ours(1e-3, eight_bit=eight_bit, backend=backend.INTERPRET_TRITON)
        if total > (LARGEST_CHECK if "kernel" in fused else QUICK_SIZES[0]):
            return None
        first, gradients = (_draw(k, shapes, dtype) for k in jax.random.split(key))
        one, two = (jax.jit(f.step)(first, gradients, f.init(first)) for f in (kernel, fused["xla"]))
        return max(_difference(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))

    total = sum(int(np.prod(shape)) for shape in shapes)
    kind = f"{'8-bit ' if eight_bit else ''}{name} {jnp.dtype(dtype).name}"
    moved = bytes_moved(params, params, state)
    full = jax.eval_shape(reference.init, params)
    resident = 3 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params)) + sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(full)
    )
    return Case(f"{kind}, {total:.2e} in {len(shapes)}", moved, resident, make, check)


def _in_place(step: Callable[..., Any], carry: Any, gradients: Any) -> Any:
    return step(carry[0], gradients, carry[1])


def _begin(start: Callable[[], Any], init: Callable[[Any], Any]) -> Any:
    params = start()
    return params, init(params)


def _difference(a: jax.Array, b: jax.Array) -> float:
    """The largest difference; a code or a rounded bfloat16 may lie one place off where the last bit of a float differs."""
    x, y = (v.astype(jnp.float32) for v in (a, b))
    coded = a.dtype in (jnp.int8, jnp.uint8)
    allowed = 1.0 if coded else (1e-2 if a.dtype == jnp.bfloat16 else 1e-4) * jnp.abs(y) + 1e-6
    wrong = float(jnp.mean(jnp.abs(x - y) > allowed)) if a.size else 0.0
    # Lion: where b1 * m + (1 - b1) * g is zero but for rounding its sign may differ.
    assert wrong <= 1e-4, f"{wrong:.2%} of the elements differ"
    return float(jnp.max(jnp.abs(x - y), initial=0.0)) if not coded else 0.0


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


def measure(case: Case, bandwidth: float, key: jax.Array) -> dict[str, Any]:
    """One row: times of each way, and what share of the bandwidth they reach."""
    row: dict[str, Any] = {"case": case.name, "bytes": case.bytes, "difference": case.check(key)}
    seconds = {}
    for way, (step, begin, rest) in case.make(key).items():
        seconds[way] = statistics.median(_samples(step, begin(), rest()))
        row[f"{way}_us"] = 1e6 * seconds[way]
    best = "kernel" if "kernel" in seconds else "xla"
    row |= {"share": case.bytes / seconds[best] / bandwidth, "optax_over_ours": seconds["optax"] / seconds[best]}
    return row


def _updates(quick: bool, deadline: float, memory: int, bandwidth: float, result: dict[str, Any]) -> None:
    print(f"{'case':45} {'MB':>9} {'kernel us':>10} {'xla us':>10} {'optax us':>10} {'of copy':>8} {'optax/ours':>10}")
    for number, case in enumerate(optimizer_cases(quick)):
        why = "too large for the memory" if case.resident > MEMORY_SHARE * memory else None
        why = why or ("out of time" if time.perf_counter() > deadline else None)
        if why:
            result["skipped"].append({"case": case.name, "why": why})
            print(f"{case.name:45} {why}")
            continue
        row = measure(case, bandwidth, jax.random.key(number))
        result["rows"].append(row)
        times = " ".join(f"{row[way]:10.1f}" if way in row else f"{'-':>10}" for way in ("kernel_us", "xla_us", "optax_us"))
        print(f"{row['case']:45} {row['bytes'] / 1e6:9.2f} {times} {row['share']:8.1%} {row['optax_over_ours']:10.2f}", flush=True)


def _populations(quick: bool, deadline: float, result: dict[str, Any]) -> None:
    columns = ("batch", "optax_vmap", "cpu_one_core")
    print(f"\n{'candidates a second':25} {'parameters':>10} {'difference':>10} " + " ".join(f"{name:>12}" for name in columns))
    rows = population_cases(quick)
    while time.perf_counter() < deadline:  # asked before a row is made, which is what takes the time
        row = next(rows, None)
        if row is None:
            return
        result["population"].append(row)
        rates = " ".join(f"{row[name]:12.2f}" if row[name] else f"{'no memory':>12}" for name in columns)
        print(f"{row['task'] + ', ' + str(row['candidates']):25} {row['parameters']:10} {row['difference']:10.1e} {rates}", flush=True)
    print("out of time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a smoke test")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no case begins")
    parser.add_argument("--output", type=Path, default=Path("device.json"))
    options = parser.parse_args()
    start = time.perf_counter()
    device = jax.devices()[0]
    if device.platform == "cpu" and not options.quick:
        parser.error("jax runs on the CPU here, whose times this is not about: use --quick")
    memory = (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)
    bandwidth = copy_bandwidth(options.quick)
    result: dict[str, Any] = {"device": device.device_kind, "date": time.strftime("%Y-%m-%d"), "jax": jax.__version__}
    result |= {"host": platform.processor() or platform.machine(), "copy_gb_s": bandwidth / 1e9, "quick": options.quick}
    result |= {"rows": [], "skipped": [], "population": []}
    print(
        f"{device.device_kind}, jax {jax.__version__}, copy {bandwidth / 1e9:.1f} GB/s{', sizes of a smoke test' if options.quick else ''}"
    )
    try:
        _updates(options.quick, start + 60 * UPDATES_SHARE * options.minutes, memory, bandwidth, result)
        _populations(options.quick, start + 60 * options.minutes, result)
    finally:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
