"""Learning-rate curves of SGD, AdamW and Lion on the tasks and their ladders.

    python tests/benchmarks/sweep.py run tests/benchmarks/results/sweep.csv digits_mlp@1 digits_mlp@10 ...
    python tests/benchmarks/sweep.py tasks tests/benchmarks/results/sweep.csv      # table and picture of scale 1
    python tests/benchmarks/sweep.py ladder tests/benchmarks/results/sweep.csv     # transferred against tuned learning rates

`run` appends one line for every training run and goes on where it stopped: each rule on each task is tried on half decades
until two points lie on both sides of the best one, then on the quarter decades beside it. All rules decay linearly to 0.
"""

import argparse
import csv
import math
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "1")  # one core, as a worker has

import jax
import matplotlib
import numpy as np
import optax

from stepsmith import tasks
from stepsmith.tasks.ladder import transfer
from stepsmith.tasks.reference import mean_log_loss

FIELDS = ("task", "version", "rule", "exponent", "seed", "status", "loss", "accuracy", "seconds")
RULES = {
    "sgd": lambda schedule: optax.sgd(schedule, momentum=0.9),
    "adamw": lambda schedule: optax.adamw(schedule, weight_decay=0.01),
    "lion": lambda schedule: optax.lion(schedule, weight_decay=0.01),
}
FIRST = {"sgd": range(-4, 1), "adamw": range(-7, -2), "lion": range(-8, -3)}  # half decades
SEEDS = range(2000, 2005)
MARGIN = 2  # half decades wanted on both sides of the best
LIMIT = 12  # half decades away from 1
COSTLY = 5.0  # seconds a run from which fewer seeds are taken

Table = dict[tuple[str, str], dict[float, list[dict[str, str]]]]  # (task, rule) -> exponent of 10 -> runs


def read(path: Path) -> Table:
    """The runs of the tasks' present versions."""
    table: Table = defaultdict(lambda: defaultdict(list))
    versions: dict[str, str] = {}
    for row in csv.DictReader(path.open()) if path.exists() else ():
        if row["task"] not in versions:
            versions[row["task"]] = tasks.get(row["task"]).version
        if row["version"] == versions[row["task"]]:
            table[row["task"], row["rule"]][float(row["exponent"])].append(row)
    return table


def log_loss(rows: list[dict[str, str]]) -> float:
    """Mean over seeds; infinite where a run failed."""
    return mean_log_loss(float(row["loss"]) if row["status"] == "ok" else None for row in rows)


def best(curve: dict[float, list[dict[str, str]]]) -> float:
    return min(curve, key=lambda exponent: (log_loss(curve[exponent]), exponent))


def tuned(curve: dict[float, list[dict[str, str]]]) -> float:
    """The vertex of the parabola through the points within half a decade of the best one, as an exponent of 10."""
    centre = best(curve)
    points = [(e, log_loss(rows)) for e, rows in curve.items() if abs(e - centre) <= 0.51 and math.isfinite(log_loss(rows))]
    if len(points) < 3:
        return centre
    a, b, _ = np.polyfit(*map(np.array, zip(*points, strict=True)), 2)
    return float(np.clip(-b / (2 * a), centre - 0.25, centre + 0.25)) if a > 0 else centre


class Sweeper:
    def __init__(self, path: Path, task: tasks.Task, rule: str, curve: dict[float, list[dict[str, str]]]):
        self.path, self.task, self.rule, self.curve = path, task, rule, curve
        decayed = lambda rate: RULES[rule](lambda step: rate * (1 - step / task.steps))  # noqa: E731
        self.run = tasks.make_runner(task, decayed)
        self.data = tasks.load_on_device(task)
        self.compiled = False

    def at(self, exponent: float) -> None:
        for seed in SEEDS if self.costs() < COSTLY else SEEDS[:3]:
            if any(row["seed"] == str(seed) for row in self.curve[exponent]):
                continue
            if not self.compiled:
                jax.block_until_ready(self.run(self.data, 0.0, 0))
                self.compiled = True
            began = time.perf_counter()
            outcome = jax.block_until_ready(self.run(self.data, 10**exponent, seed))
            seconds = time.perf_counter() - began
            accuracy = tasks.scores(self.task, outcome.params, outcome.state, self.data, "validation").get("accuracy", math.nan)
            status = tasks.STATUS_NAMES[int(outcome.status)]
            values = (self.task.name, self.task.version, self.rule, exponent, seed, status, f"{float(outcome.loss):.6g}")
            row = dict(zip(FIELDS, map(str, (*values, f"{accuracy:.4f}", f"{seconds:.4f}")), strict=True))
            self.curve[exponent].append(row)
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, FIELDS).writerow(row)

    def costs(self) -> float:
        seconds = [float(row["seconds"]) for rows in self.curve.values() for row in rows]
        return statistics.median(seconds) if seconds else 0.0

    def whole(self) -> None:
        for index in FIRST[self.rule]:
            self.at(index / 2)
        while True:
            centre = best({e: rows for e, rows in self.curve.items() if (2 * e).is_integer()})
            wanted = [centre + side * k / 2 for side in (-1, 1) for k in range(1, MARGIN + 1)]
            missing = [e for e in wanted if not self.curve.get(e) and abs(2 * e) <= LIMIT]
            if not missing:
                break
            for exponent in missing:
                self.at(exponent)
        for exponent in (centre - 0.25, centre + 0.25):
            self.at(exponent)


