"""What a search counts, and what it shows of itself while it runs."""

from collections.abc import Mapping
from typing import NamedTuple

from .search import Candidate
from .search.hall_of_fame import Entry


class Counters(NamedTuple):
    """What the loop counts; stored with the state."""

    told: int = 0
    evaluated: int = 0  # unique programs with an outcome
    cached: int = 0  # told births whose outcome was known
    repeated: int = 0  # blocks of new seeds that known programs were evaluated on
    rejected: int = 0  # invalid mutants
    neutral: int = 0  # valid mutants that compute what their parent does, mutated further in place of being born
    statements: int = 0  # of all births
    redundant: int = 0  # of them, those that never reach an update
    workers_lost: int = 0

    def with_birth(self, candidate: Candidate) -> "Counters":
        """With the statements of a birth, and the mutants drawn on the way to it."""
        size, left = len(candidate.program.statements), len(candidate.pruned.statements)
        return self._replace(
            rejected=self.rejected + candidate.rejected,
            neutral=self.neutral + candidate.neutral,
            statements=self.statements + size,
            redundant=self.redundant + size - left,
        )

    @property
    def savings(self) -> dict[str, float]:
        """What abstract execution finds, as shares: invalid children, redundant statements, cache hits of the births.

        Where neutral mutants are born, as in the paper (Chen et al. 2023, arXiv 2302.06675, 89.1 % hits), each of them is a cache
        hit: ``cached_with_neutral`` counts them as such.
        """
        if not self.told:  # shares of nothing say nothing
            return dict.fromkeys(("invalid", "redundant", "cached", "cached_with_neutral"), 0.0)
        return {
            "invalid": self.rejected / max(self.rejected + self.told, 1),
            "redundant": self.redundant / max(self.statements, 1),
            "cached": self.cached / max(self.told, 1),
            "cached_with_neutral": (self.cached + self.neutral) / max(self.told + self.neutral, 1),
        }

    @property
    def speedups(self) -> dict[str, float]:
        """How many times the work each of them saves: children, statements and evaluations that are not run, per one that is.

        What cache hits save is net of the blocks of seeds that known programs were evaluated on again.
        """
        saved = {name: 1 / max(1 - self.savings[name], 1e-9) for name in ("invalid", "redundant")}
        return saved | {"cached": max(self.told, 1) / max(self.told - self.cached + self.repeated, 1)}


class Snapshot(NamedTuple):
    """What a view shows."""

    phase: str  # searching, finalists, selecting, done
    elapsed: float  # seconds, all sessions together
    share: float  # of the budget, 0 to 1
    counters: Counters
    rate: float  # unique evaluations a second, this session
    failures: Mapping[str, int]  # status -> programs
    hall_of_fame: tuple[Entry, ...]
    restarts: int
    note: str = ""  # while selecting: what there is to say instead
