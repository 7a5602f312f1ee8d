"""discovered: an update rule written by stepsmith 0.1.0.

- selection selection, rank 1, found by run muon_0
- level B, digits_mlp@10, fashion_mlp, digits_gru: fitness -2.9784 +- 0.3938, its learning rate tuned as AdamW's was (0 is tuned AdamW, lower is better)
- program 714fd0ec038131518c5947f0ecef4e38, 6 statements

The program, with w <- w - update outside of it (a / b is a / (b + 1e-8), sqrt and logarithms act on |x|):

    def train(w, g, m, lr, progress):
        x5 = tanh(progress)
        m = interp(g, m, x5)
        t2 = orthogonalize(m)
        o = t2 * 1.962541931752102
        t10 = lr * 0.05
        update = o * t10
        return update, m

Use: optax.chain(optax.clip_by_global_norm(1.0), discovered(total_steps, learning_rate=schedule)).
`scale_by_discovered` is the direction alone.
"""


from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def _as_matrix(x: jax.Array) -> jax.Array:
    """The array with its last axis as columns and all other axes together as rows; a vector is one row."""
    columns = x.shape[-1] if x.ndim else 1
    return x.reshape(x.size // max(columns, 1), columns)


def orthogonalize(x: jax.Array) -> jax.Array:
    """The matrix with its singular values brought near 1 by five Newton-Schulz steps (Jordan et al. 2024, Muon)."""
    matrix = _as_matrix(x)
    tall = matrix.shape[0] > matrix.shape[1]
    y = matrix.T if tall else matrix

    def newton_schulz(_: jax.Array, y: jax.Array) -> jax.Array:
        product = y @ y.T
        # Coefficients that are steepest at zero: singular values above 0.003 of the norm end between 0.68 and 1.21.
        return 3.4445 * y + (-4.775 * product + 2.0315 * product @ product) @ y

    y = jax.lax.fori_loop(0, 5, newton_schulz, y / (jnp.sqrt(jnp.sum(jnp.square(y))) + 1e-8))
    return (y.T if tall else y).reshape(x.shape)


class ScaleByDiscoveredState(NamedTuple):
    count: jax.Array  # steps taken
    m: optax.Updates


def scale_by_discovered(total_steps: int) -> optax.GradientTransformation:
    """The direction of the rule: no learning rate, no weight decay."""

    def init_fn(params):
        return ScaleByDiscoveredState(count=jnp.zeros((), jnp.int32), m=jax.tree.map(jnp.zeros_like, params))

    def update_fn(updates, state, params=None):
        progress = state.count / total_steps
        x5 = jnp.tanh(progress)

        def leaf(g, m):  # one parameter array
            new_m = (1 - x5) * g + x5 * m
            t2 = orthogonalize(new_m)
            return new_m.astype(g.dtype), t2.astype(g.dtype)

        results = jax.tree.map(leaf, updates, state.m)
        new_m, t2 = (jax.tree.map(lambda _, values, i=i: values[i], updates, results) for i in range(2))
        return t2, ScaleByDiscoveredState(count=optax.safe_increment(state.count), m=new_m)

    return optax.GradientTransformation(init_fn, update_fn)


def discovered(
    total_steps: int,
    learning_rate: optax.ScalarOrSchedule = 0.0981270966,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask=None,
) -> optax.GradientTransformation:
    """The rule with decoupled weight decay; the defaults are those that it was found with.

    Args:
        learning_rate: a number or a schedule (step -> rate).
        weight_decay: added to the direction, times the parameters, before the learning rate.
        mask: a tree of booleans, or a function from parameters to one: where to decay.
    """
    return optax.chain(
        scale_by_discovered(total_steps),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
