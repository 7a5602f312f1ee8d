"""How fast training algorithms are, by the AlgoPerf protocol.

Start with `performance.py` (times, ratios, profiles and scores, as plain functions of NumPy arrays); `algoperf.py` reads the
logs and targets that the AlgoPerf benchmark publishes and scores the submissions in them. `stepsmith evaluate` runs comparisons
of its own: `evaluate.py` trains (`worker.py`, `trial.py`), `record.py` reads what it left, `comparison.py` has the statistics.
`budgets/` is `stepsmith evaluate --budgets`; `runner.py` runs the jobs of both and keeps them in a ledger.
"""

from .algoperf import LogError, Standing, Targets, read_logs, read_targets, score_logs
from .performance import (
    Reached,
    Target,
    Trial,
    apply_held_out,
    earliest,
    fastest,
    geometric_speedup,
    profile,
    ratios,
    score,
    time_to_target,
    workload_time,
)

__all__ = [
    "LogError",
    "Reached",
    "Standing",
    "Target",
    "Targets",
    "Trial",
    "apply_held_out",
    "earliest",
    "fastest",
    "geometric_speedup",
    "profile",
    "ratios",
    "read_logs",
    "read_targets",
    "score",
    "score_logs",
    "time_to_target",
    "workload_time",
]
