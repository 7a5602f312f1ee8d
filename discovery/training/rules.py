"""From what a user names, an optax rule, a program or an exported file, to a transformation to train with."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from ...optimizers import registry as optimizers
from ...optimizers.kernels import Fused
from ...schedules import SelfTuningState, self_tuned_params
from ..export import separate
from ..language import SCHEDULE, Program, as_transformation, load, to_text
from ..language import names as program_names
from .modules import digest_of, function_of, is_python, said
from .schedule_sources import find_schedule

PROGRAM = "program:"  # before a name that is also one of optax's
SETTINGS = ("weight_decay", "b1", "b2")  # what a rule may have beside its learning rate


class RuleError(ValueError):
    """What was named leads to no rule, or the rule does not take the settings."""


@runtime_checkable
class Create(Protocol):
    """Makes a transformation; numbers may be traced."""

    def __call__(self, learning_rate: optax.Schedule, steps: int, **settings: Any) -> optax.GradientTransformation:
        """Of the learning rate at each step, the length of the run, and any of the rule's settings."""
        ...


class Source(NamedTuple):
    """What a name leads to.

    Attributes:
        create: makes the transformation.
        learning_rate: the rule's own.
        settings: what else `create` takes, of `SETTINGS`, with the rule's own value where it says one.
        digest: of the program's text or the file; None for a rule of the registry, whose name says all.
    """

    create: Create
    learning_rate: float
    settings: dict[str, float | None]
    digest: str | None


class Rule(NamedTuple):
    """A rule ready to train with.

    Attributes:
        transformation: the rule with its schedule.
        settings: what it was made of, JSON values by name, defaults filled in; two equal ones are the same rule.
    """

    transformation: optax.GradientTransformation
    settings: dict[str, Any]


def find(name: str, learning_rate: float | None = None) -> Source:
    """Finds the rule that a user names.

    Args:
        name: a name in `stepsmith.optimizers`, else a shipped program's, else a file: a program (text, or .json) or an
            exported 'best.py' or 'best.py:function', which is imported. 'program:lion' is the program, not optax's rule.
        learning_rate: stands for the default of a file's function, which may have none.

    Raises:
        ValueError: where a name is not known or a file leads to no rule.

    Example:
        >>> find("lion").learning_rate, find("program:lion").settings
        (0.0003, {'weight_decay': 0.1})
    """
    if name in optimizers.names():
        return _from_optax(name)
    return _from_file(name, learning_rate) if is_python(name) else _from_program(name)


class Prepared(NamedTuple):
    """A rule with its settings, but without a schedule.

    Attributes:
        create: makes the transformation of the learning rate at each step and the length of the run.
        settings: as in `Rule`, the schedule left out.
    """

    create: Callable[[optax.Schedule, int], optax.GradientTransformation]
    settings: dict[str, Any]


