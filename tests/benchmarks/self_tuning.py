"""Learning rates that tune themselves, from a good first rate and from one 30 times too small or too large; weight decays likewise.

    python tests/benchmarks/self_tuning.py [--steps 200] [--seeds 5] [--directions sgd adam] [--decay] [--task digits_mlp]

With SGD and with Adam: the validation loss at the end, median of the seeds, of the best constant rate of a grid, of linear
decay from its best, and of self-tuning and hypergradient descent that start at the best constant rate times a factor. The rate at the end
beside it. 'failed' where the loss is no number.

With --decay the weight decay is tuned instead, at the constant rate of `DIRECTIONS`, on batches of the validation split; the losses are
those of the test split, which nothing is tuned on.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stepsmith import schedules
from stepsmith.schedules.self_tuning import SelfTuningConfig, SelfTuningState, self_tuned_params, self_tuning, self_tuning_step
from stepsmith.tasks import get
from stepsmith.tasks.training import start, take_steps

FACTORS = (1 / 30, 1.0, 30.0)
DIRECTIONS = {"sgd": (optax.identity, 0.3), "adam": (optax.scale_by_adam, 0.01)}
CONFIGS = ((0.02, 100.0), (0.05, 10.0), (0.05, 100.0), (0.05, 1000.0), (0.1, 100.0))  # step size and memory
GRID = 3.0 ** np.arange(-4, 4)
DECAYS = 10.0 ** np.arange(-3, 2.5, 0.5)
DECAY_FACTORS = (1 / 100, 1 / 10, 1.0, 10.0, 100.0)
DECAY_CONFIGS = ((0.02, 100.0), (0.05, 100.0))
DECAY_BOUNDS = schedules.Bounds(1e-5, 1e4)


def losses(name: str, rule: Callable, rates: np.ndarray, steps: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation losses and last rates, [rates, seeds]."""
    task = get(name)
    data = jax.device_put(dict(task.load()))

    def run(rate, seed):
        transformation = rule(rate)
        end, _, _ = take_steps(task, transformation, data, start(task, transformation, jax.random.key(seed)), steps)
        tuned = isinstance(end.opt_state, SelfTuningState)
        params = self_tuned_params(end.opt_state, end.params) if tuned else end.params
        last = end.opt_state.learning_rate if isinstance(end.opt_state, SelfTuningState | schedules.HypergradientState) else rate
        return task.metric(params, end.state, task.examples(data, "validation"))["loss"], last

    return over_seeds(run, rates, seeds)


