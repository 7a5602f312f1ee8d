"""What a search is told: one frozen dataclass, read from TOML and the command line."""

import dataclasses
import math
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Suppress

from .language.message import one_line, shown
from .search import EvolutionConfig, MutationConfig, RacingConfig
from .selection import SelectionConfig

FORMAT = "5"  # of the language, the canonical form and the seeds; part of what makes runs comparable
MAX_CHARACTERS = 100_000  # of a config file
MAX_SECONDS = 1e9  # 30 years
MAX_EVALUATIONS = 10**12
_SEEDS_OF_A_RUN = 400
# A schedule's are of a rate that was tuned, a joint program's of its own: that of AdamW, 0.001, is a thirtieth of what short tasks want.
_FACTORS = {"update": (1.0,), "schedule": (0.3, 1.0, 3.0), "joint": (10.0, 30.0, 100.0)}
_DEFAULT = ("default",)  # in the place of tasks
_TASKS = ("digits_mlp", "digits_autoencoder")
_BUDGETS = ("digits_mlp~25", "digits_mlp", "digits_mlp~400")  # of one cheap task: a schedule must pay in short runs and in long ones
# name -> least, most. Beyond them 64-bit integers overflow, or an hour goes by in one draw.
_RANGES = {
    "seed": (0, 2**31 - 1),
    "seeds_per_task": (1, 400),
    "replicates": (1, 400),
    "in_flight": (1, 10_000),
    "finalists": (1, 10_000),
    "finalist_seeds": (1, 400),
    "memory_limit_mb": (0, 2**40),
}


class ConfigError(ValueError):
    """A setting that cannot be used; says in one line which and what is allowed."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Budget:
    """How long to search: seconds of wall time, or a number of unique evaluated programs."""

    seconds: float | None = None
    evaluations: int | None = None

    @staticmethod
    def parse(text: str) -> "Budget":
        """Reads ``45s``, ``10m``, ``2h`` or ``5000``.

        >>> Budget.parse("10m").seconds
        600.0
        >>> Budget.parse("5000").evaluations
        5000
        """
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(s|m|h|)", text)
        if match and match[2]:
            seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
            if 0 < seconds <= MAX_SECONDS:
                return Budget(seconds=seconds)
        elif match and match[1].isdecimal() and 0 < int(match[1]) <= MAX_EVALUATIONS:
            return Budget(evaluations=int(match[1]))
        raise ConfigError(f"budget {shown(text)}: expected a time such as 45s, 10m or 2h, or a number of evaluations such as 5000")


@dataclass(frozen=True)
class SearchConfig:
    """A search for update rules, for learning-rate schedules, or for both in one program.

    Runs with the same settings and a budget in evaluations end in the same digest in deterministic mode, whatever the
    number of workers.
    """

    tasks: tuple[str, ...] = _DEFAULT
    """what candidates are trained on, in this order (cheap ones first: a failure ends an evaluation); `default`: digits_mlp and
    digits_autoencoder, and digits_mlp at 25, 100 and 400 % of its steps where a schedule is searched for"""
    budget: str = "90s"
    """wall time (45s, 10m, 2h) or a number of evaluations (5000)"""
    seed: int = 0
    """of everything random in the search"""
    kind: Literal["update", "schedule", "joint"] = "update"
    """what is searched for: a rule; a schedule for a given rule, tuned for each program; a rule that holds its schedule"""
    initial: str = ""
    """a shipped program's name or a program file: where the search starts; default: adamw, for a schedule linear"""
    rule: str = "adamw_corrected"
    """likewise: the rule that schedules are tried with"""
    language: Literal["paper", "extended"] = "paper"
    """what programs may hold; extended: also means of rows and columns, orthogonalization, products, the loss, step, progress, budget; of
    schedules: also loss and gradient_norm of each step"""
    strategy: Literal["regularized_evolution", "random_search", "constants_only"] = "regularized_evolution"
    """how children are made; random_search and constants_only (the initial program's numbers evolve) are baselines"""
    mode: Literal["deterministic", "async"] = "deterministic"
    """deterministic: results are consumed in the order of submission; async: as they come"""
    seeds_per_task: int = 2
    """training runs that are averaged on each task; one is easy to overfit"""
    replicates: int = 4
    """blocks of that many seeds on which a promising program may be evaluated; 1: never again"""
    learning_rate_factors: tuple[float, ...] = ()
    """of the update; several ask for rules that need less tuning; none: 1, of a schedule 0.3, 1 and 3, of a joint program 10, 30 and 100"""
    best_rate: bool = False
    """of several factors the best on each task counts, not the mean: a rule is judged as one that will be tuned; always so where programs
    hold the schedule"""
    hurdle: float = math.inf
    """fitness above which an evaluation is stopped between its runs; inf: none"""
    in_flight: int = 8
    """evaluations under way at most; part of a run's identity, unlike the number of workers"""
    schedule: str = ""
    """of the learning rate relative to its peak, on every task; default: linear, but constant where programs hold the schedule"""
    finalists: int = 20
    """programs of the hall of fame that are scored again on new seeds when the budget is spent"""
    finalist_seeds: int = 8
    """new seeds for each of them"""
    memory_limit_mb: int = 4096
    """that one evaluation may allocate beyond its worker's own; 0: no limit"""
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    mutation: MutationConfig = field(default_factory=MutationConfig)
    racing: RacingConfig = field(default_factory=RacingConfig)
    selection: Suppress[SelectionConfig] = field(default_factory=SelectionConfig)
    """what happens to the finalists afterwards; lists of tables are no options, so it stands in a file only"""

    def check(self) -> "SearchConfig":
        """The config itself, if a search can be run with it.

        Raises:
            ConfigError: a value outside its range; the message says which and what is allowed.

        >>> SearchConfig(seed=3).check().seed
        3
        """
        Budget.parse(self.budget)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks must be one or more different names, got {', '.join(self.tasks) or 'none'}")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                limit = f"at least {least}" if getattr(self, name) < least else f"at most {most}"
                raise ConfigError(f"{name} must be {limit}, got {shown(getattr(self, name))}")
        names = [("initial", self.initial), ("rule", self.rule), ("schedule", self.schedule), *(("tasks", task) for task in self.tasks)]
        for key, name in names:
            if "\0" in name or name != name.encode(errors="replace").decode():
                raise ConfigError(f"{key}: {shown(name)} is no name, it holds characters that no text file can")
        factors = self.learning_rate_factors
        if not all(0 < factor < math.inf for factor in factors):
            raise ConfigError(f"learning_rate_factors must be numbers above 0, got {factors}")
        if len(set(factors)) != len(factors):
            raise ConfigError(f"learning_rate_factors must differ, got {factors}")
        if self.best_rate and len(self.resolved().learning_rate_factors) < 2:
            raise ConfigError(f"best_rate needs two or more learning_rate_factors, got {self.learning_rate_factors or 'none'}")
        if math.isnan(self.hurdle):
            raise ConfigError("hurdle must be a number or inf, got nan")
        if self.seeds_per_task * self.replicates > _SEEDS_OF_A_RUN:
            raise ConfigError(
                f"seeds_per_task times replicates must be at most {_SEEDS_OF_A_RUN}, got {self.seeds_per_task} x {self.replicates}"
            )
        self._check_kind()
        try:
            self.evolution.check()
            self.mutation.check()
            self.selection.check()
            self.racing.check()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return self

    def _check_kind(self) -> None:
        if self.kind != "update" and self.schedule not in ("", "constant"):
            raise ConfigError(f"kind {self.kind}: the programs hold the schedule, so schedule must be constant, got {self.schedule}")

    def resolved(self) -> "SearchConfig":
        """The config with what depends on its kind filled in.

        >>> SearchConfig(kind="schedule").resolved().initial
        'linear'
        """
        scheduled = self.kind == "schedule"
        return dataclasses.replace(
            self,
            tasks=self.tasks if self.tasks != _DEFAULT else _TASKS if self.kind == "update" else _BUDGETS,
            initial=self.initial or ("linear" if scheduled else "adamw"),
            schedule=self.schedule or ("linear" if self.kind == "update" else "constant"),
            learning_rate_factors=self.learning_rate_factors or _FACTORS[self.kind],
            language="extended" if self.kind == "joint" else self.language,
        )

    @property
    def search_seeds(self) -> tuple[int, ...]:
        """Seeds of every program's training runs during the search; fixed for the run."""
        return self.block_seeds(0)

    def block_seeds(self, block: int) -> tuple[int, ...]:
        """The seeds of a block, from 0; promising programs are evaluated on further ones."""
        first = 1_000_000 + 1_000 * self.seed + block * self.seeds_per_task
        return tuple(range(first, first + self.seeds_per_task))

    @property
    def finalist_seed_values(self) -> tuple[int, ...]:
        """Seeds of the finalists' runs, none of which the search has seen."""
        return tuple(range(first := 1_000_500 + 1_000 * self.seed, first + self.finalist_seeds))


