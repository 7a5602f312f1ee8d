"""From what a user names, an optax rule, a program or an exported file, to a transformation to train with."""

import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import optax

from ..optimizers import registry as optimizers
from ..schedules import registry as schedules
from .export import separate
from .language import Program, as_transformation, load, to_text
from .language import names as program_names

PROGRAM = "program:"  # before a name that is also one of optax's


class RuleError(ValueError):
    """What was named leads to no rule, or the rule does not take the settings."""


class Rule(NamedTuple):
    """A rule ready to train with.

    Attributes:
        transformation: the rule with its schedule.
        settings: what it was made of, JSON values by name, defaults filled in; two equal ones are the same rule.
    """

    transformation: optax.GradientTransformation
    settings: dict[str, Any]


def make_rule(
    name: str, steps: int, schedule: str = "linear", learning_rate: float | None = None, weight_decay: float | None = None
) -> Rule:
    """Finds the rule and sets it up for a run.

    Args:
        name: a name in `stepsmith.optimizers`, else a shipped program's, else a file: a program (text, or .json) or an
            exported 'best.py' or 'best.py:function', which is imported. 'program:lion' is the program, not optax's rule.
        steps: length of the run.
        schedule: a name in `stepsmith.schedules`, relative to the learning rate.
        learning_rate: the highest; the rule's own where None. A program or file from which the rate cannot be separated
            takes it as a factor, 1 as found.
        weight_decay: the rule's own where None.

    Raises:
        ValueError: where a name is not known, a file leads to no rule, or the rule does not take a setting.

    Example:
        >>> make_rule("lion", steps=100).settings["learning_rate"]
        0.0003
        >>> make_rule("program:lion", steps=100).settings["weight_decay"]
        0.1
    """
    for setting, value in (("learning rate", learning_rate), ("weight decay", weight_decay)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise RuleError(f"the {setting} must be a finite number of at least 0, got {value}")
    relative = schedules.create(schedule, 1.0, steps)
    if name in optimizers.names():
        rule = _from_optax(name, relative, learning_rate, weight_decay)
    elif _is_python(name):
        rule = _from_file(name, steps, relative, learning_rate, weight_decay)
    else:
        rule = _from_program(name, steps, relative, learning_rate, weight_decay)
    return rule._replace(settings={"optimizer": name, **rule.settings, "schedule": schedule})


def _times(factor: float, relative: optax.Schedule) -> optax.Schedule:
    return lambda step: factor * relative(step)


def _from_optax(name: str, relative: optax.Schedule, learning_rate: float | None, weight_decay: float | None) -> Rule:
    peak = optimizers.get(name).learning_rate if learning_rate is None else learning_rate
    given = {} if weight_decay is None else {"weight_decay": weight_decay}
    try:
        transformation = optimizers.create(name, _times(peak, relative), **given)
    except TypeError:  # a rule that hands its settings on to another one
        if not given:
            raise
        raise RuleError(f"optimizer {name!r} has no setting 'weight_decay'") from None
    return Rule(transformation, {"learning_rate": peak, "weight_decay": weight_decay})


def _from_program(name: str, steps: int, relative: optax.Schedule, learning_rate: float | None, weight_decay: float | None) -> Rule:
    program = _program(name)
    digest = _digest(to_text(program).encode())
    parts = separate(program)
    if parts is None:
        if weight_decay is not None:
            raise RuleError(f"{name}: weight decay is part of this program's formula and cannot be set apart")
        factor = 1.0 if learning_rate is None else learning_rate
        settings = {"learning_rate": factor, "weight_decay": None, "rule": digest}
        return Rule(as_transformation(program, _times(factor, relative), steps), settings)
    peak = parts.learning_rate if learning_rate is None else learning_rate
    decay = parts.weight_decay if weight_decay is None else weight_decay
    settings = {"learning_rate": peak, "weight_decay": decay, "rule": digest}
    if decay == parts.weight_decay:
        return Rule(as_transformation(program, _times(peak / parts.learning_rate, relative), steps), settings)
    transformation = optax.chain(
        as_transformation(parts.direction, optax.constant_schedule(1.0), steps),  # gives the direction's negative
        optax.scale(-1.0),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(_times(peak, relative)),
    )
    return Rule(transformation, settings)


def _program(name: str) -> Program:
    bare = name.removeprefix(PROGRAM)
    if bare in program_names() or Path(bare).exists() or Path(bare).suffix:
        return load(bare)
    known = f"optax rules {', '.join(optimizers.names())}; programs {', '.join(program_names())}"
    raise RuleError(f"unknown optimizer {name!r}; known are {known}; or give a program's file or an exported .py file")


def _is_python(name: str) -> bool:
    return name.endswith(".py") or ".py:" in name


def _from_file(name: str, steps: int, relative: optax.Schedule, learning_rate: float | None, weight_decay: float | None) -> Rule:
    path, function = (Path(name), "") if name.endswith(".py") else (Path(name.rpartition(":")[0]), name.rpartition(":")[2])
    module = _imported(path)
    factory = _factory(module, path, function)
    parameters = inspect.signature(factory).parameters
    peak = parameters["learning_rate"].default if learning_rate is None else learning_rate
    if not isinstance(peak, int | float):
        raise RuleError(f"{name}: {factory.__name__} has no default learning rate; give one with --learning-rate")
    given: dict[str, Any] = {"learning_rate": _times(peak, relative)}
    if "total_steps" in parameters:  # a rule that reads how far the run is
        given["total_steps"] = steps
    if weight_decay is not None:
        given["weight_decay"] = weight_decay
    try:
        inspect.signature(factory).bind(**given)
        transformation = factory(**given)
    except Exception as error:  # the user's own code
        raise RuleError(f"{name}: {factory.__name__} cannot be called with {', '.join(given)}: {_said(error)}") from error
    if not isinstance(transformation, optax.GradientTransformation):
        raise RuleError(f"{name}: {factory.__name__} gives {type(transformation).__name__}, not an optax.GradientTransformation")
    decay = _default(parameters, "weight_decay") if weight_decay is None else weight_decay
    return Rule(transformation, {"learning_rate": peak, "weight_decay": decay, "rule": _digest(path.read_bytes())})


def _default(parameters: Mapping[str, inspect.Parameter], name: str) -> float | None:
    default = parameters[name].default if name in parameters else None
    return default if isinstance(default, int | float) else None


def _imported(path: Path) -> ModuleType:
    """The module in a file, under a name that meets no other."""
    if not path.is_file():
        raise RuleError(f"{path}: no such file")
    module_name = f"stepsmith_rule_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise RuleError(f"{path}: cannot be imported: {_said(error)}") from error
    return module


def _factory(module: ModuleType, path: Path, function: str) -> Callable[..., Any]:
    """The function of that name; the single public one with a learning rate where it is empty."""
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and "learning_rate" in inspect.signature(value).parameters
    }
    public = [name for name in found if not name.startswith(("_", "scale_by_"))]
    if function in found:
        return found[function]
    if function:
        raise RuleError(f"{path}: has no function {function!r} with a learning_rate; it has {', '.join(found) or 'none'}")
    if len(public) != 1:
        what = f"several functions with a learning_rate ({', '.join(public)})" if public else "no public function with a learning_rate"
        raise RuleError(f"{path}: has {what}; name one as {path.name}:FUNCTION")
    return found[public[0]]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
