"""Recorded schedules: learning rates written to a file, replayed as a profile in a run of any length.

A `.csv` file has a heading and a row for each point; a `.json` file has the same columns as lists. One column is `learning_rate`, of
which only the shape counts: it is divided by its highest value. The other says where the points are, ascending:

- `step`, from 0. The run that was recorded ends after the last of them, or after `steps` of them, which a `.json` file may say.
- `progress`, in [0, 1], for curves drawn by hand.

    progress,learning_rate            {"steps": 1000, "step": [0, 100, 999], "learning_rate": [0.0, 0.3, 0.0]}
    0,1
    0.8,1
    1,0

A schedule that a search found may say how many steps that took, beside the run's own: `"search_steps": 2500`, in a `.csv` file a
column with the number in each row. Nothing is trained otherwise for it.

Between two points the learning rate is interpolated linearly in progress, before the first and after the last it stays.
"""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from .profiles import Profile, ScheduleError
from .sampling import check_steps, from_profile

SUFFIXES = (".csv", ".json")
VALUES, PLACES, SEARCH_STEPS = "learning_rate", ("step", "progress"), "search_steps"


def interpolated_profile(progress: ArrayLike | Sequence[float], learning_rates: ArrayLike | Sequence[float]) -> Profile:
    """The curve through points, linear between them, relative to its highest value.

    Args:
        progress: [n], ascending, in [0, 1].
        learning_rates: [n], at least 0, one of them above.

    Raises:
        ScheduleError: they are not.

    Example:
        >>> profile = interpolated_profile([0.0, 0.8, 1.0], [0.3, 0.3, 0.0])
        >>> [round(float(profile(p)), 4) for p in (0.0, 0.8, 0.9, 1.0)]
        [1.0, 1.0, 0.5, 0.0]
    """
    places, values = np.asarray(progress, np.float64), np.asarray(learning_rates, np.float64)
    if places.ndim != 1 or places.shape != values.shape or not places.size:
        raise ScheduleError(f"a recorded schedule needs as many learning rates as points, got {values.shape} and {places.shape}")
    if not (np.diff(places) > 0).all() or not 0 <= places[0] <= places[-1] <= 1:
        raise ScheduleError("the points of a recorded schedule must ascend, from 0 or above to the end of the run at most")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
        raise ScheduleError("recorded learning rates must be finite and at least 0, and one of them above 0")
    points, multipliers = places.astype(np.float32), (values / values.max()).astype(np.float32)
    return lambda progress: jnp.interp(jnp.asarray(progress), points, multipliers)


def piecewise_schedule(starts: Sequence[int], values: Sequence[float]) -> optax.Schedule:
    """Recorded values that stay until the next one, as a schedule.

    Args:
        starts: the first step of each, ascending from 0.
        values: as many, at least 0: learning rates, or another hyperparameter of `optax.inject_hyperparams`.

    Returns:
        step -> value, for traced steps too; the last one after the end.

    Raises:
        ScheduleError: they are not.

    Example:
        >>> schedule = piecewise_schedule([0, 10, 50], [0.3, 0.4, 0.1])
        >>> [round(float(schedule(step)), 4) for step in (0, 9, 10, 49, 50, 1000)]
        [0.3, 0.3, 0.4, 0.4, 0.1, 0.1]
    """
    steps, levels = np.asarray(starts), np.asarray(values, np.float64)
    if steps.ndim != 1 or steps.shape != levels.shape or not steps.size or steps[0] != 0 or not (np.diff(steps) > 0).all():
        raise ScheduleError(f"recorded values need a first step each, ascending from 0, got {list(starts)} for {levels.size} values")
    if not (np.isfinite(levels).all() and levels.min() >= 0):
        raise ScheduleError(f"recorded values must be finite and at least 0, got {levels.tolist()}")
    boundaries, table = jnp.asarray(steps[1:], jnp.int32), jnp.asarray(levels, jnp.float32)
    return lambda step: table[jnp.searchsorted(boundaries, jnp.asarray(step), side="right")]


def load_recorded(path: Path | str) -> Profile:
    """Reads a `.csv` or `.json` file of recorded learning rates; the format is at the head of this module.

    Raises:
        ScheduleError: it cannot be read, or is not of that format.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "drawn.csv"
        >>> _ = path.write_text("progress,learning_rate\\n0,1\\n0.8,1\\n1,0\\n")
        >>> round(float(load_recorded(path)(0.9)), 4)
        0.5
    """
    try:
        return _profile(_columns(Path(path)))
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}") from error


def recorded_peak(path: Path | str) -> float:
    """The highest of the learning rates in a recorded file, which `load_recorded` divides them by.

    Raises:
        ScheduleError: as `load_recorded`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "drawn.csv"
        >>> _ = path.write_text("progress,learning_rate\\n0,0.3\\n0.8,0.3\\n1,0\\n")
        >>> recorded_peak(path)
        0.3
    """
    load_recorded(path)
    return max(_numbers(VALUES, _columns(Path(path))[VALUES]))


def recorded_schedule(path: Path | str, init_value: float | None = None, decay_steps: int | None = None) -> optax.Schedule:
    """A recorded file as an optax schedule: as it was recorded, or as high or as long as asked for.

    Args:
        path: a `.csv` or `.json` file.
        init_value: its highest learning rate; the recorded one where None.
        decay_steps: length of the run in steps; that of the recorded run where None.

    Returns:
        step -> learning rate, for traced steps too; the last one after the end.

    Raises:
        ScheduleError: as `load_recorded`; or `decay_steps` is missing for a file that says `progress`.

    Example:
        >>> import tempfile, optax
        >>> path = Path(tempfile.mkdtemp()) / "linear.csv"
        >>> save_recorded(path, optax.linear_schedule(0.5, 0.0, 4), decay_steps=4)
        >>> schedule = recorded_schedule(path)
        >>> [round(float(schedule(step)), 4) for step in (0, 1, 3, 9)]
        [0.5, 0.375, 0.125, 0.125]
    """
    profile, columns = load_recorded(path), _columns(Path(path))
    if decay_steps is None and PLACES[0] not in columns:
        raise ScheduleError(f"{path}: says progress and not how many steps the run had; give decay_steps")
    peak = recorded_peak(path) if init_value is None else init_value
    return from_profile(profile, peak, decay_steps or int(_length(columns, _numbers(PLACES[0], columns[PLACES[0]]))))


