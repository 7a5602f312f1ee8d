"""What a fit and an ask of the Bayesian optimiser take, by the number of points told.

    python tests/benchmarks/bayes.py [--quick]

One core (the script pins itself). Targets: 50 ms at 10 points, 200 ms at 200 points, and one compilation for all. Times are medians, of the
processor and of the clock; the latter is larger on a busy machine. `tell` fits the process, `ask` looks for the next point.
"""

import os
import statistics
import sys
import time


def timed(function):
    """Milliseconds of one call: (of the clock, of the processor), and what it gave."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return (1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)), result


def measure(axes, counts, repeats):
    """Prints a row for each number of points."""
    import numpy as np

    from stepsmith.schedules.autolrs import gp, optimizer
    from stepsmith.schedules.autolrs.settings import Axis, BayesConfig

    config = BayesConfig(tuple(Axis(1e-5, 1.0, log=True) for _ in range(axes)), num_initial=0)
    generator = np.random.default_rng(0)
    points = 10 ** generator.uniform(-5, 0, (max(counts), axes))
    values = np.sin(np.log10(points)).sum(1) + 0.1 * generator.standard_normal(len(points))

    def both(count, state):
        # All but the last point are told beforehand, so that the fit starts where the one before ended.
        state = state._replace(told=optimizer.Points(*(array[: count - 1] for array in told)))
        fit, state = timed(lambda: optimizer.tell(config, state, points[count - 1 : count], values[count - 1 : count]))
        ask, _ = timed(lambda: optimizer.ask(config, state))
        return fit, ask, state

    told = optimizer.Points(np.log10(points) / 5 + 1, values, np.zeros(len(points)))
    begun = time.perf_counter()
    _, _, state = both(2, optimizer.init(config))
    print(f"{axes} axes: the first tell and ask took {time.perf_counter() - begun:.2f} s, compilation included")
    compiled = gp._fit._cache_size() + gp._propose._cache_size()
    for count in counts:
        fits, asks = [], []
        for _ in range(repeats):
            fit, ask, state = both(count, state)
            fits.append(fit)
            asks.append(ask)
        fit, ask = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in (fits, asks))
        print(
            f"{count:4} points: fit {fit[0]:6.1f} ms, ask {ask[0]:5.1f} ms, together {fit[0] + ask[0]:6.1f} ms"
            f" ({fit[1] + ask[1]:6.1f} ms of the processor)"
        )
    more = gp._fit._cache_size() + gp._propose._cache_size() - compiled
    print(f"compiled anew meanwhile: {more}")


def main():
    os.environ.update(NPROC="1", JAX_PLATFORMS="cpu")  # before jax is imported
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    quick = "--quick" in sys.argv
    for axes in (1, 6):
        measure(axes, (10, 200) if quick else (10, 16, 17, 50, 100, 200), 5 if quick else 15)


if __name__ == "__main__":
    main()
