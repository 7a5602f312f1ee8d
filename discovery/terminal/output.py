"""How the subcommands print: tables, JSON, a hall of fame, a standing."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..benchmark.algoperf import Standing
from ..finalists import Finalist
from ..language import SCHEDULE
from .table import table_lines

out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)  # a folder may be called [/b]


def print_json(value: Any) -> int:
    """One line of JSON; returns the exit code 0."""
    sys.stdout.write(json.dumps(value) + "\n")
    return 0


def print_table(rows: list[dict[str, Any]], as_json: bool, empty: str = "nothing to list") -> int:
    """Rows of the same keys, as wide as the terminal; returns the exit code 0.

    Args:
        rows: see `table.table_lines`.
        as_json: instead of the table.
        empty: what a table without a row says.
    """
    if as_json:
        return print_json(rows)
    if not rows:
        out.print(empty)
        return 0
    heading, lines = table_lines(rows, out.width if out.is_terminal else None)
    for line in heading:
        out.print(line, style="bold")
    for line in lines:
        out.print(line)
    return 0


def print_hall_of_fame(finalists: list[Finalist], front: Sequence[Finalist] = ()) -> None:
    """The finalists, best first, those of the Pareto front marked, and the program of the first."""
    if not finalists:
        out.print("no program has succeeded yet")
        return
    print_finalists(finalists, front)
    out.print("fitness: log loss against tuned AdamW (0), in units of a learning rate off by a factor of 3.2; lower is better\n")
    out.print(finalists[0].text + "\n")


def print_best_file(path: Path, finalists: list[Finalist]) -> None:
    """Where the first finalist has been written, if it has been."""
    if path.exists() and finalists:
        what = "schedule, ready for optax" if finalists[0].program.kind == SCHEDULE else "rule, ready for an optax chain"
        out.print(f"the best {what}: {path}")


def print_finalists(finalists: list[Finalist], front: Sequence[Finalist] = ()) -> None:
    """A row for each program: what it is worth, what it costs, and whether it is among those that no other one beats in all of that."""
    levels, unbeaten = any(f.level for f in finalists), {f.hash for f in front}
    rows = [
        {
            "rank": f.rank,
            "fitness": f"{f.fitness:+.4f}",
            "error": "" if f.error is None else f"{f.error:.4f}",
            "on new seeds": "" if f.confirmed is None else f"{f.confirmed:+.4f}",
            **({"level": f.level or "", "there": _level_text(f)} if levels else {}),
            "statements": f.statements,
            "states": f.states,
            "operations": f.operations,
            **({"front": "*" if f.hash in unbeaten else ""} if unbeaten else {}),
            "program": f.hash[:8],
        }
        for f in finalists
    ]
    print_table(rows, False)


def _level_text(finalist: Finalist) -> str:
    if finalist.level_fitness is None:
        return ""
    return f"{finalist.level_fitness:+.4f}" + ("" if finalist.level_error is None else f" +- {finalist.level_error:.4f}")


def print_standing(standing: Standing) -> None:
    """The scores, and the ratios of each workload where they fit beside them."""
    scores, ratios = [], []
    for submission, score, row in zip(standing.submissions, standing.scores, standing.ratios, strict=True):
        scores.append({"submission": submission, "score": f"{score:.4f}", "reached": f"{np.isfinite(row).sum()} of {len(row)}"})
        ratios.append({name: f"{r:.2f}" if np.isfinite(r) else "" for name, r in zip(standing.workloads, row, strict=True)})
    rows = [{**left, **right} for left, right in zip(scores, ratios, strict=True)]
    heading, lines = table_lines(rows, out.width)
    if out.is_terminal and max(map(len, [*heading, *lines])) > out.width:
        print_table(scores, False)
        return
    print_table(rows, False)
    out.print("by workload: the time in units of the best; blank: missed, above 4, or lost with a held-out variant of it")
