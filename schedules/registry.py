"""The one place where learning-rate schedules are listed by name.

Each is written relative to its peak, as a function of the number of steps, so that the peak may be a traced scalar.
"""

import dataclasses
from collections.abc import Callable

import optax
from jax.typing import ArrayLike

RelativeSchedule = Callable[[int], optax.Schedule]  # number of steps -> (step -> learning rate / peak)

EXPONENTIAL_END = 0.01  # of the peak
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


def _constant(steps: int) -> optax.Schedule:
    del steps
    return optax.constant_schedule(1.0)


def _linear(steps: int) -> optax.Schedule:
    return optax.linear_schedule(1.0, 0.0, steps)


def _cosine(steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(1.0, steps)


def _exponential(steps: int) -> optax.Schedule:
    return optax.exponential_decay(1.0, steps, EXPONENTIAL_END)


def _polynomial(steps: int) -> optax.Schedule:
    return optax.polynomial_schedule(1.0, 0.0, power=2, transition_steps=steps)


def _one_cycle(steps: int) -> optax.Schedule:
    return optax.cosine_onecycle_schedule(steps, 1.0)


def _sgdr(steps: int) -> optax.Schedule:
    cycles = min(SGDR_CYCLES, steps)
    # Integer bounds that end exactly at `steps` even where it is no multiple of the number of cycles.
    bounds = [steps * index // cycles for index in range(cycles + 1)]
    lengths = [end - begin for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return optax.join_schedules([optax.cosine_decay_schedule(1.0, length) for length in lengths], bounds[1:-1])


def _warmup_cosine(steps: int) -> optax.Schedule:
    warmup = max(1, round(WARMUP_FRACTION * steps))
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1))


_ROWS = (
    Schedule("constant", _constant, "the peak throughout"),
    Schedule("linear", _linear, "1 - t/T"),
    Schedule("cosine", _cosine, "(1 + cos(pi t/T))/2 (Loshchilov and Hutter, arXiv:1608.03983)"),
    Schedule("exponential", _exponential, "0.01**(t/T)"),
    Schedule("polynomial", _polynomial, "(1 - t/T)**2"),
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

    Raises:
        ValueError: where the name is not known.

    Example:
        >>> get("linear").summary
        '1 - t/T'
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def create(name: str, peak_value: ArrayLike, steps: int) -> optax.Schedule:
    """Makes the schedule of that name.

    Args:
        name: one of `names()`.
        peak_value: the highest learning rate, a number or a traced scalar.
        steps: length of the run; the schedule is meant for steps 0 to `steps` - 1.

    Raises:
        ValueError: where the name is not known, or `steps` is below 1.

    Example:
        >>> schedule = create("linear", 0.1, steps=100)
        >>> round(float(schedule(50)), 6)
        0.05
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, got {steps}")
    return get(name).factory(peak_value, steps)
