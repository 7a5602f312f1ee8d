"""Learning rates that tune themselves, from a good first rate and from one 30 times too small or too large.

    python tests/benchmarks/self_tuning.py [--steps 200] [--seeds 5] [--directions sgd adam]

On digits_mlp, with SGD and with Adam: the validation loss at the end, median of the seeds, of the best constant rate of a grid, of linear
decay from its best, and of self-tuning and hypergradient descent that start at the best constant rate times a factor. The rate at the end
beside it. 'failed' where the loss is no number.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stepsmith import schedules
from stepsmith.schedules.self_tuning import SelfTuningConfig, SelfTuningState, self_tuned_params, self_tuning
from stepsmith.tasks import get
from stepsmith.tasks.training import start, take_steps

TASK = "digits_mlp"
FACTORS = (1 / 30, 1.0, 30.0)
DIRECTIONS = {"sgd": (optax.identity, 0.3), "adam": (optax.scale_by_adam, 0.01)}
CONFIGS = ((0.02, 100.0), (0.05, 10.0), (0.05, 100.0), (0.05, 1000.0), (0.1, 100.0))  # step size and memory
GRID = 3.0 ** np.arange(-4, 4)


def losses(rule: Callable, rates: np.ndarray, steps: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation losses and last rates, [rates, seeds]."""
    task = get(TASK)
    data = jax.device_put(dict(task.load()))

    def run(rate, seed):
        transformation = rule(rate)
        end, _, _ = take_steps(task, transformation, data, start(task, transformation, jax.random.key(seed)), steps)
        tuned = isinstance(end.opt_state, SelfTuningState)
        params = self_tuned_params(end.opt_state, end.params) if tuned else end.params
        last = end.opt_state.learning_rate if isinstance(end.opt_state, SelfTuningState | schedules.HypergradientState) else rate
        return task.metric(params, end.state, task.examples(data, "validation"))["loss"], last

    over_seeds = jax.vmap(run, (None, 0))
    found = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(rates, jnp.float32), jnp.arange(seeds))
    return np.asarray(found[0]), np.broadcast_to(np.asarray(found[1]), found[0].shape)


def print_row(name: str, found: tuple[np.ndarray, np.ndarray]) -> None:
    """A cell for each first rate."""
    values, lasts = np.median(found[0], axis=1), np.median(found[1], axis=1)
    cells = [f"{v:.4f} (rate {r:.3g})" if np.isfinite(v) else "failed" for v, r in zip(values, lasts, strict=True)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    given = parser.parse_args()
    for name in given.directions:
        direction, centre = DIRECTIONS[name]

        def constant(rate, direction=direction):
            return optax.chain(direction(), optax.scale(-rate))

        def linear(rate, direction=direction):
            return optax.chain(direction(), optax.scale_by_learning_rate(lambda step: rate * (1 - step / given.steps)))

        best = {}
        for shape, rule in (("constant", constant), ("linear", linear)):
            found = losses(rule, centre * GRID, given.steps, given.seeds)
            best[shape] = int(np.nanargmin(np.median(found[0], axis=1)))
            print(f"{name}, best {shape}: {np.median(found[0][best[shape]]):.4f} at {centre * GRID[best[shape]]:.3g}")
        rates = centre * GRID[best["constant"]] * np.array(FACTORS)
        print(f"\n| {name} | " + " | ".join(f"from {rate:.3g}" for rate in rates) + " |\n" + "|---" * (1 + len(rates)) + "|")
        print_row("constant", losses(constant, rates, given.steps, given.seeds))
        for beta in (0.02, 0.1):

            def hypergradient(rate, direction=direction, beta=beta):
                return schedules.multiplicative_hypergradient_descent(direction(), rate, beta)

            print_row(f"hypergradient descent, beta {beta:g}", losses(hypergradient, rates, given.steps, given.seeds))
        for step_size, memory in CONFIGS:
            config = SelfTuningConfig(step_size=step_size, memory=memory)

            def tuned(rate, direction=direction, config=config):
                return self_tuning(direction(), rate, config=config)

            print_row(f"self-tuning, step size {step_size:g}, memory {memory:g}", losses(tuned, rates, given.steps, given.seeds))
        print()


if __name__ == "__main__":
    main()
