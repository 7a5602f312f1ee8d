"""The known programs that are placed on each level beside the finalists: what a search began with, and shipped ones."""

from collections.abc import Mapping, Sequence

from ..config import ConfigError
from ..language import SCHEDULE, Program, canonical_hash, load, prune
from .levels import INITIAL


def baselines(names: Sequence[str], initial: Mapping[str, Program]) -> dict[str, tuple[str, Program]]:
    """Canonical hash -> name and program, each program once.

    Args:
        names: of shipped programs, and ``initial`` for what each search began with.
        initial: run -> that program; all are of one kind.

    Raises:
        ConfigError: a name of the other kind: of a schedule among rules, or the other way round.
    """
    found: dict[str, tuple[str, Program]] = {}
    for name in names:
        programs = {name: load(name)} if name != INITIAL else {_of(run, len(initial)): program for run, program in initial.items()}
        for shown, program in programs.items():
            check_kind(name, program, next(iter(initial.values())))
            found.setdefault(canonical_hash(program), (shown, prune(program)))
    return found


def check_kind(name: str, program: Program, initial: Program) -> None:
    """Raises ConfigError where a baseline is a schedule and the search's programs are rules, or the other way round."""
    if (program.kind == SCHEDULE) != (initial.kind == SCHEDULE):
        kind, other = ("schedule", "rules") if program.kind == SCHEDULE else ("rule", "schedules")
        raise ConfigError(f"selection.baselines: {name!r} is a {kind}, and the search is for {other}")


def _of(run: str, num_runs: int) -> str:
    return INITIAL if num_runs == 1 else f"{INITIAL} of {run}"
