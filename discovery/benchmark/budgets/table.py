"""How a budget study is shown: the rank and the losses of each schedule at each budget, how often it is first or among the first three, a
picture."""

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit  # of Student's t; scipy.stats loads for half a second

from ...config import ConfigError
from ...evaluate.fitness import log_loss
from .study import Cell

Setting = tuple[str, str, int]  # rule, workload, budget


class Place(NamedTuple):
    """Of a schedule in a setting.

    Attributes:
        rank: from 1; the lowest mean loss is first, equal ones share the mean of their ranks.
        place: one more than there are better ones, so that equal ones are all first; the last where every learning rate failed.
    """

    rank: float
    place: int


def ranks(cells: Iterable[Cell]) -> dict[Setting, dict[str, Place]]:
    """Of the schedules in each setting where there are two and one of them succeeded.

    >>> row = lambda schedule, loss: Cell("adam", schedule, "text_gru", 10, 0.1, (loss,), False)
    >>> ranks([row("rex", 1.0), row("linear", 2.0), row("cosine", 2.0)])["adam", "text_gru", 10]["cosine"]
    Place(rank=2.5, place=2)
    """
    settings: dict[Setting, dict[str, float]] = {}
    for cell in cells:
        settings.setdefault((cell.rule, cell.workload, cell.budget), {})[cell.schedule] = cell.mean
    return {
        setting: {name: _place(mean, means.values()) for name, mean in means.items()}
        for setting, means in settings.items()
        if len(means) > 1 and not math.isinf(min(means.values()))
    }


def _place(mean: float, means: Collection[float]) -> Place:
    better, equal = sum(other < mean for other in means), sum(other == mean for other in means)
    return Place(better + (equal + 1) / 2, len(means) if math.isinf(mean) else better + 1)


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a schedule, best first: its shares of first and of first three places, and its mean rank at each budget."""
    ranked = ranks(cells)
    budgets = sorted({budget for _, _, budget in ranked})
    found = []
    for name in dict.fromkeys(cell.schedule for cell in cells):
        own = {setting: places[name] for setting, places in ranked.items() if name in places}
        if not own:
            continue
        at = {f"{b} %": _mean([taken.rank for (_, _, budget), taken in own.items() if budget == b]) for b in budgets}
        shares = {f"top-{n}": sum(taken.place <= n for taken in own.values()) / len(own) for n in (1, 3)}
        mean = _mean([taken.rank for taken in own.values()])
        found.append({"schedule": name, "settings": len(own), **shares, "mean rank": mean, **at})
    return sorted(found, key=lambda row: row["mean rank"])


def only(cells: Iterable[Cell], schedules: Collection[str]) -> list[Cell]:
    """The cells of these schedules, to be ranked among themselves.

    Raises:
        ConfigError: the study has none of one of them.
    """
    cells = list(cells)
    known = dict.fromkeys(cell.schedule for cell in cells)
    if unknown := [name for name in schedules if name not in known]:
        raise ConfigError(f"the study has no schedule {', '.join(unknown)}; there are {', '.join(known)}")
    return [cell for cell in cells if cell.schedule in schedules]


def shares(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a schedule, in the order of `rows`: its shares of first and of first three places at each budget, as the paper has them.

    >>> row = lambda schedule, loss: Cell("adam", schedule, "text_gru", 10, 0.1, (loss,), False)
    >>> shares([row("rex", 1.0), row("linear", 2.0)])
    [{'schedule': 'rex', '10 % top-1': 1.0, '10 % top-3': 1.0}, {'schedule': 'linear', '10 % top-1': 0.0, '10 % top-3': 1.0}]
    """
    budgets = sorted({budget for _, _, budget in ranks(cells)})
    by_budget = {b: {row["schedule"]: row for row in rows([cell for cell in cells if cell.budget == b])} for b in budgets}
    return [
        {"schedule": name, **{f"{b} % {top}": by_budget[b].get(name, {}).get(top) for b in budgets for top in ("top-1", "top-3")}}
        for name in (row["schedule"] for row in rows(cells))
    ]


