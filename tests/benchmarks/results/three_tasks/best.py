"""discovered: an update rule written by stepsmith 0.1.0.

- run three_tasks, rank 1; tasks digits_mlp, digits_autoencoder, stdlib_lm; regularized_evolution from adamw, seed 0
- fitness -1.0947 on new seeds (0 is tuned AdamW, lower is better)
- program ca0657bf4c47a401a18a04ddcdf376da, 11 statements

The program, with w <- w - update outside of it (a / b is a / (b + 1e-8), sqrt and logarithms act on |x|):

    def train(w, g, m, v, lr):
        x1 = sqrt(lr)
        g2 = square(g)
        m = interp(g, m, 0.6716381304516389)
        x7 = cosine_sim(0.5848721037302723, -0.19386485818084778)
        v = interp(g2, v, 0.999)
        sqrt_v = sqrt(v)
        v = 0.8268747052167191 * v
        update = m / sqrt_v
        update = update + x7
        lr = x1 * 0.001
        update = update * lr
        return update, m, v

The learning rate or the weight decay cannot be separated from the rest of this rule, so it keeps its form:
`learning_rate` is relative to the rate that the program holds (1: as found), and there is no `weight_decay` to set.
"""


from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def _dot(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


class ScaleByDiscoveredState(NamedTuple):
    count: jax.Array  # steps taken
    m: optax.Updates
    v: optax.Updates


def scale_by_discovered(learning_rate: optax.ScalarOrSchedule = 1.0) -> optax.GradientTransformation:
    """The update of the rule, its learning rate included."""

    def init_fn(params):
        return ScaleByDiscoveredState(count=jnp.zeros((), jnp.int32), m=jax.tree.map(jnp.zeros_like, params), v=jax.tree.map(jnp.zeros_like, params))

    def update_fn(updates, state, params=None):
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate
        x1 = jnp.sqrt(jnp.abs(lr))
        lr_2 = x1 * 0.001

        def stage_0(g, m, v):  # one parameter array
            g2 = jnp.square(g)
            new_m = 0.328361869548 * g + 0.671638130452 * m
            wide_3 = jnp.broadcast_to(jnp.asarray(0.58487210373, g.dtype), g.shape)
            wide_4 = jnp.broadcast_to(jnp.asarray((-0.193864858181), g.dtype), g.shape)
            v_2 = 0.001 * g2 + 0.999 * v
            sqrt_v = jnp.sqrt(jnp.abs(v_2))
            new_v = 0.826874705217 * v_2
            update = new_m / (sqrt_v + 1e-8)
            return new_m.astype(g.dtype), wide_3.astype(g.dtype), wide_4.astype(g.dtype), new_v.astype(g.dtype), update.astype(g.dtype)

        trees = jax.tree.map(stage_0, updates, state.m, state.v)
        new_m, wide_3, wide_4, new_v, update = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0,) * 5), trees)
        x7 = _dot(wide_3, wide_4) / (jnp.sqrt(_dot(wide_3, wide_3)) * jnp.sqrt(_dot(wide_4, wide_4)))

        def stage_1(g, update):  # one parameter array
            update_2 = update + x7
            update_3 = update_2 * lr_2
            return update_3.astype(g.dtype),

        trees = jax.tree.map(stage_1, updates, update)
        update_3, = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0,) * 1), trees)
        return update_3, ScaleByDiscoveredState(count=optax.safe_increment(state.count), m=new_m, v=new_v)

    return optax.GradientTransformation(init_fn, update_fn)


def discovered(
    learning_rate: optax.ScalarOrSchedule = 1.0, weight_decay: None = None, mask: None = None
) -> optax.GradientTransformation:
    """The rule; `learning_rate` is relative to the rate that it was found with, which the program holds."""
    if weight_decay is not None or mask is not None:
        raise ValueError("discovered holds its weight decay, if any, inside its formula: weight_decay and mask cannot be set")
    return optax.chain(scale_by_discovered(learning_rate), optax.scale(-1.0))
