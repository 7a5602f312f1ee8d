"""AdamW: optax's, and fused into one pass over the parameters.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g * g
    w <- w - learning_rate * ((m / (1 - b1**t)) / (sqrt(v / (1 - b2**t) + eps_root) + eps) + weight_decay * w),  t = 1, 2, ...

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2; Kingma and Ba, arXiv:1412.6980.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from .kernels import SIGNED, UNSIGNED, Fused, Rule, State, fuse
from .kernels.backend import AUTO
from .kernels.fused import Mask


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = False,
    fused: bool = False,
) -> optax.GradientTransformation:
    """AdamW.

    Args:
        learning_rate: a number or an optax schedule.
        b1: weight of the last average of gradients.
        b2: weight of the last average of their squares.
        eps: added to the root.
        eps_root: added under the root.
        mu_dtype: of the average of gradients; the parameters' where None.
        weight_decay: a number or a schedule, decoupled and times the learning rate.
        mask: where weights decay, a tree of booleans or a function from parameters to one; everywhere where None.
        nesterov: Nesterov's momentum; not in the fused form.
        fused: one pass over the parameters, by the platform's kernel where it has one, as `fused_adamw(backend="auto")`, which has more
            to set; else optax's own.

    Raises:
        ValueError: settings that do not go together.

    Example:
        >>> rule = adamw(0.5, weight_decay=0.0, fused=True)
        >>> updates, _ = rule.update(jnp.array([3.0, -1.0]), rule.init(jnp.zeros(2)), jnp.zeros(2))
        >>> updates.round(4).tolist()
        [-0.5, 0.5]
    """
    if fused and nesterov:
        raise ValueError("the fused AdamW has no Nesterov momentum: leave out fused=True or nesterov=True")
    if fused:
        return fused_adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, backend=AUTO).transformation
    return optax.adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov)


def adamw_8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    fused: bool = False,
) -> optax.GradientTransformation:
    """AdamW with averages of one byte an element (see `kernels.blockwise`); arguments as of `adamw`, plain XLA unless `fused`.

    Example:
        >>> state = adamw_8bit(1e-3).init(jnp.zeros((64, 64)))
        >>> sum(x.nbytes for x in jax.tree.leaves(state.states))  # optax's: 32,768
        8320
    """
    backend = AUTO if fused else None
    return fused_adamw(learning_rate, b1, b2, eps, eps_root, None, weight_decay, mask, eight_bit=True, backend=backend).transformation


def fused_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    eight_bit: bool = False,
    backend: str | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> Fused:
    """AdamW with its step in place, `Fused.step`; arguments as of `adamw` and `kernels.fuse`.

    Raises:
        BackendError: the backend is not known or cannot run here.
        ValueError: eight_bit, whose averages are bytes, with a mu_dtype.

    Example:
        >>> optimizer = fused_adamw(0.5, weight_decay=0.0)
        >>> params, state = optimizer.step(jnp.zeros(2), jnp.array([3.0, -1.0]), optimizer.init(jnp.zeros(2)))
        >>> params.round(4).tolist()
        [-0.5, 0.5]
    """

    def scalars(count: jax.Array) -> dict[str, jax.typing.ArrayLike | optax.Schedule]:
        step = optax.safe_increment(count)
        return {
            **{"learning_rate": learning_rate, "weight_decay": weight_decay, "eps": eps, "eps_root": eps_root},
            **{"b1": b1, "one_minus_b1": 1 - b1, "b2": b2, "one_minus_b2": 1 - b2},
            # Inverted here, once: a division an element is dear where the states are bytes.
            **{"correction1": 1 / (1 - b1**step), "correction2": 1 / (1 - b2**step)},
        }

    states = (State(mu_dtype, SIGNED), State(code=UNSIGNED)) if eight_bit else (State(mu_dtype), State())
    return fuse(Rule(_update, states, scalars), mask, backend, stochastic_rounding, seed)


def _update(
    w: jax.Array, g: jax.Array, states: tuple[jax.Array, ...], s: Mapping[str, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mu, nu = states
    mu = s["one_minus_b1"] * g + s["b1"] * mu
    nu = s["one_minus_b2"] * (g * g) + s["b2"] * nu
    direction = mu * s["correction1"] / (jnp.sqrt(nu * s["correction2"] + s["eps_root"]) + s["eps"])
    return -s["learning_rate"] * (direction + s["weight_decay"] * w), (mu, nu)
