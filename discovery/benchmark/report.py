"""How a comparison is shown: a table, a CSV file, a picture of the performance profiles."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import Standing
from .performance import MAX_RATIO, profile


def rows(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """One row a competitor, for people."""
    return [
        {
            "entry": s.entry,
            "score": f"{s.score:.3f}",
            "score_from_to": _interval(s.score_interval, 3),
            "speedup": f"{s.speedup:.2f}",
            "speedup_from_to": _interval(s.speedup_interval, 2),
            "p": "" if math.isnan(s.p_value) else f"{s.p_value:.3f}",
            "reached": f"{s.reached} of {len(s.times)}",
        }
        for s in standings
    ]


def of_search(search_steps: Mapping[str, int], counted: str = "not counted above") -> list[str]:
    """A line for each entry whose schedule a search found, for people: what a table of steps leaves out.

    >>> of_search({"adam@found.json": 280})
    ['adam@found.json: its schedule took 280 steps of search, not counted above; with them each run of it is 280 steps longer']
    """
    return [
        f"{label}: its schedule took {steps} steps of search, {counted}; with them each run of it is {steps} steps longer"
        for label, steps in search_steps.items()
    ]


def _interval(ends: tuple[float, float], digits: int) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def as_json(standing: Standing) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    p_value = None if math.isnan(standing.p_value) else standing.p_value
    finite = {name: _finite(getattr(standing, name)) for name in ("times", "ratios")}
    return {**standing._asdict(), "p_value": p_value, "reached": standing.reached, **finite}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def write_csv(path: Path, standings: Sequence[Standing], unit: str) -> None:
    """One row for each competitor and workload: its time to target, empty where missed, and the ratio to the best after all rules.

    A held-out workload has no ratio of its own.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["entry", "workload", unit, "ratio", "score", "speedup"])
        for s in standings:
            for workload, time in s.times.items():
                cells = ["" if math.isinf(number) else f"{number:.6g}" for number in (time, s.ratios.get(workload, math.inf))]
                writer.writerow([s.entry, workload, *cells, f"{s.score:.6g}", f"{s.speedup:.6g}"])


def draw(path: Path, standings: Sequence[Standing], unit: str, title: str) -> None:
    """The performance profiles: share of workloads on which a competitor is within tau of the best, as a PNG."""
    from matplotlib.figure import Figure

    taus = np.linspace(1.0, MAX_RATIO, 400)
    curves = profile(np.array([[*s.ratios.values()] for s in standings]), taus)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, (s, curve) in enumerate(zip(standings, curves, strict=True)):
        # Equal profiles lie on each other; a small offset keeps both visible.
        axes.step(taus, curve + 0.004 * index, where="post", label=f"{s.entry}  {s.score:.3f}")
    axes.set(xlabel=f"tau: {unit} to the target, in units of the best", ylabel="share of workloads", title=title, ylim=(0, 1.08))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120, format="png")
