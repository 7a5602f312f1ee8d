"""Self-tuning: learning rate and weight decay follow the gradient of a held-out loss through a model of how the parameters respond to them.

Training at slightly other hyperparameters would have led to other parameters, to first order w(h) = w + sum_j A_j (h_j - h0_j): h are the
logarithms of the hyperparameters, A_j, shaped like the parameters, is the response to h_j. So a loss L changes with h_j by
<grad L(w), A_j>, and h descends it. A step w' = w - r (d + c w), of rate r, decay c and the rule's direction d, moves the responses by its
derivative:

    A_rate'  = A_rate  - r (d + c w) - r (dd_rate  + c A_rate)
    A_decay' = A_decay - r c w       - r (dd_decay + c A_decay)

All of it is known but dd_j, by how much the direction changes along A_j. That is learned by training at perturbed values: the gradient is
taken at w + sum_j A_j e_j, e_j being sigma or -sigma. From one step to the next, the gradient's change times that of e_j, over the latter's
mean square, is on average the slope of the gradient by h_j, and the derivative of the rule itself makes dd_j of it.

In the spirit of self-tuning networks (MacKay et al., 2019, arXiv:1903.03088). Theirs is the response of a trained optimum, which knows no
learning rate; this one is the response of the training done so far.

Limits: mini-batches make the responses noisy, and along a curvature c the slope is too large by about r c/2 of itself, for the parameters
follow the perturbations. Responses look back, so that a rate that lowers the loss now is preferred to one that would in the end. A rate so
large that training has diverged leads nowhere; start with one that is too small. Memory: one copy of the parameters, and one of
them and of the rule's state a hyperparameter; time: no further gradients of the model, but for the held-out loss where one is given.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from .hypergradient import Bounds
from .profiles import ScheduleError

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99  # of the averages that scale a hypergradient, as Adam's do
# Signs of the perturbations in a block of steps, a row a hyperparameter. They and their changes are orthogonal, so that neither the other
# hyperparameter nor the parameters' way adds up in a slope. Each block is turned at random, lest the training's own swings keep its time.
SIGNS = ((1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0))
CHANGED = (3.5 / 4, 2.5 / 4)  # share of the steps at which they change: at those in the block, and at every second block's first


@dataclasses.dataclass(frozen=True)
class SelfTuningConfig:
    """How hyperparameters are tuned.

    Attributes:
        step_size: by which the logarithm of a hyperparameter moves in a step, about; 0 keeps it and only learns the responses. Larger
            ones mend a first value sooner, and make the later ones restless.
        sigma: of the perturbation of the logarithms.
        memory: steps over which the responses forget, above 1; infinite for never.
        trust: a response times sigma is at most this share of the parameters, by their norms.
        seed: of the perturbations.
    """

    step_size: float = 0.02
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
        first: average of the hypergradient, float32 [].
        second: average of its square, float32 [].
    """

    response: optax.Params
    rule_response: list[Array]
    first: Array
    second: Array


class SelfTuningState(NamedTuple):
    """What the next step needs of the last.

    Attributes:
        learning_rate: float32 []; `current_learning_rate` finds it.
        weight_decay: float32 [].
        tuned: of the learning rate and, where it is tuned, of the weight decay.
        gradient: of the latest step, shaped like the parameters.
        perturbations: e_j at which the present parameters are, float32 [hyperparameters].
        step: steps done, int32 [].
        inner_state: of the rule that gives the directions.
    """

    learning_rate: Array
    weight_decay: Array
    tuned: tuple[Tuned, ...]
    gradient: optax.Updates
    perturbations: Array
    step: Array
    inner_state: optax.OptState


