"""What the levels of a funnel are told: larger tasks for fewer programs, each tuned as hard as the AdamW that it has to beat."""

import dataclasses
import math
from typing import NamedTuple

from ..language import names as names_of_rules
from ..language import schedule_names
from ..language.message import shown

VALIDATION, BASELINES = "validation", "baselines"  # begin the names of the levels that are none of the funnel
INITIAL = "initial"  # among the baselines: what each search began with
MAX_LEVELS = 10
MAX_SEEDS = 400
FIRST_SEED = 100_000  # those of searches begin at 1,000,000, those of the AdamW references are 1000 to 1004
_SEEDS_A_LEVEL, _SCORING = 1_000, 500


@dataclasses.dataclass(frozen=True)
class LevelConfig:
    """A level: the tasks that its programs are scored on, and who goes on to the next one.

    Each program has its learning rate tuned on each task: the factor of its update with the lowest mean log loss over
    `tuning_seeds`. AdamW's reference was tuned alike, over 1e-4 to 0.1 in steps of sqrt(10) on 5 seeds, and both add up to 4 such
    steps where the best one is at an edge. The program is then scored with that factor on `seeds` other seeds; AdamW is scored on
    those that it was tuned on, which is in its favour.
    """

    name: str = ""
    """in tables"""
    tasks: tuple[str, ...] = ()
    """what programs are scored on; the cheap ones first, for a failure on one ends it"""
    seeds: int = 3
    """training runs that are averaged on each task"""
    tuning_seeds: int = 2
    """others, on which the learning-rate factor is chosen"""
    learning_rate_factors: tuple[float, ...] = (0.1, 0.316228, 1.0, 3.16228, 10.0)
    """of the update, to choose from; a single one is taken as it is"""
    promote: int = 5
    """programs that go on, at most"""
    beats: float = 0.0
    """fitness that they have to be below; 0 is tuned AdamW"""

    def check(self, where: str = "level") -> "LevelConfig":
        """The config itself; a ValueError where a value is outside its range."""
        where = f"{where} {self.name!r}" if self.name else where
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"{where}: tasks must be one or more different names, got {', '.join(self.tasks) or 'none'}")
        for key, most in (("seeds", MAX_SEEDS), ("tuning_seeds", MAX_SEEDS), ("promote", 10_000)):
            if not 1 <= getattr(self, key) <= most:
                raise ValueError(f"{where}: {key} must be 1 to {most}, got {shown(getattr(self, key))}")
        factors = self.learning_rate_factors
        if not factors or len(set(factors)) != len(factors) or not all(0 < factor < math.inf for factor in factors):
            raise ValueError(f"{where}: learning_rate_factors must be one or more different numbers above 0, got {factors}")
        if math.isnan(self.beats):
            raise ValueError(f"{where}: beats must be a number, or inf for all, got nan")
        return self


class Level(NamedTuple):
    """A level with its seeds, which no search and no other level uses."""

    config: LevelConfig
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]


def make_level(config: LevelConfig, place: int) -> Level:
    """The level at a place of the funnel; place 0 is the validation of the search's course.

    >>> make_level(LevelConfig("B", ("digits_mlp@10",)), 1)[1:]
    ((101000, 101001), (101500, 101501, 101502))
    """
    first = FIRST_SEED + place * _SEEDS_A_LEVEL
    scoring = first + _SCORING
    return Level(config, tuple(range(first, first + config.tuning_seeds)), tuple(range(scoring, scoring + config.seeds)))


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """What happens to the finalists of searches: the levels of the funnel, and the validation of the searches' courses."""

    levels: tuple[LevelConfig, ...] = ()
    """in order; each is entered by those that the one before promotes, the first by the finalists"""
    entrants: int = 20
    """finalists of each search that enter, at most"""
    baselines: tuple[str, ...] = (INITIAL,)
    """placed on each level like a finalist, for comparison alone: shipped programs, and `initial` for what a search began with"""
    validation: LevelConfig = dataclasses.field(default_factory=LevelConfig)
    """tasks, unseen by the search, that the programs which led it in turn are scored on; without tasks: none"""
    points: int = 20
    """of these programs, at most, spread over the search's improvements"""
    memory_limit_mb: int = 4096
    """that one evaluation may allocate beyond its worker's own; 0: no limit"""

    def check(self) -> "SelectionConfig":
        """The config itself; a ValueError where a value is outside its range."""
        if len(self.levels) > MAX_LEVELS:
            raise ValueError(f"a funnel has at most {MAX_LEVELS} levels, got {len(self.levels)}")
        names = [level.name for level in self.levels]
        if not all(names) or len(set(names)) != len(names) or any(name.startswith((VALIDATION, BASELINES)) for name in names):
            raise ValueError(
                f"levels need different names, none of them {VALIDATION!r} or {BASELINES!r}, got {', '.join(map(repr, names))}"
            )
        for level in self.levels:
            level.check()
        known = (INITIAL, *names_of_rules(), *schedule_names())
        if unknown := [name for name in self.baselines if name not in known]:
            raise ValueError(f"selection.baselines: no shipped program {shown(unknown[0])}; there are {', '.join(known)}")
        if self.validation.tasks:
            self.validation.check(VALIDATION)
        elif self.validation != LevelConfig():
            raise ValueError("validation: tasks must be one or more names, got none")
        for key, least, most in (("entrants", 1, 10_000), ("points", 2, 1_000), ("memory_limit_mb", 0, 2**40)):
            if not least <= getattr(self, key) <= most:
                raise ValueError(f"selection: {key} must be {least} to {most}, got {shown(getattr(self, key))}")
        return self

    @property
    def asked(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.levels or self.validation.tasks)

    @property
    def funnel(self) -> tuple[Level, ...]:
        """The levels with their seeds."""
        return tuple(make_level(level, place) for place, level in enumerate(self.levels, 1))
