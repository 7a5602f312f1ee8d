"""Self-tuning: learning rate and weight decay follow the gradient of a held-out loss through a model of how the parameters respond to them.

Training at slightly other hyperparameters would have led to other parameters, to first order w(h) = w + sum_j A_j (h_j - h0_j): h are the
logarithms of the hyperparameters, A_j, shaped like the parameters, is the response to h_j. So a loss L changes with h_j by
<grad L(w), A_j>, and h descends it. A step w' = w - r (d + c w), of rate r, decay c and the rule's direction d, moves the responses by its
derivative:

    A_rate'  = A_rate  - r (d + c w) - r (dd_rate  + c A_rate)
    A_decay' = A_decay - r c w       - r (dd_decay + c A_decay)

All of it is known but dd_j, by how much the direction changes along A_j. That is learned by training at perturbed values: the gradient is
taken at w + sum_j A_j e_j, e_j at random sigma or -sigma at each step. Then e_j (g - g_last)/sigma^2 is on average the change of the
gradient g with h_j, and the derivative of the rule itself makes dd_j of it.

In the spirit of self-tuning networks (MacKay et al., 2019, arXiv:1903.03088). Theirs is the response of a trained optimum, which knows no
learning rate; this one is the response of the training done so far.

Limits: the perturbations and the mini-batches make the responses noisy; they look back, so that a rate that lowers the loss now is
preferred to one that would in the end; a rate at which training has diverged leads nowhere. Memory: one copy of the parameters, and one of
them and of the rule's state a hyperparameter; time: no further gradients of the model, but for the held-out loss where one is given.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .hypergradient import Bounds
from .profiles import ScheduleError

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99  # of the averages that scale a hypergradient, as Adam's do


@dataclasses.dataclass(frozen=True)
class SelfTuningConfig:
    """How hyperparameters are tuned.

    Attributes:
        step_size: by which the logarithm of a hyperparameter moves in a step, about; 0 keeps it and only learns the responses.
        sigma: of the perturbation of the logarithms.
        memory: steps over which the responses forget, above 1; infinite for never.
        trust: a response times sigma is at most this share of the parameters, by their norms.
        seed: of the perturbations.
    """

    step_size: float = 0.05
    sigma: float = 0.1
    memory: float = 100.0
    trust: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in {"sigma": 0.0, "memory": 1.0, "trust": 0.0}.items():
            if not getattr(self, name) > lowest:
                raise ScheduleError(f"{name} must be above {lowest:g}, got {getattr(self, name)}")
        if not 0 <= self.step_size < math.inf:
            raise ScheduleError(f"step_size must be finite and at least 0, got {self.step_size}")


class Tuned(NamedTuple):
    """One hyperparameter and what is known of it.

    Attributes:
        response: A_j, shaped like the parameters.
        rule_response: the same of the numbers in the rule's state, a list of arrays.
        perturbation: e_j at which the present parameters are, float32 [].
        first: average of the hypergradient, float32 [].
        second: average of its square, float32 [].
    """

    response: optax.Params
    rule_response: list[Array]
    perturbation: Array
    first: Array
    second: Array


class SelfTuningState(NamedTuple):
    """What the next step needs of the last.

    Attributes:
        learning_rate: float32 []; `current_learning_rate` finds it.
        weight_decay: float32 [].
        tuned: of the learning rate and, where it is tuned, of the weight decay.
        gradient: of the latest step, shaped like the parameters.
        count: steps done, int32 [].
        inner_state: of the rule that gives the directions.
    """

    learning_rate: Array
    weight_decay: Array
    tuned: tuple[Tuned, ...]
    gradient: optax.Updates
    count: Array
    inner_state: optax.OptState


def self_tuning(
    direction: optax.GradientTransformation,
    learning_rate: float,
    weight_decay: float | None = None,
    config: SelfTuningConfig | None = None,
    bounds: Bounds | None = None,
    weight_decay_bounds: Bounds | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Steps along a direction at a learning rate, and with decoupled weight decay, that tune themselves.

    `update` takes `held_out`, the gradient of a held-out loss at the same parameters. Without it the gradient of the present batch serves,
    which no earlier step has met; that is enough for the learning rate, not for the decay, which such a gradient would drive to its lowest.
    The parameters in training are perturbed; `self_tuned_params` gives those to evaluate.

    Args:
        direction: gives d_t from g_t, such as `optax.scale_by_adam()` or `optax.identity()` for SGD; no learning rate in it.
        learning_rate: of the first step.
        weight_decay: of the first step, times the learning rate; None for none.
        config: `SelfTuningConfig()` where None.
        bounds: of the learning rate, as in `hypergradient_descent`. A hypergradient that is not finite leaves it as it is.
        weight_decay_bounds: of the decay.

    Returns:
        A transformation with a `SelfTuningState`; alone, for nothing may come after it in a chain.

    Raises:
        ScheduleError: a setting is out of bounds; in `update`, a decay is tuned without `held_out`, or there are no parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> rule = self_tuning(optax.identity(), learning_rate=0.01)
        >>> w = jnp.array([2.0, -1.0])
        >>> state = rule.init(w)
        >>> for _ in range(60):
        ...     updates, state = rule.update(w, state, w)  # the gradient of |w|^2/2
        ...     w = optax.apply_updates(w, updates)
        >>> bool(state.learning_rate > 0.05), bool(optax.tree.norm(self_tuned_params(state, w)) < 0.5)
        (True, True)

    Source: in the spirit of MacKay et al., 2019, arXiv:1903.03088.
    """
    settings = SelfTuningConfig() if config is None else config
    first_values = [learning_rate] if weight_decay is None else [learning_rate, weight_decay]
    all_bounds = [Bounds() if one is None else one for one in (bounds, weight_decay_bounds)][: len(first_values)]
    for name, value, within in zip(("learning rate", "weight decay"), first_values, all_bounds, strict=False):
        within.check(value, name)
    inner = optax.with_extra_args_support(direction)

    def init(params: optax.Params) -> SelfTuningState:
        inner_state, zero = inner.init(params), jnp.zeros(())
        zeros = jax.tree.map(jnp.zeros_like, params)
        untouched = Tuned(zeros, [jnp.zeros_like(leaf) for leaf in _numbers(inner_state)], zero, zero, zero)
        rate, decay = jnp.asarray(learning_rate, jnp.float32), jnp.asarray(weight_decay or 0.0, jnp.float32)
        return SelfTuningState(rate, decay, (untouched,) * len(first_values), zeros, jnp.zeros((), jnp.int32), inner_state)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, held_out: optax.Updates | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, SelfTuningState]:
        if params is None:
            raise ScheduleError("self-tuning needs the parameters: call update(gradients, state, params)")
        if held_out is None and len(state.tuned) > 1:
            raise ScheduleError("weight decay is tuned on a held-out loss: call update(gradients, state, params, held_out=its gradient)")
        centre = self_tuned_params(state, params)
        tuned = [_with_hypergradient(one, updates if held_out is None else held_out) for one in state.tuned]
        values = [
            _moved(value, one, state.count, settings.step_size, within)
            for value, one, within in zip((state.learning_rate, state.weight_decay), tuned, all_bounds, strict=False)
        ]
        rate, decay = values if len(values) > 1 else (*values, state.weight_decay)
        slopes = [_gradient_slope(one, updates, state, settings.sigma) for one in tuned]
        along, moves, inner_state = _derivatives(inner, updates, state.inner_state, centre, tuned, slopes, extra_args)
        decayed = jax.tree.map(lambda d, w: d + decay * w, along, centre)
        new_centre = jax.tree.map(lambda w, d: w - rate * d, centre, decayed)
        known = (decayed, jax.tree.map(lambda w: decay * w, centre))
        signs = jax.random.rademacher(jax.random.fold_in(jax.random.key(settings.seed), state.count), (len(tuned),), jnp.float32)
        responded = []
        for one, (slope, rule_response), direct, sign in zip(tuned, moves, known, signs, strict=False):
            response = _responded(one.response, direct, slope, rate, decay, settings.memory)
            response, rule_response = _trusted((response, rule_response), new_centre, settings)
            responded.append(one._replace(response=response, rule_response=rule_response, perturbation=settings.sigma * sign))
        new_state = SelfTuningState(rate, decay, tuple(responded), updates, state.count + 1, inner_state)
        changes = jax.tree.map(lambda new, old: (new - old).astype(old.dtype), _perturbed(new_centre, responded, 1.0), params)
        return changes, new_state

    return optax.GradientTransformationExtraArgs(init, update)