def over_seeds(run: Callable, values: np.ndarray, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """What `run` gives of a value and a seed, [values, seeds] each."""
    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(jnp.asarray(values, jnp.float32), jnp.arange(seeds))
    return np.asarray(found[0]), np.broadcast_to(np.asarray(found[1]), found[0].shape)


def decay_losses(name: str, rule: Callable, decays: np.ndarray, steps: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Test losses and last decays, [decays, seeds]; a rule that tunes itself does so on batches of the validation split."""
    task = get(name)
    data = jax.device_put(dict(task.load()))

    def run(decay, seed):
        transformation = rule(decay)
        begun = start(task, transformation, jax.random.key(seed))
        if not isinstance(begun.opt_state, SelfTuningState):
            end, _, _ = take_steps(task, transformation, data, begun, steps)
            return task.metric(end.params, end.state, task.examples(data, "test"))["loss"], decay
        step = self_tuning_step(transformation, lambda params, seen: task.loss(params, *seen), has_aux=True)

        def advance(carry, index):
            params, state, opt_state = carry
            drawing, loss_key = jax.random.split(jax.random.fold_in(begun.key, index))  # the batches of `take_steps`
            seen, held_out = ((state, task.batch(data, drawing, split), loss_key) for split in ("train", "validation"))
            params, opt_state, (_, state), _ = step(params, opt_state, seen, held_out)
            return (params, state, opt_state), None

        first = (begun.params, begun.state, begun.opt_state)
        (params, state, opt_state), _ = jax.lax.scan(advance, first, jnp.arange(steps))
        return task.metric(self_tuned_params(opt_state, params), state, task.examples(data, "test"))["loss"], opt_state.weight_decay

    return over_seeds(run, decays, seeds)


def print_row(name: str, found: tuple[np.ndarray, np.ndarray], what: str = "rate") -> None:
    """A cell for each first value."""
    values, lasts = np.median(found[0], axis=1), np.median(found[1], axis=1)
    cells = [f"{v:.4f} ({what} {r:.3g})" if np.isfinite(v) else "failed" for v, r in zip(values, lasts, strict=True)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_decays(given: argparse.Namespace, name: str) -> None:
    """The table of a direction where the decay is tuned."""
    direction, rate = DIRECTIONS[name]

    def constant(decay):
        return optax.chain(direction(), optax.add_decayed_weights(decay), optax.scale(-rate))

    found = decay_losses(given.task, constant, DECAYS, given.steps, given.seeds)
    best = int(np.nanargmin(np.median(found[0], axis=1)))
    print(f"{name} at {rate:g}, best constant decay on the test split: {np.median(found[0][best]):.4f} at {DECAYS[best]:.3g}")
    decays = DECAYS[best] * np.array(DECAY_FACTORS)
    print(f"\n| {name} | " + " | ".join(f"from {decay:.3g}" for decay in decays) + " |\n" + "|---" * (1 + len(decays)) + "|")
    print_row("constant", decay_losses(given.task, constant, decays, given.steps, given.seeds), "decay")
    for step_size, memory in DECAY_CONFIGS:
        config = SelfTuningConfig(step_size=step_size, memory=memory)

        def tuned(decay, config=config):
            return self_tuning(direction(), rate, decay, config, schedules.Bounds(rate, rate), DECAY_BOUNDS)

        row = decay_losses(given.task, tuned, decays, given.steps, given.seeds)
        print_row(f"self-tuning, step size {step_size:g}, memory {memory:g}", row, "decay")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument("--decay", action="store_true")
    parser.add_argument("--task", default="digits_mlp")
    given = parser.parse_args()
    for name in given.directions:
        if given.decay:
            print_decays(given, name)
            continue
        direction, centre = DIRECTIONS[name]

        def constant(rate, direction=direction):
            return optax.chain(direction(), optax.scale(-rate))

        def linear(rate, direction=direction):
            return optax.chain(direction(), optax.scale_by_learning_rate(lambda step: rate * (1 - step / given.steps)))

        best = {}
        for shape, rule in (("constant", constant), ("linear", linear)):
            found = losses(given.task, rule, centre * GRID, given.steps, given.seeds)
            best[shape] = int(np.nanargmin(np.median(found[0], axis=1)))
            print(f"{name}, best {shape}: {np.median(found[0][best[shape]]):.4f} at {centre * GRID[best[shape]]:.3g}")
        rates = centre * GRID[best["constant"]] * np.array(FACTORS)
        print(f"\n| {name} | " + " | ".join(f"from {rate:.3g}" for rate in rates) + " |\n" + "|---" * (1 + len(rates)) + "|")
        print_row("constant", losses(given.task, constant, rates, given.steps, given.seeds))
        for beta in (0.02, 0.1):

            def hypergradient(rate, direction=direction, beta=beta):
                return schedules.multiplicative_hypergradient_descent(direction(), rate, beta)

            print_row(f"hypergradient descent, beta {beta:g}", losses(given.task, hypergradient, rates, given.steps, given.seeds))
        for step_size, memory in CONFIGS:
            config = SelfTuningConfig(step_size=step_size, memory=memory)

            def tuned(rate, direction=direction, config=config):
                return self_tuning(direction(), rate, config=config)

            print_row(
                f"self-tuning, step size {step_size:g}, memory {memory:g}", losses(given.task, tuned, rates, given.steps, given.seeds)
            )
        print()


if __name__ == "__main__":
    main()
