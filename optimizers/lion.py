"""Lion: optax's, and fused into one pass over the parameters.

    c = b1 * m + (1 - b1) * g
    w <- w - learning_rate * (sign(c) + weight_decay * w)
    m <- b2 * m + (1 - b2) * g

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from .kernels import SIGNED, Fused, Rule, State, fuse
from .kernels.backend import AUTO
from .kernels.fused import Mask


def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Mask = None,
    *,
    fused: bool = False,
) -> optax.GradientTransformation:
    """Lion.

    Args:
        learning_rate: a number or an optax schedule.
        b1: weight of the momentum in the direction.
        b2: weight of the momentum in its average.
        mu_dtype: of the momentum; the parameters' where None.
        weight_decay: a number or a schedule, decoupled and times the learning rate.
        mask: where weights decay, a tree of booleans or a function from parameters to one; everywhere where None.
        fused: one pass over the parameters, by the platform's kernel where it has one, as `fused_lion(backend="auto")`, which has more
            to set; else optax's own.

    Example:
        >>> rule = lion(0.5, weight_decay=0.0, fused=True)
        >>> updates, _ = rule.update(jnp.array([3.0, -1.0]), rule.init(jnp.zeros(2)), jnp.zeros(2))
        >>> updates.tolist()
        [-0.5, 0.5]
    """
    if fused:
        return fused_lion(learning_rate, b1, b2, mu_dtype, weight_decay, mask, backend=AUTO).transformation
    return optax.lion(learning_rate, b1, b2, mu_dtype, weight_decay, mask)


def lion_8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Mask = None,
    *,
    fused: bool = False,
) -> optax.GradientTransformation:
    """Lion with a momentum of one byte an element (see `kernels.blockwise`); arguments as of `lion`, plain XLA unless `fused`.

    Example:
        >>> state = lion_8bit(1e-3).init(jnp.zeros((64, 64)))
        >>> sum(x.nbytes for x in jax.tree.leaves(state.states))  # optax's: 16,384
        4160
    """
    backend = AUTO if fused else None
    return fused_lion(learning_rate, b1, b2, None, weight_decay, mask, eight_bit=True, backend=backend).transformation


def fused_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Mask = None,
    *,
    eight_bit: bool = False,
    backend: str | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> Fused:
    """Lion with its step in place, `Fused.step`; arguments as of `lion` and `kernels.fuse`.

    Raises:
        BackendError: the backend is not known or cannot run here.
        ValueError: eight_bit, whose momentum is bytes, with a mu_dtype.

    Example:
        >>> optimizer = fused_lion(0.5, weight_decay=0.0)
        >>> params, state = optimizer.step(jnp.zeros(2), jnp.array([3.0, -1.0]), optimizer.init(jnp.zeros(2)))
        >>> params.tolist()
        [-0.5, 0.5]
    """
    averages = {"b1": b1, "one_minus_b1": 1 - b1, "b2": b2, "one_minus_b2": 1 - b2}
    scalars = {"learning_rate": learning_rate, "weight_decay": weight_decay, **averages}
    state = State(mu_dtype, SIGNED if eight_bit else None)
    return fuse(Rule(_update, (state,), lambda count: scalars), mask, backend, stochastic_rounding, seed)


def _update(
    w: jax.Array, g: jax.Array, states: tuple[jax.Array, ...], s: Mapping[str, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    (mu,) = states
    direction = jnp.sign(s["one_minus_b1"] * g + s["b1"] * mu)
    return -s["learning_rate"] * (direction + s["weight_decay"] * w), (s["one_minus_b2"] * g + s["b2"] * mu,)
