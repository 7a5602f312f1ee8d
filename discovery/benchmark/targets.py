"""The validation loss that each workload asks for, and the protocol that sets it.

AdamW with linear decay runs 20 points of the common space on seeds of its own. The target is the validation loss that 40 % of
these trials reach somewhere within the budget, so that a study of 5 of them misses it one time in thirteen (computed: 0.6^5).
Stricter ones were tried first, the median study's loss within 75 %, then 50 %, of the budget. Where 3 of the 20 trials reach it,
44 % of the studies miss it (computed: 0.85^5); with those of 50 % a comparison saw that one of two rules was three times as fast in
31 % of 100 cases (measured, see EXPERIMENTS.md). Targets are kept by the workload's version. Where the data differ, such as the
standard library of another Python, the command sets them anew for that machine:

    stepsmith evaluate --set-targets [--workloads ...]
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...tasks.reference import cache_folder
from . import workloads
from .comparison import target_of

BASELINE = "adamw@linear"
SHARE = 0.4  # of the baseline's trials
TRIALS = 20
PATH = Path(__file__).with_name("targets.json")


class TargetError(ValueError):
    """A workload has no target yet; says how to set one."""


def get(name: str) -> float:
    """The target of a workload as it is on this machine.

    Raises:
        TargetError: none was set for this version.
    """
    version = workloads.get(name).task.version
    for path in (cache_path(), PATH):  # what was set on this machine comes first
        found = _read(path).get(version)
        if found is not None:
            return float(found["target"])
    raise TargetError(
        f"workload {name} has no target for version {version}; set it with: stepsmith evaluate --set-targets --workloads {name}"
    )


def put(curves: dict[str, Sequence[Sequence[float]]], path: Path) -> dict[str, float]:
    """Sets the targets from the baseline's trials on each workload, and keeps them in a file beside those of other versions.

    Args:
        curves: workload -> the losses of each trial.
        path: `PATH` for those that come with the package, `cache_path()` for this machine's own.

    Returns:
        Workload -> target.
    """
    known, found = _read(path), {}
    for name, trials in curves.items():
        found[name] = float(f"{target_of(trials, SHARE):.6g}")
        version = workloads.get(name).task.version
        known[version] = {"workload": name, "target": found[name], "trials": len(trials), "baseline": BASELINE}
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(known.items(), key=lambda item: (item[1]["workload"], item[0]))
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(dict(ordered), indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
    return found


def cache_path() -> Path:
    """Targets that were set on this machine, in the user's cache folder."""
    return cache_folder() / "targets.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not all(isinstance(row["workload"], str) and float(row["target"]) >= 0 for row in found.values()):
            raise ValueError("a target is a number of at least 0")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TargetError(f"{path}: the targets cannot be read: {error}; delete the file and set them anew") from None
    return found