def run(path: Path, wanted: list[str], rules: list[str]) -> None:
    if not path.exists():
        path.write_text(",".join(FIELDS) + "\n")
    table = read(path)
    for name in wanted:
        task = tasks.get(name)
        for rule in rules:
            began = time.perf_counter()
            curve = table[task.name, rule]
            Sweeper(path, task, rule, curve).whole()
            found = log_loss(curve[best(curve)])
            print(
                f"{task.name:22} {rule:6} tuned 10^{tuned(curve):+.2f} log loss {found:+.4f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )


def report_tasks(path: Path) -> None:
    table = read(path)
    print("| task | rule | learning rate | validation loss | accuracy | seconds a run | runs |\n|---|---|---|---|---|---|---|")
    for (name, rule), curve in table.items():
        if "@" in name:
            continue
        rows = curve[best(curve)]
        loss = math.exp(log_loss(rows))
        accuracy = statistics.fmean(float(row["accuracy"]) for row in rows)
        seconds = statistics.median(float(row["seconds"]) for row in rows)
        shown = "" if math.isnan(accuracy) else f"{accuracy:.3f}"
        runs = sum(map(len, curve.values()))
        print(f"| {name} | {rule} | {10 ** best(curve):.2g} | {loss:.4g} | {shown} | {seconds:.3g} | {runs} |")
    picture({key: curve for key, curve in table.items() if "@" not in key[0]}, path.with_name("learning_rates.png"))


def picture(table: Table, path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _ in table))
    columns = min(4, len(names))
    figure, axes = plt.subplots(-(-len(names) // columns), columns, figsize=(3.2 * columns, 2.6 * -(-len(names) // columns)), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for rule in RULES:
            curve = table.get((name, rule), {})
            points = sorted((10**e, math.exp(log_loss(rows))) for e, rows in curve.items() if math.isfinite(log_loss(rows)))
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=rule)
        axis.set(xscale="log", yscale="log", title=name)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    axes.flat[0].legend(fontsize=8)
    figure.supxlabel("peak learning rate")
    figure.supylabel("validation loss, geometric mean over seeds")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def report_ladder(path: Path) -> None:
    table = read(path)
    print("| family | rule | from | to | tuned | transferred | ratio | loss there / tuned loss |\n|---|---|---|---|---|---|---|---|")
    ratios = defaultdict(list)
    for (name, rule), curve in table.items():
        family, _, scale = name.partition("@")
        if not scale or (family, rule) not in table:
            continue
        moved = math.log10(transfer(10 ** tuned(table[family, rule]), 1, int(scale), rule))
        ratio = 10 ** (moved - tuned(curve))
        ratios[rule, scale].append(ratio)
        exponents = sorted(e for e in curve if math.isfinite(log_loss(curve[e])))
        there = math.exp(np.interp(moved, exponents, [log_loss(curve[e]) for e in exponents]) - log_loss(curve[best(curve)]))
        print(f"| {family} | {rule} | 1 | {scale} | {10 ** tuned(curve):.2g} | {10**moved:.2g} | {ratio:.2f} | {there:.3f} |")
    for (rule, scale), values in ratios.items():
        within = sum(0.5 <= value <= 2 for value in values)
        middle = math.exp(statistics.fmean(map(math.log, values)))
        print(f"{rule} to {scale}: {within} of {len(values)} within a factor of 2, geometric mean of the ratios {middle:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "tasks", "ladder"])
    parser.add_argument("path", type=Path)
    parser.add_argument("names", nargs="*", default=list(tasks.available()))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.path, arguments.names, arguments.rules)
    else:
        {"tasks": report_tasks, "ladder": report_ladder}[arguments.what](arguments.path)


if __name__ == "__main__":
    main()
