"""A program under mutation: the kinds and the liveness of its statements are known, so that most changes cost what they change."""

from typing import NamedTuple

from ..language.canonical import reaching
from ..language.ops import Kind
from ..language.program import SCHEDULE, Argument, Program, ProgramError, Statement
from ..language.types import infer, input_kinds, kind_of, kinds_of

MEMO_SIZE = 10_000  # programs
_memo: dict[int, "Draft"] = {}  # by the identity of a program, which its draft keeps alive; a cache alone


class Change(NamedTuple):
    """One statement of a program inserted, deleted or replaced by another of the same target."""

    at: int
    old: Statement | None
    new: Statement | None
    position: int | None = None  # of the argument that differs

    @property
    def mutation(self) -> str:
        """In words, for the lineage."""
        if self.old is None:
            return f"insert {self.new.op} at {self.at}" if self.new else "alter nothing"
        if self.new is None:
            return f"delete {self.old.op} at {self.at}"
        return "alter nothing" if self.position is None else f"alter argument {self.position} of {self.old.op} at {self.at}"

    def applied(self, statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
        """The changed statements."""
        before, after = statements[: self.at], statements[self.at + (self.old is not None) :]
        return before + after if self.new is None else (*before, self.new, *after)


class Draft(NamedTuple):
    """A valid program.

    Attributes:
        origin: the program that it was made of, whose inputs and kind it has.
        statements: its own.
        targets: which each assigns. # [statements]
        kinds: of each statement's value. # [statements]
        needed: the variables that reach the update from before each statement, and from the end. # [statements + 1]
        states: how many of its states do.
        inputs: their kinds.
        scopes: what `scope` has returned, by position.
    """

    origin: Program
    statements: tuple[Statement, ...]
    targets: list[str]
    kinds: list[Kind]
    needed: list[frozenset[Argument]]
    states: int
    inputs: dict[Argument, Kind]
    scopes: dict[int, dict[Argument, Kind]]

    @staticmethod
    def of(parent: Program) -> "Draft":
        """The draft of a parent, which is likely to have more children."""
        draft = _memo.get(id(parent))
        if draft is None:
            if len(_memo) >= MEMO_SIZE:
                _memo.clear()
            draft = _memo[id(parent)] = Draft.from_parts(parent, infer(parent), reaching(parent).states)
        return draft

    @staticmethod
    def from_parts(program: Program, kinds: list[Kind], states: tuple[str, ...]) -> "Draft":
        """The draft of a program of which the kinds, and the states that reach the update, are known."""
        needed, found = frozenset[Argument]((program.outputs[0], *states)), []
        for target, _, args in reversed(program.statements):
            found.append(needed)
            if target in needed:
                needed = (needed - {target}).union([argument for argument in args if argument.__class__ is str])
        return Draft(
            program, program.statements, _targets(program), kinds, [needed, *reversed(found)], len(states), input_kinds(program), {}
        )

    @staticmethod
    def unchecked(program: Program) -> "Draft":
        """A draft that tells the variables and nothing else, for a program that need not be valid."""
        kinds = [Kind.ARRAY] * len(program.statements)
        return Draft(program, program.statements, _targets(program), kinds, [], 0, input_kinds(program), {})

    @property
    def program(self) -> Program:
        """The program as it is now."""
        return self._with(self.statements)

    def changed(self, change: Change) -> Program:
        """The changed program, whether or not it is valid."""
        return self._with(change.applied(self.statements))

    def _with(self, statements: tuple[Statement, ...]) -> Program:
        origin = self.origin
        return origin if statements is origin.statements else Program(statements, origin.states, origin.extra, origin.kind)

    def scope(self, at: int) -> dict[Argument, Kind]:
        """The variables that are assigned before a statement with their kinds, in order of appearance."""
        scope = self.scopes.get(at)
        if scope is None:
            scope = self.scopes[at] = self.inputs.copy()
            scope.update(zip(self.targets[:at], self.kinds, strict=False))
        return scope

    def kinds_after(self, change: Change) -> list[Kind]:
        """The kinds of the changed program's statements; a ProgramError where it is not valid."""
        at, old, new, _ = change
        kinds, changed = self.kinds, new or old
        if changed is None:
            return kinds
        if self.origin.kind == SCHEDULE:
            return infer(self.changed(change))
        after, target = at if old is None else at + 1, changed.target
        kind = self._kind_before(target, at) if new is None else kind_of(new.op, new.args, self.scope(at))
        seen = self._kind_before(target, at) if old is None else kinds[at]
        tail = kinds[after:]
        if kind is not seen and self._is_read(target, after):
            if kind is None:
                raise ProgramError(f"{target!r} is used before it is assigned")
            tail = kinds_of(self.statements[after:], self.scope(at) | {target: kind})
        return [*kinds[:at], *tail] if new is None or kind is None else [*kinds[:at], kind, *tail]

    def _kind_before(self, name: str, at: int) -> Kind | None:
        """The kind of a variable before a statement; None where it is not assigned."""
        if name in self.targets[:at]:
            return next(self.kinds[i] for i in range(at - 1, -1, -1) if self.targets[i] == name)
        return self.inputs.get(name)

    def _is_read(self, name: str, start: int) -> bool:
        """Whether the program reads a variable, as it is before a statement, from there on."""
        if name not in self.targets and name not in self.inputs:
            return False
        for target, _, args in self.statements[start:]:
            if name in args:
                return True
            if name == target:
                return False
        return name == self.origin.outputs[0]

    def is_neutral(self, change: Change) -> bool:
        """Whether a valid change leaves all that reaches the update as it is, for sure."""
        at, old, new, _ = change
        changed = new or old
        return changed is None or changed.target not in self.needed[at if old is None else at + 1]

    def after(self, change: Change, kinds: list[Kind]) -> "Draft":
        """The draft after a neutral change."""
        at, old, new, _ = change
        statements, targets, needed = change.applied(self.statements), self.targets, self.needed
        if old is None and new is not None:
            needed = [*needed[: at + 1], *needed[at:]]
            targets = [*targets[:at], new.target, *targets[at:]]
        elif old is not None and new is None:
            needed = needed[:at] + needed[at + 1 :]
            targets = targets[:at] + targets[at + 1 :]
        return Draft(self.origin, statements, targets, kinds, needed, self.states, self.inputs, {})


def _targets(program: Program) -> list[str]:
    return [statement.target for statement in program.statements]
