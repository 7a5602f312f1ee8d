"""Schedules found by population-based training against a grid of as many runs, on seeds that neither has seen.

    python tests/benchmarks/population.py [--task digits_mlp] [--steps 200]

A population of 8 members and a grid of 8 rates, in steps of 3 around the same centre, with constant, linear and cosine schedules, cost the
same number of steps. Each picks by the validation loss of one seed; what it picked is trained on ten other seeds: median test loss.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from stepsmith.discovery.training.population_loop import TaskPopulation
from stepsmith.discovery.training.population_training import make_population, winners_schedule
from stepsmith.optimizers import registry as optimizers
from stepsmith.schedules import create, population
from stepsmith.tasks import get
from stepsmith.tasks.training import start, take_steps

MEMBERS, PICKING, NEW = 8, (0, 1, 2), np.arange(10, 20)


def trained(task, data, make: Callable, arguments: np.ndarray, seeds: np.ndarray, steps: int, split: str) -> np.ndarray:
    """Losses [arguments, seeds] of a split at the end."""

    def run(argument, seed):
        rule = make(argument)
        end, _, _ = take_steps(task, rule, data, start(task, rule, jax.random.key(seed)), steps)
        return task.metric(end.params, end.state, task.examples(data, split))["loss"]

    both = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    return np.asarray(both(jnp.asarray(arguments, jnp.float32), jnp.asarray(seeds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits_mlp")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--optimizers", nargs="+", default=["momentum", "adam"])
    given = parser.parse_args()
    task = get(given.task)
    data = jax.device_put(dict(task.load()))
    print("| rule | schedule | picked on seed | rate | validation loss there | test loss on new seeds |\n|---|---|---|---|---|---|")
    for name in given.optimizers:
        centre = optimizers.get(name).learning_rate
        grid = centre * 3.0 ** np.arange(-3, 5)

        def rule(schedule, name=name):
            return optimizers.create(name, schedule)

        for shape in ("constant", "linear", "cosine"):
            relative = create(shape, 1.0, given.steps)

            def make(rate, relative=relative, rule=rule):
                return rule(lambda step: rate * relative(step))

            losses = trained(task, data, make, grid, np.array(PICKING), given.steps, "validation")
            for index, seed in enumerate(PICKING):
                best = int(np.nanargmin(losses[:, index]))
                new = np.median(trained(task, data, make, grid[best : best + 1], NEW, given.steps, "test"))
                print(f"| {name} | {shape} | {seed} | {grid[best]:.3g} | {losses[best, index]:.4f} | {new:.4f} |", flush=True)
        for seed in PICKING:
            _, training = make_population(f"pbt:{MEMBERS}", name, given.steps, None, None, None, seed)
            members = TaskPopulation(
                task, lambda values, rule=rule: rule(lambda step: values["learning_rate"]), training.config, seed, data
            )
            state = population.run(training.config, members.loop())
            schedule = winners_schedule(training.config, state)

            def replayed(factor, schedule=schedule, rule=rule):
                return rule(lambda step: factor * schedule(step))

            new = np.median(trained(task, data, replayed, np.ones(1), NEW, given.steps, "test"))
            rates = [piece.values["learning_rate"] for piece in population.lineage(training.config, state)]
            ends = f"{rates[0]:.3g} to {rates[-1]:.3g}"
            print(f"| {name} | population | {seed} | {ends} | {np.nanmin(state.rounds[-1].scores):.4f} | {new:.4f} |", flush=True)


if __name__ == "__main__":
    main()
