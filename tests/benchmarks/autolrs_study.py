"""AutoLRS against tuned schedules: in how many steps does it reach what the best of them reaches at its end?

    python tests/benchmarks/autolrs_study.py [--quick] [--tasks digits_mlp digits_autoencoder] [--steps 1000] [--seeds 5]
        [--searches NAMES] [--json FILE]

The rule is Adam. Cosine, linear, REX and WSD are tuned on a grid of rates, a factor of 3 apart, on seeds and the validation split of
their own; the best rate of each is then run on the test seeds, and the best of the four gives the target: the mean logarithm of the loss
at the end, on the test split unless told. AutoLRS is run on the test seeds with each of several lengths, every one a run of its own, and
so are the tuned schedules, which shows what a longer run is worth. The shortest that reaches the target says the speed-up: the tuned
schedule's steps over AutoLRS's, without the search's steps and with them, and with those of the schedule's own tuning too.
Four ways to search: as in the paper (ten rates a stage, one after the other), half as many with the last stage's points as a prior,
a third as many, and `cooled`: five rates a stage, each judged behind a cooldown. `s` are the mean seconds of a run with its search,
compilation left out, on as many cores as there are.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stepsmith.discovery.training.schedule_loop import TaskLoop
from stepsmith.schedules.autolrs import stages
from stepsmith.schedules.autolrs.controller import run
from stepsmith.tasks import get
from stepsmith.tasks.base import load_on_device
from stepsmith.tasks.training import make_run, scores

SHAPES = {
    "cosine": lambda p: 0.5 * (1 + jnp.cos(jnp.pi * p)),
    "linear": lambda p: 1 - p,
    "rex": lambda p: (1 - p) / (1 - p / 2),
    "wsd": lambda p: jnp.minimum(1.0, (1 - p) / stages.COOLDOWN),
}
RATES = [0.001 * 3.0**power for power in range(-2, 6)]
TUNING_SEEDS, FIRST_TEST_SEED = (0, 1, 2), 100
FRACTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SEARCHES = {
    "paper": lambda steps, **bounds: stages.scaled(steps, **bounds),
    "5-rates": lambda steps, **bounds: stages.scaled(steps, candidates=5, batch=5, prior_variance=1.0, **bounds),
    "3-rates": lambda steps, **bounds: stages.scaled(steps, candidates=3, batch=3, prior_variance=1.0, **bounds),
    "cooled": lambda steps, **bounds: stages.cooled(steps, batch=5, **bounds),
}


def tuned(task, data, shape, steps, seeds, split):
    """The best rate of a schedule, and its log losses on the test seeds."""

    def one(rate, key):
        outcome = train(data, rate, key)
        losses = [task.metric(outcome.params, outcome.state, task.examples(data, each))["loss"] for each in ("validation", split)]
        return jnp.where(outcome.status == 0, jnp.stack(losses), jnp.inf)

    train = make_run(task, lambda rate: optax.adam(lambda step: rate * shape(step / steps)), steps)
    all_seeds = jax.jit(jax.vmap(one, in_axes=(None, 0)))

    def log_losses(rate, numbers):
        keys = jnp.stack([jax.random.key(number) for number in numbers])
        return np.log(np.maximum(all_seeds(rate, keys), 1e-6))

    rate = min(RATES, key=lambda rate: log_losses(rate, TUNING_SEEDS)[:, 0].mean())
    return rate, log_losses(rate, seeds)[:, 1]


def tuned_shapes(task, data, steps, seeds, split):
    """Of each schedule its best rate and its log losses on the test seeds, printed; and the name of the best."""
    results = {shape: tuned(task, data, function, steps, seeds, split) for shape, function in SHAPES.items()}
    for shape, (rate, losses) in results.items():
        print(f"  {shape:8} {steps:6} steps, tuned rate {rate:.4g}: log loss {losses.mean():+.4f} +- {_error(losses):.4f}", flush=True)
    return results, min(results, key=lambda shape: results[shape][1].mean())


def _error(losses):
    return losses.std(ddof=1) / len(losses) ** 0.5


def searched(loop, task, data, config, seeds, split):
    """AutoLRS's log losses on the seeds, its search's steps (mean), and seconds a run (mean)."""
    losses, search_steps, seconds = [], [], []
    for seed in seeds:
        loop.begin(seed)
        begun = time.perf_counter()
        state = run(dataclasses.replace(config, seed=seed), loop.loop(config.batch > 1))
        seconds.append(time.perf_counter() - begun)
        at = loop.train_state
        losses.append(np.log(max(scores(task, at.params, at.state, data, split)["loss"], 1e-6)) if state.status == "ok" else np.inf)
        search_steps.append(state.search_steps)
    return np.array(losses), float(np.mean(search_steps)), float(np.mean(seconds))


def study(name, steps, num_seeds, fractions, split, searches):
    """All of one task; rows are printed as they come."""
    task = get(name)
    data, seeds = load_on_device(task), range(FIRST_TEST_SEED, FIRST_TEST_SEED + num_seeds)
    print(f"\n{name}, Adam, {steps} steps, {num_seeds} test seeds, {split} loss")
    results, best = tuned_shapes(task, data, steps, seeds, split)
    target, tuning_steps = float(results[best][1].mean()), len(RATES) * steps
    same_steps = {}
    for fraction in fractions:
        if fraction < 1:
            shorter, of = tuned_shapes(task, data, round(fraction * steps), seeds, split)
            same_steps[fraction] = float(shorter[of][1].mean())
    loop, rows = TaskLoop(task, optax.adam, data=data), []
    for search in searches:
        warm = SEARCHES[search](round(min(fractions) * steps), lowest=1e-4, highest=0.3)
        run(warm, loop.loop(warm.batch > 1))
        for fraction in fractions:
            config = SEARCHES[search](round(fraction * steps), lowest=1e-4, highest=0.3)
            losses, search_steps, seconds = searched(loop, task, data, config, seeds, split)
            row = {
                "task": name,
                "search": search,
                "steps": config.steps,
                "search_steps": search_steps,
                "log_loss": float(losses.mean()),
                "error": float(_error(losses)),
                "target": target,
                "of": best,
                "best_tuned_of_these_steps": same_steps.get(fraction, target),
                "reached": bool(losses.mean() <= target),
                "speedup": steps / config.steps,
                "speedup_with_search": steps / (config.steps + search_steps),
                "speedup_both_searched": (steps + tuning_steps) / (config.steps + search_steps),
                "seconds": seconds,
            }
            rows.append(row)
            print(
                f"  {search:8} {config.steps:6} steps + {search_steps:7.0f} of search: log loss {row['log_loss']:+.4f}"
                f" +- {row['error']:.4f}{', reached' if row['reached'] else ''}; {seconds:.2f} s",
                flush=True,
            )
        first = next((row for row in rows if row["search"] == search and row["reached"]), None)
        if first is None:
            print(f"  {search}: the target {target:+.4f} of tuned {best} is not reached")
        else:
            print(
                f"  {search}: reaches tuned {best} {first['speedup']:.2f} times faster, {first['speedup_with_search']:.2f} with the"
                f" search's steps, {first['speedup_both_searched']:.1f} with those of the tuning too, one run a rate"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["digits_mlp", "digits_autoencoder"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=("test", "validation", "train"), default="test")
    parser.add_argument("--searches", nargs="+", choices=tuple(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--quick", action="store_true", help="two seeds, two lengths")
    parser.add_argument("--json", type=Path, help="where the rows are written")
    arguments = parser.parse_args()
    seeds, fractions = (2, (0.5, 1.0)) if arguments.quick else (arguments.seeds, FRACTIONS)
    rows = [row for name in arguments.tasks for row in study(name, arguments.steps, seeds, fractions, arguments.split, arguments.searches)]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
