"""The paper's mutations (Chen et al. 2023, arXiv 2302.06675, section 2): insert, delete, alter an argument.

In the extended language an inserted statement may be of any of its operations, and ``step``, ``progress`` and ``budget`` are
variables. Schedules are mutated alike, with the operations on scalars.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import NamedTuple

from ..language.canonical import canonical_hash_of_pruned, is_live, prune, reaching
from ..language.message import shown
from ..language.ops import SAMPLED, SAMPLED_EXTENDED, SAMPLED_SCALAR, Op
from ..language.program import (
    MAX_STATEMENTS,
    MAX_STATES,
    OBSERVED_INPUTS,
    OPTIONAL_INPUTS,
    SCHEDULE,
    Argument,
    Program,
    ProgramError,
    Statement,
)
from .draft import Change, Draft

MAX_NEUTRAL = 16


@dataclass(frozen=True)
class MutationConfig:
    """Relative weights and probabilities of the mutations.

    The paper names the mutations and gives no probabilities; its authors' later release uses equal weights and stops
    inserting at the maximum length, as here.
    """

    insert: float = 1.0  # weight of inserting a random statement
    delete: float = 1.0  # weight of deleting a random statement
    alter: float = 1.0  # weight of altering one argument of a random statement
    constant: float = 0.5  # probability that a drawn argument is a new constant from N(0, 1), not a variable
    rescale: float = 0.5  # probability that altering a constant multiplies it by 2^a, a from N(0, 1)
    fresh_target: float = 0.5  # probability that an inserted statement assigns a new variable
    max_statements: int = 20  # longer programs are mostly dead code, which costs time at every mutation
    max_states: int = MAX_STATES  # arrays carried from step to step; 1 is a memory of one number per parameter, as Lion's
    only_constants: bool = False  # alter constants and nothing else: the baseline that tunes numbers

    def check(self) -> "MutationConfig":
        """The config itself; a ValueError where a weight, a probability or a length is outside its range."""
        weights = (self.insert, self.delete, self.alter)
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"mutation.{name} must be finite, got {value}")
        if min(weights) < 0 or sum(weights) <= 0 or not math.isfinite(sum(weights)):
            raise ValueError(f"mutation weights must be at least 0 and not all 0, and their sum finite, got {weights}")
        for name in ("constant", "rescale", "fresh_target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mutation.{name} is a probability, got {getattr(self, name)}")
        if not 1 <= self.max_statements <= MAX_STATEMENTS:
            raise ValueError(f"mutation.max_statements must be 1 to {MAX_STATEMENTS}, got {shown(self.max_statements)}")
        if not 0 <= self.max_states <= MAX_STATES:
            raise ValueError(f"mutation.max_states must be 0 to {MAX_STATES}, got {shown(self.max_states)}")
        return self


class Child(NamedTuple):
    """A valid mutant."""

    program: Program
    hash: str  # canonical
    mutation: str  # what was done, for the lineage
    pruned: Program  # what of it reaches the update
    rejected: int  # invalid mutants drawn before it
    neutral: int = 0  # valid mutants on the way to it that compute what the parent does


def mutate(parent: Program, parent_hash: str, random: Random, config: MutationConfig, extended: bool = False) -> Child:
    """Draws mutants of the parent until one is valid and computes something else.

    Valid: every variable is assigned before use, kinds fit, and the gradient reaches the update, or a schedule's multiplier follows
    the time or what it observes. A valid mutant that computes what its parent does (a change of dead code, say) is mutated further,
    up to `MAX_NEUTRAL` times: neutral changes accumulate as they do in the paper, without a birth for each.

    Args:
        parent: the program to change.
        parent_hash: its canonical hash.
        random: source of randomness, advanced.
        config: weights and probabilities.
        extended: whether children may be of the extended language.
    """
    rejected, neutral = 0, 0
    draft = Draft.of(_widened(parent, extended))
    while True:
        change = _draw(draft, random, config, extended)
        try:
            kind, later = draft.kinds_after(change)
        except ProgramError:
            rejected += 1
            continue
        if draft.is_neutral(change) and draft.states <= config.max_states:
            draft.apply(change, kind, later)
        else:
            program = draft.changed(change)
            live = reaching(program)
            if not is_live(program, live) or len(live.states) > config.max_states:
                rejected += 1
                continue
            pruned = prune(program, live)
            child_hash = canonical_hash_of_pruned(pruned)
            if child_hash != parent_hash:
                return Child(program, child_hash, change.mutation, pruned, rejected, neutral)
            draft.apply(change, kind, later)
            draft.follow(live.states)
        if neutral == MAX_NEUTRAL:
            return Child(draft.program, parent_hash, change.mutation, prune(draft.program), rejected, neutral)
        neutral += 1


def mutant(parent: Program, random: Random, config: MutationConfig, extended: bool = False) -> tuple[Program, str]:
    """One mutation, whether or not the result is valid."""
    draft = Draft.unchecked(_widened(parent, extended))
    change = _draw(draft, random, config, extended)
    return draft.changed(change), change.mutation


def _widened(parent: Program, extended: bool) -> Program:
    """The program with all inputs that a mutation may use; pruning drops those that nothing reads."""
    if not extended and parent.kind != SCHEDULE:
        return parent
    observed = OBSERVED_INPUTS if extended and parent.kind == SCHEDULE else ()
    extra = (*OPTIONAL_INPUTS, *observed)
    return parent if parent.extra == extra else replace(parent, extra=extra)


def _draw(draft: Draft, random: Random, config: MutationConfig, extended: bool) -> Change:
    statements = draft.statements
    if config.only_constants:
        return _alter_constant(statements, random, config)
    insert = config.insert if len(statements) < config.max_statements else 0.0
    delete, alter = (config.delete, config.alter) if statements else (0.0, 0.0)
    draw = random.random() * (insert + delete + alter)
    if draw < insert:
        ops = SAMPLED_SCALAR if draft.origin.kind == SCHEDULE else SAMPLED_EXTENDED if extended else SAMPLED
        return _insert(draft, random, config, ops)
    if draw < insert + delete:
        at = _pick(random, len(statements))
        return Change(at, statements[at], None)
    return _alter(draft, random, config)


def _pick(random: Random, size: int) -> int:
    return int(random.random() * size)


def _insert(draft: Draft, random: Random, config: MutationConfig, ops: tuple[Op, ...]) -> Change:
    size = len(draft.statements)
    at = _pick(random, size + 1)
    op = ops[_pick(random, len(ops))]
    args = tuple([_argument(draft, at, random, config) for _ in range(op.arity)])
    target = draft.fresh() if random.random() < config.fresh_target else str(_variable(draft, size, random))
    return Change(at, None, Statement(target, op.name, args))


def _alter(draft: Draft, random: Random, config: MutationConfig) -> Change:
    at = _pick(random, len(draft.statements))
    statement = draft.statements[at]
    if not statement.args:
        return Change(at, statement, statement)
    position = _pick(random, len(statement.args))
    old = statement.args[position]
    if isinstance(old, float) and random.random() < config.rescale:
        return _altered(statement, at, position, _rescaled(old, random))
    return _altered(statement, at, position, _argument(draft, at, random, config))


def _alter_constant(statements: Sequence[Statement], random: Random, config: MutationConfig) -> Change:
    places = [(at, i, argument) for at, s in enumerate(statements) for i, argument in enumerate(s.args) if isinstance(argument, float)]
    if not places:
        return Change(0, None, None)
    at, position, old = places[_pick(random, len(places))]
    new = _rescaled(old, random) if random.random() < config.rescale else random.gauss(0.0, 1.0)
    return _altered(statements[at], at, position, new)


def _rescaled(constant: float, random: Random) -> float:
    scaled = constant * 2.0 ** random.gauss(0.0, 1.0)
    return scaled if math.isfinite(scaled) else constant


def _altered(old: Statement, at: int, position: int, new: Argument) -> Change:
    args = (*old.args[:position], new, *old.args[position + 1 :])
    return Change(at, old, Statement(old.target, old.op, args), position)


def _argument(draft: Draft, at: int, random: Random, config: MutationConfig) -> Argument:
    if random.random() < config.constant:
        return random.gauss(0.0, 1.0)
    return _variable(draft, at, random)


def _variable(draft: Draft, at: int, random: Random) -> Argument:
    names, count = draft.variables(at)
    return names[_pick(random, count)]
