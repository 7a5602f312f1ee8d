"""Equality by testing: what the normal form cannot prove, random inputs suggest.

Two programs are run over several steps, with states, on inputs with zeros, tiny and huge values: in NumPy, and written apart
from the interpreter. They are equal where their outputs agree to 1e-5 wherever all intermediate values are finite and the
output is no rounding noise: noise of 1e-13 put on every intermediate value must not show in it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from .ops import OPS, Shape
from .program import Program

SHAPES = ((3, 2), (4,))  # of the two parameter arrays
SIZES = tuple(map(math.prod, SHAPES))
TIMES = ((1.0, 0.0), (2.0, 0.25), (30.0, 0.5), (400.0, 0.9975))  # step and progress of the steps that are run
NOISE = 1e-13
TOLERANCE = 1e-5
REGIMES = ("normal", "mixed", "tiny", "huge")

T = TypeVar("T")
Feed = Sequence[Mapping[str, Any]]


def different(ranked: Iterable[T], program_of: Callable[[T], Program]) -> Iterator[T]:
    """Those of some programs that compute something else than all before them, one at a time.

    >>> from .text import parse
    >>> rule = "def train(w, g, lr):\\n    x = {}\\n    update = x * lr\\n    return update"
    >>> [body for body in different(["tanh(g)", "2.0 * tanh(g)", "1.0 - 2.0 / (exp(g + g) + 1.0)"], lambda x: parse(rule.format(x)))]
    ['tanh(g)', '2.0 * tanh(g)']
    """
    kept: list[tuple[Program, np.ndarray]] = []
    for one in ranked:
        program = program_of(one)
        outputs = _outputs(program)
        if any(_may_equal(outputs, known) and differs(before, program, 0, both=True) is None for before, known in kept):
            continue
        if not np.isnan(outputs).all():
            kept.append((program, outputs))
        yield one


def _outputs(program: Program) -> np.ndarray:
    """Outputs on normal inputs, NaN where there are none that could be compared. # [steps, elements]"""
    feed = inputs(0, REGIMES[0])
    return np.where(_stable(program, feed, 0, np.float64), run(program, feed, np.float64)[0], np.nan)


def _may_equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.all(np.isnan(one) | np.isnan(other) | (np.abs(one - other) <= TOLERANCE * np.abs(other))))


def differs(program: Program, other: Program, seed: int, both: bool = False) -> str | None:
    """What is wrong with `other` as a form of the program, or None: where the program alone, or else both, have an output."""
    for number, regime in enumerate(REGIMES):
        feed = inputs(seed * 10 + number, regime)
        expected, _ = run(program, feed, np.longdouble)
        for dtype in (np.longdouble, np.float64):
            found, _ = run(other, feed, dtype)
            with np.errstate(all="ignore"):
                wrong = ~(np.abs(found - expected) <= TOLERANCE * np.abs(expected))
                if not wrong.any():
                    continue
                wrong &= _stable(program, feed, seed, dtype)
                if both:
                    wrong &= _stable(other, feed, seed, dtype)
            if wrong.any():
                step, element = np.argwhere(wrong)[0]
                return f"{regime}, {dtype.__name__}, step {step}: {expected[step, element]} became {found[step, element]}"
    return None


def _stable(program: Program, feed: Feed, seed: int, dtype: type[np.floating]) -> np.ndarray:
    """Where a program has an output that is no rounding noise. # [steps, elements]"""
    expected, broken = run(program, feed, np.longdouble)
    noisy, _ = run(program, feed, np.longdouble, np.random.default_rng(seed))
    with np.errstate(invalid="ignore"):  # infinities of what is broken
        stable = ~broken & (np.abs(noisy - expected) <= 1e-8 * np.abs(expected))
        if dtype is np.float64:
            plain, plain_broken = run(program, feed, np.float64)
            stable &= ~plain_broken & (np.abs(plain - expected) <= 1e-8 * np.abs(expected))
    return stable


