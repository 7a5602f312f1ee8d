"""Names for the variables of a straight-line program, and an order in which states may be overwritten."""

from collections.abc import Mapping, Sequence

from ..program import Argument, Statement


def in_order(statements: Sequence[Statement], outputs: Mapping[str, Argument]) -> list[Statement]:
    """Statements named so that each output ends in the variable of its name.

    Args:
        statements: each assigns a variable of its own that no input or output is called.
        outputs: name -> the variable, input or number it must hold in the end.

    A new value of a state takes the state's name where everything that reads the old one can come before; else it is
    copied at the end.
    """
    live = _live(statements, outputs)
    own: dict[str, str] = {}  # variable -> the output that is called so
    for name, argument in outputs.items():
        if isinstance(argument, str) and any(s.target == argument for s in live) and argument not in own and argument != name:
            own[argument] = name
    first = next(iter(outputs))  # the update: no input is called so
    while (ordered := _sorted(live, own)) is None:
        own.pop(next(variable for variable in reversed(own) if own[variable] != first))
    renamed = _renamed(ordered, own, set(outputs))
    names = {old.target: new.target for old, new in zip(ordered, renamed, strict=True)}
    moves = {name: names.get(a, a) if isinstance(a, str) else a for name, a in outputs.items()}
    return renamed + _moves({name: argument for name, argument in moves.items() if argument != name}, renamed)


def _live(statements: Sequence[Statement], outputs: Mapping[str, Argument]) -> list[Statement]:
    wanted = {argument for argument in outputs.values() if isinstance(argument, str)}
    kept = []
    for statement in reversed(statements):
        if statement.target in wanted:
            wanted.update(a for a in statement.args if isinstance(a, str))
            kept.append(statement)
    return kept[::-1]


def _sorted(statements: Sequence[Statement], own: Mapping[str, str]) -> list[Statement] | None:
    """The statements with every reader of an old state before the new one; None if there is no such order."""
    waiting, done, ordered = list(statements), set(), []
    targets = {statement.target for statement in statements}
    while waiting:
        for index, statement in enumerate(waiting):
            others = waiting[:index] + waiting[index + 1 :]
            ready = all(a in done or a not in targets for a in statement.args)
            if ready and not any(own.get(statement.target) in other.args for other in others):
                break
        else:
            return None
        ordered.append(waiting.pop(index))
        done.add(ordered[-1].target)
    return ordered


def _renamed(statements: Sequence[Statement], own: Mapping[str, str], taken: set[str]) -> list[Statement]:
    """Variables that are no output are called t1, t2, ..."""
    inputs = {a for statement in statements for a in statement.args if isinstance(a, str)}
    taken = taken | inputs
    free = (name for i in range(1, 2 * len(statements) + len(taken) + 2) if (name := f"t{i}") not in taken)
    names = {s.target: own[s.target] if s.target in own else next(free) for s in statements}
    return [Statement(names[s.target], s.op, tuple(names.get(a, a) if isinstance(a, str) else a for a in s.args)) for s in statements]


def _moves(pending: dict[str, Argument], statements: Sequence[Statement]) -> list[Statement]:
    """A parallel assignment as copies; a cycle is broken through a spare variable."""
    moves: list[Statement] = []
    used = {*pending, *pending.values(), *(s.target for s in statements)}
    while pending:
        ready = next((name for name in pending if name not in pending.values()), None)
        if ready is None:
            spare = next(name for i in range(1, len(used) + 2) if (name := f"t{i}") not in used)
            first = next(iter(pending))
            moves.append(Statement(spare, "copy", (first,)))
            pending = {name: spare if argument == first else argument for name, argument in pending.items()}
            continue
        moves.append(Statement(ready, "copy", (pending.pop(ready),)))
    return moves
