"""Learning-rate schedules, functions from the step to the learning rate. Start with `registry`: `create(name, peak_value, steps)`.

A schedule is a profile (`profiles`) at a sampling rate (`sampling`); `decays` has those that optax lacks, ready to use. Nothing here
knows of tasks or of the search; a schedule goes wherever optax takes one. `autolrs` and `population` find one around any training loop, by
Bayesian optimisation and by population-based training; `hypergradient` and `self_tuning` tune the learning rate as training goes on.
"""

from .current import current_learning_rate
from .decays import inverse_square_root, one_cycle, rex, step_decay, with_warmup, wsd
from .hypergradient import Bounds, HypergradientState, hypergradient_descent, multiplicative_hypergradient_descent
from .plateau import plateau
from .population import Hyperparameter, PopulationConfig, PopulationLoop
from .profiles import (
    COOLDOWNS,
    FromEnd,
    Profile,
    ScheduleError,
    constant_profile,
    cosine_profile,
    exponential_profile,
    inverse_square_root_profile,
    linear_profile,
    mirror_cosine_profile,
    one_cycle_profile,
    polynomial_profile,
    rex_profile,
    sqrt_profile,
    square_profile,
    step_profile,
    wsd_profile,
)
from .recorded import (
    interpolated_profile,
    load_recorded,
    piecewise_schedule,
    recorded_peak,
    recorded_schedule,
    recorded_search_steps,
    save_recorded,
)
from .refine import (
    ADAM,
    SGD,
    GradientNorms,
    LastIterateBound,
    best_base_rate,
    last_iterate_bound,
    record_gradient_norms,
    recorded_norms,
    refine,
    refined_multipliers,
)
from .registry import SCHEDULES, Schedule, create, get, names
from .sampling import SAMPLINGS, Sampling, at, every, every_iteration, from_profile, sampled
from .self_tuning import SelfTuningConfig, SelfTuningState, self_tuned_params, self_tuning, self_tuning_step

__all__ = [
    "ADAM",
    "COOLDOWNS",
    "SAMPLINGS",
    "SCHEDULES",
    "SGD",
    "Bounds",
    "FromEnd",
    "GradientNorms",
    "Hyperparameter",
    "HypergradientState",
    "LastIterateBound",
    "PopulationConfig",
    "PopulationLoop",
    "Profile",
    "Sampling",
    "Schedule",
    "ScheduleError",
    "SelfTuningConfig",
    "SelfTuningState",
    "at",
    "best_base_rate",
    "constant_profile",
    "cosine_profile",
    "create",
    "current_learning_rate",
    "every",
    "every_iteration",
    "exponential_profile",
    "from_profile",
    "get",
    "hypergradient_descent",
    "interpolated_profile",
    "inverse_square_root",
    "inverse_square_root_profile",
    "last_iterate_bound",
    "linear_profile",
    "load_recorded",
    "mirror_cosine_profile",
    "multiplicative_hypergradient_descent",
    "names",
    "one_cycle",
    "one_cycle_profile",
    "piecewise_schedule",
    "plateau",
    "polynomial_profile",
    "record_gradient_norms",
    "recorded_norms",
    "recorded_peak",
    "recorded_schedule",
    "recorded_search_steps",
    "refine",
    "refined_multipliers",
    "rex",
    "rex_profile",
    "sampled",
    "save_recorded",
    "self_tuned_params",
    "self_tuning",
    "self_tuning_step",
    "sqrt_profile",
    "square_profile",
    "step_decay",
    "step_profile",
    "with_warmup",
    "wsd",
    "wsd_profile",
]
