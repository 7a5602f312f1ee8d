"""Hypergradient descent: the learning rate follows the gradient of the loss with respect to itself.

After w_t = w_{t-1} - lr * d_{t-1}, the derivative of the next loss by the rate is -<g_t, d_{t-1}>: where the gradient still points along
the last direction the step was too short, and the rate rises. Source: Baydin et al., 2018, arXiv:1703.04782.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from .profiles import ScheduleError


class HypergradientState(NamedTuple):
    """What the next step needs of the last.

    Attributes:
        learning_rate: of the latest step, float32 []; `current_learning_rate` finds it.
        direction: of the latest step, shaped like the parameters.
        inner_state: of the rule that gives the directions.
    """

    learning_rate: Array
    direction: optax.Updates
    inner_state: optax.OptState


class Bounds(NamedTuple):
    """Safeguards of the learning rate, or of another hyperparameter that is tuned in training.

    Attributes:
        lowest: the rate is never below.
        highest: nor above.
        change: the most by which it grows or shrinks in a step, as a factor above 1.
    """

    lowest: float = 1e-8
    highest: float = 10.0
    change: float = 1.1

    def hold(self, proposed: Array, last: Array) -> Array:
        """The proposed value held to the bounds; the last one where it is not finite."""
        limited = jnp.clip(proposed, last / self.change, last * self.change)
        return jnp.clip(jnp.where(jnp.isfinite(proposed), limited, last), self.lowest, self.highest)

    def check(self, init_value: ArrayLike, name: str = "learning rate") -> None:
        """Refuses bounds that are none, and a first value, unless it is traced, outside of them, by a ScheduleError."""
        if not 0 < self.lowest <= self.highest < math.inf:
            raise ScheduleError(f"the bounds of a {name} must ascend from above 0, got {self.lowest} and {self.highest}")
        if isinstance(init_value, int | float) and not self.lowest <= init_value <= self.highest:
            raise ScheduleError(f"the first {name} must lie in its bounds, {self.lowest:g} to {self.highest:g}, got {init_value}")
        if not self.change > 1:
            raise ScheduleError(f"the change in a step is a factor above 1, got {self.change}")


def hypergradient_descent(
    direction: optax.GradientTransformation, init_value: ArrayLike, beta: float, bounds: Bounds | None = None
) -> optax.GradientTransformationExtraArgs:
    """Steps along a direction, with the rate lr_t = lr_{t-1} + beta * <g_t, d_{t-1}>.

    Args:
        direction: gives d_t from g_t, such as `optax.scale_by_adam()` or `optax.identity()` for SGD; no learning rate in it.
        init_value: learning rate of the first step; a number, or a traced scalar, which is only held to the bounds.
        beta: step size of the learning rate; its unit is that of the rate over a squared gradient.
        bounds: safeguards; `Bounds()` where None. A hypergradient that is not finite leaves the rate as it is.

    Returns:
        A transformation with a `HypergradientState`; it stands at the end of a chain, or alone.

    Raises:
        ScheduleError: a setting is out of bounds.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> rule = hypergradient_descent(optax.identity(), init_value=0.1, beta=0.001)
        >>> w = jnp.array([2.0])
        >>> state = rule.init(w)
        >>> for _ in range(3):
        ...     updates, state = rule.update(w, state, w)  # the gradient of w^2/2
        ...     w = optax.apply_updates(w, updates)
        >>> round(float(state.learning_rate), 4)
        0.1065

    Source: Baydin et al., 2018, arXiv:1703.04782, the additive rule.
    """

    def step(rate: Array, gradients: optax.Updates, last: optax.Updates) -> Array:
        return rate + beta * _dot(gradients, last)

    return _descent(direction, init_value, beta, bounds, step)


def multiplicative_hypergradient_descent(
    direction: optax.GradientTransformation, init_value: ArrayLike, beta: float, bounds: Bounds | None = None
) -> optax.GradientTransformationExtraArgs:
    """Steps along a direction, with the rate lr_t = lr_{t-1} * (1 + beta * cos(g_t, d_{t-1})).

    `beta` has no unit and need not know the scale of the gradients.

    Args:
        direction: as in `hypergradient_descent`.
        init_value: learning rate of the first step.
        beta: the most by which the rate changes in a step, relative to it.
        bounds: as in `hypergradient_descent`.

    Returns:
        A transformation with a `HypergradientState`.

    Raises:
        ScheduleError: a setting is out of bounds.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> rule = multiplicative_hypergradient_descent(optax.identity(), init_value=0.1, beta=0.02)
        >>> w = jnp.array([2.0])
        >>> updates, state = rule.update(w, rule.init(w), w)
        >>> _, state = rule.update(w + updates, state, w)
        >>> round(float(state.learning_rate), 4)
        0.102

    Source: Baydin et al., 2018, arXiv:1703.04782, the multiplicative rule, normalised.
    """

    def step(rate: Array, gradients: optax.Updates, last: optax.Updates) -> Array:
        lengths = jnp.sqrt(_dot(gradients, gradients) * _dot(last, last))
        return rate * (1 + beta * jnp.where(lengths > 0, _dot(gradients, last) / jnp.where(lengths > 0, lengths, 1.0), 0.0))

    return _descent(direction, init_value, beta, bounds, step)


def _descent(
    direction: optax.GradientTransformation,
    init_value: ArrayLike,
    beta: float,
    bounds: Bounds | None,
    step: Callable[[Array, optax.Updates, optax.Updates], Array],
) -> optax.GradientTransformationExtraArgs:
    within = Bounds() if bounds is None else bounds
    _check(init_value, beta, within)
    inner = optax.with_extra_args_support(direction)

    def init(params: optax.Params) -> HypergradientState:
        # At first there is no last direction: the hypergradient is 0.
        return HypergradientState(jnp.asarray(init_value, jnp.float32), jax.tree.map(jnp.zeros_like, params), inner.init(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, HypergradientState]:
        rate = within.hold(step(state.learning_rate, updates, state.direction), state.learning_rate)
        along, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        scaled = jax.tree.map(lambda leaf: (-rate * leaf).astype(leaf.dtype), along)
        kept = jax.tree.map(lambda leaf, last: leaf.astype(last.dtype), along, state.direction)
        return scaled, HypergradientState(rate, kept, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _dot(first: optax.Updates, second: optax.Updates) -> Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32)), first, second)
    return jax.tree.reduce(jnp.add, products, jnp.zeros(()))


def _check(init_value: ArrayLike, beta: float, bounds: Bounds) -> None:
    bounds.check(init_value)
    if not 0 <= beta < math.inf:
        raise ScheduleError(f"beta must be finite and at least 0, got {beta}")
