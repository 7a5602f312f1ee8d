"""Muon with another scale for matrices and Adam's direction for the rest, its constants tuned by a search.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g^2
    u = b3 * m + (1 - b3) * g
    arrays of two axes:  d = orthogonalize(u) * sqrt(rows)
    all others:          d = u / (sqrt(v) + 1e-8)
    w <- w - learning_rate * (d + weight_decay * w)

Rows are those of the matrix as flax has it, one for each input of a layer. `orthogonalize` brings singular values near 1 by five
Newton-Schulz steps (Jordan et al. 2024, Muon).

Card
    Where it comes from: the scale sqrt(rows) from an evolution that began at Muon; momentum and Adam's direction for vectors, which that
    evolution had dropped, put back by hand; the four constants by `stepsmith tune` on four tasks of some hundred steps
    (EXPERIMENTS.md, attempts 7 and 13; discovery/configs/muon_robust_tuned.txt is the program).
    What it was shown to do: on the eight final variants of `stepsmith evaluate`, which chose nothing, 40 trials each in the common
    tuning space, 1.62 (1.11 to 3.20) times as fast as tuned AdamW by steps to the target, p = 0.024, all eight targets reached.
    (Intervals of 99.2 %, for it was the second look; 2026-11-22.) Tuned Lion 0.57 (0.33 to 0.85).
    What not: it is level with Muon (1.60, 1.10 to 2.50), slower than AdamW on both tables (57 steps against 27, 21 against 18) and on
    a CPU not ahead by seconds (0.66, 0.45 to 1.30). Models were small: nothing is known of large ones. With b1 = b3 = 0.8 and
    b2 = 0.99, set by hand, it did better in the same look: 1.79 (1.35 to 2.92).
    Kin: Muon, whose scale is of the ratio of rows to columns and whose momentum is Nesterov's (b1 = b3 = 0.95); without the
    orthogonalization Adam without bias correction; b3 near 1 makes the momentum nearly Polyak's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # of x, x^3 and x^5: steep at zero, within 0.68 to 1.21 after five steps
STEPS, EPS = 5, 1e-8


class ScaleByMuonRowsState(NamedTuple):
    """Averages of the gradient and of its square, shaped like the parameters."""

    m: optax.Updates
    v: optax.Updates


def orthogonalize(matrix: jax.Array) -> jax.Array:
    """The matrix [rows, columns] with its singular values brought near 1, the smallest ones, below 0.003 of the norm, aside."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (jnp.linalg.norm(x) + EPS)
    linear, cubic, quintic = NEWTON_SCHULZ
    for _ in range(STEPS):
        product = x @ x.T
        x = linear * x + (cubic * product + quintic * product @ product) @ x
    return x.T if tall else x


def scale_by_muon_rows(b1: float = 0.8544863588, b2: float = 0.9832910594, b3: float = 0.9736686087) -> optax.GradientTransformation:
    """The direction alone: no learning rate, no weight decay.

    Args:
        b1: weight of the last average of gradients in the next.
        b2: likewise of their squares.
        b3: weight of the average in the direction, the rest is the gradient's.
    """

    def init_fn(params: optax.Params) -> ScaleByMuonRowsState:
        return ScaleByMuonRowsState(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))

    def update_fn(
        updates: optax.Updates, state: ScaleByMuonRowsState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByMuonRowsState]:
        m = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.m)
        v = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * jnp.square(g), updates, state.v)

        def direction(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            u = b3 * m + (1 - b3) * g
            return orthogonalize(u) * g.shape[0] ** 0.5 if g.ndim == 2 else u / (jnp.sqrt(v) + EPS)

        return jax.tree.map(direction, updates, m, v), ScaleByMuonRowsState(m, v)

    return optax.GradientTransformation(init_fn, update_fn)  # pyright: ignore[reportArgumentType]


def muon_rows(
    learning_rate: optax.ScalarOrSchedule = 0.0147,
    weight_decay: float = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformation:
    """The rule with decoupled weight decay, its constants and its learning rate those that it was found with.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: times the learning rate, of the parameters.
        mask: where weights decay, a tree of booleans or a function from parameters to one; everywhere where None.

    Example:
        >>> rule = muon_rows(0.1)
        >>> params = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
        >>> updates, _ = rule.update({"kernel": jnp.eye(4, 3), "bias": jnp.array([1.0, 0.0, -3.0])}, rule.init(params), params)
        >>> updates["bias"].shape, bool(jnp.abs(updates["kernel"][0, 0] + 0.2) < 0.07)
        ((3,), True)
    """
    return optax.chain(scale_by_muon_rows(), optax.add_decayed_weights(weight_decay, mask), optax.scale_by_learning_rate(learning_rate))
