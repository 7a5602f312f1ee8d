"""A program under mutation: the kinds and the liveness of its statements are known, so that most changes cost what they change."""

from bisect import bisect_left
from typing import NamedTuple

from ..language.canonical import reaching
from ..language.ops import Kind
from ..language.program import MAX_STATEMENTS, SCHEDULE, Argument, Program, ProgramError, Statement
from ..language.types import infer, input_kinds, kind_of, kinds_of

MEMO_SIZE = 10_000  # programs
_FRESH = tuple(f"x{i}" for i in range(1, 2 * MAX_STATEMENTS))  # more names than a program has
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


class Draft:
    """A valid program, which neutral changes alter in place.

    Attributes:
        origin: the program that it was made of, whose inputs and kind it has.
        statements: its own.
        targets: which each assigns. # [statements]
        kinds: of each statement's value. # [statements]
        needed: the variables that reach the update from before each statement, and from the end. # [statements + 1]
        states: how many of its states do.
        inputs: their kinds.
    """

    __slots__ = ("_first", "_names", "_places", "inputs", "kinds", "needed", "origin", "states", "statements", "targets")

    def __init__(self, origin: Program, kinds: list[Kind], needed: list[frozenset[Argument]], states: int, inputs: dict[Argument, Kind]):
        self.origin, self.kinds, self.needed, self.states, self.inputs = origin, kinds, needed, states, inputs
        self.statements = [*origin.statements]
        self.targets = [statement.target for statement in origin.statements]
        self._first: dict[Argument, int] = {}  # variable -> where it is assigned first, -1: an input; empty where that is to be found again
        self._names: list[Argument] = []  # the variables in this order
        self._places: list[int] = []

    @staticmethod
    def of(parent: Program) -> "Draft":
        """A draft of a parent, which is likely to have more children."""
        found = _memo.get(id(parent))
        if found is None:
            if len(_memo) >= MEMO_SIZE:
                _memo.clear()
            found = _memo[id(parent)] = Draft(parent, infer(parent), [], 0, input_kinds(parent))
            found.follow(reaching(parent).states)
            found.variables(0)
        draft = Draft(parent, found.kinds[:], found.needed[:], found.states, found.inputs)
        draft._first, draft._names, draft._places = found._first, found._names, found._places
        return draft

    @staticmethod
    def unchecked(program: Program) -> "Draft":
        """A draft that tells the variables and nothing else, for a program that need not be valid."""
        return Draft(program, [], [], 0, input_kinds(program))

    @property
    def program(self) -> Program:
        """The program as it is now."""
        return self._with(tuple(self.statements))

    def changed(self, change: Change) -> Program:
        """The changed program, whether or not it is valid."""
        return self._with(change.applied(tuple(self.statements)))

    def _with(self, statements: tuple[Statement, ...]) -> Program:
        origin = self.origin
        return Program(statements, origin.states, origin.extra, origin.kind)

    def follow(self, states: tuple[str, ...]) -> None:
        """Finds what reaches the update, of which the states are known."""
        needed, found = frozenset[Argument]((self.origin.outputs[0], *states)), []
        for target, _, args in reversed(self.statements):
            found.append(needed)
            if target in needed:
                needed = (needed - {target}).union([argument for argument in args if argument.__class__ is str])
        self.needed, self.states = [needed, *reversed(found)], len(states)

    def variables(self, at: int) -> tuple[list[Argument], int]:
        """Variables in order of appearance, and how many of the first are assigned before a statement."""
        if not self._first:
            first: dict[Argument, int] = dict.fromkeys(self.inputs, -1)
            for place, target in enumerate(self.targets):
                if target not in first:
                    first[target] = place
            self._first, self._names, self._places = first, [*first], [*first.values()]
        return self._names, bisect_left(self._places, at)

    def fresh(self) -> str:
        """A name that no variable has."""
        self.variables(0)
        return next(name for name in _FRESH if name not in self._first)

    def kinds_after(self, change: Change) -> tuple[Kind | None, list[Kind] | None]:
        """The kind of the changed statement and, where they change, of those after it; a ProgramError where the program is not valid."""
        at, old, new, _ = change
        changed = new or old
        if changed is None:
            return None, None
        if self.origin.kind == SCHEDULE:
            kinds = infer(self.changed(change))
            return (kinds[at] if new else None), kinds[at + (new is not None) :]
        target, before = changed.target, self.inputs.copy()
        before.update(zip(self.targets[:at], self.kinds, strict=False))
        seen = self.kinds[at] if old else before.get(target)
        kind = kind_of(new.op, new.args, before) if new else before.get(target)
        after = at + (old is not None)
        if kind is seen or not self._is_read(target, after):
            return kind, None
        if kind is None:
            raise ProgramError(f"{target!r} is used before it is assigned")
        before[target] = kind
        return kind, [*kinds_of(self.statements[after:], before)]

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

    def apply(self, change: Change, kind: Kind | None, later: list[Kind] | None) -> None:
        """Makes a valid change, with what `kinds_after` says of it; if it is not neutral, `follow` has to come after it."""
        at, old, new, _ = change
        if later is not None:
            self.kinds[at + (old is not None) :] = later
        if new is None:
            if old is not None:
                self._first = {}
                for each in (self.statements, self.targets, self.kinds, self.needed):
                    del each[at]
            return
        assert kind is not None
        if old is not None:
            self.statements[at], self.kinds[at] = new, kind
            return
        self._first = {}
        self.statements.insert(at, new)
        self.targets.insert(at, new.target)
        self.kinds.insert(at, kind)
        self.needed.insert(at, self.needed[at])