def self_tuned_params(state: SelfTuningState, params: optax.Params) -> optax.Params:
    """The parameters at the hyperparameters themselves, without the perturbation that they are trained at."""
    return _perturbed(params, state.tuned, -1.0)


def _perturbed(params: optax.Params, tuned: Any, sign: float) -> optax.Params:
    for one in tuned:
        params = jax.tree.map(lambda w, a, e=one.perturbation: w + (sign * e * a).astype(w.dtype), params, one.response)
    return params


def _with_hypergradient(one: Tuned, gradient: optax.Updates) -> Tuned:
    """With <gradient, response> in the averages; one that is not finite is left out."""
    found = jnp.asarray(optax.tree.vdot(gradient, one.response), jnp.float32)
    square = jnp.square(found)
    usable = jnp.isfinite(square)
    first = jnp.where(usable, FIRST_DECAY * one.first + (1 - FIRST_DECAY) * found, one.first)
    second = jnp.where(usable, SECOND_DECAY * one.second + (1 - SECOND_DECAY) * square, one.second)
    return one._replace(first=first, second=second)


def _moved(value: Array, one: Tuned, count: Array, step_size: float, bounds: Bounds) -> Array:
    """The hyperparameter after a step of Adam on its logarithm."""
    first, second = one.first / (1 - FIRST_DECAY ** (count + 1)), one.second / (1 - SECOND_DECAY ** (count + 1))
    scaled = jnp.where(second > 0, first / jnp.sqrt(jnp.where(second > 0, second, 1.0)), 0.0)
    return bounds.hold(value * jnp.exp(-step_size * scaled), value)


