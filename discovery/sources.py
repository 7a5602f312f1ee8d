"""What a user names where a program is wanted: a run, a selection, a program file or a shipped program."""

from pathlib import Path

from .language import Program, load
from .run import LEDGER, Run
from .selection.result import Selection, is_selection


def found(folder: Path | str) -> Run | Selection | None:
    """The run or the selection in a folder; None where the path is no folder."""
    path = Path(folder)
    if not path.is_dir() and not (path / LEDGER).exists():
        return None
    return Selection(path) if is_selection(path) else Run(path)


def is_run(source: Path | str) -> bool:
    """Whether a folder holds, or should hold, a run."""
    return isinstance(found(source), Run)


def program_of(source: str, rank: int) -> Program:
    """The program that a user names.

    Args:
        source: a run's folder, a selection's, a program file, an exported one or a shipped program's name.
        rank: place in the hall of fame, from 1.

    Raises:
        ValueError: nothing of that name, or no such rank.

    >>> program_of("lion", 1).states
    ('m',)
    """
    folder = found(source)
    return load(source) if folder is None else folder.best(rank).program
