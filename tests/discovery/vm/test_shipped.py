"""Shipped programs equal optax, or a NumPy float64 transcription of the paper's formula where optax has no such rule.

As the register machine runs them, interpreted, and as exported files, over 100 steps, to 1e-5 of the largest element of each
parameter array at each step. Signs flip where their argument is zero to rounding; the transcriptions assert that the
recorded gradients keep away from that.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.export import separate, to_optax
from stepsmith.discovery.language import as_transformation, extended_operations, load, names
from stepsmith.discovery.vm import Clock, assemble, register_machine

STEPS = 100
SHAPES = {"a": (3, 4), "b": (5,), "c": (7, 2)}
SPLITS = np.cumsum([np.prod(shape) for shape in SHAPES.values()])[:-1]  # of all elements as one vector
LR = 1 - np.arange(STEPS) / STEPS  # linear decay to 0
LOSSES = np.geomspace(60.0, 0.5, STEPS, dtype=np.float32)  # above and below the squared norm of the gradients


def _draw(seed, shapes):
    """Parameters, and gradients of all steps: of both signs, 0.2 to 1.2 in size, so that no first moment starts at zero."""
    rng = np.random.default_rng(seed)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sizes = {name: (STEPS, *shape) for name, shape in shapes.items()}
    return start, {name: (rng.choice([-1, 1], s) * rng.uniform(0.2, 1.2, s)).astype(np.float32) for name, s in sizes.items()}


START, GRADIENTS = _draw(4, SHAPES)  # of which no rule's sign comes near zero


def _sign(x, margin=1e-6):
    assert np.abs(x).min() > margin, "the recorded gradients bring this sign's argument too near to zero"
    return np.sign(x)


def _interp(x, y, a):
    return (1 - a) * x + a * y


# Transcriptions: (w, g, state, t, lr of the schedule) -> update; float64, one parameter array (the clipping rule: all of them).


def _adamw(w, g, s, t, lr):
    s["m"], s["v"] = _interp(g, s.get("m", 0), 0.9), _interp(g * g, s.get("v", 0), 0.999)
    return (s["m"] / (np.sqrt(s["v"]) + 1e-8) + 0.01 * w) * lr * 0.001


def _adamw_corrected(w, g, s, t, lr):
    s["m"], s["v"] = _interp(g, s.get("m", 0), 0.9), _interp(g * g, s.get("v", 0), 0.999)
    m, v = s["m"] / (1 - 0.9**t), s["v"] / (1 - 0.999**t)
    return (m / (np.sqrt(v) + 1e-8) + 0.01 * w) * lr * 0.001


def _powersign(w, g, s, t, lr):
    s["m"] = _interp(g, s.get("m", 0), 0.9)
    return np.exp(_sign(g) * _sign(s["m"])) * g * lr * 0.1


def _addsign(w, g, s, t, lr):
    s["m"] = _interp(g, s.get("m", 0), 0.9)
    return (1 + _sign(g) * _sign(s["m"])) * g * lr * 0.1


def _lion_raw(w, g, s, t, lr):
    g = g * min(1.0, lr / np.sqrt((g * g).sum()))
    g = np.arcsin(g)
    m = _interp(g, s.get("v", 0), 0.8999999761581421)
    s["v"] = _interp(g, m, 1.109133005142212)
    _sign(m, 1e-7)
    lr = lr * 0.0002171761734643951
    return m * lr / (np.sqrt(m * m) + 1e-8) + lr * 0.4601978361606598 * w


def _demon(w, g, s, t, lr):
    ahead = 1 - (t - 1) / STEPS
    s["m"] = 0.9 * ahead / (0.1 + 0.9 * ahead) * s.get("m", 0) + g
    return s["m"] * lr * 0.1


def _newton_schulz(w, g, s, t, lr):
    s["m"] = _interp(g, s.get("m", 0), 0.95)
    updates = []
    for leaf, shape in zip(np.split(s["m"], SPLITS), SHAPES.values(), strict=True):
        left, values, right = np.linalg.svd(leaf.reshape(-1, shape[-1]) if len(shape) > 1 else leaf[None], full_matrices=False)
        values = values / (np.linalg.norm(leaf) + 1e-8)
        for _ in range(3):
            values = 1.5 * values - 0.5 * values**3
        updates.append((left * values @ right).ravel())
    return np.concatenate(updates) * lr * 0.02


def _paper_regularizing(w, g, s, t, lr):
    s["m"], v = _interp(s.get("m", 0), g, 0.16), _interp(s.get("v", 0), g * g, 0.001)
    s["v"] = np.sin(v)
    return (np.sin(s["m"] / (np.sqrt(v) + 1e-8)) + (g * w).sum() * w) * lr * 0.0216


def _paper_adagrad_like(w, g, s, t, lr):
    v = s.get("v", 0)
    s["m"], v = _interp(s.get("m", 0), g, 0.1), _interp(v, v + g * g, 0.0015)
    s["v"] = np.minimum(v, np.pi)
    return np.sinh(s["m"] / (np.sqrt(v) + 1e-8)) * lr * 0.0606


def _paper_adabelief_like(w, g, s, t, lr):
    s["m"] = _interp(s.get("m", 0), g, 0.1)
    s["v"] = _interp(s.get("v", 0), (g - s["m"]) ** 2, 0.001)
    return (s["m"] / (np.sqrt(s["v"]) + 1e-8) + 0.0238 * w) * lr * 0.03721


def _schedule(peak):
    return optax.linear_schedule(peak, 0.0, STEPS)


class Row(NamedTuple):
    """A counterpart: an optax transformation, or a transcription."""

    counterpart: Callable[[], optax.GradientTransformation] | None = None
    numpy: Callable | None = None
    smooth: bool = True  # closed loop is not chaotic
    rtol: float = 1e-5  # against optax


TABLE = {
    "sgd": Row(lambda: optax.sgd(_schedule(0.1))),
    "momentum": Row(lambda: optax.sgd(_schedule(0.1), momentum=0.9)),
    # optax adds epsilon to the sum below the root; so small a one cannot be seen in float32.
    "adagrad": Row(lambda: optax.adagrad(_schedule(0.01), initial_accumulator_value=0.0, eps=1e-16)),
    "rmsprop": Row(lambda: optax.rmsprop(_schedule(0.001), decay=0.9, eps=1e-8, eps_in_sqrt=False)),
    "adamw": Row(numpy=_adamw),  # without bias correction
    # optax computes 1 - 0.999 ** t in float32, which loses up to 3e-5 of it, 1.5e-5 of its root: hence its looser figure.
    "adamw_corrected": Row(
        lambda: optax.adamw(_schedule(0.001), b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01), _adamw_corrected, rtol=4e-5
    ),
    "lion": Row(lambda: optax.lion(_schedule(0.0003), b1=0.9, b2=0.99, weight_decay=0.1), smooth=False),
    "lion_raw": Row(numpy=_lion_raw, smooth=False),
    "addsign": Row(numpy=_addsign, smooth=False),
    "powersign": Row(numpy=_powersign, smooth=False),
    "signum": Row(
        lambda: optax.chain(optax.ema(0.9, debias=False), optax.scale_by_sign(), optax.scale_by_learning_rate(_schedule(0.001))),
        smooth=False,
    ),
    "demon": Row(numpy=_demon),
    "lamb": Row(lambda: optax.lamb(_schedule(0.01), eps=1e-8, weight_decay=0.01)),
    "adafactor": Row(lambda: optax.adafactor(_schedule(0.05), min_dim_size_to_factor=1, momentum=None)),
    # Its Adam on vectors has the same 1 - 0.999 ** t.
    "muon": Row(lambda: optax.contrib.muon(_schedule(0.02)), rtol=2e-5),
    "newton_schulz": Row(numpy=_newton_schulz),
    "polyak": Row(
        lambda: optax.chain(optax.scale_by_polyak(max_learning_rate=1.0, eps=1e-8), optax.scale_by_learning_rate(_schedule(1.0)))
    ),
    "paper_regularizing": Row(numpy=_paper_regularizing, smooth=False),
    "paper_adagrad_like": Row(numpy=_paper_adagrad_like),
    "paper_adabelief_like": Row(numpy=_paper_adabelief_like),
}


def test_table_is_complete():
    assert sorted(TABLE) == names()
    assert all(row.counterpart or row.numpy for row in TABLE.values())


@partial(jax.jit, static_argnums=(0, 1))
def _trajectory(make, gradient_fn, code, params):
    transformation = optax.with_extra_args_support(make(code))

    def step(carry, t):
        params, state = carry
        updates, state = transformation.update(gradient_fn(params, t), state, params, value=jnp.asarray(LOSSES)[t])
        params = optax.apply_updates(params, updates)
        return (params, state), (updates, params)

    return jax.lax.scan(step, (params, transformation.init(params)), jnp.arange(STEPS))[1]


def _run(make, gradient_fn, code=None):
    """Updates and parameters after each of 100 steps with what `make` makes of the code."""
    return jax.tree.map(np.asarray, _trajectory(make, gradient_fn, code, jax.tree.map(jnp.asarray, START)))


@cache
def _run_counterpart(name, gradient_fn):
    return _run(lambda _: TABLE[name].counterpart(), gradient_fn)


@cache
def _run_numpy(name, gradient_fn):
    """The same in float64; the parameters are one vector, so that a global norm is one sum."""
    rule = TABLE[name].numpy
    w, state = np.concatenate([v.ravel() for v in START.values()]).astype(np.float64), {}
    updates, params = [], []
    for t in range(STEPS):
        tree = {name: x.reshape(SHAPES[name]) for name, x in zip(SHAPES, np.split(w, SPLITS), strict=True)}
        g = np.concatenate([np.asarray(x, np.float64).ravel() for x in gradient_fn(tree, t).values()])
        update = rule(w, g, state, t + 1, LR[t])
        w = w - update
        updates.append(-update)
        params.append(w)
    return tuple(
        {name: x.reshape(STEPS, *SHAPES[name]) for name, x in zip(SHAPES, np.split(np.asarray(rows), SPLITS, axis=1), strict=True)}
        for rows in (updates, params)
    )


def _recorded(params, t):
    return (
        {name: x[t] for name, x in GRADIENTS.items()} if isinstance(t, int) else {name: jnp.asarray(x)[t] for name, x in GRADIENTS.items()}
    )


def _quadratic(params, t):
    """Gradient of a quadratic with curvatures 0.5 to 1.5 and minima away from the start."""
    curvature = {name: np.linspace(0.5, 1.5, int(np.prod(s)), dtype=np.float32).reshape(s) for name, s in SHAPES.items()}
    return {name: curvature[name] * (params[name] - np.float32(3.0)) for name in SHAPES}


MACHINES = {extended: partial(register_machine, extended=extended) for extended in (False, True)}  # each compiled once for all programs


def _ours(form, name, load_module, gradient_fn):
    program = load(name)
    if form == "machine":
        extended = bool(extended_operations(program))
        return _run(MACHINES[extended], gradient_fn, assemble(program, Clock.create(LR), extended=extended))
    if form == "interpreted":
        return _run(lambda _: as_transformation(program, _schedule(1.0), STEPS), gradient_fn)
    module, parts = load_module(to_optax(program, name), name), separate(program)
    extra = {"total_steps": STEPS} if "progress" in program.extra else {}
    rule = getattr(module, name)(learning_rate=_schedule(parts.learning_rate if parts else 1.0), **extra)
    return _run(lambda _: rule, gradient_fn)


def _rtol(name, form):
    """The interpreter too computes 1 - 0.999 ** t in float32."""
    return 4e-5 if (name, form) == ("adamw_corrected", "interpreted") else 1e-5


def _assert_close(ours, theirs, rtol):
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for leaf in SHAPES:
            axes = tuple(range(1, b[leaf].ndim))
            scale = np.abs(b[leaf]).max(axes)
            assert (scale > 0).all()
            worst = (np.abs(a[leaf] - b[leaf]).max(axes) / scale).max()
            assert worst <= rtol, f"{index} {leaf}: {worst}"


@pytest.mark.parametrize("form", ["machine", "interpreted", "exported"])
@pytest.mark.parametrize("name", TABLE)
def test_open_loop(name, form, load_module):
    row, ours = TABLE[name], _ours(form, name, load_module, _recorded)
    if row.numpy:
        _assert_close(ours, _run_numpy(name, _recorded), _rtol(name, form))
    if row.counterpart:
        _assert_close(ours, _run_counterpart(name, _recorded), row.rtol)


@pytest.mark.parametrize("form", ["machine", "interpreted", "exported"])
@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.smooth])
def test_closed_loop(name, form, load_module):
    row, (_, ours) = TABLE[name], _ours(form, name, load_module, _quadratic)
    # The parameters only: near a minimum an update is a difference of nearly equal numbers.
    if row.numpy:
        _assert_close([ours], [_run_numpy(name, _quadratic)[1]], _rtol(name, form))
    if row.counterpart:
        _assert_close([ours], [_run_counterpart(name, _quadratic)[1]], row.rtol)
    moved = max(np.abs(ours[leaf][-1] - START[leaf]).max() for leaf in SHAPES)
    assert moved > 0.01
