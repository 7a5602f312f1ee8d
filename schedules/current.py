"""The learning rate that an optimizer is at, read out of its state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import ReduceLROnPlateauState
from optax.tree_utils import tree_get_all_with_path

from .profiles import ScheduleError

NAME = "learning_rate"  # of a hyperparameter or of a state's field


def current_learning_rate(opt_state: optax.OptState, schedule: optax.Schedule | None = None) -> Array:
    """The learning rate of the latest step; before the first step, that of the first.

    It is found where a state holds it by name: `optax.inject_hyperparams` of any rule with a `learning_rate`, or `hypergradient_descent`,
    however deep in chains and masks. Where the rule was built with a schedule, its state holds but a count of the steps, and the
    schedule must be given. The scale of `optax.contrib.reduce_on_plateau` is multiplied in.

    Args:
        opt_state: what `init` or `update` returned; inside jit too.
        schedule: step -> learning rate, of which the state has only the count.

    Returns:
        The learning rate, [].

    Raises:
        ScheduleError: the state holds no learning rate, or several.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from stepsmith.schedules import rex
        >>> schedule = rex(0.3, 100)
        >>> rule = optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)
        >>> round(float(current_learning_rate(rule.init(jnp.ones(2)))), 6)
        0.3
        >>> round(float(current_learning_rate(optax.adamw(schedule).init(jnp.ones(2)), schedule)), 6)
        0.3
    """
    rate = _rate(opt_state, schedule)
    for state in _states(opt_state, ReduceLROnPlateauState):
        rate = rate * state.scale
    return rate


def _rate(opt_state: optax.OptState, schedule: optax.Schedule | None) -> Array:
    named = tree_get_all_with_path(opt_state, NAME, lambda path, value: not isinstance(value, tuple))  # a tuple is a schedule's state
    if len(named) == 1:
        return jnp.asarray(named[0][1])
    if named:
        places = ", ".join(jax.tree_util.keystr(path) for path, _ in named)
        raise ScheduleError(f"the optimizer's state holds {len(named)} learning rates: {places}; give the part of it that is meant")
    counts = _states(opt_state, optax.ScaleByScheduleState)  # of one chain they count the same steps
    if counts and schedule is not None:
        return jnp.asarray(schedule(jnp.maximum(counts[0].count - 1, 0)))
    if counts:
        raise ScheduleError("the optimizer's state holds a count of the steps and no learning rate; give the schedule too")
    mend = "build the rule with optax.inject_hyperparams, such as optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)"
    raise ScheduleError(f"the optimizer's state holds no learning rate; {mend}")


def _states(opt_state: optax.OptState, kind: type) -> list[Any]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]
