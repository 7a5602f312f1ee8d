"""Sampling rates: how often the learning rate is read from its profile. A schedule is a profile at a sampling rate.

Source of the framework: Chen, Wolfe and Kyrillidis, REX, 2022, arXiv:2107.04197, section 3.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from .profiles import FromEnd, Profile, ScheduleError

Progress = Callable[[ArrayLike], Array]  # step -> the progress at which the profile is read, in [0, 1]
Sampling = Callable[[int], Progress]  # length of the run in steps -> Progress


def every_iteration(decay_steps: int) -> Progress:
    """p = step/decay_steps, at most 1.

    Example:
        >>> float(every_iteration(10)(3)), float(every_iteration(10)(12))
        (0.30000001192092896, 1.0)
    """
    length = float(decay_steps)  # an integer would have to fit the counter's type

    def progress(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        # Compiled, the division may become a product with 1/length, which at the end is not exactly 1.
        return jnp.where(step >= length, 1.0, jnp.clip(step / length, 0.0, 1.0))

    return progress


def remaining(decay_steps: int) -> Progress:
    """The share that is left, (decay_steps - step)/decay_steps, at least 0: of integers, such that the last steps of long runs keep it.

    Example:
        >>> float(remaining(10)(3)), float(remaining(10)(12))
        (0.699999988079071, 0.0)
    """
    length = float(decay_steps)

    def left(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        counted = jnp.issubdtype(step.dtype, jnp.integer) and decay_steps <= jnp.iinfo(step.dtype).max
        total = decay_steps if counted else length
        return jnp.minimum((total - jnp.clip(step, 0, total)) / length, 1.0)  # compiled, T/T may be a product with 1/T

    return left


def at(*fractions: float) -> Sampling:
    """Read at the start and then at these shares of the run only; what is below 1 is read before the end or, in a short run, not at all.

    Args:
        fractions: ascending, above 0 and at most 1.

    Raises:
        ScheduleError: they are not.

    Example:
        >>> progress = at(0.5, 0.75)(100)
        >>> [float(progress(step)) for step in (0, 49, 50, 74, 75, 1000)]
        [0.0, 0.0, 0.5, 0.5, 0.75, 0.75]
    """
    if not fractions or list(fractions) != sorted(set(fractions)) or not 0 < fractions[0] <= fractions[-1] <= 1:
        raise ScheduleError(f"a profile is read at ascending shares of the run above 0 and at most 1, got {fractions}")

    def sampling(decay_steps: int) -> Progress:
        reads = {fraction: boundary(fraction, decay_steps) for fraction in fractions}
        reads = {fraction: step for fraction, step in reads.items() if step < decay_steps or fraction == 1}
        boundaries, levels = np.array(list(reads.values()), np.int64), jnp.asarray([0.0, *reads], jnp.float32)
        return lambda step: levels[jnp.searchsorted(boundaries, step, side="right")]

    return sampling


def every(fraction: float) -> Sampling:
    """Read at the start and each time that this share of the run is done.

    Args:
        fraction: 1/n for a whole number n.

    Raises:
        ScheduleError: it is not.

    Example:
        >>> progress = every(0.1)(200)
        >>> [round(float(progress(step)), 6) for step in (0, 19, 20, 60, 199, 200)]
        [0.0, 0.0, 0.1, 0.3, 0.9, 1.0]
    """
    count = round(1 / fraction) if 0 < fraction <= 1 else 0
    if not count or not math.isclose(count * fraction, 1, rel_tol=1e-9):
        raise ScheduleError(f"the interval of a sampling rate must be 1/n of the run, such as 0.1, got {fraction}")
    return at(*(index / count for index in range(1, count + 1)))


# The paper's sampling rates by name.
SAMPLINGS: dict[str, Sampling] = {
    "50-75": at(0.50, 0.75),
    "33-66": at(0.33, 0.66),
    "25-50-75": at(0.25, 0.50, 0.75),
    "10%": every(0.10),
    "5%": every(0.05),
    "1%": every(0.01),
    "iteration": every_iteration,
}


def boundary(fraction: float, decay_steps: int) -> int:
    """The first step at which that share of the run is done, free of the rounding of 0.1 * 30.

    Example:
        >>> boundary(0.1, 30), boundary(0.5, 7)
        (3, 4)
    """
    return math.ceil(Fraction(fraction).limit_denominator(10**6) * decay_steps)


def from_profile(profile: Profile, init_value: ArrayLike, decay_steps: int, sampling: Sampling = every_iteration) -> optax.Schedule:
    """The schedule of a profile: init_value * profile(p), with p as the sampling rate reads it.

    Args:
        profile: progress -> multiplier.
        init_value: learning rate where the multiplier is 1; a number or a traced scalar.
        decay_steps: length of the run, T; from step T on the learning rate stays as it is there.
        sampling: how often the profile is read.

    Returns:
        step -> learning rate. The step may be a number, an array or traced.

    Raises:
        ScheduleError: `decay_steps` is below 1.

    Example:
        >>> from stepsmith.schedules import at, linear_profile
        >>> schedule = from_profile(linear_profile(), 0.4, 100, at(0.5, 0.75))
        >>> [round(float(schedule(step)), 6) for step in (49, 50, 99)]
        [0.4, 0.2, 0.1]
    """
    check_steps("decay_steps", decay_steps)
    if sampling is every_iteration and isinstance(profile, FromEnd):
        left, of_remaining = remaining(decay_steps), profile.of_remaining
        return lambda step: init_value * of_remaining(left(step))
    progress = sampling(decay_steps)
    return lambda step: init_value * profile(progress(step))


def sampled(schedule: optax.Schedule, decay_steps: int, sampling: Sampling) -> optax.Schedule:
    """Any schedule, held between the steps at which the sampling rate reads it.

    Args:
        schedule: step -> learning rate; it is asked at fractions of a step too.
        decay_steps: length of the run.
        sampling: how often it is read.

    Raises:
        ScheduleError: `decay_steps` is below 1.

    Example:
        >>> import optax
        >>> schedule = sampled(optax.linear_schedule(1.0, 0.0, 100), 100, every(0.1))
        >>> float(schedule(29)), float(schedule(30))
        (0.800000011920929, 0.699999988079071)
    """
    return from_profile(lambda progress: jnp.asarray(schedule(progress * decay_steps)), 1.0, decay_steps, sampling)


def check_steps(what: str, value: int) -> None:
    """Refuses a number of steps below 1.

    Raises:
        ScheduleError: it is.
    """
    if not value >= 1:
        raise ScheduleError(f"{what} must be at least 1 step, got {value}")
