"""The exact tier of canonical form: what a program computes, whatever its names, the order and the form of its statements.

`data_flow` has what reaches the update, also across steps, as a graph in which each computation is one object; a state that
only feeds itself is not in it. `prune` removes the statements that are not. `canonical_hash` is the digest of the normal form
of what is left (`normal`): renaming, order, repeated computation, dead code, identities and the scales of states do not change
it. Programs with equal hashes compute equal outputs, to rounding, wherever all values are finite.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .normal.flow import normal_form
from .ops import OPS
from .program import OBSERVED_INPUTS, SCHEDULE, UPDATE, Argument, Program, Statement

MEMO_SIZE = 100_000  # computations, and programs
_COMMUTATIVE = frozenset(name for name, op in OPS.items() if op.commutative)

# The inputs of which one has to reach the output: a rule learns from the gradient, a schedule follows the time or what it observes.
_FOLLOWED = {UPDATE: frozenset({"g"}), SCHEDULE: frozenset({"step", "progress", *OBSERVED_INPUTS})}


class Computation:
    """An input, or an operation of other computations and of constants: the same object wherever it occurs."""

    __slots__ = ("reads",)

    def __init__(self, reads: frozenset[str]):
        self.reads = reads  # inputs of the step that it depends on


Computed = Computation | float  # a variable may be the copy of a constant
_NOTHING: frozenset[str] = frozenset()

# Caches alone: names of the inputs -> their computations; operation and arguments, or the name of an input -> computation; data flow ->
# digest of its normal form.
_inputs: dict[tuple[str, ...], dict[Argument, Computed]] = {}
_computations: dict[tuple[Any, ...], Computed] = {}
_hashes: dict["DataFlow", str] = {}


class DataFlow(NamedTuple):
    """What reaches the update of a program: most programs that differ in names, order, repeated or dead code alone share it.

    Attributes:
        update: its computation.
        states: name and next value of each state that the update depends on, in order of the inputs.
    """

    update: Computed
    states: tuple[tuple[str, Computed], ...]


def data_flow(program: Program) -> DataFlow:
    """The data flow of a program, pruned or not, in which every variable is assigned before use.

    >>> from .text import parse
    >>> one = parse("def train(w, g, m, lr):\\n    x = g + w\\n    update = x * lr\\n    return update, m")
    >>> other = parse("def train(w, g, m, lr):\\n    m = sin(g)\\n    update = lr * (w + g)\\n    return update, m")
    >>> data_flow(one) == data_flow(other)
    True
    """
    return traced(program)[0]


def traced(program: Program, known: Sequence[Computed] = ()) -> tuple[DataFlow, list[Computed]]:
    """The data flow of a program, and what its statements compute; the computations of the first statements may be given."""
    if len(_computations) > MEMO_SIZE or len(_hashes) > MEMO_SIZE:
        for cache in (_inputs, _computations, _hashes):
            cache.clear()
    found, start, names = _computations, len(known), program.inputs
    values = (_inputs.get(names) or _inputs.setdefault(names, {name: _input(name) for name in names})).copy()
    values.update(zip([statement.target for statement in program.statements[:start]], known, strict=True))
    computed = list(known)
    for target, op, args in program.statements[start:]:
        call = (op, *[values[a] if a.__class__ is str else a for a in args])
        values[target] = value = found.get(call) or _computation(call)
        computed.append(value)
    update = values[program.outputs[0]]
    reads, states = _reads(update), program.states
    wanted = [state for state in states if state in reads]
    while 0 < len(wanted) < len(states):
        reads = reads.union(*[_reads(values[state]) for state in wanted])
        before, wanted = wanted, [state for state in states if state in reads]
        if len(wanted) == len(before):
            break
    return DataFlow(update, tuple([(state, values[state]) for state in wanted])), computed


def _input(name: str) -> Computed:
    return _computations.setdefault((name,), Computation(frozenset((name,))))


def _computation(call: tuple[Any, ...]) -> Computed:
    """One that is not known in this order of its arguments."""
    op, *args = call
    if op == "copy":
        found = args[0]
    elif op in _COMMUTATIVE and (swapped := _computations.get((op, args[1], args[0]))):
        found = swapped
    else:
        reads = _NOTHING
        for argument in args:
            more = _reads(argument)
            if not more <= reads:  # there are many computations and few sets
                reads = more if reads <= more else reads | more
        found = Computation(reads)
    _computations[call] = found
    return found


def _reads(value: Computed) -> frozenset[str]:
    return value.reads if isinstance(value, Computation) else _NOTHING


def _live_statements(program: Program, flow: DataFlow) -> list[Statement]:
    """The statements of a program that can ever reach its update, in order."""
    wanted: set[Argument] = {program.outputs[0], *[state for state, _ in flow.states]}
    kept: list[Statement] = []
    for statement in reversed(program.statements):
        target, _, args = statement
        if target in wanted:
            wanted.discard(target)
            wanted.update(args)
            kept.append(statement)
    kept.reverse()
    return kept


def prune(program: Program, flow: DataFlow | None = None) -> Program:
    """The program without the statements and states that never reach its update; its data flow may be given where it is known.

    >>> from .text import parse, to_text
    >>> print(to_text(prune(parse('''def train(w, g, m, v, lr):
    ...     v = v + g
    ...     x = sin(v)
    ...     update = g * lr
    ...     return update, m, v'''))))
    def train(w, g, lr):
        update = g * lr
        return update
    """
    flow, extra = flow or data_flow(program), program.extra
    statements = _live_statements(program, flow)
    if extra:
        read = {argument for statement in statements for argument in statement.args}
        extra = tuple([name for name in extra if name in read])
    return Program(tuple(statements), tuple([state for state, _ in flow.states]), extra, program.kind)


def canonical_hash(program: Program) -> str:
    """A digest of what the program computes, 32 hexadecimal characters; the program need not be pruned.

    >>> from .text import parse
    >>> one = parse('''def train(w, g, m, lr):
    ...     m = interp(g, m, 0.9)
    ...     update = m * lr
    ...     return update, m''')
    >>> other = parse('''def train(w, g, m, lr):
    ...     x = sin(w)
    ...     a = g * 0.1 + m * 0.9
    ...     update = lr * a
    ...     m = a
    ...     return update, m''')
    >>> canonical_hash(one) == canonical_hash(other)
    True
    """
    flow = data_flow(program)
    return canonical_hash_of_pruned(prune(program, flow), flow)


def canonical_hash_of_pruned(pruned: Program, flow: DataFlow) -> str:
    """`canonical_hash` of a program that `prune` returned."""
    known = _hashes.get(flow)
    if known is None:
        known = _hashes[flow] = normal_form(pruned).digest
    return known


def is_live(program: Program, flow: DataFlow | None = None) -> bool:
    """Whether a program depends on what it has to: a rule on the gradient, a schedule on the time or what it observes."""
    update, states = flow or data_flow(program)
    followed = _FOLLOWED[program.kind]
    return not followed.isdisjoint(_reads(update)) or any(not followed.isdisjoint(_reads(value)) for _, value in states)
