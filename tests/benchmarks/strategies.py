"""Does evolution add anything? Strategies on the reference proxy at equal and at four-fold compute, with intervals over repeats.

    python tests/benchmarks/strategies.py [--evaluations 1000] [--repeats 5] [--task digits_mlp] [-o FILE.csv]

Each row is one search; rows that the file holds already are not run again, so the script goes on where it was stopped. Its result
is the fitness, on 16 seeds that no search saw, of the program that was best on the search's own seeds. AdamW and
Lion with tuned hyperparameters are the evolutions of their constants alone. All evolutions have a population of 50 and tournaments of 10.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from stepsmith.discovery import SearchConfig, search
from stepsmith.discovery.search import EvolutionConfig

FIELDS = ("task", "strategy", "initial", "evaluations", "repeat", "searched", "confirmed", "seconds")
# name -> settings, and how many times the evaluations
ENTRANTS = {
    "evolution": ({}, 1),
    "random search": ({"strategy": "random_search"}, 1),
    "constants of AdamW": ({"strategy": "constants_only"}, 1),
    "constants of Lion": ({"strategy": "constants_only", "initial": "lion"}, 1),
    "random search x4": ({"strategy": "random_search"}, 4),
    "constants of AdamW x4": ({"strategy": "constants_only"}, 4),
    "constants of Lion x4": ({"strategy": "constants_only", "initial": "lion"}, 4),
}


def run_one(task, settings, evaluations, repeat):
    """One search; what its best program is worth on its own seeds and on new ones."""
    shared = {"seeds_per_task": 1, "finalists": 5, "finalist_seeds": 16, "evolution": EvolutionConfig(50, 10)}
    config = SearchConfig(tasks=(task,), budget=str(evaluations), seed=repeat, **shared, **settings)
    with tempfile.TemporaryDirectory() as folder:
        run = search(config, Path(folder) / "run", workers=1)
        status = run.status()
        if status["status"] != "finished":
            sys.exit("stopped; its rows so far are kept")
        leader = min(run.hall_of_fame(), key=lambda finalist: finalist.fitness)
    confirmed = np.inf if leader.confirmed is None else leader.confirmed
    return leader.fitness, confirmed, status["elapsed"]


def measure(arguments, rows):
    known = {(row["task"], row["strategy"], int(row["repeat"]), int(row["evaluations"])) for row in rows}
    for repeat in range(arguments.repeats):
        for name, (settings, factor) in ENTRANTS.items():
            evaluations = factor * arguments.evaluations
            if (arguments.task, name, repeat, evaluations) in known:
                continue
            searched, confirmed, seconds = run_one(arguments.task, settings, evaluations, repeat)
            initial = settings.get("initial", "adamw")
            row = (arguments.task, name, initial, evaluations, repeat, round(searched, 4), round(confirmed, 4), round(seconds, 1))
            rows.append(dict(zip(FIELDS, map(str, row), strict=True)))
            write(arguments.output, rows)
            print(f"{name}, repeat {repeat}: {searched:+.3f}, on new seeds {confirmed:+.3f}, {seconds:.0f} s", flush=True)


def report(rows, random):
    """Medians with their range, and the difference to evolution with a 95 % bootstrap interval over repeats."""
    results = {name: np.array([float(row["confirmed"]) for row in rows if row["strategy"] == name]) for name in ENTRANTS}
    evolution = results["evolution"]
    print("| strategy | evaluations | fitness on new seeds, median (range) | minus evolution's, mean and 95 % | evolution wins |")
    print("|---|---|---|---|---|")
    for name, values in results.items():
        if not len(values):
            continue
        evaluations = next(row["evaluations"] for row in rows if row["strategy"] == name)
        middle = f"{np.median(values):+.3f} ({values.min():+.3f} to {values.max():+.3f})"
        if name == "evolution":
            print(f"| {name} | {evaluations} | {middle} | | |")
            continue
        draws = [random.choice(values, len(values)).mean() - random.choice(evolution, len(evolution)).mean() for _ in range(10_000)]
        low, high = np.percentile(draws, [2.5, 97.5])
        wins = f"{sum(e < v for e in evolution for v in values)} of {len(evolution) * len(values)} pairs"
        print(f"| {name} | {evaluations} | {middle} | {values.mean() - evolution.mean():+.3f} [{low:+.3f}, {high:+.3f}] | {wins} |")


def read(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--task", default="digits_mlp")
    parser.add_argument("-o", "--output", type=Path, default=Path("tests/benchmarks/results/strategies.csv"))
    arguments = parser.parse_args()
    rows = read(arguments.output)
    measure(arguments, rows)
    report([row for row in rows if row["task"] == arguments.task], np.random.default_rng(0))


if __name__ == "__main__":
    main()
