"""Learning-rate schedules, functions from the step to the learning rate. Start with `registry`: `create(name, peak_value, steps)`.

A schedule is a profile (`profiles`) at a sampling rate (`sampling`); `decays` has those that optax lacks, ready to use. Nothing here
knows of tasks or of the search; a schedule goes wherever optax takes one.
"""

from .decays import inverse_square_root, rex, step_decay, with_warmup, wsd
from .profiles import (
    COOLDOWNS,
    Profile,
    ScheduleError,
    constant_profile,
    cosine_profile,
    exponential_profile,
    inverse_square_root_profile,
    linear_profile,
    mirror_cosine_profile,
    polynomial_profile,
    rex_profile,
    sqrt_profile,
    square_profile,
    step_profile,
    wsd_profile,
)
from .registry import SCHEDULES, Schedule, create, get, names
from .sampling import SAMPLINGS, Sampling, at, every, every_iteration, from_profile, sampled

__all__ = [
    "COOLDOWNS",
    "SAMPLINGS",
    "SCHEDULES",
    "Profile",
    "Sampling",
    "Schedule",
    "ScheduleError",
    "at",
    "constant_profile",
    "cosine_profile",
    "create",
    "every",
    "every_iteration",
    "exponential_profile",
    "from_profile",
    "get",
    "inverse_square_root",
    "inverse_square_root_profile",
    "linear_profile",
    "mirror_cosine_profile",
    "names",
    "polynomial_profile",
    "rex",
    "rex_profile",
    "sampled",
    "sqrt_profile",
    "square_profile",
    "step_decay",
    "step_profile",
    "with_warmup",
    "wsd",
    "wsd_profile",
]
