"""A program as one readable Python file with an optax transformation; the file imports jax and optax only."""

import keyword
import re

from ..language import matrices
from ..language.program import Program, ProgramError, Statement
from .emit import LOSS, Body, default, emit
from .provenance import Provenance, docstring, program_lines
from .separate import Separated, separate, unique_names

# What the file's own code is made of, at the top level and inside its functions.
_GLOBALS = frozenset(
    [*("jax", "jnp", "optax", "NamedTuple", "_dot", "_clip_factor", "_as_matrix", *matrices.FUNCTIONS)]
    + [*("callable", "int", "sum", "range", "max", "zip", "ValueError")]
)
_LOCALS = frozenset(
    ["state", "params", "updates", "results", "leaf", "learning_rate", "total_steps", "count", "init_fn", "update_fn"]
    + [LOSS, "extra_args"]
)


def to_optax(program: Program, name: str = "discovered", provenance: Provenance | None = None) -> str:
    """The text of a module with ``NAME(learning_rate, weight_decay, mask)`` and ``scale_by_NAME()``.

    Where the update is ``lr * (direction + c * w)`` up to constants, the constants become the defaults of
    ``learning_rate`` and ``weight_decay``, and ``scale_by_NAME`` is the direction alone. Elsewhere the rule keeps its form.

    Raises:
        ProgramError: the name is no Python identifier, or one that the file needs itself.
    """
    check_name(name)
    renamed = without_clashes(program, name)
    parts = separate(renamed)
    body = emit(*unique_names(parts.direction if parts else renamed))
    sections = [_docstring(program, name, parts, body, provenance or Provenance()), _imports(), *body.helpers, _state(name, body)]
    sections += [_scale_by(name, parts, body), _alias(name, parts, body)]
    return "\n\n\n".join(section.strip("\n") for section in sections) + "\n"


def check_name(name: str, own: frozenset[str] = frozenset()) -> None:
    """Raises ProgramError unless a file may call its function so; `own` are names that it needs beside the usual ones."""
    if not name.isidentifier() or keyword.iskeyword(name) or name in _GLOBALS | own or name in ("__debug__", "update"):
        raise ProgramError(f"{name!r} is no name for a Python function")


def without_clashes(program: Program, name: str, own: frozenset[str] = frozenset()) -> Program:
    """The program with other names for the variables that the file's own code would meet, and the names in `own`."""
    targets = dict.fromkeys([*program.states, *(statement.target for statement in program.statements)])
    used = {*program.inputs, *targets}
    renames: dict[str, str] = {}
    for target in targets:
        taken = target in _GLOBALS | _LOCALS | own | {name, f"scale_by_{name}", _class_name(name)} or keyword.iskeyword(target)
        if taken or re.match(r"_|wide_|stage_|.*_factor$", target):
            stem = re.sub(r"^_+|_factor$", "", target)
            renames[target] = next(new for i in range(1, 1000) if (new := f"x{i}_{stem}") not in used)
            used.add(renames[target])
    statements = tuple(
        Statement(renames.get(t, t), op, tuple(renames.get(a, a) if isinstance(a, str) else a for a in args))
        for t, op, args in program.statements
    )
    return Program(statements, tuple(renames.get(state, state) for state in program.states), program.extra, program.kind)


def _class_name(name: str) -> str:
    return f"ScaleBy{''.join(part[:1].upper() + part[1:] for part in name.split('_'))}State"


def _docstring(program: Program, name: str, parts: Separated | None, body: Body, provenance: Provenance) -> str:
    needed = "total_steps, " if body.uses_total_steps else ""
    lines = [*program_lines(program), ""]
    if parts:
        lines += [
            f"Use: optax.chain(optax.clip_by_global_norm(1.0), {name}({needed}learning_rate=schedule)).",
            f"`scale_by_{name}` is the direction alone.",
        ]
    else:
        lines += [
            "The learning rate or the weight decay cannot be separated from the rest of this rule, so it keeps its form:",
            "`learning_rate` is relative to the rate that the program holds (1: as found), and there is no `weight_decay` to set.",
        ]
    if body.uses_loss:
        lines.append("It reads the loss of the step's batch: update(grads, state, params, value=loss), which optax.chain hands on.")
    return docstring(f"{name}: an update rule", provenance, lines)


