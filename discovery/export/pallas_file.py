"""An elementwise program as one readable Python file that runs as one kernel, by the fuser of `stepsmith.optimizers.kernels`."""

from collections.abc import Sequence

from ..language.ops import OPS, Shape
from ..language.program import SCHEDULE, Program, ProgramError
from .emit import Elementwise, default, emit_elementwise, input_lines
from .optax_file import check_name, without_clashes
from .provenance import Provenance, docstring, program_lines
from .separate import Separated, separate, unique_names

_ELEMENTWISE = (Shape.MAP, Shape.CONSTANT, Shape.INTERPOLATE)
# What the file's own code is made of, beside what an optax file's is.
_OWN = frozenset(["Fused", "Rule", "State", "fuse", "_update", "scalars", "states", "mask", "backend", "weight_decay"])


def to_pallas(program: Program, name: str = "discovered", provenance: Provenance | None = None) -> str:
    """The text of a module with ``NAME(learning_rate, weight_decay, mask, backend)``, which gives a `kernels.Fused`.

    Learning rate and weight decay are separated as in an optax file.

    Raises:
        ProgramError: the program is a schedule, needs more than one element at a time, or the name is none for a function.

    >>> from ..language import load
    >>> "from stepsmith.optimizers.kernels import Fused, Rule, State, fuse" in to_pallas(load("lion"), "lion")
    True
    """
    check_name(name, _OWN)
    if program.kind == SCHEDULE:
        raise ProgramError("a schedule has no kernel: export it with --as optax")
    renamed = without_clashes(program, name, _OWN)
    parts = separate(renamed)
    unique, outputs = unique_names(parts.direction if parts else renamed)
    wide = [statement.op for statement in unique.statements if OPS[statement.op].shape not in _ELEMENTWISE]
    if "batch_loss" in wide:
        raise ProgramError("batch_loss is told to an optax update, and a kernel's step is not: use --as optax")
    if wide:
        raise ProgramError(f"{wide[0]} needs more than one element of an array at a time, which this kernel never sees: use --as optax")
    body = emit_elementwise(unique, outputs)
    sections = [_docstring(program, name, parts, body, provenance or Provenance()), _IMPORTS, _update(unique, parts, body)]
    return "\n\n\n".join(section.strip("\n") for section in [*sections, _function(name, unique, parts, body)]) + "\n"


_IMPORTS = """import jax.numpy as jnp
import optax
from stepsmith.optimizers.kernels import Fused, Rule, State, fuse"""


def _docstring(program: Program, name: str, parts: Separated | None, body: Elementwise, provenance: Provenance) -> str:
    needed = "total_steps, " if body.inputs & {"progress", "budget"} else ""
    lines = [*program_lines(program), ""]
    lines += [
        f"Use: optimizer = {name}({needed}learning_rate=schedule); state = optimizer.init(params), and in a jitted function with params",
        "and state donated: params, state = optimizer.step(params, grads, state). In an optax chain: optimizer.transformation.",
        'The step is plain XLA; with backend="auto" it is a kernel on a GPU or a TPU.',
    ]
    if parts is None:
        lines.append(
            "`learning_rate` is relative to the rate that the program holds (1: as found); its weight decay is inside its formula."
        )
    return docstring(f"{name}: an update rule as a kernel,", provenance, lines)


def _update(program: Program, parts: Separated | None, body: Elementwise) -> str:
    lines = ["def _update(w, g, states, scalars):  # a piece of a parameter array, in float32"]
    if program.states:
        lines.append(f"    {_tuple(program.states)} = states")
    lines += [f'    {name} = scalars["{name}"]' for name in body.passed]
    lines += [f"    {line}" for line in body.lines]
    result = f'-scalars["learning_rate"] * {body.outputs[0]}' if parts is None and "lr" not in body.inputs else f"-{body.outputs[0]}"
    if parts is not None:
        result = f'-scalars["learning_rate"] * ({body.outputs[0]} + scalars["weight_decay"] * w)'
    return "\n".join([*lines, f"    return {result}, {_tuple(body.outputs[1:])}"])


def _tuple(names: Sequence[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _function(name: str, program: Program, parts: Separated | None, body: Elementwise) -> str:
    steps = "    total_steps: int,\n" if body.inputs & {"progress", "budget"} else ""
    decay = f"    weight_decay: float = {default(parts.weight_decay)},\n    mask=None,\n" if parts else ""
    given = [*([] if "lr" in body.inputs else ["learning_rate"]), *(["weight_decay"] if parts else []), *body.passed]
    what = "; weights decay where the mask says so" if parts else ""
    lines = [*input_lines(body.inputs, "count"), *body.scalars, "return {" + ", ".join(f'"{name}": {name}' for name in given) + "}"]
    inside = "\n".join(f"        {line}" for line in lines)
    return f'''def {name}(
{steps}    learning_rate: optax.ScalarOrSchedule = {default(parts.learning_rate) if parts else "1.0"},
{decay}    backend: str | None = None,
) -> Fused:
    """The rule; `learning_rate` is a number or a schedule (step -> rate){what}."""

    def scalars(count):  # steps taken
{inside}

    return fuse(Rule(_update, {_tuple(["State()"] * len(program.states))}, scalars), {"mask" if parts else "None"}, backend)'''