def inputs(seed: int, regime: str) -> Feed:
    """The inputs of a program, and what the training loop tells, at each step. # w, g: [elements]"""
    rng = np.random.default_rng(seed)
    size = sum(SIZES)

    def draw() -> np.ndarray:
        x = rng.normal(size=size)
        if regime in ("mixed", "tiny"):
            x = x * np.where(rng.random(size) < (0.3 if regime == "mixed" else 1.0), 10.0 ** rng.uniform(-30, -6, size), 1.0)
        if regime in ("mixed", "huge"):
            x = x * np.where(rng.random(size) < (0.2 if regime == "mixed" else 1.0), 10.0 ** rng.uniform(1, 12, size), 1.0)
        return np.where(rng.random(size) < 0.15, 0.0, x)

    feed = []
    for index, (step, progress) in enumerate(TIMES):
        told = {"lr": 1 - 0.3 * index, "step": step, "progress": progress, "budget": TIMES[-1][0]}
        feed.append({"w": draw(), "g": draw(), **told, "loss": 2.0 / (index + 1), "gradient_norm": 1.5 / (index + 1)})
    return feed


def run(program: Program, feed: Feed, dtype: type[np.floating], noise: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a program, and where an intermediate value was not finite so far. # [steps, elements] each"""
    states: dict[Any, Any] = {name: np.zeros(sum(SIZES), dtype) for name in program.states}
    broken = np.zeros(sum(SIZES), bool)
    outputs, masks = [], []
    with np.errstate(all="ignore"):
        for told in feed:
            values = {name: np.asarray(value, dtype)[()] for name, value in told.items()} | states
            for target, op, args in program.statements:
                arguments = [values[a] if isinstance(a, str) else dtype(a) for a in args]
                value = dtype(told["loss"]) if op == "batch_loss" else _evaluate(op, arguments, dtype)
                if noise is not None:
                    value = value * (1 + NOISE * noise.uniform(-1, 1, np.shape(value)).astype(dtype))
                values[target] = value
                broken = broken | ~np.isfinite(value)
            states = {name: np.broadcast_to(values[name], sum(SIZES)) for name in program.states}
            outputs.append(np.broadcast_to(values[program.outputs[0]], sum(SIZES)))
            masks.append(broken)
    return np.asarray(outputs), np.asarray(masks)


def _evaluate(name: str, args: list[Any], dtype: type[np.floating]) -> Any:
    """One operation, written apart from the interpreter; a leaf scalar is held at full width."""
    op = OPS[name]
    matrices = [shape if len(shape) == 2 else (1, *shape) for shape in SHAPES]
    if op.shape is Shape.PER_ARRAY:
        return np.concatenate([np.full(len(x), x.mean() if name == "mean" else np.sqrt((x * x).sum())) for x in _leaves(args[0])])
    if op.shape is Shape.LEAF_CONSTANT:
        return np.concatenate([np.full(size, _OF_SHAPES[name](shape), dtype) for size, shape in zip(SIZES, matrices, strict=True)])
    if op.shape is Shape.MATRIX:
        leaves = zip(*map(_leaves, args), strict=True)
        return np.concatenate(
            [_OF_MATRICES[name](*(x.reshape(shape) for x in xs)).ravel() for shape, xs in zip(matrices, leaves, strict=True)]
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
    assert op.fn is not None
    return op.fn(np, *args)


def _leaves(value: Any) -> list[np.ndarray]:
    return np.split(np.broadcast_to(value, sum(SIZES)), np.cumsum(SIZES)[:-1])


def _dot(a: Any, b: Any) -> Any:
    return sum((x * y).sum() for x, y in zip(_leaves(a), _leaves(b), strict=True))


def _newton_schulz(x: np.ndarray) -> np.ndarray:
    x = x / (np.sqrt((x * x).sum()) + 1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def _averaged(x: np.ndarray, axis: int) -> np.ndarray:
    return np.broadcast_to(x.mean(axis, keepdims=True), x.shape)


_OF_MATRICES: dict[str, Callable[..., np.ndarray]] = {
    "row_mean": lambda x: _averaged(x, 1),
    "column_mean": lambda x: _averaged(x, 0),
    "orthogonalize": _newton_schulz,
    "transposed_product": lambda x, y: x @ x.T @ y,
}
_OF_SHAPES: dict[str, Callable[[tuple[int, ...]], int]] = {"num_rows": lambda shape: shape[0], "num_columns": lambda shape: shape[1]}
