"""Where an exported file's content comes from, as its docstring says it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..language.program import SCHEDULE, Program
from ..language.text import to_text


@dataclass(frozen=True)
class Provenance:
    """Where a rule or a schedule comes from, for the file's docstring."""

    notes: tuple[str, ...] = ()
    version: str = ""  # of stepsmith


def docstring(what: str, provenance: Provenance, lines: Sequence[str]) -> str:
    """The docstring of a module: what it is, where it comes from, and the lines."""
    first = f"{what} written by stepsmith {_printable(provenance.version)}".rstrip() + "."
    notes = [*(f"- {_printable(note)}" for note in provenance.notes), *([""] if provenance.notes else [])]
    text = "\n".join([first, "", *notes, *lines]).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')  # nothing in it may end the docstring
    return f'"""{text}\n"""'


def program_lines(program: Program) -> list[str]:
    """What a docstring says of the program itself: its text and how to read it."""
    outside = "" if program.kind == SCHEDULE else ", with w <- w - update outside of it"
    head = f"The program{outside} (a / b is a / (b + 1e-8), sqrt and logarithms act on |x|):"
    return [head, "", *(f"    {line}" for line in to_text(program).splitlines())]


def _printable(note: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in note)
