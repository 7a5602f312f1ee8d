"""A program as text for people: values that are used once stand where they are used, as long as the line stays short."""

from ..language import Program
from ..language.ops import INFIX, OPS
from ..language.program import Argument
from .naming import BLEND, DIRECTION

MAX_INLINE = 30  # characters of an expression inside another
_TIGHTNESS = {"+": 1, "-": 1, "*": 2, "/": 2}
_NAME = 3  # a name, a number or a call


def to_short_text(program: Program, name: str = "train") -> str:
    """Prints a program with nested expressions; `parse` reads it as the same rule.

    >>> from ..language import load
    >>> from .naming import readable
    >>> print(to_short_text(readable(load("lion"))))
    def train(w, g, m, lr):
        blend = interp(g, m, 0.9)
        m = interp(g, m, 0.99)
        direction = sign(blend)
        update = (direction + w * 0.1) * (lr * 0.0003)
        return update, m
    """
    waiting: dict[str, tuple[str, int]] = {}  # value -> its expression, and how tightly that binds

    def inner(argument: Argument, tightness: int = 0) -> str:
        """An argument's expression, in brackets unless it binds at least so tightly."""
        text, own = waiting.pop(argument, (argument, _NAME)) if isinstance(argument, str) else (repr(argument), _NAME)
        return f"({text})" if own < tightness else text

    lines = [f"def {name}({', '.join(program.inputs)}):"]
    for index, (target, op_name, args) in enumerate(program.statements):
        op = OPS[op_name]
        own = _TIGHTNESS.get(op.infix or "", _NAME)
        if op.infix in INFIX:
            text = f"{inner(args[0], own)} {op.infix} {inner(args[1], own + 1)}"
        elif op_name == "copy":
            text = inner(args[0])
        else:
            text = f"{op_name}({', '.join(map(inner, args))})"
        if len(text) <= MAX_INLINE and op_name != "copy" and _can_wait(program, index):
            waiting[target] = (text, own)
        else:
            lines.append(f"    {target} = {text}")
    return "\n".join([*lines, f"    return {', '.join(program.outputs)}"])


def _can_wait(program: Program, index: int) -> bool:
    """Whether a value may be computed where it is used: once, before anything that it is made of is overwritten."""
    target = program.statements[index].target
    assigned = [statement.target for statement in program.statements]
    if target in (*program.inputs, *program.outputs, DIRECTION, BLEND) or assigned.count(target) > 1:
        return False
    users = [i for i, statement in enumerate(program.statements) if target in statement.args]
    if len(users) != 1 or program.statements[users[0]].args.count(target) > 1:
        return False
    until = _where_printed(program, users[0])
    sources = _sources(program, index)
    return not any(assigned[i] in sources for i in range(index + 1, until))


def _where_printed(program: Program, index: int) -> int:
    """The statement on whose line this one can come to stand at the latest."""
    target = program.statements[index].target
    users = [i for i, statement in enumerate(program.statements) if target in statement.args]
    if target in program.outputs or len(users) != 1:
        return index
    return _where_printed(program, users[0])


def _sources(program: Program, index: int) -> set[str]:
    """Variables that a statement reads, directly or through those before it."""
    found: set[str] = set()
    waiting = [a for a in program.statements[index].args if isinstance(a, str)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [a for s in program.statements[:index] if s.target == name for a in s.args if isinstance(a, str)]
    return found
