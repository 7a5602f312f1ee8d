"""Kinds of a program's values, inferred in one pass; what does not fit is an error."""

from collections.abc import Iterable, Iterator, Sequence

from .ops import OF_SCALARS, OPS, Kind, Shape
from .program import SCHEDULE, Argument, Program, ProgramError, Statement

_SHAPES = {name: op.shape for name, op in OPS.items()}
_ARITY = {name: op.arity for name, op in OPS.items()}
_ARITY_OF_MAPS = {name: op.arity for name, op in OPS.items() if op.shape is Shape.MAP}


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
    kinds, inferred = input_kinds(program), []
    try:
        for statement, kind in zip(program.statements, kinds_of(program.statements, kinds), strict=True):
            if program.kind == SCHEDULE and (kind is not Kind.SCALAR or _SHAPES[statement.op] not in OF_SCALARS):
                raise ProgramError(f"{statement.op} works on arrays, a schedule has none")
            inferred.append(kind)
    except ProgramError as error:
        raise ProgramError(error.reason, lines[len(inferred)] if lines else len(inferred) + 2) from None
    if program.outputs[0] not in kinds:
        raise ProgramError(f"`{program.outputs[0]}` is never assigned", last_line)
    return inferred


def kinds_of(statements: Iterable[Statement], kinds: dict[Argument, Kind]) -> Iterator[Kind]:
    """The kind of each statement's value, given those of all variables before, which it keeps up to date.

    Raises:
        ProgramError: an undefined variable, or an argument too wide.
    """
    for target, op, args in statements:
        if _ARITY_OF_MAPS.get(op) == len(args):  # by far the most frequent
            try:
                kind = max([Kind.SCALAR if argument.__class__ is float else kinds[argument] for argument in args])
            except KeyError as error:
                raise ProgramError(_unassigned(error)) from None
        else:
            kind = kind_of(op, args, kinds)
        kinds[target] = kind
        yield kind


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


def input_kinds(program: Program) -> dict[Argument, Kind]:
    """The kinds of a program's inputs, in their order."""
    kinds: dict[Argument, Kind] = {}
    if program.kind != SCHEDULE:
        kinds |= {"w": Kind.ARRAY, "g": Kind.ARRAY, **dict.fromkeys(program.states, Kind.ARRAY), "lr": Kind.SCALAR}
    return kinds | dict.fromkeys(program.extra, Kind.SCALAR)


def kind_of(op: str, args: tuple[Argument, ...], kinds: dict[Argument, Kind]) -> Kind:
    """The kind of one operation's value, given the kinds of all variables; a ProgramError where the arguments do not fit."""
    shape = _SHAPES.get(op)
    if shape is None or _ARITY[op] != len(args):
        raise ProgramError(f"no operation {op!r} of {len(args)} argument(s)")
    try:
        found = [Kind.SCALAR if argument.__class__ is float else kinds[argument] for argument in args]
    except KeyError as error:
        raise ProgramError(_unassigned(error)) from None
    if shape is Shape.MAP:
        return max(found)
    if shape in (Shape.CONSTANT, Shape.GLOBAL, Shape.OBSERVED):
        return Kind.SCALAR
    if shape is Shape.PER_ARRAY or shape is Shape.LEAF_CONSTANT:
        return Kind.LEAF
    if shape is Shape.MATRIX:
        return Kind.ARRAY
    if shape is Shape.SELECT:
        return max(Kind.LEAF, *found)
    if found[-1] is not Kind.SCALAR:
        role = "bound" if shape is Shape.CLIP else "weight"
        raise ProgramError(f"the {role} of {op} must be a scalar, {args[-1]} is one of kind {found[-1].name.lower()}")
    return Kind.ARRAY if shape is Shape.CLIP else max(found[:2])


def _unassigned(error: KeyError) -> str:
    return f"{error.args[0]!r} is used before it is assigned"
