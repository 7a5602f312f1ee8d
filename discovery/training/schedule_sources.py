"""From what a user names, a schedule of the registry or a file, to a learning rate relative to its peak."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

from ...schedules import ScheduleError, from_profile, load_recorded, plateau, recorded_search_steps
from ...schedules import registry as schedules
from ...schedules.recorded import SUFFIXES
from ...schedules.registry import RelativeSchedule
from .modules import digest_of, function_of, is_python, said

PLATEAU = "plateau"  # no function of the step, and so none of the registry's
_STALLED = "falls to a tenth where the training loss has stalled for 10 % of the steps; for train and evaluate"

Around = Callable[[optax.GradientTransformation, int], optax.GradientTransformation]


class ScheduleSource(NamedTuple):
    """What a name leads to.

    Attributes:
        relative: number of steps -> schedule, to be multiplied by the learning rate.
        summary: in one line.
        digest: of the file; None for a schedule of the registry, whose name says all.
        search_steps: of the search that found it, where its file says; else 0.
        around: takes the rule and the number of steps, and gives the rule whose updates follow what is observed; None where the
            step says all.
    """

    relative: RelativeSchedule
    summary: str
    digest: str | None
    search_steps: int = 0
    around: Around | None = None

    def applied(self, rule: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        """The rule, made with `relative`, with whatever else the schedule does to it."""
        return rule if self.around is None else self.around(rule, steps)


def find_schedule(name: str) -> ScheduleSource:
    """Finds the schedule that a user names.

    Args:
        name: a name in `stepsmith.schedules`, alone or with a sampling rate ('rex:50-75'), or 'plateau'; else a file: learning rates
            recorded as .csv or .json (the format is in `schedules.recorded`), of which the shape counts, or 'mine.py' or
            'mine.py:function', which is imported: a function of `decay_steps` that returns an optax schedule. It may have an
            `init_value` or `peak_value`, as optax's do, and gets 1 there. Or a function of `optimizer` and `decay_steps` that
            returns the optimizer with updates that follow what it observes, as exported schedules do that read the loss.

    Raises:
        ValueError: where a name is not known or a file leads to no schedule.

    Example:
        >>> source = find_schedule("linear")
        >>> source.summary, float(source.relative(100)(50))
        ('1 - t/T', 0.5)
    """
    if name == PLATEAU:
        return ScheduleSource(_unchanged, _STALLED, None, around=lambda rule, steps: optax.chain(rule, plateau(steps)))
    if is_python(name):
        return _from_python(name)
    if name.endswith(SUFFIXES):
        profile, digest = load_recorded(name), digest_of(Path(name).read_bytes())
        return ScheduleSource(
            lambda steps: from_profile(profile, 1.0, steps), "recorded learning rates", digest, recorded_search_steps(name)
        )
    try:
        row = schedules.get(name)
    except ScheduleError as error:
        raise ScheduleError(f"{error}; or give a .csv or .json file of learning rates, or a .py file") from error
    return ScheduleSource(row.relative, row.summary, None)


def check_output(output: Path | None) -> None:
    """Refuses a file that a schedule cannot be written to, before anything is trained.

    Raises:
        ScheduleError: its name ends otherwise than in .csv or .json, or its folder is not there.
    """
    if output is not None and output.suffix not in SUFFIXES:
        raise ScheduleError(f"--save-schedule {output}: a schedule is written as {' or '.join(SUFFIXES)}")
    if output is not None and not output.absolute().parent.is_dir():
        raise ScheduleError(f"--save-schedule {output}: there is no folder {output.absolute().parent}")


def destinations(folder: Path | None, name: str, output: Path | None) -> list[Path]:
    """Where a schedule that was found is written: by that name in the checkpoints' folder, and to the file that was asked for."""
    return [path for path in (None if folder is None else folder / name, output) if path is not None]


def _unchanged(steps: int) -> optax.Schedule:
    del steps
    return optax.constant_schedule(1.0)


def _from_python(name: str) -> ScheduleSource:
    factory, digest = function_of(name, "decay_steps")
    parameters = inspect.signature(factory).parameters
    first_line = (inspect.getdoc(factory) or factory.__name__).partition("\n")[0]
    if "optimizer" in parameters:
        return ScheduleSource(_unchanged, first_line, digest, around=lambda rule, steps: _wrapped(name, factory, rule, steps))
    peak = {name: 1.0 for name in ("init_value", "peak_value") if name in parameters}

    def relative(steps: int) -> optax.Schedule:
        given = {**peak, "decay_steps": steps}
        try:
            schedule = factory(**given)
            values = [np.asarray(schedule(step)) for step in (0, steps // 2, steps - 1)]
        except Exception as error:  # the user's own code
            raise ScheduleError(f"{name}: {factory.__name__} cannot be called with {_arguments(given)}: {said(error)}") from error
        if not all(value.shape == () and np.isfinite(value) and value >= 0 for value in values):
            got = ", ".join(map(str, values))
            raise ScheduleError(
                f"{name}: {factory.__name__} must give finite learning rates of at least 0; at start, middle and end: {got}"
            )
        return schedule

    return ScheduleSource(relative, first_line, digest)


def _wrapped(name: str, factory: Callable[..., Any], rule: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    try:
        found = factory(optimizer=rule, decay_steps=steps)
    except Exception as error:  # the user's own code
        raise ScheduleError(f"{name}: {factory.__name__} cannot be called with optimizer, decay_steps={steps}: {said(error)}") from error
    if not isinstance(found, optax.GradientTransformation):
        raise ScheduleError(f"{name}: {factory.__name__} gives {type(found).__name__}, not an optax.GradientTransformation")
    return found


def _arguments(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items())
