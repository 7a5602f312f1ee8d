"""`stepsmith evaluate --budgets`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ...config import ConfigError
from ...terminal.options import INTERRUPTED
from ...terminal.output import out, print_json, print_table
from ...terminal.view import counted
from .. import workloads
from ..report import of_search
from ..trial import SCHEDULE, search_steps, split
from . import table
from .cell import steps_at
from .study import BudgetConfig, BudgetStudy, evaluate_budgets


def compare_budgets(config: BudgetConfig, path: Path, workers: int, going_on: Sequence[str], reference: str | None, as_json: bool) -> int:
    """Runs the study and prints its table; returns the exit code.

    Args:
        config: the study.
        path: its folder.
        workers: processes; 0 for one a core.
        going_on: the arguments of the command that goes on after Ctrl-C.
        reference: the schedule that the others are compared with; None for none.
        as_json: print JSON, and nothing else.
    """
    known = {schedule or SCHEDULE for _, schedule in map(split, config.entries)}
    if reference is not None and reference not in known:
        raise ConfigError(f"the reference {reference} takes no part; there are {', '.join(sorted(known))}")
    with counted(out, "cells", as_json) as on_progress:
        study = evaluate_budgets(config, path, workers, on_progress)
    if study.missing:
        sys.stderr.write(f"interrupted, {study.missing} cells are missing; go on with: stepsmith {shlex.join(going_on)}\n")
        return INTERRUPTED
    return _report(study, reference, as_json)


def with_schedules(entries: Sequence[str], schedules: Sequence[str]) -> tuple[str, ...]:
    """The entries of a study: a rule that names no schedule is tried with each.

    Raises:
        ConfigError: nothing is compared.

    >>> with_schedules(["adam", "lion@rex"], ["linear", "rex"])
    ('adam@linear', 'adam@rex', 'lion@rex')
    """
    if not entries:
        raise ConfigError("nothing to compare: name one or more rules, such as momentum or adam@cosine")
    named = [(text,) if split(text)[1] else tuple(f"{text}@{schedule}" for schedule in schedules) for text in entries]
    return tuple(dict.fromkeys(text for several in named for text in several))


def long_enough(names: Sequence[str], budgets: Sequence[int]) -> tuple[str, ...]:
    """The workloads whose steps can be divided into each of the budgets; says on stderr which are left out.

    >>> long_enough(["images_mlp", "digits_sequence"], [1, 100])
    ('images_mlp', 'digits_sequence')
    """
    found = tuple(name for name in names if all(_has_steps(name, budget) for budget in budgets))
    if not found:  # none of the budgets is any good, which the config's check says better
        return tuple(names)
    if left_out := [name for name in names if name not in found]:
        sys.stderr.write(f"left out, too few steps at {min(budgets)} %: {', '.join(left_out)}\n")
    return found


def _has_steps(name: str, budget: int) -> bool:
    try:
        return steps_at(workloads.get(name), budget) > 0
    except ValueError:
        return False


def _report(study: BudgetStudy, reference: str | None, as_json: bool) -> int:
    rows, searched = table.rows(study.cells), search_steps(study.config.entries)
    compared = [] if reference is None else table.against(study.cells, reference)
    table.write_csv(study.path / "cells.csv", study.cells)
    table.draw(study.path / "ranks.png", study.cells, f"{len(study.config.workloads)} workloads, learning rates tuned in multiples of 3")
    if as_json:
        cells = [{**cell._asdict(), "learning_rate": cell.learning_rate if cell.losses else None} for cell in study.cells]
        found = {"schedules": rows, "shares": table.shares(study.cells), "against": compared}
        return print_json({**found, "cells": cells, "search_steps": searched})
    rules = list(dict.fromkeys(cell.rule for cell in study.cells))
    for rule in rules if len(rules) > 1 else ():
        out.print(f"{rule}: mean rank of each schedule, 1 is best", style="bold")
        print_table([table.as_text(row) for row in table.rows([cell for cell in study.cells if cell.rule == rule])], False)
    out.print(f"{'all rules' if len(rules) > 1 else rules[0]}: mean rank of each schedule, 1 is best", style="bold")
    print_table([table.as_text(row) for row in rows], False, "one schedule alone has no rank")
    out.print("shares of first and of first three places at each budget", style="bold")
    print_table([table.shares_as_text(row) for row in table.shares(study.cells)], False, "one schedule alone has no rank")
    out.print("mean validation loss at each budget", style="bold")
    print_table([table.losses_as_text(row) for row in table.losses(study.cells)], False)
    if reference is not None:
        out.print(
            f"log loss minus that of {reference}, mean over settings with 95 % interval; below 0 is better than {reference}", style="bold"
        )
        print_table(
            [{k: f"{v:+.4f}" if isinstance(v, float) else "" if v is None else v for k, v in row.items()} for row in compared], False
        )
    for line in of_search(searched):
        out.print(line, markup=False)
    failed, at_edge = sum(not cell.losses for cell in study.cells), sum(cell.at_edge for cell in study.cells)
    out.print(f"{len(study.cells)} cells; in {failed} none succeeded, in {at_edge} the best was the last one tried")
    out.print(f"cells and picture: {study.path}")
    return 0
