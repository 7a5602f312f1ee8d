"""A program under mutation: what its statements compute is known, so that a change costs what it changes."""

from typing import NamedTuple

from ..language.canonical import DataFlow, data_flow
from ..language.ops import Kind
from ..language.program import SCHEDULE, Argument, Program, Statement
from ..language.types import infer, input_kinds, kind_of

MEMO_SIZE = 10_000  # programs
_memo: dict[int, "Draft"] = {}  # by the identity of a program, which its draft keeps alive; a cache alone


class Change(NamedTuple):
    """One statement of a program inserted, deleted or replaced by another of the same target."""

    at: int
    old: Statement | None
    new: Statement | None
    mutation: str  # in words, for the lineage

    def applied(self, program: Program) -> Program:
        """The changed program, whether or not it is valid."""
        before, after = program.statements[: self.at], program.statements[self.at + (self.old is not None) :]
        statements = before + after if self.new is None else (*before, self.new, *after)
        return Program(statements, program.states, program.extra, program.kind)


class Draft(NamedTuple):
    """A valid program.

    Attributes:
        program: the program.
        kinds: of each statement's value. # [statements]
        needed: the variables that reach the update from before each statement, and from the end. # [statements + 1]
        states: how many of its states do.
    """

    program: Program
    kinds: list[Kind]
    needed: list[frozenset[Argument]]
    states: int

    @staticmethod
    def of(parent: Program) -> "Draft":
        """The draft of a parent, which is likely to have more children."""
        draft = _memo.get(id(parent))
        if draft is None:
            if len(_memo) >= MEMO_SIZE:
                _memo.clear()
            draft = _memo[id(parent)] = Draft.from_parts(parent, infer(parent), data_flow(parent))
        return draft

    @staticmethod
    def from_parts(program: Program, kinds: list[Kind], flow: DataFlow) -> "Draft":
        """The draft of a program whose kinds and data flow are known."""
        states = [state for state, _ in flow.states]
        needed, found = frozenset[Argument]((program.outputs[0], *states)), []
        for target, _, args in reversed(program.statements):
            found.append(needed)
            if target in needed:
                needed = (needed - {target}).union([argument for argument in args if argument.__class__ is str])
        return Draft(program, kinds, [needed, *reversed(found)], len(states))

    def kinds_after(self, change: Change) -> list[Kind]:
        """The kinds of the changed program's statements; a ProgramError where it is not valid."""
        at, old, new, _ = change
        program, kinds = self.program, self.kinds
        changed = new or old
        if changed is None:
            return kinds
        if program.kind == SCHEDULE:
            return infer(change.applied(program))
        before = input_kinds(program)
        before.update(zip([statement.target for statement in program.statements[:at]], kinds, strict=False))
        kind = before.get(changed.target) if new is None else kind_of(new.op, new.args, before)
        seen = before.get(changed.target) if old is None else kinds[at]
        if kind is not seen and _is_read(changed.target, program, at + (old is not None)):
            return infer(change.applied(program))
        if new is None:
            return kinds[:at] + kinds[at + 1 :]
        assert kind is not None
        return [*kinds[:at], kind, *kinds[at + (old is not None) :]]

    def is_neutral(self, change: Change) -> bool:
        """Whether a valid change leaves all that reaches the update as it is, for sure."""
        at, old, new, _ = change
        changed = new or old
        return changed is None or changed.target not in self.needed[at + (old is not None)]

    def after(self, change: Change, kinds: list[Kind]) -> "Draft":
        """The draft after a neutral change."""
        at, old, new, _ = change
        needed = self.needed
        if old is None and new is not None:
            needed = [*needed[: at + 1], *needed[at:]]
        elif old is not None and new is None:
            needed = needed[:at] + needed[at + 1 :]
        return self._replace(program=change.applied(self.program), kinds=kinds, needed=needed)


def _is_read(name: str, program: Program, start: int) -> bool:
    """Whether a program reads a variable, as it is before a statement, from there on."""
    for target, _, args in program.statements[start:]:
        if name in args:
            return True
        if name == target:
            return False
    return name == program.outputs[0]
