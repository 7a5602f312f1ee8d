"""Searches on the reference proxies with and without racing and hurdle, equal in programs evaluated: what they cost, what they find.

    python tests/benchmarks/racing.py [--quick]

Each repeat is a seed; the ways to search take turns on the same two workers. Steps are training steps of the search, finalists
apart, for each unique program evaluated: of all programs, and of those after the calibration; `saved` is how many times fewer
they are than in the plain search of the same seed. The winner's fitness is confirmed on seeds that no search has seen (0 is
tuned AdamW, lower is better).
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from stepsmith.discovery import SearchConfig
from stepsmith.discovery.config import to_dict
from stepsmith.discovery.coordinator import Coordinator
from stepsmith.discovery.evaluate import WorkerPool, WorkerSpec, Yardstick
from stepsmith.discovery.language import load
from stepsmith.discovery.ledger import Ledger
from stepsmith.discovery.search import RacingConfig, regularized_evolution
from stepsmith.tasks import get, reference

TASKS = ("digits_mlp", "digits_autoencoder")
HURDLE = 2.0  # fitness; what about the best 30 % of a search's first 200 programs reach
CALIBRATION = RacingConfig().calibration
WAYS = {
    "plain": {},
    "racing": {"racing": RacingConfig(enabled=True)},
    "hurdle": {"hurdle": HURDLE},
    "both": {"hurdle": HURDLE, "racing": RacingConfig(enabled=True)},
}


def measure(pool, references, folder, config):
    """Steps a program, of all and after the calibration, seconds, the share stopped, the winner's confirmed fitness."""
    yardsticks = {name: Yardstick(found.log_loss, found.scale) for name, found in references.items()}
    versions = {name: found.version for name, found in references.items()}
    strategy = regularized_evolution(load(config.initial), config.evolution, config.mutation)
    with Ledger.create(folder / "ledger.sqlite", "benchmark", to_dict(config), {"tasks": versions}) as ledger:
        coordinator = Coordinator(config, strategy, ledger, pool, yardsticks, versions)
        start = time.perf_counter()
        coordinator.run(lambda snapshot: None)
        seconds = time.perf_counter() - start
        new, statuses = set(config.finalist_seed_values), ledger.counts()["statuses"]
        births = [birth.hash for birth in ledger.births() if birth.block == 0]
        steps = [sum(row.steps for row in ledger.evaluations(program) if row.seed not in new) for program in births]
    return {
        "steps": statistics.mean(steps),
        "later": statistics.mean(steps[CALIBRATION:]),
        "seconds": seconds,
        "stopped": statuses.get("stopped", 0) / len(births),
        "confirmed": coordinator.finalists[0][1],
    }


def main():
    repeats, programs = (1, 400) if "--quick" in sys.argv else (5, 1000)
    references = {name: reference.stored_or_measured(get(name)) for name in TASKS}
    values = {name: [found.log_loss, found.scale] for name, found in references.items()}
    found = {way: [] for way in WAYS}
    spec = WorkerSpec(TASKS, values, initial=load("adamw").to_json())
    with tempfile.TemporaryDirectory() as folder, WorkerPool(spec, 2) as pool:
        pool.wait_until_ready()
        for seed in range(repeats):
            for way, settings in WAYS.items():
                config = SearchConfig(TASKS, budget=str(programs), seed=seed, finalists=10, **settings).resolved()
                found[way].append(measure(pool, references, Path(folder) / f"{way}{seed}", config))
                print(f"seed {seed} {way:7} " + " ".join(f"{k}={v:.3f}" for k, v in found[way][-1].items()), file=sys.stderr, flush=True)
    print(f"{programs} programs, {repeats} repeats; medians, and the range of the winner's confirmed fitness")
    print(f"{'':8}{'steps':>7}{'saved':>7}{'later':>7}{'saved':>7}{'seconds':>9}{'stopped':>9}{'winner':>9}")
    for way, rows in found.items():
        median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        pairs = list(zip(found["plain"], rows, strict=True))
        saved, later = (statistics.median(plain[name] / row[name] for plain, row in pairs) for name in ("steps", "later"))
        winners = [row["confirmed"] for row in rows]
        print(
            f"{way:8}{median['steps']:7.0f}{saved:7.2f}{median['later']:7.0f}{later:7.2f}{median['seconds']:9.1f}{median['stopped']:9.0%}"
            f"{median['confirmed']:9.3f} ({min(winners):.3f} to {max(winners):.3f})"
        )


if __name__ == "__main__":
    main()
