"""Whether simplification keeps outputs, over random programs.

    python tests/benchmarks/soundness.py [--programs 100000] [--first 0] [--extended]

Each program is a random walk of mutations from a shipped one, of the paper's language or the extended one. It and its simplified
form are run over several steps, with states, on inputs with zeros, tiny and huge values, and must agree to 1e-5 wherever the
original's intermediate values are finite and its output is no rounding noise: noise of 1e-13 put on every intermediate value
must not show in it.
"""

import argparse
import math
import sys
import time
from random import Random

import numpy as np

from stepsmith.discovery.language import (
    OPS,
    Kind,
    ProgramError,
    canonical_hash,
    extended_operations,
    infer,
    is_live,
    load,
    names,
    prune,
    to_text,
)
from stepsmith.discovery.language.ops import Shape
from stepsmith.discovery.language.rewrite import simplify_exact
from stepsmith.discovery.search import MutationConfig, mutant

SHAPES = ((3, 2), (4,))  # of the two parameter arrays
SIZES = tuple(map(math.prod, SHAPES))
STEPS = 4
NOISE = 1e-13
TOLERANCE = 1e-5
REGIMES = ("normal", "mixed", "tiny", "huge")
PAPER = [name for name in names() if not extended_operations(load(name))]


def walk(seed, extended=False):
    """A well-typed program of the paper's language, or of the extended one, far from a shipped one."""
    random = Random(seed)
    program = load(random.choice(names() if extended else PAPER))
    config = MutationConfig(constant=random.choice((0.2, 0.5)), max_statements=random.choice((10, 20, 30)))
    for _ in range(random.randrange(1, 60)):
        candidate, _ = mutant(program, random, config, extended)
        try:
            infer(candidate)
        except ProgramError:
            continue
        if is_live(candidate):
            program = candidate
    return program


def inputs(seed, regime):
    """The inputs of a program, and the loss, at each step. # w, g: [elements]"""
    scalars = [{"lr": 1 - 0.3 * step, "step": step + 1.0, "progress": step / STEPS, "loss": 2.0 / (step + 1)} for step in range(STEPS)]
    rng = np.random.default_rng(seed)
    size = sum(SIZES)

    def draw():
        x = rng.normal(size=size)
        if regime in ("mixed", "tiny"):
            x = x * np.where(rng.random(size) < (0.3 if regime == "mixed" else 1.0), 10.0 ** rng.uniform(-30, -6, size), 1.0)
        if regime in ("mixed", "huge"):
            x = x * np.where(rng.random(size) < (0.2 if regime == "mixed" else 1.0), 10.0 ** rng.uniform(1, 12, size), 1.0)
        return np.where(rng.random(size) < 0.15, 0.0, x)

    return [{"w": draw(), "g": draw(), "budget": STEPS, **told} for told in scalars]


def run(program, feed, dtype, noise=None):
    """Updates of a program, and where an intermediate value was not finite so far. # [steps, elements] each"""
    kinds = infer(program)
    program_states = {name: np.zeros(sum(SIZES), dtype) for name in program.states}
    broken = np.zeros(sum(SIZES), bool)
    updates, masks = [], []
    with np.errstate(all="ignore"):
        for told in feed:
            values = {name: np.asarray(value, dtype)[()] for name, value in told.items()} | program_states
            for (target, op, args), kind in zip(program.statements, kinds, strict=True):
                arguments = [values[a] if isinstance(a, str) else dtype(a) for a in args]
                value = dtype(told["loss"]) if op == "batch_loss" else _evaluate(op, kind, arguments, dtype)
                if noise is not None:
                    value = value * (1 + NOISE * noise.uniform(-1, 1, np.shape(value)).astype(dtype))
                values[target] = value
                broken = broken | ~np.isfinite(value)
            program_states = {name: np.broadcast_to(values[name], sum(SIZES)) for name in program.states}
            updates.append(np.broadcast_to(values["update"], sum(SIZES)))
            masks.append(broken)
    return np.asarray(updates), np.asarray(masks)


def _leaves(value):
    return np.split(np.broadcast_to(value, sum(SIZES)), np.cumsum(SIZES)[:-1])


def _dot(a, b):
    return sum((x * y).sum() for x, y in zip(_leaves(a), _leaves(b), strict=True))


