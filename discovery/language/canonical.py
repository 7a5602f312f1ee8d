"""The exact tier of canonical form: what a program computes, whatever its names, the order and the form of its statements.

`prune` removes statements that never reach an output, also across steps: a state that only feeds itself is dead, which a
fixed point over the states finds. `canonical_hash` is the digest of the normal form of what is left (`normal`): renaming,
order, repeated computation, dead code, identities and the scales of states do not change it. Programs with equal hashes
compute equal outputs, to rounding, wherever all values are finite.
"""

from hashlib import blake2b

from .normal.flow import normal_form
from .ops import OPS
from .program import OBSERVED_INPUTS, SCHEDULE, Argument, Program, Statement

MEMO_SIZE = 100_000  # programs
_memo: dict[bytes, str] = {}  # digest of a data flow -> digest of its normal form; a cache alone

_COMMUTATIVE = frozenset(name for name, op in OPS.items() if op.commutative)


def live(program: Program) -> tuple[list[int], frozenset[str]]:
    """The statements that can ever reach the update, and the states that can.

    Returns:
        Indices of the live statements, in order, and the names of the live states.
    """
    states, output = program.states, program.outputs[0]
    backwards = list(enumerate(program.statements))[::-1]
    needed: set[str] = set()  # states whose value from the last step is read
    while True:
        wanted: set[Argument] = {output, *needed}
        kept: list[int] = []
        for index, (target, _, args) in backwards:
            if target in wanted:
                wanted.discard(target)
                wanted.update(args)
                kept.append(index)
        reads = {state for state in states if state in wanted}
        if reads <= needed:
            return kept[::-1], frozenset(needed)
        needed |= reads


def prune(program: Program) -> Program:
    """The program without the statements and states that never reach its update.

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
    kept, states = live(program)
    statements = tuple([program.statements[index] for index in kept])
    extra = program.extra
    if extra:
        read = {argument for statement in statements for argument in statement.args}
        extra = tuple([name for name in extra if name in read])
    return Program(statements, tuple([name for name in program.states if name in states]), extra, program.kind)


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
    return canonical_hash_of_pruned(prune(program))


def canonical_hash_of_pruned(pruned: Program) -> str:
    """`canonical_hash` of a program that `prune` returned."""
    flow = _data_flow(pruned)
    known = _memo.get(flow)
    if known is None:
        if len(_memo) >= MEMO_SIZE:
            _memo.clear()
        known = _memo[flow] = normal_form(pruned).digest
    return known


def _data_flow(pruned: Program) -> bytes:
    """A digest that renaming, order, commuted arguments and repeated computation do not change: cheap, and told apart far more."""
    digests: dict[Argument, bytes] = {name: name.encode() for name in pruned.inputs}
    for statement in pruned.statements:
        digests[statement.target] = _digest(statement, digests)
    parts = [digests[pruned.outputs[0]]]
    parts += [state.encode() + b"=" + digests[state] for state in sorted(pruned.states)]
    return blake2b(b";".join(parts), digest_size=16).digest()


def _digest(statement: Statement, digests: dict[Argument, bytes]) -> bytes:
    op = statement.op
    parts = [repr(a).encode() if a.__class__ is float else digests[a] for a in statement.args]
    if op == "copy":
        return parts[0]
    if op in _COMMUTATIVE:
        parts.sort()
    return blake2b(op.encode() + b"(" + b",".join(parts) + b")", digest_size=16).digest()


def is_live(pruned: Program) -> bool:
    """Whether a pruned program depends on what it has to: a rule on the gradient, a schedule on the time or what it observes."""
    return _reads(pruned, {"step", "progress", *OBSERVED_INPUTS}) if pruned.kind == SCHEDULE else depends_on_gradient(pruned)


def depends_on_gradient(pruned: Program) -> bool:
    """Whether the gradient reaches the update of a pruned program at all; a rule without it cannot learn."""
    return _reads(pruned, {"g"})


def _reads(pruned: Program, inputs: set[str]) -> bool:
    """Whether one of these inputs is read before it is overwritten."""
    for statement in pruned.statements:
        if not inputs.isdisjoint(statement.args):
            return True
        inputs.discard(statement.target)
    return False
