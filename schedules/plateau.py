"""Decay on plateau: the learning rate falls when the training loss does. It sees losses, so it is no function of the step."""

import optax
from optax.contrib import reduce_on_plateau

from .profiles import ScheduleError
from .sampling import check_steps


def plateau(decay_steps: int, factor: float = 0.1, patience: float = 0.1, window: float = 0.01) -> optax.GradientTransformationExtraArgs:
    """optax's `reduce_on_plateau`, its intervals measured in shares of the run.

    Losses are averaged over windows; where no window of the last `patience` was better than the best before, updates are scaled down
    from there on. Chain it behind a rule with a constant learning rate and give each update the loss: `update(..., value=loss)`.

    Args:
        decay_steps: length of the run in steps.
        factor: by which the learning rate is multiplied, in (0, 1).
        patience: share of the run without a better window, in (0, 1].
        window: share of the run over which losses are averaged, in (0, patience].

    Returns:
        A transformation, whose scale `current_learning_rate` multiplies in; it finds the rate itself where the rule is made by
        `optax.inject_hyperparams(optax.sgd)(0.1)`.

    Raises:
        ScheduleError: a setting is out of bounds.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> rule = optax.chain(optax.sgd(0.1), plateau(decay_steps=100))
        >>> state = rule.init(jnp.ones(2))
        >>> for _ in range(12):
        ...     updates, state = rule.update(jnp.ones(2), state, value=1.0)
        >>> [round(float(update), 4) for update in updates]
        [-0.01, -0.01]
    """
    check_steps("decay_steps", decay_steps)
    if not 0 < window <= patience <= 1 or not 0 < factor < 1:
        got = f"a factor of {factor}, a patience of {patience} and a window of {window}"
        raise ScheduleError(f"a plateau needs a factor in (0, 1) and shares of the run with 0 < window <= patience <= 1, got {got}")
    size = max(round(window * decay_steps), 1)
    return reduce_on_plateau(factor, patience=max(round(patience * decay_steps / size), 1), accumulation_size=size)