def prepare(name: str, learning_rate: float | None = None, weight_decay: float | None = None) -> Prepared:
    """Finds the rule and fills in its settings; arguments and errors as in `make_rule`."""
    for setting, value in (("learning rate", learning_rate), ("weight decay", weight_decay)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise RuleError(f"the {setting} must be a finite number of at least 0, got {value}")
    source = find(name, learning_rate)
    if weight_decay is not None and "weight_decay" not in source.settings:
        raise RuleError(f"{name}: weight decay is no setting of this rule, or part of its formula that cannot be set apart")
    peak = source.learning_rate if learning_rate is None else learning_rate
    own = source.settings.get("weight_decay")
    given = {} if weight_decay is None or weight_decay == own else {"weight_decay": weight_decay}
    rule = {} if source.digest is None else {"rule": source.digest}
    settings = {"learning_rate": peak, "weight_decay": own if weight_decay is None else weight_decay, **rule}
    return Prepared(lambda schedule, steps: source.create(schedule, steps, **given), {"optimizer": name, **settings})


def make_rule(
    name: str, steps: int, schedule: str = "linear", learning_rate: float | None = None, weight_decay: float | None = None
) -> Rule:
    """Finds the rule and sets it up for a run.

    Args:
        name: as in `find`.
        steps: length of the run.
        schedule: a name in `stepsmith.schedules`, 'plateau' or a file, relative to the learning rate; see
            `schedule_sources.find_schedule`.
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
    prepared, shape = prepare(name, learning_rate, weight_decay), find_schedule(schedule)
    rule = prepared.create(_times(prepared.settings["learning_rate"], shape.relative(steps)), steps)
    if shape.around is not None and averages(rule):
        raise RuleError(f"{name}: this rule averages in place of a schedule, which leaves nothing to decay; leave {schedule} out")
    file = {} if shape.digest is None else {"schedule_file": shape.digest}
    search = {"schedule_search_steps": shape.search_steps} if shape.search_steps else {}
    return Rule(shape.applied(rule, steps), {**prepared.settings, "schedule": schedule, **file, **search})


def averages(rule: optax.GradientTransformation) -> bool:
    """Whether the rule is scored at an average of the parameters it moves, see `evaluated`."""
    # Shapes alone: an array would open a device, also where only names are looked up.
    return isinstance(jax.eval_shape(rule.init, jax.ShapeDtypeStruct((2, 2), np.float32)), ScheduleFreeState)


def evaluated(opt_state: Any, params: Any) -> Any:
    """The parameters that a rule means to be scored: the average of a schedule-free rule, those of a self-tuned one without their
    perturbation, for all others those it moves.

    Args:
        opt_state: the rule's state, or that of a chain that ends with the rule.
        params: the parameters that it moves.
    """
    if isinstance(opt_state, ScheduleFreeState):
        return schedule_free_eval_params(opt_state, params)
    if isinstance(opt_state, SelfTuningState):
        return self_tuned_params(opt_state, params)
    chained: Any = opt_state if type(opt_state) is tuple else ()
    return evaluated(chained[-1], params) if chained else params


def _times(factor: Any, relative: optax.Schedule) -> optax.Schedule:
    return lambda step: factor * relative(step)


def _from_optax(name: str) -> Source:
    row = optimizers.get(name)
    called = {quantity: setting for quantity in SETTINGS if (setting := row.setting(quantity))}

    def create(learning_rate: optax.Schedule, steps: int, **settings: Any) -> optax.GradientTransformation:
        del steps
        return optimizers.create(name, learning_rate, **{called[quantity]: value for quantity, value in settings.items()})

    return Source(create, row.learning_rate, dict.fromkeys(called), None)


def _from_program(name: str) -> Source:
    program = _program(name)
    digest = digest_of(to_text(program).encode())
    parts = separate(program)

    def create(learning_rate: optax.Schedule, steps: int, **settings: Any) -> optax.GradientTransformation:
        if parts is None or "weight_decay" not in settings:
            peak = 1.0 if parts is None else parts.learning_rate
            return as_transformation(program, lambda step: learning_rate(step) / peak, steps)
        return optax.chain(
            as_transformation(parts.direction, optax.constant_schedule(1.0), steps),  # gives the direction's negative
            optax.scale(-1.0),
            optax.add_decayed_weights(settings["weight_decay"]),
            optax.scale_by_learning_rate(learning_rate),
        )

    if parts is None:
        return Source(create, 1.0, {}, digest)
    return Source(create, parts.learning_rate, {"weight_decay": parts.weight_decay}, digest)


def _program(name: str) -> Program:
    bare = name.removeprefix(PROGRAM)
    if bare in program_names() or Path(bare).exists() or Path(bare).suffix:
        program = load(bare)
        if program.kind == SCHEDULE:
            raise RuleError(f"{name} is a schedule, not a rule; export it with: stepsmith export {name} -o FILE.py, for --schedule FILE.py")
        return program
    known = f"optax rules {', '.join(optimizers.names())}; programs {', '.join(program_names())}"
    raise RuleError(f"unknown optimizer {name!r}; known are {known}; or give a program's file or an exported .py file")


def _from_file(name: str, learning_rate: float | None) -> Source:
    factory, digest = function_of(name, "learning_rate")
    parameters = inspect.signature(factory).parameters
    own = parameters["learning_rate"].default if learning_rate is None else learning_rate
    if not isinstance(own, int | float):
        raise RuleError(f"{name}: {factory.__name__} has no default learning rate; give one with --learning-rate")

    def create(learning_rate: optax.Schedule, steps: int, **settings: Any) -> optax.GradientTransformation:
        given = {"learning_rate": learning_rate, **({"total_steps": steps} if "total_steps" in parameters else {}), **settings}
        try:
            transformation = factory(**given)
        except Exception as error:  # the user's own code
            raise RuleError(f"{name}: {factory.__name__} cannot be called with {', '.join(given)}: {said(error)}") from error
        if isinstance(transformation, Fused):
            transformation = transformation.transformation
        if not isinstance(transformation, optax.GradientTransformation):
            raise RuleError(f"{name}: {factory.__name__} gives {type(transformation).__name__}, not an optax.GradientTransformation")
        return transformation

    # A rule whose decay cannot be set apart has the parameter too, with None, to say so.
    defaults = {name: parameters[name].default for name in SETTINGS if name in parameters}
    settings: dict[str, float | None] = {name: value for name, value in defaults.items() if isinstance(value, int | float)}
    return Source(create, float(own), settings, digest)