def self_tuning(
    direction: optax.GradientTransformation,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike | None = None,
    config: SelfTuningConfig | None = None,
    bounds: Bounds | None = None,
    weight_decay_bounds: Bounds | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Steps along a direction at a learning rate, and with decoupled weight decay, that tune themselves.

    `update` takes `held_out`, the gradient of a held-out loss at the same parameters; `self_tuning_step` supplies it. Without it the
    gradient of the present batch serves, which no earlier step has met; that is enough for the learning rate, not for the decay, which such
    a gradient would drive to its lowest.
    The parameters in training are perturbed; `self_tuned_params` gives those to evaluate.

    Args:
        direction: gives d_t from g_t, such as `optax.scale_by_adam()` or `optax.identity()` for SGD; no learning rate in it.
        learning_rate: of the first step; a number, or a traced scalar, which is only held to the bounds.
        weight_decay: of the first step, in units of the learning rate, likewise; None for none.
        config: `SelfTuningConfig()` where None.
        bounds: of the learning rate, as in `hypergradient_descent`. A hypergradient that is not finite leaves it as it is.
        weight_decay_bounds: of the decay.

    Returns:
        A transformation with a `SelfTuningState`; alone, for nothing may come after it in a chain.

    Raises:
        ScheduleError: a setting is out of bounds; in `update`, a decay is tuned without `held_out`, or there are no parameters.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> rule = self_tuning(optax.identity(), learning_rate=0.01)
        >>> w = jnp.array([2.0, -1.0])
        >>> state = rule.init(w)
        >>> update = jax.jit(rule.update)
        >>> for _ in range(120):
        ...     updates, state = update(w, state, w)  # the gradient of |w|^2/2
        ...     w = optax.apply_updates(w, updates)
        >>> bool(state.learning_rate > 0.02), bool(optax.tree.norm(self_tuned_params(state, w)) < 0.5)
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
        untouched = Tuned(zeros, [jnp.zeros_like(leaf) for leaf in _numbers(inner_state)], zero, zero)
        rate, decay = jnp.asarray(learning_rate, jnp.float32), jnp.asarray(0.0 if weight_decay is None else weight_decay, jnp.float32)
        tuned, step = (untouched,) * len(first_values), jnp.zeros((), jnp.int32)
        return SelfTuningState(rate, decay, tuned, zeros, _perturbations(settings, len(tuned), step), step, inner_state)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, held_out: optax.Updates | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, SelfTuningState]:
        if params is None:
            raise ScheduleError("self-tuning needs the parameters: call update(gradients, state, params)")
        if held_out is None and len(state.tuned) > 1:
            raise ScheduleError("weight decay is tuned on a held-out loss: call update(gradients, state, params, held_out=its gradient)")
        centre = self_tuned_params(state, params)
        tuned = [_with_hypergradient(one, updates if held_out is None else held_out) for one in state.tuned]
        rate, decay = _tuned_values(state, tuned, settings, all_bounds)
        slopes = _gradient_slopes(state, updates, settings)
        along, moves, inner_state = _derivatives(inner, updates, state.inner_state, centre, tuned, slopes, extra_args)
        decayed = jax.tree.map(lambda d, w: d + decay * w, along, centre)
        new_centre = jax.tree.map(lambda w, d: w - rate * d, centre, decayed)
        direct = (decayed, jax.tree.map(lambda w: decay * w, centre))
        responded = []
        for one, (slope, rule_response), known in zip(tuned, moves, direct, strict=False):
            response = _responded(one.response, known, slope, rate, decay, settings.memory)
            response, rule_response = _trusted((response, rule_response), new_centre, settings)
            responded.append(one._replace(response=response, rule_response=rule_response))
        perturbations = _perturbations(settings, len(tuned), state.step + 1)
        new_state = SelfTuningState(rate, decay, tuple(responded), updates, perturbations, state.step + 1, inner_state)
        new_params = _shifted(new_centre, responded, perturbations)
        return jax.tree.map(lambda new, old: (new - old).astype(old.dtype), new_params, params), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def self_tuned_params(state: SelfTuningState, params: optax.Params) -> optax.Params:
    """The parameters at the hyperparameters themselves, without the perturbation that they are trained at."""
    return _shifted(params, state.tuned, -state.perturbations)