def recorded_search_steps(path: Path | str) -> int:
    """How many steps the search for a recorded schedule took, beside the run's own; 0 where the file does not say.

    Raises:
        ScheduleError: as `load_recorded`; or it says no whole number, or several.

    Example:
        >>> import tempfile, optax
        >>> path = Path(tempfile.mkdtemp()) / "found.csv"
        >>> save_recorded(path, optax.constant_schedule(0.5), decay_steps=2, search_steps=30)
        >>> path.read_text().split(), recorded_search_steps(path)
        (['step,learning_rate,search_steps', '0,0.5,30', '1,0.5,30'], 30)
    """
    load_recorded(path)
    said = _columns(Path(path)).get(SEARCH_STEPS, 0)
    try:
        numbers = {*_numbers(SEARCH_STEPS, said if isinstance(said, list) else [said])}
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}") from error
    if len(numbers) != 1 or not all(number >= 0 and number.is_integer() for number in numbers):
        raise ScheduleError(f"{path}: {SEARCH_STEPS} must be one whole number of at least 0, got {sorted(numbers)}")
    return int(numbers.pop())


def save_recorded(path: Path | str, schedule: optax.Schedule, decay_steps: int, search_steps: int = 0) -> None:
    """Writes a schedule's learning rate at every step, to be replayed.

    Args:
        path: ends in `.csv` or `.json`.
        schedule: step -> learning rate.
        decay_steps: length of the run in steps.
        search_steps: of the search that found it, beside the run's own; 0 for none, which is not written.

    Raises:
        ScheduleError: the file's name ends otherwise, or `decay_steps` is below 1.

    Example:
        >>> import tempfile, optax
        >>> path = Path(tempfile.mkdtemp()) / "linear.csv"
        >>> save_recorded(path, optax.linear_schedule(0.5, 0.0, 4), decay_steps=4)
        >>> path.read_text().split()
        ['step,learning_rate', '0,0.5', '1,0.375', '2,0.25', '3,0.125']
    """
    check_steps("decay_steps", decay_steps)
    path = Path(path)
    steps = np.arange(decay_steps)
    rates = np.broadcast_to(np.asarray(jax.lax.map(schedule, jnp.asarray(steps)), np.float32), steps.shape)
    if path.suffix == ".json":
        search = {SEARCH_STEPS: search_steps} if search_steps else {}
        columns = {"steps": decay_steps, **search, PLACES[0]: steps.tolist(), VALUES: [float(str(rate)) for rate in rates]}
        path.write_text(json.dumps(columns) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        heading, cell = (f",{SEARCH_STEPS}", f",{search_steps}") if search_steps else ("", "")
        rows = (f"{step},{rate}{cell}\n" for step, rate in zip(steps, rates, strict=True))
        path.write_text(f"{PLACES[0]},{VALUES}{heading}\n" + "".join(rows), encoding="utf-8")
    else:
        raise ScheduleError(f"{path}: a recorded schedule is a .csv or .json file")


def _columns(path: Path) -> dict[str, Any]:
    if path.suffix not in SUFFIXES:
        raise ScheduleError("a recorded schedule is a .csv or .json file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark at the start
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"cannot be read: {error}") from error
    return _from_csv(text) if path.suffix == ".csv" else _from_json(text)


def _from_csv(text: str) -> dict[str, Any]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        raise ScheduleError("is empty")
    heading = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(heading):
            raise ScheduleError(f"row {number} has {len(row)} cells, its heading {len(heading)}")
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(heading)}


def _from_json(text: str) -> dict[str, Any]:
    try:
        columns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"is no JSON: {error}") from error
    if not isinstance(columns, dict):
        raise ScheduleError(f"must hold an object of lists, {VALUES} and {' or '.join(PLACES)}")
    return columns


def _profile(columns: dict[str, Any]) -> Profile:
    found = [place for place in PLACES if place in columns]
    if VALUES not in columns or len(found) != 1:
        raise ScheduleError(f"needs {VALUES} and one of {' and '.join(PLACES)}, got {', '.join(map(repr, columns)) or 'nothing'}")
    places, rates = (_numbers(name, columns[name]) for name in (found[0], VALUES))
    if found[0] == PLACES[0] and places:
        steps = _length(columns, places)
        places = [place / steps for place in places]
    return interpolated_profile(places, rates)


def _length(columns: dict[str, Any], places: Sequence[float]) -> float:
    """Steps of the recorded run, of which these were recorded."""
    steps = _numbers("steps", [columns.get("steps", places[-1] + 1)])[0]
    if not steps > places[-1]:
        raise ScheduleError(f"the run has {steps:g} steps, which must be more than the last recorded step, {places[-1]:g}")
    return steps


def _numbers(name: str, values: Any) -> list[float]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ScheduleError(f"{name} must be a list of numbers")
    return list(_each(name, values))


def _each(name: str, values: Iterable[Any]) -> Iterable[float]:
    for value in values:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ScheduleError(f"{name} holds {value!r}, which is no finite number")
        yield number