def load(path: Path) -> SearchConfig:
    """Reads a search config from a TOML file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key, a value of the wrong type or outside its range.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)  # /dev/zero has no end
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{path}: no config has more than {MAX_CHARACTERS} characters")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of more digits than Python reads
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return from_dict(SearchConfig, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_dict(cls: type[Any], data: Any) -> Any:
    """A config dataclass from plain data; every key and type is checked, and the whole by its own `check`.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or outside its range.

    >>> from_dict(SearchConfig, {"budget": "10s", "evolution": {"population_size": 50}}).evolution.population_size
    50
    """
    return _build(cls, data, "").check()


def _build(cls: type[Any], data: Any, prefix: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'a config'} is a table, got {shown(data)}")
    hints = typing.get_type_hints(cls)
    unknown = [key for key in data if key not in hints]
    if unknown:
        raise ConfigError(f"unknown key {_key(prefix, unknown[0])}; allowed: {', '.join(prefix + name for name in hints)}")
    return cls(**{key: _checked(prefix + key, hints[key], value) for key, value in data.items()})


def _key(prefix: str, key: Any) -> str:
    return repr(prefix + key) if isinstance(key, str) else shown(key)


def _checked(key: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, key + ".")
    if typing.get_origin(hint) is Literal:
        if not isinstance(value, str) or value not in typing.get_args(hint):
            raise ConfigError(f"{key} must be one of {', '.join(typing.get_args(hint))}, got {shown(value)}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key} must be a list, got {shown(value)}")
        kind = typing.get_args(hint)[0]
        return tuple(_checked(f"{key}[{i}]", kind, item) for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{key} must be a number below 1e308, got {shown(value)}") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key} must be of type {hint.__name__}, got {shown(value)}")
    return value


def to_dict(config: SearchConfig) -> dict[str, Any]:
    """Plain data, as `from_dict` reads it."""
    return dataclasses.asdict(config)