def _newton_schulz(x):
    x = x / (np.sqrt((x * x).sum()) + 1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def _averaged(x, axis):
    return np.broadcast_to(x.mean(axis, keepdims=True), x.shape)


OF_MATRICES = {
    "row_mean": lambda x: _averaged(x, 1),
    "column_mean": lambda x: _averaged(x, 0),
    "orthogonalize": _newton_schulz,
    "transposed_product": lambda x, y: x @ x.T @ y,
}
OF_SHAPES = {"num_rows": lambda shape: shape[0], "num_columns": lambda shape: shape[1]}


def _evaluate(name, kind, args, dtype):
    """One operation, written independently of the interpreter; a leaf scalar is held at full width."""
    op = OPS[name]
    if op.shape is Shape.PER_ARRAY:
        return np.concatenate([np.full(len(x), x.mean() if name == "mean" else np.sqrt((x * x).sum())) for x in _leaves(args[0])])
    matrices = [shape if len(shape) == 2 else (1, *shape) for shape in SHAPES]
    if op.shape is Shape.LEAF_CONSTANT:
        return np.concatenate([np.full(size, OF_SHAPES[name](shape), dtype) for size, shape in zip(SIZES, matrices, strict=True)])
    if op.shape is Shape.MATRIX:
        leaves = zip(*map(_leaves, args), strict=True)
        return np.concatenate(
            [OF_MATRICES[name](*(x.reshape(shape) for x in xs)).ravel() for shape, xs in zip(matrices, leaves, strict=True)]
        )
    if op.shape is Shape.SELECT:
        return np.concatenate([a if len(shape) == 2 else b for shape, a, b in zip(SHAPES, *map(_leaves, args), strict=True)])
    if op.shape is Shape.GLOBAL:
        a, b = args[0], args[-1]
        length = np.sqrt(_dot(a, a))
        return length if op.arity == 1 else _dot(a, b) if name == "dot" else _dot(a, b) / (length * np.sqrt(_dot(b, b)))
    if op.shape is Shape.CLIP:
        x, bound = np.broadcast_to(args[0], sum(SIZES)), args[1]
        length = np.sqrt(_dot(x, x))
        return np.where(length > bound, x * (bound / length), x)
    assert op.fn is not None and kind in Kind
    return op.fn(np, *args)


def differs(program, other, seed, both=False):
    """What is wrong with `other` as a form of the program, or None; where both have to have an output, or the program alone."""
    for number, regime in enumerate(REGIMES):
        feed = inputs(seed * 10 + number, regime)
        expected, _ = run(program, feed, np.longdouble)
        for dtype in (np.longdouble, np.float64):
            found, _ = run(other, feed, dtype)
            with np.errstate(all="ignore"):
                stable = _stable(program, feed, seed, dtype)
                if both:
                    stable &= _stable(other, feed, seed, dtype)
                wrong = stable & ~(np.abs(found - expected) <= TOLERANCE * np.abs(expected))
            if wrong.any():
                step, element = np.argwhere(wrong)[0]
                return f"{regime}, {dtype.__name__}, step {step}: {expected[step, element]} became {found[step, element]}"
    return None


def _stable(program, feed, seed, dtype):
    """Where a program has an output that is no rounding noise. # [steps, elements]"""
    expected, broken = run(program, feed, np.longdouble)
    noisy, _ = run(program, feed, np.longdouble, np.random.default_rng(seed))
    stable = ~broken & (np.abs(noisy - expected) <= 1e-8 * np.abs(expected))
    if dtype is np.float64:
        plain, plain_broken = run(program, feed, np.float64)
        stable &= ~plain_broken & (np.abs(plain - expected) <= 1e-8 * np.abs(expected))
    return stable


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--extended", action="store_true")
    options = parser.parse_args()
    wrong, before, after, start = 0, 0, 0, time.perf_counter()
    for seed in range(options.first, options.first + options.programs):
        program = walk(seed, options.extended)
        simple = simplify_exact(program)
        before, after = before + len(prune(program).statements), after + len(simple.statements)
        fault = differs(program, simple, seed)
        if fault or canonical_hash(simple) != canonical_hash(program):
            wrong += bool(fault)
            print(f"program {seed}: {fault or 'another hash'}\n{to_text(prune(program))}\n{to_text(simple)}")
    print(
        f"soundness programs={options.programs} wrong={wrong} statements={before} after={after} seconds={time.perf_counter() - start:.0f}"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
