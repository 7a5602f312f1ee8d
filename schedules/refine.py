"""A schedule refined from the gradient norms of an earlier run, and the bound that the refinement minimises.

Put `record_gradient_norms` first in a run's chain, take the norms out of its state with `recorded_norms`, and train again with
`refine(norms.l2, ...)`, for Adam `refine(norms.l1, ..., power=ADAM)`. Source: Defazio et al., 2023, "When, Why and How Much? Adaptive
Learning Rate Scheduling by Refinement", arXiv:2310.07831; its complaints hold: two runs are needed, the length is fixed, and the base
rate is still to be tuned.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from .profiles import ScheduleError
from .recorded import interpolated_profile
from .sampling import check_steps, from_profile

SGD, ADAM = 2, 1  # powers of the gradient norm: of the l2 norm for SGD, of the l1 norm for Adam


class GradientNormsState(NamedTuple):
    """What `record_gradient_norms` holds."""

    num_recorded: Array  # int32 []
    l2: Array  # float32 [num_steps], 0 where nothing is recorded yet
    l1: Array  # float32 [num_steps]


class GradientNorms(NamedTuple):
    """The norms of a run's gradients, one for each step."""

    l2: np.ndarray  # float32 [steps]
    l1: np.ndarray  # float32 [steps]


def record_gradient_norms(num_steps: int) -> optax.GradientTransformation:
    """Passes the gradients on and stores the l2 and l1 norm of each step's; put it first in a chain.

    Args:
        num_steps: norms that there is room for, 8 bytes a step; what comes after them is not recorded.

    Returns:
        A transformation with a `GradientNormsState`.

    Raises:
        ScheduleError: `num_steps` is below 1.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> rule = optax.chain(record_gradient_norms(100), optax.sgd(0.1))
        >>> params = jnp.array([3.0, 4.0])
        >>> _, state = rule.update(params, rule.init(params))
        >>> recorded_norms(state)
        GradientNorms(l2=array([5.], dtype=float32), l1=array([7.], dtype=float32))
    """
    check_steps("num_steps", num_steps)

    def init(params: optax.Params) -> GradientNormsState:
        del params
        return GradientNormsState(jnp.zeros((), jnp.int32), jnp.zeros(num_steps), jnp.zeros(num_steps))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, GradientNormsState]:
        del params
        gradients = jax.tree.map(lambda gradient: jnp.abs(gradient).astype(jnp.float32), updates)
        l2, l1 = optax.tree.norm(gradients), optax.tree.norm(gradients, 1)
        index = state.num_recorded
        after = jnp.minimum(index + 1, num_steps)
        return updates, GradientNormsState(after, _written(state.l2, index, l2), _written(state.l1, index, l1))

    return optax.GradientTransformation(init, update)


def _written(norms: Array, index: Array, norm: Array) -> Array:
    """With the norm at the index; as it is where the index is outside, to which the slice alone would be moved back."""
    kept = jnp.where(index < norms.size, norm, norms[-1])
    return jax.lax.dynamic_update_slice(norms, kept[None].astype(norms.dtype), (index,))


