"""The one place where learning-rate schedules are listed by name.

Each is written relative to its peak, as a function of the number of steps, so that the peak may be a traced scalar.
"""

import dataclasses
import math
from collections.abc import Callable

import optax
from jax.typing import ArrayLike

from .decays import one_cycle, step_decay, wsd
from .profiles import COOLDOWNS, Profile, ScheduleError, constant_profile, inverse_square_root_profile, rex_profile
from .sampling import SAMPLINGS, check_steps, from_profile, sampled

RelativeSchedule = Callable[[int], optax.Schedule]  # number of steps -> (step -> learning rate / peak)

GAMMA = -3.0  # of the exponential schedule, as in the REX paper's comparison
WARMUP_FRACTION = 0.1  # of the steps
SGDR_CYCLES = 4


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A row of the registry.

    Attributes:
        name: what users type.
        relative: number of steps -> schedule whose highest value is 1.
        summary: the schedule in one line, with its formula or source; T is the number of steps.
    """

    name: str
    relative: RelativeSchedule
    summary: str

    def factory(self, peak_value: ArrayLike, steps: int) -> optax.Schedule:
        """step -> peak_value times the relative schedule. `peak_value` may be traced."""
        schedule = self.relative(steps)
        return lambda step: peak_value * schedule(step)


def _of(profile: Profile) -> RelativeSchedule:
    return lambda steps: from_profile(profile, 1.0, steps)


def _linear(steps: int) -> optax.Schedule:
    return optax.linear_schedule(1.0, 0.0, steps)


def _cosine(steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(1.0, steps)


def _step(steps: int) -> optax.Schedule:
    return step_decay(1.0, steps)


def _exponential(steps: int) -> optax.Schedule:
    end = math.exp(GAMMA)
    return optax.exponential_decay(1.0, steps, end, end_value=end)


def _polynomial(steps: int) -> optax.Schedule:
    return optax.polynomial_schedule(1.0, 0.0, power=2, transition_steps=steps)


def _one_cycle(steps: int) -> optax.Schedule:
    return one_cycle(1.0, steps)


def _sgdr(steps: int) -> optax.Schedule:
    cycles = min(SGDR_CYCLES, steps)
    # Integer bounds that end exactly at `steps` even where it is no multiple of the number of cycles.
    bounds = [steps * index // cycles for index in range(cycles + 1)]
    lengths = [end - begin for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return optax.join_schedules([optax.cosine_decay_schedule(1.0, length) for length in lengths], bounds[1:-1])


def _warmup_cosine(steps: int) -> optax.Schedule:
    warmup = min(max(1, round(WARMUP_FRACTION * steps)), steps - 1)  # none in a run of one step
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps)


def _wsd(cooldown: str) -> RelativeSchedule:
    return lambda steps: wsd(1.0, steps, cooldown=COOLDOWNS[cooldown]())


_ROWS = (
    Schedule("constant", _of(constant_profile()), "the peak throughout"),
    Schedule("linear", _linear, "1 - t/T"),
    Schedule("cosine", _cosine, "(1 + cos(pi t/T))/2 (Loshchilov and Hutter, arXiv:1608.03983)"),
    Schedule("rex", _of(rex_profile()), "(1 - t/T)/(1 - t/2T), the reflected exponential (Chen et al., arXiv:2107.04197)"),
    Schedule("step", _step, "a tenth after 50 % of the steps, a hundredth after 75 %"),
    Schedule("exponential", _exponential, "exp(-3 t/T), as the REX paper compares it"),
    Schedule("polynomial", _polynomial, "(1 - t/T)**2"),
    Schedule("inverse_square_root", _of(inverse_square_root_profile()), "1/sqrt(1 + 10 t/T) (after Vaswani et al., arXiv:1706.03762)"),
    Schedule("wsd", _wsd("sqrt"), "stable, then 1 - sqrt(u) over the last 20 % of the steps (arXiv:2405.18392)"),
    Schedule("wsd_linear", _wsd("linear"), "the same with 1 - u"),
    Schedule("wsd_exponential", _wsd("exponential"), "the same with 0.01**u"),
    Schedule("wsd_cosine", _wsd("cosine"), "the same with (1 + cos(pi u))/2"),
    Schedule("wsd_mirror_cosine", _wsd("mirror_cosine"), "the same with 2(1 - u) - (1 + cos(pi u))/2"),
    Schedule("wsd_square", _wsd("square"), "the same with 1 - u**2"),
    Schedule("one_cycle", _one_cycle, "up for 30 % of the steps, then down, both by cosines (Smith and Topin, arXiv:1708.07120)"),
    Schedule("sgdr", _sgdr, "four cosines, each restarting at the peak (Loshchilov and Hutter, arXiv:1608.03983)"),
    Schedule("warmup_cosine", _warmup_cosine, "linear from 0 for 10 % of the steps, then a cosine to 0 (Goyal et al., arXiv:1706.02677)"),
)

SCHEDULES: dict[str, Schedule] = {row.name: row for row in _ROWS}


def names() -> tuple[str, ...]:
    """The names that `get` knows, in the order of the table.

    Example:
        >>> names()[:3]
        ('constant', 'linear', 'cosine')
    """
    return tuple(SCHEDULES)


def get(name: str) -> Schedule:
    """The row of that name.

    Args:
        name: one of `names()`, or with a sampling rate, such as `rex:50-75`: read at 50 and 75 % of the run only. The rates are
            50-75, 33-66, 25-50-75, 10%, 5%, 1% and iteration, those of the REX paper.

    Raises:
        ScheduleError: where the name or the sampling rate is not known.

    Example:
        >>> get("linear").summary
        '1 - t/T'
        >>> schedule = get("linear:25-50-75").factory(1.0, 100)
        >>> float(schedule(49)), float(schedule(50))
        (0.75, 0.5)
    """
    base, colon, rate = name.partition(":")
    if base not in SCHEDULES:
        follows = "it follows the loss: chain stepsmith.schedules.plateau(steps) behind the rule; " if base == "plateau" else ""
        raise ScheduleError(f"unknown schedule {base!r}; {follows}known are {', '.join(SCHEDULES)}")
    if not colon:
        return SCHEDULES[base]
    if rate not in SAMPLINGS:
        raise ScheduleError(f"unknown sampling rate {rate!r} of {name!r}; known are {', '.join(SAMPLINGS)}")
    relative, sampling = SCHEDULES[base].relative, SAMPLINGS[rate]
    summary = f"{SCHEDULES[base].summary}; read at {rate}"
    return Schedule(name, lambda steps: sampled(relative(steps), steps, sampling), summary)


def create(name: str, peak_value: ArrayLike, steps: int) -> optax.Schedule:
    """Makes the schedule of that name.

    Args:
        name: one of `names()`, alone or with a sampling rate; see `get`.
        peak_value: the highest learning rate, a number or a traced scalar.
        steps: length of the run; the schedule is meant for steps 0 to `steps` - 1.

    Raises:
        ScheduleError: where the name is not known, or `steps` is below 1.

    Example:
        >>> schedule = create("linear", 0.1, steps=100)
        >>> round(float(schedule(50)), 6)
        0.05
    """
    check_steps("the length of a schedule", steps)
    return get(name).factory(peak_value, steps)
