"""The schedules that optax lacks, or has in another form, with its names of arguments: step -> learning rate.

Linear, cosine, exponential, polynomial and SGDR are optax's own.
"""

import math

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from .profiles import Profile, ScheduleError, check_one_cycle, inverse_square_root_profile, rex_profile, wsd_profile
from .sampling import boundary, check_steps, from_profile

WARMUP_START = 0.01  # of the peak, in WSD


def rex(init_value: ArrayLike, decay_steps: int, d: float = 0.5) -> optax.Schedule:
    """Reflected exponential: init_value * z/((1 - d) + d z) with z = 1 - t/T, read every iteration.

    Args:
        init_value: learning rate of the first step; a number or a traced scalar.
        decay_steps: length of the run, T, in steps; from step T on the learning rate is 0.
        d: below 1; 0 is linear decay, 0.5 the paper's, 0.9 that of several other implementations.

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: `decay_steps` is below 1, or `d` not below 1.

    Example:
        >>> schedule = rex(0.3, decay_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 99, 100, 101)]
        [0.3, 0.2, 0.0059, 0.0, 0.0]

    Source: Chen, Wolfe and Kyrillidis, 2022, arXiv:2107.04197.
    """
    return from_profile(rex_profile(d), init_value, decay_steps)


def inverse_square_root(init_value: ArrayLike, timescale: int) -> optax.Schedule:
    """init_value/sqrt(1 + t/timescale), for runs whose length is not known.

    After a warm-up of `timescale` steps it is the Transformer's schedule, peak * min(t/w, sqrt(w/t)).

    Args:
        init_value: learning rate of the first step; a number or a traced scalar.
        timescale: steps after which it has fallen to init_value/sqrt(2).

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: `timescale` is below 1.

    Example:
        >>> float(inverse_square_root(0.4, timescale=100)(300))
        0.20000000298023224
        >>> transformer = with_warmup(inverse_square_root(0.4, 100), warmup_steps=100)
        >>> round(float(transformer(50)), 6), round(float(transformer(400)), 6)
        (0.2, 0.2)

    Source: Vaswani et al., 2017, arXiv:1706.03762, section 5.3.
    """
    check_steps("timescale", timescale)
    profile = inverse_square_root_profile(1.0)
    return lambda step: init_value * profile(jnp.maximum(step / float(timescale), 0.0))


def step_decay(init_value: ArrayLike, decay_steps: int, fractions: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1) -> optax.Schedule:
    """init_value times `factor` for each of these shares of the run that is done; optax's piecewise constant schedule.

    Args:
        init_value: learning rate of the first step; a number or a traced scalar.
        decay_steps: length of the run in steps.
        fractions: shares of the run at which it falls, in [0, 1].
        factor: in [0, 1].

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: a setting is out of bounds.

    Example:
        >>> schedule = step_decay(1.0, decay_steps=100)
        >>> [round(float(schedule(step)), 6) for step in (49, 50, 75, 100)]
        [1.0, 0.1, 0.01, 0.01]
    """
    check_steps("decay_steps", decay_steps)
    if not all(0 <= fraction <= 1 for fraction in fractions) or not 0 <= factor <= 1:
        raise ScheduleError(f"a step schedule needs shares of the run and a factor in [0, 1], got {fractions} and {factor}")
    boundaries = [boundary(fraction, decay_steps) for fraction in fractions]  # two may meet in a short run
    return optax.piecewise_constant_schedule(init_value, {step: factor ** boundaries.count(step) for step in boundaries})


def one_cycle(
    peak_value: ArrayLike, decay_steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> optax.Schedule:
    """Up from peak_value/div_factor, then down to that over final_div_factor, by cosines: optax's one-cycle schedule.

    Args:
        peak_value: the highest learning rate; a number or a traced scalar.
        decay_steps: length of the run in steps.
        pct_start: share of the run that rises, in (0, 1), rounded down to steps; `one_cycle_profile` has it unrounded.
        div_factor: at least 1.
        final_div_factor: at least 1.

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: a setting is out of bounds.

    Example:
        >>> schedule = one_cycle(1.0, decay_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 15, 30, 65, 100)]
        [0.04, 0.52, 1.0, 0.5, 0.0]

    Source: Smith and Topin, 2017, arXiv:1708.07120.
    """
    check_steps("decay_steps", decay_steps)
    check_one_cycle(pct_start, div_factor, final_div_factor)
    return optax.cosine_onecycle_schedule(decay_steps, peak_value, pct_start, div_factor, final_div_factor)


def wsd(
    peak_value: ArrayLike,
    decay_steps: int,
    warmup_steps: int = 0,
    cooldown_fraction: float = 0.2,
    cooldown: Profile | None = None,
) -> optax.Schedule:
    """Warm-up, stable, decay: linear from peak_value/100, then peak_value, then a cooldown to the end.

    Args:
        peak_value: the highest learning rate; a number or a traced scalar.
        decay_steps: length of the whole run in steps, warm-up included.
        warmup_steps: of the warm-up; below `decay_steps`.
        cooldown_fraction: the cooldown's share of the whole run.
        cooldown: a profile (`linear_profile()`, `cosine_profile()`, ...); 1 - sqrt(u) where None.

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: the phases do not fit into the run.

    Example:
        >>> schedule = wsd(1.0, decay_steps=100, warmup_steps=10)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 79, 85, 100, 1000)]
        [0.01, 0.505, 1.0, 1.0, 0.5, 0.0, 0.0]

    Source: Hu et al., 2024, arXiv:2404.06395; Hägele et al., 2024, arXiv:2405.18392.
    """
    check_steps("decay_steps", decay_steps)
    rest = decay_steps - warmup_steps
    if not 0 <= warmup_steps < decay_steps or not cooldown_fraction * decay_steps <= rest:
        phases = f"a warm-up of {warmup_steps} and a cooldown of {cooldown_fraction:g} of the run"
        raise ScheduleError(f"{phases} do not fit into {decay_steps} steps; shorten one of them")
    stable = from_profile(wsd_profile(cooldown, cooldown_fraction * decay_steps / rest), peak_value, rest)
    return with_warmup(stable, warmup_steps, WARMUP_START)


def with_warmup(schedule: optax.Schedule, warmup_steps: int, init_scale: float = 0.0) -> optax.Schedule:
    """A linear warm-up to the first learning rate of any schedule, which then starts at its step 0.

    Args:
        schedule: step -> learning rate; give it `warmup_steps` less to last.
        warmup_steps: 0 for none.
        init_scale: learning rate of step 0, in units of schedule(0).

    Returns:
        step -> learning rate.

    Raises:
        ScheduleError: a setting is below 0 or not finite.

    Example:
        >>> schedule = with_warmup(rex(0.4, 90), warmup_steps=10)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 11, 100)]
        [0.0, 0.2, 0.4, 0.3978, 0.0]
    """
    if warmup_steps < 0 or not (math.isfinite(init_scale) and init_scale >= 0):
        raise ScheduleError(f"a warm-up needs 0 or more steps and a scale of at least 0, got {warmup_steps} and {init_scale}")
    if warmup_steps == 0:
        return schedule
    first = schedule(0)
    return optax.join_schedules([optax.linear_schedule(init_scale * first, first, warmup_steps), schedule], [warmup_steps])