def recorded_norms(opt_state: optax.OptState) -> GradientNorms:
    """The norms that were recorded so far.

    Args:
        opt_state: of an optimizer that holds one `record_gradient_norms`, however deep.

    Raises:
        ScheduleError: it holds none, or several.
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, GradientNormsState))
    found = [leaf for leaf in leaves if isinstance(leaf, GradientNormsState)]
    if len(found) != 1:
        raise ScheduleError(f"the optimizer's state must hold one record_gradient_norms, found {len(found)}")
    count = int(found[0].num_recorded)
    return GradientNorms(np.asarray(found[0].l2)[:count], np.asarray(found[0].l1)[:count])


def refined_multipliers(norms: ArrayLike | Sequence[float], power: float = SGD, filter_fraction: float = 0.1) -> np.ndarray:
    """The refined schedule as a table: w_t * sum_{p > t} w_p with w_t = G_t**-power, divided by its maximum.

    G is the norms after a median filter, at whose start the first norm is repeated and at whose end the norms are reflected.

    Args:
        norms: gradient norms of a run, [steps], at least 2.
        power: 2 with the l2 norms for SGD, 1 with the l1 norms for Adam.
        filter_fraction: width of the filter as a share of the run, in [0, 1]; 0 for none.

    Returns:
        float64 [steps], the highest value 1, the last 0. Constant norms give the linear decay (T - 1 - t)/(T - 1).

    Raises:
        ScheduleError: the norms are fewer than 2, or not finite, or 0 for half a filter's width; or the width is out of bounds.

    Example:
        >>> refined_multipliers([3.0, 3.0, 3.0, 3.0, 3.0])
        array([1.  , 0.75, 0.5 , 0.25, 0.  ])

    Source: Defazio et al., 2023, arXiv:2310.07831, the refinement algorithms for SGD and Adam.
    """
    table = np.asarray(norms, np.float64)
    if table.ndim != 1 or table.size < 2 or not np.isfinite(table).all() or not 0 <= filter_fraction <= 1:
        raise ScheduleError(
            "a refinement needs at least 2 finite gradient norms and a filter of at most the run; "
            f"got {int(np.isfinite(table).sum())} finite of {table.size}, and a filter of {filter_fraction:g} of the run"
        )
    smooth = _median_filtered(table, filter_fraction)
    if not smooth.min() > 0:
        raise ScheduleError("the gradient norms are 0 in places, where the refined rate has no bound; leave those steps out")
    weights = (smooth / smooth.min()) ** -power  # relative, so that none overflows
    following = np.cumsum(weights[::-1])[::-1] - weights
    following[-1] = 0.0
    rates = weights * following
    return rates / rates.max()


def _median_filtered(norms: np.ndarray, fraction: float) -> np.ndarray:
    from scipy import ndimage  # loads for a quarter of a second

    half = round(fraction * norms.size / 2)
    padded = np.concatenate([np.full(half, norms[0]), norms, norms[::-1][:half]])
    filtered = ndimage.median_filter(padded, 2 * half + 1, mode="nearest")
    return filtered[half : half + norms.size]


def refine(
    norms: ArrayLike | Sequence[float],
    init_value: ArrayLike = 1.0,
    decay_steps: int | None = None,
    power: float = SGD,
    filter_fraction: float = 0.1,
) -> optax.Schedule:
    """The schedule that an earlier run's gradient norms ask for.

    Args:
        norms: see `refined_multipliers`.
        init_value: the highest learning rate; a number or a traced scalar.
        decay_steps: length of the run to come, in steps; that of the norms where None.
        power: see `refined_multipliers`.
        filter_fraction: see `refined_multipliers`.

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: as `refined_multipliers`, or `decay_steps` is below 1.

    Example:
        >>> schedule = refine([2.0, 2.0, 2.0, 2.0, 2.0], init_value=0.4)
        >>> [round(float(schedule(step)), 4) for step in range(6)]
        [0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    """
    multipliers = refined_multipliers(norms, power, filter_fraction)
    steps = multipliers.size
    return from_profile(interpolated_profile(np.arange(steps) / steps, multipliers), init_value, decay_steps or steps)


class LastIterateBound(NamedTuple):
    """The three terms of the bound on f(x_T) - f*; their sum is the bound.

    Attributes:
        distance: D^2/(2A), of how far there is to go.
        gradients: sum(lr^2 G^2)/(2A), of the gradients on the way.
        last: what the last iterate costs over the average one.
    """

    distance: Array  # []
    gradients: Array  # []
    last: Array  # []

    @property
    def total(self) -> Array:
        """The bound."""
        return self.distance + self.gradients + self.last


def last_iterate_bound(learning_rates: ArrayLike, gradient_norms: ArrayLike, distance: ArrayLike = 1.0) -> LastIterateBound:
    """Bounds the last iterate's loss above the minimum, for any schedule; a cheap objective for schedules.

    D^2/(2A) + sum(lr^2 G^2)/(2A) + 1/2 sum_{k<T} lr_k/(sum_{t>k} lr_t) * (sum_{t>=k} lr_t^2 G_t^2)/(sum_{t>=k} lr_t), A = sum(lr).
    Steps at the end with a rate of 0 go nowhere and are left out. Differentiable, and may be traced.

    Args:
        learning_rates: [steps], at least 0, one of them above.
        gradient_norms: l2 norms (or bounds on them), [steps].
        distance: from the start to the minimum, D.

    Returns:
        The terms.

    Example:
        >>> import jax.numpy as jnp
        >>> bound = last_iterate_bound(jnp.ones(4), jnp.ones(4))
        >>> [round(float(term), 4) for term in (*bound, bound.total)]
        [0.125, 0.5, 0.9167, 1.5417]

    Source: Defazio et al., 2023, arXiv:2310.07831, the last-iterate bound for any sequence of rates.
    """
    rates, norms = jnp.asarray(learning_rates), jnp.asarray(gradient_norms)
    squares = (rates * norms) ** 2
    from_here, squares_from_here = (jnp.cumsum(values[::-1])[::-1] for values in (rates, squares))
    after = jnp.append(from_here[1:], 0.0)
    moving = after > 0  # false at the last step that moves, which has no term, and at those after it
    summands = rates * squares_from_here / jnp.where(moving, after * from_here, 1.0)
    total = from_here[0]
    return LastIterateBound(
        jnp.asarray(distance) ** 2 / (2 * total), squares_from_here[0] / (2 * total), jnp.sum(jnp.where(moving, summands, 0.0)) / 2
    )


def best_base_rate(bound: LastIterateBound) -> Array:
    """The factor of the learning rates that minimises the bound: sqrt(t1/(t2 + t3)).

    The first term goes with 1/factor, the others with the factor.

    Example:
        >>> import jax.numpy as jnp
        >>> bound = last_iterate_bound(jnp.ones(4), jnp.ones(4), distance=2.0)
        >>> round(float(best_base_rate(bound)), 4)
        0.5941
    """
    return jnp.sqrt(bound.distance / (bound.gradients + bound.last))
