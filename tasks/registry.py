"""The one place where tasks are listed."""

import importlib
from collections.abc import Callable
from typing import Any

from .base import Task
from .digits import DigitsAutoencoder, DigitsMLP
from .stdlib_lm import StdlibLM

TASKS: dict[str, Callable[[], Task]] = {
    "digits_mlp": DigitsMLP,
    "digits_autoencoder": DigitsAutoencoder,
    "stdlib_lm": StdlibLM,
}
REQUIRED = ("load", "init", "batch", "examples", "loss", "metric", "version")  # what a user's task is asked for at once


def names() -> tuple[str, ...]:
    """The names that `get` knows, in the order of the table.

    Example:
        >>> names()
        ('digits_mlp', 'digits_autoencoder', 'stdlib_lm')
    """
    return tuple(TASKS)


def get(name: str) -> Task:
    """Makes the task of that name.

    Args:
        name: one of `names()`, or 'module:attribute', an importable task of the user's own or a function without
            arguments that makes one.

    Raises:
        ValueError: where the name is not known, or does not lead to a task.

    Example:
        >>> get("digits_mlp").steps
        200
        >>> get("stepsmith.tasks.digits:DigitsAutoencoder").name
        'digits_autoencoder'
    """
    if ":" in name:
        return _imported(name)
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known are {', '.join(TASKS)}, or give your own as 'module:attribute'")
    return TASKS[name]()


def _imported(name: str) -> Task:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no task at {name!r}: {error}; expected 'module:attribute', or one of {', '.join(TASKS)}") from error
    # A class has the protocol's attributes too, so being callable is asked first.
    task: Any = found() if callable(found) else found
    missing = [method for method in REQUIRED if not hasattr(type(task), method)]
    if missing:
        raise ValueError(f"{name!r} is no task, it lacks {', '.join(missing)}; see stepsmith.tasks.Task")
    return task