def _imports() -> str:
    return "\n".join(["from typing import NamedTuple", "", "import jax", "import jax.numpy as jnp", "import optax"])


def _state(name: str, body: Body) -> str:
    fields = (["    count: jax.Array  # steps taken"] if body.uses_count else []) + [f"    {state}: optax.Updates" for state in body.states]
    return "\n".join([f"class {_class_name(name)}(NamedTuple):", *(fields or ["    pass"])])


def _scale_by(name: str, parts: Separated | None, body: Body) -> str:
    parameters = ["total_steps: int"] if body.uses_total_steps else []
    if body.uses_lr:
        parameters.append("learning_rate: optax.ScalarOrSchedule = 1.0")
    what = (
        "The direction of the rule: no learning rate, no weight decay." if parts else "The update of the rule, its learning rate included."
    )
    zeros = [f"{state}=jax.tree.map(jnp.zeros_like, params)" for state in body.states]
    count = ["count=jnp.zeros((), jnp.int32)"] if body.uses_count else []
    keep = (["count=optax.safe_increment(state.count)"] if body.uses_count else []) + [
        f"{s}={output}" for s, output in zip(body.states, body.outputs[1:], strict=True)
    ]
    kind = "optax.GradientTransformation" + ("ExtraArgs" if body.uses_loss else "")
    lines = [f"def scale_by_{name}({', '.join(parameters)}) -> {kind}:", f'    """{what}"""', ""]
    lines += ["    def init_fn(params):", f"        return {_class_name(name)}({', '.join(count + zeros)})", ""]
    lines += [f"    def update_fn(updates, state, params=None{f', *, {LOSS}=None, **extra_args' if body.uses_loss else ''}):"]
    if body.uses_loss:
        lines += [
            f"        if {LOSS} is None:",
            f'            raise ValueError("{name} reads the loss: call update(updates, state, params, {LOSS}=loss)")',
        ]
    if body.uses_w:
        lines += [
            "        if params is None:",
            f'            raise ValueError("{name} needs the parameters: call update(updates, state, params)")',
        ]
    lines += [f"        {line}".rstrip() for line in body.lines]
    lines += [f"        return {body.outputs[0]}, {_class_name(name)}({', '.join(keep)})", ""]
    return "\n".join([*lines, f"    return {kind}(init_fn, update_fn)"])


def _alias(name: str, parts: Separated | None, body: Body) -> str:
    steps = "    total_steps: int,\n" if body.uses_total_steps else ""
    passed = ["total_steps"] if body.uses_total_steps else []
    if parts is None:
        call = ", ".join([*passed, *(["learning_rate"] if body.uses_lr else [])])
        last = "optax.scale(-1.0)" if body.uses_lr else "optax.scale_by_learning_rate(learning_rate)"
        return f'''def {name}(
{steps}    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: None = None,
    mask: None = None,
) -> optax.GradientTransformation:
    """The rule; `learning_rate` is relative to the rate that it was found with, which the program holds."""
    if weight_decay is not None or mask is not None:
        raise ValueError("{name} holds its weight decay, if any, inside its formula: weight_decay and mask cannot be set")
    return optax.chain(scale_by_{name}({call}), {last})'''
    return f'''def {name}(
{steps}    learning_rate: optax.ScalarOrSchedule = {default(parts.learning_rate)},
    weight_decay: jax.typing.ArrayLike = {default(parts.weight_decay)},
    mask=None,
) -> optax.GradientTransformation:
    """The rule with decoupled weight decay; the defaults are those that it was found with.

    Args:
        learning_rate: a number or a schedule (step -> rate).
        weight_decay: added to the direction, times the parameters, before the learning rate.
        mask: a tree of booleans, or a function from parameters to one: where to decay.
    """
    return optax.chain(
        scale_by_{name}({", ".join(passed)}),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )'''
