"""A comparison as its ledger holds it: what was asked for, and the trials so far."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import config as configs
from ..config import ConfigError
from ..ledger import TrialRow
from . import baselines, looks, targets, workloads
from .comparison import Pool, Standing, compare, pool_of
from .runner import COMPARISON, held
from .trial import SELF_TUNING_BUDGET, as_losses, entry


@dataclass(frozen=True)
class EvaluateConfig:
    """A comparison; two runs of it on one machine and versions end in the same table of steps."""

    entries: tuple[str, ...] = ("adamw",)
    """RULE or RULE@SCHEDULE"""
    workloads: tuple[str, ...] = workloads.names()
    """names of workloads"""
    ruleset: Literal["external", "self"] = "external"
    """external: every trial is another point of the common space; self: no tuning, and three times the budget"""
    trials: int = 40
    """of each entry on each workload; the pool that studies are drawn from"""
    batch: int = 1
    """trials that run as one vmapped batch"""
    purpose: Literal["comparison", "targets"] = "comparison"
    """targets have seeds of their own"""

    def check(self) -> "EvaluateConfig":
        """The config itself, if it can be run.

        Raises:
            ConfigError: a value outside its range.
        """
        for name in ("entries", "workloads"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be one or more different names, got {', '.join(values) or 'none'}")
        for name, most in (("trials", 10_000), ("batch", 1_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be at least 1 and at most {most}, got {getattr(self, name)}")
        return self

    @property
    def budget(self) -> int:
        """Times the steps of each workload."""
        return SELF_TUNING_BUDGET if self.ruleset == "self" else 1

    @property
    def num_trials(self) -> int:
        """Of all entries on all workloads."""
        return len(self.entries) * len(self.workloads) * self.trials

    @property
    def final(self) -> tuple[str, ...]:
        """The final variants that the comparison looks at; setting targets is no look."""
        names = self.workloads if self.purpose == "comparison" else ()
        return tuple(name for name in names if workloads.get(name).kind == workloads.FINAL)

    def versions(self) -> dict[str, str]:
        """Workload -> its version here."""
        return {name: workloads.get(name).task.version for name in self.workloads}


class Comparison(NamedTuple):
    """A finished, or interrupted, comparison.

    Attributes:
        path: its folder.
        config: what was compared.
        rows: its trials, from the ledger.
    """

    path: Path
    config: EvaluateConfig
    rows: list[TrialRow]

    @property
    def missing(self) -> int:
        """Trials that were not run."""
        return self.config.num_trials - len(self.rows)

    @property
    def num_looks(self) -> int:
        """At final variants so far, this comparison included; 0 where it has none."""
        return looks.number(self.config.entries, self.config.final, self.path) if self.config.final else 0

    def pool(self, with_baselines: bool = True) -> Pool:
        """The trials as arrays; with the committed baselines that ran the same points on the same versions.

        Raises:
            ValueError: trials are missing.
        """
        if self.missing:
            raise ValueError(f"{self.path}: {self.missing} trials are missing; run the comparison to its end first")
        rows = [*self.rows, *(self._baselines() if with_baselines else ())]
        names, own = self.config.workloads, self.config.entries
        labels = [*own, *sorted({row.entry for row in rows}.difference(own))]
        by_pair: dict[tuple[str, str], list[TrialRow]] = {(label, name): [] for label in labels for name in names}
        for row in sorted(rows, key=lambda row: row.trial):
            by_pair[row.entry, row.workload].append(row)
        return pool_of(
            {pair: _curves(found) for pair, found in by_pair.items()},
            {pair: _step_seconds(found) for pair, found in by_pair.items()},
            {name: targets.get(name) for name in names},
            {name: workloads.get(name).task.steps // workloads.EVALUATIONS for name in names},
            dict.fromkeys(names, workloads.EVALUATIONS * self.config.budget),
            {name: workloads.get(name).base for name in names},
        )

    def about_baselines(self) -> str:
        """What became of the committed baselines, in words."""
        if self.config.ruleset != "external":
            return "baselines are of the external ruleset and were left out"
        found = {row.entry for row in baselines.rows(self.config.versions(), self.config.trials)}
        absent = len(baselines.entries() - found)
        return f"{len(found)} baselines" + (
            f", {absent} left out: no {self.config.trials} trials of theirs on these workloads" if absent else ""
        )

    def curves(self) -> dict[str, Sequence[Sequence[float]]]:
        """Workload -> losses of each trial; for a comparison of one entry."""
        return {name: _curves([row for row in self.rows if row.workload == name]) for name in self.config.workloads}

    def standings(
        self, reference: str | None = None, seconds: bool = False, with_baselines: bool = True, **settings: Any
    ) -> list[Standing]:
        """The ranking; see `comparison.compare` for the settings. Intervals and p-values pay for looks at final variants.

        Args:
            reference: what speed-ups are over; AdamW with linear decay where it takes part, else the first entry.
            seconds: time in seconds; the baselines are left out then, for they ran on another machine.
            with_baselines: whether the committed baselines take part.
        """
        pool = self.pool(with_baselines and not seconds)
        usual = targets.BASELINE if targets.BASELINE in pool.entries else pool.entries[0]
        chosen = usual if reference is None else entry(reference).label
        if chosen not in pool.entries:
            if not seconds:
                raise ConfigError(f"the reference {chosen} takes no part; there are {', '.join(pool.entries)}")
            chosen = usual  # a baseline, which has no seconds of this machine
        if self.config.ruleset == "self":
            settings = {"per_study": 1, **settings}
        num_looks = self.num_looks
        standings = compare(pool, chosen, seconds, level=looks.level(num_looks), **settings)
        return [s._replace(p_value=looks.corrected(s.p_value, num_looks)) for s in standings]

    def _baselines(self) -> list[TrialRow]:
        if self.config.ruleset != "external":
            return []
        return [row for row in baselines.rows(self.config.versions(), self.config.trials) if row.entry not in self.config.entries]


def read(path: Path) -> Comparison:
    """A comparison from its folder; nothing is run.

    Raises:
        LedgerError: there is none.
    """
    config, rows = held(path, COMPARISON)
    return Comparison(path, configs.from_dict(EvaluateConfig, config), rows)


def _curves(rows: Sequence[TrialRow]) -> list[tuple[float, ...]]:
    return [as_losses(json.loads(row.losses)) for row in rows]


def _step_seconds(rows: Sequence[TrialRow]) -> float:
    """Median over the trials that did a step; infinite where none did."""
    return statistics.median([row.seconds / row.steps for row in rows if row.steps] or [math.inf])
