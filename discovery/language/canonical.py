"""The exact tier of canonical form: what a program computes, whatever its names, the order and the form of its statements.

`reaching` has the statements that can ever reach the update, also across steps; a state that only feeds itself does not. `prune`
removes the others. `canonical_hash` is the digest of the normal form of what is left (`normal`): renaming, order, repeated
computation, dead code, identities and the scales of states do not change it. Programs with equal hashes compute equal outputs, to
rounding, wherever all values are finite.
"""

from functools import lru_cache
from typing import NamedTuple

from .normal.flow import normal_form
from .program import OBSERVED_INPUTS, SCHEDULE, UPDATE, Argument, Program, Statement

MEMO_SIZE = 100_000  # programs

# The inputs of which one has to reach the output: a rule learns from the gradient, a schedule follows the time or what it observes.
_FOLLOWED = {UPDATE: frozenset({"g"}), SCHEDULE: frozenset({"step", "progress", *OBSERVED_INPUTS})}


class Reaching(NamedTuple):
    """What of a program can ever reach its update.

    Attributes:
        statements: in order.
        states: in the order of the inputs.
        read: the inputs that these statements read, states among them, and their constants.
    """

    statements: tuple[Statement, ...]
    states: tuple[str, ...]
    read: set[Argument]


def reaching(program: Program) -> Reaching:
    """What of a program, in which every variable is assigned before use, can ever reach its update.

    >>> from .text import parse
    >>> program = parse("def train(w, g, m, lr):\\n    m = sin(m)\\n    update = lr * g\\n    return update, m")
    >>> reaching(program).states, sorted(reaching(program).read)
    ((), ['g', 'lr'])
    """
    output, states = program.outputs[0], program.states
    backwards, wanted = program.statements[::-1], list[str]()
    while True:
        needed: set[Argument] = {output, *wanted}
        kept: list[Statement] = []
        for statement in backwards:
            target, _, args = statement
            if target in needed:
                needed.discard(target)
                needed.update(args)
                kept.append(statement)
        known = len(wanted)
        if known < len(states):
            wanted = [state for state in states if state in needed]
        if len(wanted) == known:  # no state feeds the update that was not known to
            kept.reverse()
            return Reaching(tuple(kept), tuple(wanted), needed)


def prune(program: Program, live: Reaching | None = None) -> Program:
    """The program without the statements and states that never reach its update; what does may be given where it is known.

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
    statements, states, read = live or reaching(program)
    return Program(statements, states, tuple([name for name in program.extra if name in read]), program.kind)


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


@lru_cache(MEMO_SIZE)  # in an evolution more than half of them have been seen before
def canonical_hash_of_pruned(pruned: Program) -> str:
    """`canonical_hash` of a program that `prune` returned."""
    return normal_form(pruned).digest


def is_live(program: Program, live: Reaching | None = None) -> bool:
    """Whether a program depends on what it has to: a rule on the gradient, a schedule on the time or what it observes."""
    return not _FOLLOWED[program.kind].isdisjoint((live or reaching(program)).read)