def self_tuning_step(rule: optax.GradientTransformation, loss_fn: Callable[..., Any], has_aux: bool = False) -> Callable[..., Any]:
    """A step of a plain optax loop that learns from one batch and tunes by another, both at the same parameters.

    Args:
        rule: `self_tuning(...)`, or a chain that ends with it.
        loss_fn: (parameters, batch) -> loss, or (loss, aux); what else it needs, such as a key, goes into the batch.
        has_aux: whether it gives aux, as in `jax.value_and_grad`.

    Returns:
        (parameters, state, batch, held_out_batch) -> (parameters, state, value, held_out_value), pure, to be jitted; a value is what
        `loss_fn` gave of that batch before the step. The held-out batch must be one that no step learns from, and no score is read from.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> rule = self_tuning(optax.identity(), learning_rate=0.05, weight_decay=5.0)
        >>> step = jax.jit(self_tuning_step(rule, lambda w, target: jnp.sum((w - target) ** 2) / 2))
        >>> w = jnp.zeros(2)
        >>> state = rule.init(w)
        >>> for _ in range(200):
        ...     w, state, loss, held_out_loss = step(w, state, jnp.ones(2), 0.9 * jnp.ones(2))
        >>> bool(state.weight_decay < 1.0), bool(held_out_loss < 0.1)
        (True, True)
    """
    extended, value_and_grad = optax.with_extra_args_support(rule), jax.value_and_grad(loss_fn, has_aux=has_aux)

    def step(params: optax.Params, state: Any, batch: Any, held_out_batch: Any) -> tuple[optax.Params, Any, Any, Any]:
        value, gradients = value_and_grad(params, batch)
        held_out_value, held_out = value_and_grad(params, held_out_batch)
        updates, state = extended.update(gradients, state, params, held_out=held_out)
        return optax.apply_updates(params, updates), state, value, held_out_value

    return step


def _shifted(params: optax.Params, tuned: Sequence[Tuned], changes: Array) -> optax.Params:
    """The parameters that changed hyperparameters would have led to."""
    for one, change in zip(tuned, changes, strict=True):
        params = jax.tree.map(lambda w, a, change=change: w + (change * a).astype(w.dtype), params, one.response)
    return params


def _perturbations(config: SelfTuningConfig, number: int, step: Array) -> Array:
    """Of a step, float32 [number]."""
    block, place = step // len(SIGNS[0]), step % len(SIGNS[0])
    turned = jax.random.rademacher(jax.random.fold_in(jax.random.key(config.seed), block), (number,), jnp.float32)
    return config.sigma * turned * jnp.asarray(SIGNS[:number], jnp.float32)[:, place]


def _gradient_slopes(state: SelfTuningState, gradient: optax.Updates, config: SelfTuningConfig) -> list[optax.Updates]:
    """How the gradient changes with each hyperparameter, by what the perturbations' change did to it; nothing at the first step."""
    changes = state.perturbations - _perturbations(config, len(state.tuned), jnp.maximum(state.step - 1, 0))
    squares = 4 * config.sigma**2 * jnp.asarray(CHANGED[: len(state.tuned)])
    difference = jax.tree.map(jnp.subtract, gradient, state.gradient)
    return [jax.tree.map(lambda leaf, f=factor: _finite((f * leaf).astype(leaf.dtype)), difference) for factor in changes / squares]


def _with_hypergradient(one: Tuned, gradient: optax.Updates) -> Tuned:
    """With <gradient, response> in the averages; one that is not finite is left out."""
    found = jnp.asarray(optax.tree.vdot(gradient, one.response), jnp.float32)
    square = jnp.square(found)
    usable = jnp.isfinite(square)
    first = jnp.where(usable, FIRST_DECAY * one.first + (1 - FIRST_DECAY) * found, one.first)
    second = jnp.where(usable, SECOND_DECAY * one.second + (1 - SECOND_DECAY) * square, one.second)
    return one._replace(first=first, second=second)


def _tuned_values(
    state: SelfTuningState, tuned: Sequence[Tuned], config: SelfTuningConfig, all_bounds: Sequence[Bounds]
) -> tuple[Array, Array]:
    """Learning rate and weight decay after a step of Adam on their logarithms; what is not tuned stays."""
    values = [state.learning_rate, state.weight_decay]
    for index, (one, bounds) in enumerate(zip(tuned, all_bounds, strict=True)):
        first, second = one.first / (1 - FIRST_DECAY ** (state.step + 1)), one.second / (1 - SECOND_DECAY ** (state.step + 1))
        scaled = jnp.where(second > 0, first / jnp.sqrt(jnp.where(second > 0, second, 1.0)), 0.0)
        values[index] = bounds.hold(values[index] * jnp.exp(-config.step_size * scaled), values[index])
    return values[0], values[1]


def _derivatives(
    inner: optax.GradientTransformationExtraArgs,
    gradient: optax.Updates,
    inner_state: Any,
    params: optax.Params,
    tuned: Sequence[Tuned],
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

    def responded(a: Array, known: Array, dd: Array) -> Array:
        return _finite(kept * a - rate * (known + dd + decay * a)).astype(a.dtype)

    return jax.tree.map(responded, response, direct, slope)


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
