"""Learning-rate schedules, functions from the step to the learning rate. Start with `registry`: `create(name, peak_value, steps)`.

Nothing here knows of tasks or of the search; a schedule goes wherever optax takes one.
"""

from .registry import SCHEDULES, Schedule, create, get, names

__all__ = ["SCHEDULES", "Schedule", "create", "get", "names"]