def losses(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row for each rule, workload and schedule: the mean loss of its trials at each budget, None where all failed or none was run.

    >>> losses([Cell("adam", "rex", "text_gru", budget, 0.1, (2.0, 3.0), False) for budget in (50, 5)])
    [{'rule': 'adam', 'workload': 'text_gru', 'schedule': 'rex', '5 %': 2.5, '50 %': 2.5}]
    """
    means: dict[tuple[str, str, str], dict[int, float]] = {}
    for cell in cells:
        means.setdefault((cell.rule, cell.workload, cell.schedule), {})[cell.budget] = cell.mean
    budgets = sorted({cell.budget for cell in cells})
    found = []
    for (rule, workload, schedule), at in sorted(means.items(), key=lambda item: item[0][:2]):
        measured = {f"{b} %": at[b] if math.isfinite(at.get(b, math.inf)) else None for b in budgets}
        found.append({"rule": rule, "workload": workload, "schedule": schedule, **measured})
    return found


def shares_as_text(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `shares` for people."""
    return {key: "" if value is None else value if key == "schedule" else f"{value:.0%}" for key, value in row.items()}


def losses_as_text(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `losses` for people."""
    return {key: "" if value is None else f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people."""
    shares = {key: f"{row[key]:.0%}" for key in ("top-1", "top-3")}
    return {
        key: shares.get(key, "" if value is None else f"{value:.1f}" if isinstance(value, float) else value) for key, value in row.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def against(cells: Sequence[Cell], reference: str) -> list[dict[str, Any]]:
    """How much lower or higher the log loss of each schedule is than that of one of them, best first.

    A difference is of the mean log losses in one setting; its mean over settings comes with a 95 % interval (Student's t), which is
    about further settings like these and not about further seeds; one setting has no interval. Settings where one of the two fails at
    every learning rate do not count.

    Args:
        cells: of the study.
        reference: the schedule that the others are compared with.

    Example:
        >>> cells = [Cell("adam", name, "text_gru", budget, 0.1, (loss,), False)
        ...          for name, budget, loss in (("rex", 1, 1.0), ("rex", 9, 1.0), ("linear", 1, 2.0), ("linear", 9, 4.0))]
        >>> [(row["schedule"], row["settings"], row["won"], round(row["log loss"], 3)) for row in against(cells, "rex")]
        [('linear', 2, 0, 1.04)]
    """
    means: dict[Setting, dict[str, float]] = {}
    for cell in cells:
        if cell.losses:
            mean = math.fsum(map(log_loss, cell.losses)) / len(cell.losses)
            means.setdefault((cell.rule, cell.workload, cell.budget), {})[cell.schedule] = mean
    found = []
    for name in dict.fromkeys(cell.schedule for cell in cells if cell.schedule != reference):
        differences = np.array([own[name] - own[reference] for own in means.values() if name in own and reference in own])
        if not differences.size:
            continue
        mean, won = float(differences.mean()), int((differences < 0).sum())
        row = {"schedule": name, "settings": differences.size, "won": won, "log loss": mean, "from": None, "to": None}
        if differences.size > 1:
            margin = float(stdtrit(differences.size - 1, 0.975) * differences.std(ddof=1) / math.sqrt(differences.size))
            row |= {"from": mean - margin, "to": mean + margin}
        found.append(row)
    return sorted(found, key=lambda row: row["log loss"])


def write_csv(path: Path, cells: Sequence[Cell]) -> None:
    """One row a cell: the best learning rate, the mean, lowest and highest loss of its trials, its rank; empty where all failed."""
    ranked = ranks(cells)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rule", "schedule", "workload", "budget", "learning_rate", "at_edge", "loss", "loss_low", "loss_high", "rank"])
        for cell in cells:
            measured = (cell.learning_rate, cell.mean, min(cell.losses), max(cell.losses)) if cell.losses else ()
            rate, *losses = [f"{number:.6g}" for number in measured] or [""] * 4
            taken = ranked.get((cell.rule, cell.workload, cell.budget), {}).get(cell.schedule)
            rank = "" if taken is None else taken.rank
            writer.writerow([cell.rule, cell.schedule, cell.workload, cell.budget, rate, int(cell.at_edge), *losses, rank])


def read_csv(path: Path) -> list[Cell]:
    """The cells that `write_csv` wrote, with losses of the same mean, lowest and highest.

    Those are all there is of three trials; of fewer they have the mean right, of more no others are known.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_cell(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: no cells of a budget study: {error}") from error


def _cell(row: dict[str, str]) -> Cell:
    setting = row["rule"], row["schedule"], row["workload"], int(row["budget"])
    if not row["loss"]:
        return Cell(*setting, math.nan, (), bool(int(row["at_edge"])))
    mean, low, high = (float(row[name]) for name in ("loss", "loss_low", "loss_high"))
    middle = min(max(3 * mean - low - high, low), high)  # of six digits each
    return Cell(*setting, float(row["learning_rate"]), (low, middle, high), bool(int(row["at_edge"])))


def draw(path: Path, cells: Sequence[Cell], title: str) -> None:
    """Mean rank at each budget, a panel for each rule, as a PNG."""
    from matplotlib.figure import Figure

    rules = list(dict.fromkeys(cell.rule for cell in cells))
    colours = {row["schedule"]: f"C{place}" for place, row in enumerate(rows(cells))}
    figure = Figure(figsize=(5 * len(rules) + 3, 4.5), layout="constrained")
    panels = figure.subplots(1, len(rules), squeeze=False, sharey=True)[0]
    drawn = {}
    for axes, rule in zip(panels, rules, strict=True):
        for row in rows([cell for cell in cells if cell.rule == rule]):
            at = {float(key.removesuffix(" %")): value for key, value in row.items() if key.endswith(" %") and value is not None}
            (drawn[row["schedule"]],) = axes.plot(list(at), list(at.values()), marker="o", color=colours[row["schedule"]])
        axes.set(xscale="log", xlabel="budget in % of the workload's steps", title=rule)
        axes.grid(alpha=0.3)
    names = [name for name in colours if name in drawn]
    figure.legend([drawn[name] for name in names], names, loc="outside right center", frameon=False, title="best mean rank first")
    panels[0].set_ylabel("mean rank (1 is best)")
    panels[0].invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path, dpi=120, format="png")
