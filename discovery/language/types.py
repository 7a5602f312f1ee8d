"""Kinds of a program's values, inferred in one pass; what does not fit is an error."""

from collections.abc import Sequence

from .ops import JOIN, OF_SCALARS, OPS, Kind, Shape
from .program import SCHEDULE, Argument, Program, ProgramError

_FIXED = {"w": Kind.ARRAY, "g": Kind.ARRAY, "lr": Kind.SCALAR}
_SHAPES = {name: op.shape for name, op in OPS.items()}
_ARITY = {name: op.arity for name, op in OPS.items()}


def infer(program: Program, lines: Sequence[int] | None = None, last_line: int | None = None) -> list[Kind]:
    """The kind of each statement's value.

    Args:
        program: any program.
        lines: the text line of each statement, for messages; by default statement i stands on line i + 2.
        last_line: the line of the return statement.

    Returns:
        One kind per statement. # [statements]

    Raises:
        ProgramError: an undefined variable, an argument too wide, or no ``update``.

    >>> from .text import parse
    >>> program = parse('''def train(w, g, lr):
    ...     n = norm(g)
    ...     update = g / n
    ...     return update''')
    >>> [kind.name for kind in infer(program)]
    ['LEAF', 'ARRAY']
    """
    kinds = {**dict.fromkeys(program.states, Kind.ARRAY), **dict.fromkeys(program.extra, Kind.SCALAR)}
    if program.kind != SCHEDULE:
        kinds |= _FIXED
    inferred: list[Kind] = []
    for index, statement in enumerate(program.statements):
        try:
            kind = _infer(statement.op, statement.args, kinds)
        except ProgramError as error:
            raise ProgramError(error.reason, lines[index] if lines else index + 2) from None
        kinds[statement.target] = kind
        inferred.append(kind)
        if program.kind == SCHEDULE and (kind is not Kind.SCALAR or _SHAPES[statement.op] not in OF_SCALARS):
            raise ProgramError(f"{statement.op} works on arrays, a schedule has none", lines[index] if lines else index + 2)
    if program.outputs[0] not in kinds:
        raise ProgramError(f"`{program.outputs[0]}` is never assigned", last_line)
    return inferred


def operations(program: Program) -> int:
    """How many operations on whole arrays an update takes, each as `Op.cost` weighs it: its cost per parameter.

    >>> from .text import parse
    >>> operations(parse('''def train(w, g, lr):
    ...     rate = lr * 0.1
    ...     update = orthogonalize(g) * rate
    ...     return update'''))
    16
    """
    return sum(OPS[s.op].cost for s, kind in zip(program.statements, infer(program), strict=True) if kind is Kind.ARRAY)


def _infer(op: str, args: tuple[Argument, ...], kinds: dict[str, Kind]) -> Kind:
    shape = _SHAPES.get(op)
    if shape is None or _ARITY[op] != len(args):
        raise ProgramError(f"no operation {op!r} of {len(args)} argument(s)")
    if shape is Shape.MAP:  # by far the most frequent
        first = _kind(args[0], kinds)
        return first if len(args) == 1 else JOIN[first][_kind(args[1], kinds)]
    found = [_kind(argument, kinds) for argument in args]
    if shape in (Shape.CONSTANT, Shape.GLOBAL, Shape.OBSERVED):
        return Kind.SCALAR
    if shape is Shape.PER_ARRAY or shape is Shape.LEAF_CONSTANT:
        return Kind.LEAF
    if shape is Shape.MATRIX:
        return Kind.ARRAY
    if shape is Shape.SELECT:
        return max(Kind.LEAF, JOIN[found[0]][found[1]])
    if found[-1] is not Kind.SCALAR:
        role = "bound" if shape is Shape.CLIP else "weight"
        raise ProgramError(f"the {role} of {op} must be a scalar, {args[-1]} is one of kind {found[-1].name.lower()}")
    return Kind.ARRAY if shape is Shape.CLIP else JOIN[found[0]][found[1]]


def _kind(argument: Argument, kinds: dict[str, Kind]) -> Kind:
    if argument.__class__ is float:
        return Kind.SCALAR
    try:
        return kinds[argument]  # pyright: ignore[reportArgumentType]
    except KeyError:
        raise ProgramError(f"{argument!r} is used before it is assigned") from None
