"""The tuned AdamW that candidates are measured against, stored per version of a task.

`python -m stepsmith.tasks.reference [NAMES]` measures those that are missing and rewrites references.json.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optax
from jax import Array

from . import registry
from .base import Task, load_on_device
from .training import OK, make_runner

_log = logging.getLogger("stepsmith")

PATH = Path(__file__).with_name("references.json")
SEEDS = (1000, 1001, 1002, 1003, 1004)
WEIGHT_DECAY = 0.01
LOSS_FLOOR = 1e-6  # below it differences are rounding
SCALE_FLOOR = 0.01
MAX_EXTENSION = 4  # grid points added at one edge


@dataclasses.dataclass(frozen=True)
class Reference:
    """What AdamW reaches on one version of a task.

    Attributes:
        task: the task's name.
        version: the task's version.
        learning_rates: the grid, ascending, in steps of sqrt(10).
        losses: for each learning rate the validation loss of each of `SEEDS`; None where a run failed.
        best_learning_rate: the one with the lowest `log_loss`.
        log_loss: mean over seeds of log(max(loss, 1e-6)) there.
        scale: how much the log loss rises one grid step away from the best, geometric mean of both
            sides (one of them is often a cliff), each at least 0.01. A
            candidate's difference in log loss is divided by it, so that tasks weigh alike.
    """

    task: str
    version: str
    learning_rates: tuple[float, ...]
    losses: tuple[tuple[float | None, ...], ...]
    best_learning_rate: float
    log_loss: float
    scale: float

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON's own types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Reference":
        """The inverse of `to_json`."""
        losses = tuple(tuple(row) for row in fields["losses"])
        return cls(**{**fields, "learning_rates": tuple(fields["learning_rates"]), "losses": losses})


def adamw_with_linear_decay(learning_rate: Array | float, steps: int) -> optax.GradientTransformation:
    """The reference rule: `optax.adamw` with weight decay 0.01, the learning rate falling linearly to zero."""
    return optax.adamw(lambda step: learning_rate * (1 - step / steps), weight_decay=WEIGHT_DECAY)


def grid_point(index: int) -> float:
    """10**(-4 + index / 2): index 0 is 1e-4, 6 is 0.1.

    Example:
        >>> [grid_point(index) for index in range(7)]
        [0.0001, 0.000316228, 0.001, 0.00316228, 0.01, 0.0316228, 0.1]
    """
    return float(f"{10 ** (-4 + index / 2):.6g}")


def measure(task: Task) -> Reference:
    """Tunes AdamW's learning rate on the task's validation loss: 7 grid points (more where the best is at an edge), 5 seeds.

    Raises:
        ValueError: where every learning rate fails.
    """
    run = make_runner(task, lambda learning_rate: adamw_with_linear_decay(learning_rate, task.steps))
    data = load_on_device(task)

    def losses_at(learning_rate: float) -> tuple[float | None, ...]:
        outcomes = [run(data, learning_rate, seed) for seed in SEEDS]
        return tuple(float(outcome.loss) if int(outcome.status) == OK else None for outcome in outcomes)

    table = {index: losses_at(grid_point(index)) for index in range(7)}
    for _ in range(MAX_EXTENSION):
        best = min(table, key=lambda index: mean_log_loss(table[index]))
        if min(table) < best < max(table):
            break
        beyond = best + 1 if best == max(table) else best - 1
        table[beyond] = losses_at(grid_point(beyond))
    indices = sorted(table)
    return summarise(task.name, task.version, [grid_point(index) for index in indices], [table[index] for index in indices])


def summarise(task: str, version: str, learning_rates: Iterable[float], losses: Iterable[tuple[float | None, ...]]) -> Reference:
    """The reference that a table of losses gives.

    Example:
        >>> reference = summarise("toy", "0", [0.1, 1.0, 10.0], [(0.4,), (0.1,), (None,)])
        >>> reference.best_learning_rate, round(reference.scale, 3)
        (1.0, 1.386)
    """
    learning_rates, losses = tuple(learning_rates), tuple(losses)
    log_losses = [mean_log_loss(row) for row in losses]
    best = min(range(len(log_losses)), key=log_losses.__getitem__)
    if math.isinf(log_losses[best]):
        raise ValueError(f"AdamW fails on {task} at every learning rate of {learning_rates}; check the task's loss and loss_threshold")
    sides = log_losses[max(best - 1, 0) : best] + log_losses[best + 1 : best + 2]
    rises = [max(side - log_losses[best], SCALE_FLOOR) for side in sides if math.isfinite(side)]
    scale = math.prod(rises) ** (1 / len(rises)) if rises else SCALE_FLOOR
    return Reference(task, version, learning_rates, losses, learning_rates[best], log_losses[best], scale)


def mean_log_loss(losses: Iterable[float | None]) -> float:
    """Mean of log(max(loss, 1e-6)); infinite where a run failed.

    Example:
        >>> mean_log_loss([1.0, 1.0]), mean_log_loss([1.0, None])
        (0.0, inf)
    """
    logs = [math.inf if loss is None else math.log(max(loss, LOSS_FLOOR)) for loss in losses]
    return sum(logs) / len(logs)


def stored(task: Task) -> Reference | None:
    """The reference that comes with the package for this version of the task, or None.

    Example:
        >>> stored(registry.get("digits_mlp")).task
        'digits_mlp'
    """
    fields = _read().get(task.version)
    return None if fields is None else Reference.from_json(fields)


def stored_or_measured(task: Task) -> Reference:
    """The reference that comes with the package, or one measured on this machine and kept in the user's cache folder.

    Needed for a task of one's own, and for `stdlib_lm` on a Python whose text differs. Measuring takes 35 runs or more.
    """
    found = stored(task)
    if found is not None:
        return found
    cache = cache_folder() / "references"
    path = cache / f"{task.version}.json"
    if path.is_file():
        return Reference.from_json(json.loads(path.read_text()))
    _log.info("tuning AdamW on %s, version %s: no stored reference fits; once for this machine", task.name, task.version)
    found = measure(task)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        cache.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.to_json()) + "\n")
    return found


def cache_folder() -> Path:
    """Where what was measured or compiled on this machine is kept for its user; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepsmith"


def _read() -> dict[str, dict[str, Any]]:
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def _write(references: dict[str, dict[str, Any]]) -> None:
    ordered = dict(sorted(references.items(), key=lambda item: (item[1]["task"], item[0])))
    PATH.write_text(json.dumps(ordered, indent=1) + "\n")


def main(arguments: list[str]) -> None:
    """Measures the references that are missing for the tasks named, or for all whose data are here."""
    references = _read()
    for name in arguments or registry.available():
        task = registry.get(name)
        if task.version not in references:
            references[task.version] = measure(task).to_json()
        reference = references[task.version]
        best, log_loss, scale = reference["best_learning_rate"], reference["log_loss"], reference["scale"]
        print(f"{name} {task.version}: log loss {log_loss:.4f} at {best:g}, scale {scale:.4f}")
    _write(references)


if __name__ == "__main__":
    main(sys.argv[1:])
