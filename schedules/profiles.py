"""Profiles: the shape of a schedule, as a function from progress to a multiplier.

Progress p is the share of the run that is done, 0 at the first step and 1 at the end; the multiplier is 1 at its highest. `sampling`
turns a profile into a schedule by saying how often it is read. A profile is any such function; those here work on arrays and traced values.
"""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Profile = Callable[[ArrayLike], Array]  # progress in [0, 1] -> multiplier

STEP_END = 0.01  # of the step schedule that falls tenfold twice


class ScheduleError(ValueError):
    """A schedule cannot be made of these settings, or there is no such schedule."""


@dataclasses.dataclass(frozen=True)
class FromEnd:
    """A profile that is also a function of the share of the run that is left, z = 1 - p.

    Near the end of a long run float32 has no digits left for 1 - p, while z, made of integers, has all of them.

    Attributes:
        of_remaining: z in [0, 1] -> multiplier.
        of_progress: the same of p, where that has a better form than `of_remaining(1 - p)`.

    Example:
        >>> profile = FromEnd(lambda left: left**3)
        >>> float(profile(0.5)), float(profile.of_remaining(0.5))
        (0.125, 0.125)
    """

    of_remaining: Profile
    of_progress: Profile | None = None

    def __call__(self, progress: ArrayLike) -> Array:
        """The multiplier at the progress."""
        return self.of_remaining(1 - jnp.asarray(progress)) if self.of_progress is None else self.of_progress(progress)


def constant_profile() -> Profile:
    """1 throughout.

    Example:
        >>> float(constant_profile()(0.7))
        1.0
    """
    return lambda progress: jnp.clip(progress, 1.0, 1.0)  # of the progress's own shape and type


def linear_profile() -> Profile:
    """1 - p.

    Example:
        >>> float(linear_profile()(0.75))
        0.25
    """
    return polynomial_profile(1)


def polynomial_profile(power: float = 2) -> Profile:
    """(1 - p)**power.

    Args:
        power: above 0.

    Raises:
        ScheduleError: it is not.

    Example:
        >>> float(polynomial_profile(2)(0.5))
        0.25
    """
    if not power > 0:
        raise ScheduleError(f"the power of a polynomial schedule must be above 0, got {power}")
    return FromEnd(lambda left: jnp.asarray(left) ** power)


def cosine_profile() -> Profile:
    """(1 + cos(pi p))/2 (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5).

    Example:
        >>> float(cosine_profile()(1.0))
        0.0
    """
    return FromEnd(lambda left: jnp.sin(jnp.pi / 2 * jnp.asarray(left)) ** 2)


def mirror_cosine_profile() -> Profile:
    """2(1 - p) - (1 + cos(pi p))/2, the cosine mirrored in the line 1 - p: it falls fast, then slowly, then fast.

    Source: a cooldown of Hägele et al., 2024, arXiv:2405.18392.

    Example:
        >>> float(mirror_cosine_profile()(0.25) + cosine_profile()(0.25))
        1.5
    """
    return FromEnd(lambda left: 2 * jnp.asarray(left) - jnp.sin(jnp.pi / 2 * jnp.asarray(left)) ** 2)


def square_profile() -> Profile:
    """1 - p**2, a cooldown of Hägele et al., 2024, arXiv:2405.18392.

    Example:
        >>> float(square_profile()(0.5))
        0.75
    """
    return FromEnd(lambda left: jnp.asarray(left) * (2 - jnp.asarray(left)))


def sqrt_profile() -> Profile:
    """1 - sqrt(p), the best cooldown of Hägele et al., 2024, arXiv:2405.18392.

    Example:
        >>> float(sqrt_profile()(0.25))
        0.5
    """
    return FromEnd(lambda left: jnp.asarray(left) / (1 + jnp.sqrt(1 - jnp.asarray(left))), lambda progress: 1 - jnp.sqrt(progress))


def exponential_profile(gamma: float = -3.0) -> Profile:
    """exp(gamma p); it ends at exp(gamma).

    Args:
        gamma: at most 0. The default is that of the REX paper's comparison (Chen et al., 2022, arXiv:2107.04197).

    Raises:
        ScheduleError: it is above 0.

    Example:
        >>> round(float(exponential_profile()(1.0)), 4)
        0.0498
    """
    if not gamma <= 0:
        raise ScheduleError(f"gamma of an exponential schedule must be at most 0, got {gamma}")
    return lambda progress: jnp.exp(gamma * jnp.asarray(progress))


def step_profile() -> Profile:
    """0.01**p, the exponential beneath the step schedule that falls tenfold twice.

    The REX paper approximates the step schedule so, to read it at any sampling rate; the base is ours, such that the curve ends where
    the steps do. `decays.step_decay` is the step schedule itself.

    Example:
        >>> round(float(step_profile()(0.5)), 6)
        0.1
    """
    return exponential_profile(math.log(STEP_END))


