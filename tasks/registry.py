"""The one place where tasks are listed."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from .base import DataError, Task
from .digits import digits_autoencoder, digits_gru, digits_mlp, logistic
from .fashion import fashion_cnn, fashion_mlp, fashion_vit
from .proxies import imagenet_vit, lm1b_transformer
from .quadratic import quadratic
from .stdlib_lm import stdlib_lm
from .tabular import tabular, tabular_regression

TASKS: dict[str, Callable[[int], Task]] = {  # family -> scale -> task
    "digits_mlp": digits_mlp,
    "digits_autoencoder": digits_autoencoder,
    "digits_gru": digits_gru,
    "logistic": logistic,
    "tabular": tabular,
    "tabular_regression": tabular_regression,
    "quadratic": quadratic,
    "fashion_mlp": fashion_mlp,
    "fashion_cnn": fashion_cnn,
    "fashion_vit": fashion_vit,
    "stdlib_lm": stdlib_lm,
    "imagenet_vit": imagenet_vit,
    "lm1b_transformer": lm1b_transformer,
}
MIN_STEPS = 5  # of a task at a budget
MAX_PERCENT = 1000  # of a task's steps
_PERCENT = re.compile(r"[1-9][0-9]{0,3}")  # one spelling a budget: the name is part of what is stored
REQUIRED = ("load", "init", "batch", "examples", "loss", "metric", "version")  # what a user's task is asked for at once


def names() -> tuple[str, ...]:
    """The families that `get` knows, in the order of the table.

    Example:
        >>> names()[:3]
        ('digits_mlp', 'digits_autoencoder', 'digits_gru')
    """
    return tuple(TASKS)


def available() -> tuple[str, ...]:
    """Those of `names()` whose data are on this machine.

    Example:
        >>> "digits_mlp" in available()
        True
    """
    return tuple(name for name in TASKS if _has_data(get(name)))


def _has_data(task: Task) -> bool:
    try:
        task.load()
    except DataError:
        return False
    return True


def get(name: str, scale: int | None = None) -> Task:
    """Makes the task of that name.

    Args:
        name: one of `names()`, or 'module:attribute', an importable task of the user's own or a function that makes one;
            a scale may follow, as in 'digits_mlp@10', and a budget in percent of its steps, as in 'digits_mlp~25' or
            'digits_mlp@10~25'.
        scale: 1, 10 or 100, in place of the one in the name.

    Raises:
        ValueError: where the name, the scale or the budget is not known, or does not lead to a task.

    Example:
        >>> get("digits_mlp").steps, get("digits_mlp@10").steps, get("digits_mlp", scale=100).steps
        (200, 640, 2000)
        >>> get("digits_mlp~25").steps, get("digits_mlp@10~25").name
        (50, 'digits_mlp@10~25')
        >>> get("stepsmith.tasks.digits:digits_autoencoder").name
        'digits_autoencoder'
    """
    whole, tilde, percent = name.partition("~")
    if tilde:
        return _at_budget(get(whole, scale), name, percent)
    family, at, suffix = name.partition("@")
    if at and not suffix.isdecimal():
        raise ValueError(f"task {name!r}: after @ comes a scale, such as {family}@10")
    scale = int(suffix) if at and scale is None else scale
    if ":" in family:
        return _imported(family, scale)
    if family not in TASKS:
        raise ValueError(f"unknown task {family!r}; known are {', '.join(TASKS)}, or give your own as 'module:attribute'")
    return TASKS[family](1 if scale is None else scale)


def _at_budget(task: Task, name: str, percent: str) -> Task:
    """The task with a share of its steps; a task of its own, with a version and a reference of its own."""
    if not _PERCENT.fullmatch(percent) or int(percent) > MAX_PERCENT:
        raise ValueError(f"task {name!r}: after ~ comes a budget in percent of its steps, 1 to {MAX_PERCENT}, such as {task.name}~25")
    steps = round(task.steps * int(percent) / 100)
    settings = {field.name for field in dataclasses.fields(task)} if dataclasses.is_dataclass(task) else set()
    if not settings >= {"name", "steps"}:
        raise ValueError(f"{name!r}: only a task that is a dataclass with fields 'name' and 'steps' can be given a budget")
    if steps < MIN_STEPS:
        raise ValueError(f"{name!r}: {percent} % of {task.steps} steps are {steps}, and {MIN_STEPS} is the least")
    return dataclasses.replace(task, name=f"{task.name}~{percent}", steps=steps)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _imported(name: str, scale: int | None) -> Task:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no task at {name!r}: {error}; expected 'module:attribute', or one of {', '.join(TASKS)}") from error
    # A class has the protocol's attributes too, so being callable is asked first.
    if scale is not None and not _takes_a_scale(found):
        raise ValueError(f"{name!r} has no ladder: only a function with a parameter 'scale' can be asked for scale {scale}")
    task: Any = found if not callable(found) else found() if scale is None else found(scale=scale)
    missing = [method for method in REQUIRED if not hasattr(type(task), method)]
    if missing:
        raise ValueError(f"{name!r} is no task, it lacks {', '.join(missing)}; see stepsmith.tasks.Task")
    return task


def _takes_a_scale(found: Any) -> bool:
    return callable(found) and "scale" in inspect.signature(found).parameters