def _gradient_slope(one: Tuned, gradient: optax.Updates, state: SelfTuningState, sigma: float) -> optax.Updates:
    """How the gradient changes with the hyperparameter, by what the perturbation did to it; nothing is known at the first step."""
    factor = jnp.where(state.count > 0, one.perturbation / sigma**2, 0.0)
    return jax.tree.map(lambda now, last: _finite((factor * (now - last)).astype(now.dtype)), gradient, state.gradient)


def _derivatives(
    inner: optax.GradientTransformationExtraArgs,
    gradient: optax.Updates,
    inner_state: Any,
    params: optax.Params,
    tuned: list[Tuned],
    slopes: list[optax.Updates],
    extra_args: dict[str, Any],
) -> tuple[optax.Updates, list[tuple[optax.Updates, list[Array]]], Any]:
    """The rule's direction, how it and the rule's state change with each hyperparameter, and the new state."""
    leaves, form = jax.tree.flatten(inner_state)

    def step(gradient: optax.Updates, params: optax.Params, numbers: list[Array]) -> tuple[tuple[optax.Updates, list[Array]], Any]:
        remaining = iter(numbers)
        state = form.unflatten([next(remaining) if _is_number(leaf) else leaf for leaf in leaves])
        along, new_state = inner.update(gradient, state, params, **extra_args)
        return (along, _numbers(new_state)), new_state

    (along, _), slope_of, new_state = jax.linearize(step, gradient, params, _numbers(inner_state), has_aux=True)
    moves = [slope_of(slope, one.response, one.rule_response) for one, slope in zip(tuned, slopes, strict=True)]
    return along, jax.tree.map(_finite, moves), new_state


def _responded(
    response: optax.Params, direct: optax.Updates, slope: optax.Updates, rate: Array, decay: Array, memory: float
) -> optax.Params:
    kept = 1 - 1 / memory
    return jax.tree.map(lambda a, known, dd: _finite(kept * a - rate * (known + dd + decay * a)), response, direct, slope)


def _trusted(
    responses: tuple[optax.Params, list[Array]], params: optax.Params, config: SelfTuningConfig
) -> tuple[optax.Params, list[Array]]:
    """The responses of parameters and rule, both shrunk where that of the parameters is too long to be believed."""
    length, most = optax.tree.norm(responses[0]), config.trust / config.sigma * optax.tree.norm(params)
    factor = jnp.where(length > most, most / jnp.where(length > 0, length, 1.0), 1.0)
    return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), responses)


def _finite(array: Array) -> Array:
    return jnp.where(jnp.isfinite(array), array, jnp.zeros_like(array))


def _is_number(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def _numbers(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_number(leaf)]
