"""Programs that come with the package, as text files in the folder `programs`."""

import ast
from importlib import resources
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

from .program import Program, ProgramError
from .text import MAX_CHARACTERS, parse

_FOLDER = resources.files("stepsmith.discovery.language") / "programs"


def names() -> list[str]:
    """Names of the shipped programs.

    >>> "lion" in names()
    True
    """
    return sorted(entry.name.removesuffix(".txt") for entry in _FOLDER.iterdir() if entry.name.endswith(".txt"))


def schedule_names() -> list[str]:
    """Names of the shipped schedules.

    >>> schedule_names()
    ['cosine', 'linear', 'rex']
    """
    return sorted(entry.name.removesuffix(".txt") for entry in (_FOLDER / "schedules").iterdir())


def load(name_or_path: str | Path) -> Program:
    """A shipped program or schedule by name, or any program file by path: text, JSON if it ends in .json, an exported file if in .py.

    No Python is executed: an exported file has its program in its docstring.

    Raises:
        ProgramError: no such program, or a file that holds none.
    """
    if str(name_or_path) in names():
        return parse((_FOLDER / f"{name_or_path}.txt").read_text(), str(name_or_path))
    if str(name_or_path) in schedule_names():
        return parse((_FOLDER / "schedules" / f"{name_or_path}.txt").read_text(), str(name_or_path))
    path = Path(name_or_path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)  # /dev/zero has no end
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or characters that no file name can hold
        reason = "no such program or file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        shipped = f"shipped programs: {', '.join(names())}; schedules: {', '.join(schedule_names())}"
        raise ProgramError(f"{reason}; {shipped}", where=str(path)) from None
    if path.suffix == ".json":
        return Program.from_json(text)
    return parse(_exported(text, str(path)) if path.suffix == ".py" else text, str(path))


def _exported(text: str, where: str) -> str:
    """The program that the docstring of an exported file shows, indented by four."""
    try:
        lines = iter((ast.get_docstring(ast.parse(text), clean=False) or "").splitlines())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        lines = iter(())
    first = next((line for line in lines if line.startswith(("    def train(", "    def schedule("))), None)
    if first is None:
        raise ProgramError(
            "no file that stepsmith exported: those have their program in the docstring; give one, or the program as text", where=where
        )
    return dedent("\n".join([first, *takewhile(lambda line: line.startswith("    "), lines)]))
