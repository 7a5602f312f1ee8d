"""A schedule as one readable Python file; the file imports jax and optax only."""

import keyword
import math

import numpy as np

from ..language.canonical import prune
from ..language.ops import OPS
from ..language.program import OBSERVED_INPUTS, Argument, Program, ProgramError
from .emit import argument_text
from .provenance import Provenance, docstring, program_lines

_OWN = frozenset(
    ["jnp", "optax", "init_value", "decay_steps", "count", "schedule", "ValueError", "__debug__"]
    + ["optimizer", "inner", "init_fn", "update_fn", "updates", "state", "params", "value", "extra_args", "float", "int", *OBSERVED_INPUTS]
)
_INPUTS = {
    "step": "jnp.minimum(count, decay_steps) + 1.0",
    "progress": "jnp.minimum(count, decay_steps) / decay_steps",
    "budget": "jnp.asarray(decay_steps, jnp.float32)",
    "loss": "jnp.asarray(value, jnp.float32)",
    "gradient_norm": "optax.tree.norm(updates)",
}


def to_schedule(program: Program, name: str = "discovered", provenance: Provenance | None = None) -> str:
    """The text of a module with ``NAME(init_value, decay_steps)``, which returns an optax schedule.

    A schedule that observes the training is no function of the step: its file has ``NAME(optimizer, decay_steps)``, which wraps an
    optimizer. After the last step the time stays what it is at the end.

    Raises:
        ProgramError: the name is no Python identifier, or one that the file needs itself.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name in _OWN:
        raise ProgramError(f"{name!r} is no name for a Python function")
    pruned = prune(program)
    body = "\n".join(f"        {line}" for line in _body(pruned))
    observed = [told for told in OBSERVED_INPUTS if told in pruned.extra]
    function = _wrapper(name, body, "loss" in observed) if observed else _function(name, body)
    return f"""{docstring(f"{name}: a learning-rate schedule", provenance or Provenance(), program_lines(program))}

import jax.numpy as jnp
import optax


{function}"""


def _function(name: str, body: str) -> str:
    return f'''def {name}(init_value: float, decay_steps: int) -> optax.Schedule:
    """The schedule: step -> learning rate.

    Args:
        init_value: what the program's multiplier multiplies.
        decay_steps: length of the run.
    """
    if decay_steps < 1:
        raise ValueError(f"decay_steps must be at least 1, got {{decay_steps}}")

    def schedule(count):
{body}
        return init_value * multiplier

    return schedule
'''


def _wrapper(name: str, body: str, reads_loss: bool) -> str:
    told = "\n    It reads the loss: call ``update(gradients, state, params, value=loss)``.\n" if reads_loss else ""
    missing = f'raise ValueError("{name} reads the loss: call update(gradients, state, params, value=loss)")'
    check = f"        if value is None:\n            {missing}\n" if reads_loss else ""
    return f'''def {name}(optimizer: optax.GradientTransformation, decay_steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimizer with its updates multiplied by the schedule, which observes the gradients and the loss that it is given.
{told}
    Args:
        optimizer: with a constant learning rate.
        decay_steps: length of the run.
    """
    if decay_steps < 1:
        raise ValueError(f"decay_steps must be at least 1, got {{decay_steps}}")
    inner = optax.with_extra_args_support(optimizer)

    def init_fn(params):
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        count, state = state
{check}{body}
        updates, state = inner.update(updates, state, params, value=value, **extra_args)
        return optax.tree.scale(multiplier, updates), (optax.safe_increment(count), state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
'''


def _body(pruned: Program) -> list[str]:
    """The statements as Python, each value with a name of its own; what constants alone make is computed here."""
    lines = [f"{name} = {_INPUTS[name]}" for name in pruned.extra]
    values: dict[Argument, Argument] = {name: name for name in pruned.extra}  # variable -> its name in the file, or its number
    for index, (target, op, args) in enumerate(pruned.statements, 1):
        found = [values[argument] if isinstance(argument, str) else argument for argument in args]
        numbers = [argument for argument in found if isinstance(argument, float)]
        constant = _folded(op, numbers) if len(numbers) == len(found) else None
        if constant is not None and math.isfinite(constant):
            values[target] = constant
            continue
        name = values[target] = f"x{index}" if index < len(pruned.statements) else pruned.outputs[0]
        code = OPS[op].code.format(*map(argument_text, found)) if constant is None else f"jnp.float32({str(constant)!r})"
        lines.append(f"{name} = {code}")
    return lines


def _folded(op: str, numbers: list[float]) -> float:
    fn = OPS[op].fn
    assert fn is not None  # the operations of schedules are formulas
    with np.errstate(all="ignore"):
        return float(fn(np, *map(np.float64, numbers)))