def rex_profile(d: float = 0.5) -> Profile:
    """z/((1 - d) + d z) with z = 1 - p, the reflected exponential: it stays high for long and falls steeply at the end.

    Args:
        d: below 1. 0 gives the linear profile, 0.5 the paper's; 0.9 is found in other implementations.

    Raises:
        ScheduleError: it is not below 1.

    Example:
        >>> round(float(rex_profile()(0.5)), 4)
        0.6667

    Source: Chen, Wolfe and Kyrillidis, 2022, arXiv:2107.04197, where d is 1/2.
    """
    if not d < 1:
        raise ScheduleError(f"d of REX must be below 1, got {d}")

    return FromEnd(lambda left: jnp.asarray(left) / ((1 - d) + d * jnp.asarray(left)))


def inverse_square_root_profile(timescale: float = 0.1) -> Profile:
    """1/sqrt(1 + p/timescale).

    Args:
        timescale: share of the run after which the multiplier is 1/sqrt(2); above 0.

    Raises:
        ScheduleError: it is not above 0.

    Example:
        >>> round(float(inverse_square_root_profile(0.1)(0.3)), 6)
        0.5

    Source: as in Vaswani et al., 2017, arXiv:1706.03762, section 5.3, after its warm-up.
    """
    if not timescale > 0:
        raise ScheduleError(f"the timescale must be above 0, got {timescale}")
    return lambda progress: 1 / jnp.sqrt(1 + jnp.asarray(progress) / timescale)


def wsd_profile(cooldown: Profile | None = None, cooldown_fraction: float = 0.2) -> Profile:
    """1 until the cooldown, then the cooldown's profile of u, the share of the cooldown that is done.

    Args:
        cooldown: a profile; `sqrt_profile()` where None. The paper compares linear, exponential, cosine, mirror cosine, square and sqrt.
        cooldown_fraction: the cooldown's share of the run, above 0 and at most 1.

    Raises:
        ScheduleError: the share is out of bounds.

    Example:
        >>> profile = wsd_profile(linear_profile(), cooldown_fraction=0.5)
        >>> [float(profile(p)) for p in (0.0, 0.5, 0.75, 1.0)]
        [1.0, 1.0, 0.5, 0.0]

    Source: warm-up, stable, decay: Hu et al., 2024, arXiv:2404.06395; the shapes: Hägele et al., 2024, arXiv:2405.18392. The warm-up is
    `decays.with_warmup`.
    """
    if not 0 < cooldown_fraction <= 1:
        raise ScheduleError(f"the cooldown's share of the run must be above 0 and at most 1, got {cooldown_fraction}")
    shape = sqrt_profile() if cooldown is None else cooldown
    of_remaining = shape.of_remaining if isinstance(shape, FromEnd) else lambda left: shape(1 - left)
    return FromEnd(lambda left: of_remaining(jnp.clip(jnp.asarray(left) / cooldown_fraction, 0.0, 1.0)))


def one_cycle_profile(pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Profile:
    """Up from 1/div_factor to 1 and down to 1/(div_factor * final_div_factor), both by half a cosine.

    Args:
        pct_start: share of the run that rises, in (0, 1).
        div_factor: at least 1; optax's names and defaults, as in `optax.cosine_onecycle_schedule`.
        final_div_factor: at least 1.

    Raises:
        ScheduleError: a setting is out of bounds.

    Example:
        >>> profile = one_cycle_profile()
        >>> [round(float(profile(p)), 4) for p in (0.0, 0.15, 0.3, 0.65, 1.0)]
        [0.04, 0.52, 1.0, 0.5, 0.0]

    Source: Smith and Topin, 2017, arXiv:1708.07120; by cosines as in optax.
    """
    check_one_cycle(pct_start, div_factor, final_div_factor)
    first, last = 1 / div_factor, 1 / (div_factor * final_div_factor)
    falling = cosine_profile()

    def profile(progress: ArrayLike) -> Array:
        p = jnp.asarray(progress)
        up = 1 - (1 - first) * falling(jnp.clip(p / pct_start, 0.0, 1.0))
        down = last + (1 - last) * falling(jnp.clip((p - pct_start) / (1 - pct_start), 0.0, 1.0))
        return jnp.where(p < pct_start, up, down)

    return profile


def check_one_cycle(pct_start: float, div_factor: float, final_div_factor: float) -> None:
    """Refuses settings that make no cycle.

    Raises:
        ScheduleError: they are out of bounds.
    """
    if not 0 < pct_start < 1 or not (1 <= div_factor < math.inf and 1 <= final_div_factor < math.inf):
        got = f"{pct_start}, {div_factor} and {final_div_factor}"
        raise ScheduleError(f"one cycle needs a rising share in (0, 1) and two factors of at least 1, got {got}")


# The paper's cooldowns by name.
COOLDOWNS: dict[str, Callable[[], Profile]] = {
    "linear": linear_profile,
    "exponential": step_profile,  # 0.01**u
    "cosine": cosine_profile,
    "mirror_cosine": mirror_cosine_profile,
    "square": square_profile,
    "sqrt": sqrt_profile,
}
