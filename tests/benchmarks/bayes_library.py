"""The Bayesian optimiser against the library bayesian-optimization, and against random points, on standard functions.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bayes_library.py [--quick]

Each row: the median, and the range, over the seeds, of the lowest value found; of the noisy function its true value where the lowest was
seen, and at the point that ours recommends. Both optimisers begin with as many points and look at as many.
tests/schedules/autolrs/test_optimizer.py asks of ours, on five seeds, that it is not worse. Set OPENBLAS_NUM_THREADS=1: on matrices as
small, threads wait for each other.
"""

import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from stepsmith.schedules.autolrs import optimizer as bayes
from stepsmith.schedules.autolrs.settings import Axis, BayesConfig, ExpectedImprovement, LowerConfidenceBound


def branin(point):
    """Lowest 0.398, at three places."""
    x, y = point
    return (y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10


HARTMANN_A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
HARTMANN_P = np.array(
    [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ]
)


def hartmann(point):
    """Lowest -3.322."""
    return -np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(HARTMANN_A * (np.asarray(point) - HARTMANN_P) ** 2).sum(1))


def forrester(point):
    """Lowest -6.02."""
    return (6 * point[0] - 2) ** 2 * np.sin(12 * point[0] - 4)


class Problem(NamedTuple):
    """A function to be minimised.

    Attributes:
        function: of a point, [axes].
        axes: its box.
        evaluations: points that may be looked at.
        noise: standard deviation of what is added to a value that is told.
        acquisition: of ours.
    """

    function: Callable[[Sequence[float]], float]
    axes: tuple[Axis, ...]
    evaluations: int
    noise: float = 0.0
    acquisition: ExpectedImprovement | LowerConfidenceBound = ExpectedImprovement()


PROBLEMS = {
    "branin": Problem(branin, (Axis(-5.0, 10.0), Axis(0.0, 15.0)), 25),
    "hartmann": Problem(hartmann, (Axis(0.0, 1.0),) * 6, 40),
    "noisy forrester": Problem(forrester, (Axis(0.0, 1.0),), 20, 1.0, LowerConfidenceBound()),
}


def _noisy(problem, seed):
    generator = np.random.default_rng(seed)
    return lambda point: problem.function(point) + (generator.normal(0, problem.noise) if problem.noise else 0.0)


def ours(problem, seed, batch=1):
    """What ours finds, asked for as many points at once."""
    config, function = BayesConfig(problem.axes, problem.acquisition, capacity=64, seed=seed), _noisy(problem, seed)
    state = bayes.init(config)
    for _ in range(problem.evaluations // batch):
        points, state = bayes.ask(config, state, batch)
        state = bayes.tell(config, state, points, [function(point) for point in points])
    chosen = bayes.recommend if problem.noise else bayes.best
    return float(problem.function(chosen(config, state).point))


def theirs(problem, seed):
    """What the library finds, as it is set by default."""
    from bayes_opt import BayesianOptimization

    names, function, seen = [f"x{index}" for index in range(len(problem.axes))], _noisy(problem, seed), []

    def told(**values):
        point = [values[name] for name in names]
        seen.append((function(point), point))
        return -seen[-1][0]

    box = {name: (axis.low, axis.high) for name, axis in zip(names, problem.axes, strict=True)}
    search = BayesianOptimization(told, box, random_state=seed, verbose=0, allow_duplicate_points=True)
    initial = BayesConfig(problem.axes).initial
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.maximize(init_points=initial, n_iter=problem.evaluations - initial)
    return float(problem.function(min(seen)[1]))


def at_random(problem, seed):
    """What as many points drawn evenly find."""
    generator, function = np.random.default_rng(1000 + seed), _noisy(problem, seed)
    low, high = ([getattr(axis, name) for axis in problem.axes] for name in ("low", "high"))
    points = generator.uniform(low, high, (problem.evaluations, len(problem.axes)))
    return float(problem.function(min(points, key=function)))


def main():
    seeds = range(3 if "--quick" in sys.argv else 15)
    print(f"medians over {len(seeds)} seeds, lowest to highest")
    for name, problem in PROBLEMS.items():
        for who in (ours, theirs, at_random):
            found = [who(problem, seed) for seed in seeds]
            print(f"{name:16} {who.__name__:10}{statistics.median(found):8.3f} ({min(found):.3f} to {max(found):.3f})", flush=True)


if __name__ == "__main__":
    main()
