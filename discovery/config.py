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

from .search import EvolutionConfig, MutationConfig


class ConfigError(ValueError):
    """A setting that cannot be used; says which and what is allowed."""


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
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
        if match and float(match[1]) > 0:
            return Budget(seconds=float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]])
        if text.isdecimal() and int(text) > 0:
            return Budget(evaluations=int(text))
        raise ConfigError(f"budget {text!r}: expected a time such as 45s, 10m or 2h, or a number of evaluations such as 5000")


@dataclass(frozen=True)
class SearchConfig:
    """A search for update rules.

    Runs with the same settings and a budget in evaluations end in the same digest in deterministic mode, whatever the
    number of workers.
    """

    tasks: tuple[str, ...] = ("digits_mlp", "digits_autoencoder")
    """what candidates are trained on, in this order (cheap ones first: a failure ends an evaluation)"""
    budget: str = "90s"
    """wall time (45s, 10m, 2h) or a number of evaluations (5000)"""
    seed: int = 0
    """of everything random in the search"""
    initial: str = "adamw"
    """a shipped program's name or a program file: where the search starts"""
    strategy: Literal["regularized_evolution", "random_search"] = "regularized_evolution"
    mode: Literal["deterministic", "async"] = "deterministic"
    """deterministic: results are consumed in the order of submission; async: as they come"""
    seeds_per_task: int = 2
    """training runs that are averaged on each task; one is easy to overfit"""
    in_flight: int = 8
    """evaluations under way at most; part of a run's identity, unlike the number of workers"""
    schedule: str = "linear"
    """of the learning rate relative to its peak, on every task"""
    finalists: int = 20
    """programs of the hall of fame that are scored again on new seeds when the budget is spent"""
    finalist_seeds: int = 8
    memory_limit_mb: int = 4096
    """that one evaluation may allocate beyond its worker's own; 0: no limit"""
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    mutation: MutationConfig = field(default_factory=MutationConfig)

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks must be one or more different names, got {list(self.tasks)}")
        for name, least in (
            ("seed", 0),
            ("seeds_per_task", 1),
            ("in_flight", 1),
            ("finalists", 1),
            ("finalist_seeds", 1),
            ("memory_limit_mb", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, most in (("seed", 2**31 - 1), ("memory_limit_mb", 2**40)):  # beyond them 64-bit integers overflow
            if getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most}, got {getattr(self, name)}")
        for name, value in dataclasses.asdict(self.mutation).items():
            if not math.isfinite(value):
                raise ConfigError(f"mutation.{name} must be finite, got {value}")
        if self.seeds_per_task > 400 or self.finalist_seeds > 400:
            raise ConfigError("seeds_per_task and finalist_seeds are at most 400")

    @property
    def search_seeds(self) -> tuple[int, ...]:
        """Seeds of the training runs during the search; fixed for the run."""
        return tuple(range(first := 1_000_000 + 1_000 * self.seed, first + self.seeds_per_task))

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
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return from_dict(SearchConfig, data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_dict(cls: type[Any], data: Mapping[str, Any], prefix: str = "") -> Any:
    """A config dataclass from plain data; every key and type is checked.

    >>> from_dict(SearchConfig, {"budget": "10s", "evolution": {"population_size": 50}}).evolution.population_size
    50
    """
    hints = typing.get_type_hints(cls)
    unknown = [key for key in data if key not in hints]
    if unknown:
        raise ConfigError(f"unknown key {prefix + unknown[0]!r}; allowed: {', '.join(prefix + name for name in hints)}")
    return cls(**{key: _checked(prefix + key, hints[key], value) for key, value in data.items()})


def _checked(key: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is a table, got {value!r}")
        return from_dict(typing.cast(type, hint), value, key + ".")
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{key} must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{key} must be a list of strings, got {value!r}")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{key} must be a number below 1e308, got one of {value.bit_length()} bits") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key} must be of type {hint.__name__}, got {value!r}")
    return value


def to_dict(config: SearchConfig) -> dict[str, Any]:
    """Plain data, as `from_dict` reads it."""
    return dataclasses.asdict(config)
