"""How fast training algorithms are, the AlgoPerf way: from evaluations to one score each.

Dahl et al., Benchmarking Neural Network Training Algorithms, 2023, arXiv:2306.07179. A submission trains every workload
in several studies of several trials; what counts is the time until the validation metric reaches the workload's target:

    trials --time_to_target--> --earliest--> studies --median--> times [submissions, workloads]
    times --apply_held_out--> --ratios--> --score--> [submissions]

Nothing here knows of files. A time is any positive measure of cost (seconds, steps, examples); infinite says missed.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

MAX_RATIO = 4.0  # r_max of the paper: what takes longer, in units of the best, counts as missed
NUM_TAUS = 100  # points of the integral, as in the released code


class Target(NamedTuple):
    """The validation metric that a workload asks for."""

    value: float
    falls: bool = False  # whether a smaller metric is a better one


class Trial(NamedTuple):
    """One training run: its evaluations, in order."""

    times: np.ndarray  # [evaluations] float64, the submission's own time since the start
    metrics: np.ndarray  # [evaluations] float64, the validation metric, NaN where there is none


class Reached(NamedTuple):
    """When a trial reached its target; both infinite where it never did."""

    evaluation: float  # index of the evaluation, from 0
    time: float


MISSED = Reached(math.inf, math.inf)
Choice = Callable[[Sequence[Reached]], Reached]  # the trial that counts for a study


def time_to_target(trial: Trial, target: Target) -> Reached:
    """The first evaluation whose validation metric is as good as the target (arXiv:2306.07179).

    Args:
        trial: its evaluations.
        target: to be reached; to equal it is enough. A metric that is NaN or infinite never does.

    Returns:
        Index and time of that evaluation.

    Example:
        >>> trial = Trial(np.array([10.0, 20.0, 30.0]), np.array([0.5, 0.2, 0.1]))
        >>> time_to_target(trial, Target(0.2, falls=True)), time_to_target(trial, Target(0.9))
        (Reached(evaluation=1, time=20.0), Reached(evaluation=inf, time=inf))
    """
    good = trial.metrics <= target.value if target.falls else trial.metrics >= target.value
    hits = np.flatnonzero(good & np.isfinite(trial.metrics))
    return Reached(int(hits[0]), float(trial.times[hits[0]])) if hits.size else MISSED


def earliest(reached: Sequence[Reached]) -> Reached:
    """The trial of fewest evaluations, as in the code released with AlgoPerf (arXiv:2306.07179); of equals, the faster.

    Args:
        reached: of each trial of a study.

    Returns:
        That of the best; missed where there is no trial.

    Example:
        >>> earliest([Reached(2, 30.0), Reached(1, 35.0), MISSED])
        Reached(evaluation=1, time=35.0)
    """
    return min(reached, default=MISSED)


def fastest(reached: Sequence[Reached]) -> Reached:
    """The trial of least time (arXiv:2306.07179), which differs where a trial's evaluations lie closer together.

    Args:
        reached: of each trial of a study.

    Returns:
        That of the best; missed where there is no trial.

    Example:
        >>> fastest([Reached(2, 30.0), Reached(1, 35.0), MISSED])
        Reached(evaluation=2, time=30.0)
    """
    return min(reached, key=lambda one: one.time, default=MISSED)


def workload_time(studies: Sequence[Sequence[Trial]], target: Target, choose: Choice = earliest) -> float:
    """The time of a submission on a workload: the median over studies of their best trial's (arXiv:2306.07179).

    Args:
        studies: the trials of each. A study whose trials all miss counts as infinite; one that was not run does not count.
        target: of the workload.
        choose: the best trial of a study, `earliest` or `fastest`.

    Returns:
        The median. Of an even number it is the mean of the two in the middle, so infinite as soon as one of them is: half
        of the studies may not miss. Infinite where there is no study.

    Example:
        >>> quick, slow, never = (Trial(np.array([t]), np.array([m])) for t, m in [(10.0, 0.9), (20.0, 0.9), (5.0, 0.1)])
        >>> [workload_time(studies, Target(0.8)) for studies in ([[quick, never], [slow]], [[quick], [never]])]
        [15.0, inf]
    """
    times = [choose([time_to_target(trial, target) for trial in study]).time for study in studies]
    return float(np.median(times)) if times else math.inf


def apply_held_out(
    times: Float[np.ndarray, "submissions workloads"],
    variant_times: Float[np.ndarray, "submissions variants"],
    base_of: Sequence[int],
    max_ratio: float = MAX_RATIO,
) -> Float[np.ndarray, "submissions workloads"]:
    """Takes a workload from who misses a held-out variant of it (arXiv:2306.07179), in the order of AlgoPerf v0.5.

    1. Who misses a workload misses its variants. 2. What takes more than `max_ratio` times the best, among those left,
    is a miss, on workloads and variants alike. 3. Who misses a variant misses its workload.

    Args:
        times: on the base workloads; infinite or NaN is a miss.
        variant_times: on the held-out variants.
        base_of: column of `times` for each variant. A workload may have none or several.
        max_ratio: above 1.

    Returns:
        The times on the base workloads, infinite where missed.

    Example:
        >>> times, variant_times = np.array([[10.0], [20.0], [30.0]]), np.array([[50.0], [np.inf], [5.0]])
        >>> apply_held_out(times, variant_times, [0]).tolist()
        [[inf], [inf], [30.0]]
    """
    times, variants = _checked(times), _checked(variant_times)
    if len(base_of) != variants.shape[1]:
        raise ValueError(f"{variants.shape[1]} held-out variants need one base workload each, got {len(base_of)}")
    bases = np.asarray(base_of, int)
    variants = np.where(np.isinf(times[:, bases]), np.inf, variants)
    times, variants = (np.where(_too_slow(each, max_ratio), np.inf, each) for each in (times, variants))
    for variant, base in zip(variants.T, bases, strict=True):
        times[np.isinf(variant), base] = np.inf
    return times


def ratios(times: Float[np.ndarray, "submissions workloads"], max_ratio: float = MAX_RATIO) -> Float[np.ndarray, "submissions workloads"]:
    """``r_sw = t_sw / min_s t_sw``, the times in units of the best submission on each workload (arXiv:2306.07179).

    Args:
        times: infinite or NaN is a miss.
        max_ratio: above 1.

    Returns:
        From 1 to `max_ratio`; infinite where missed or above it. Who equals the best has 1, be it that both took no time.

    Example:
        >>> ratios(np.array([[10.0, np.inf], [15.0, np.inf], [41.0, 7.0]])).tolist()
        [[1.0, inf], [1.5, inf], [inf, 1.0]]
    """
    times = _checked(times)
    best = times.min(axis=0, initial=np.inf)
    with np.errstate(all="ignore"):  # inf / inf, x / 0: replaced below
        quotients = np.where(times == best, 1.0, times / best)
    return np.where(np.isinf(times) | _too_slow(times, max_ratio), np.inf, quotients)


def profile(ratios: Float[np.ndarray, "submissions workloads"], taus: Float[np.ndarray, " taus"]) -> Float[np.ndarray, "submissions taus"]:
    """``rho_s(tau)``, the share of workloads on which a submission is within tau of the best (arXiv:2306.07179).

    Performance profiles are of Dolan and Moré, 2002, arXiv:cs/0102001.

    Args:
        ratios: of `ratios`.
        taus: where to take the profiles.

    Returns:
        Shares from 0 to 1, rising with tau.

    Raises:
        ValueError: no workload.

    Example:
        >>> profile(np.array([[1.0, 1.0], [2.0, np.inf]]), np.array([1.0, 1.5, 2.0])).tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.5]]
    """
    if ratios.shape[1] == 0:
        raise ValueError("a profile needs a workload, got none")
    return (ratios[:, :, None] <= taus).mean(axis=1)


def score(ratios: Float[np.ndarray, "submissions workloads"], max_ratio: float = MAX_RATIO) -> Float[np.ndarray, " submissions"]:
    """``1 / (r_max - 1) * integral of rho_s from 1 to r_max``, the benchmark score (arXiv:2306.07179).

    By the trapezoid rule on 100 evenly spaced points, as in the released code.

    Args:
        ratios: of `ratios`.
        max_ratio: r_max, above 1.

    Returns:
        From 0, misses all workloads, to 1, the best on all of them.

    Example:
        >>> score(np.array([[1.0, 1.0], [2.5, np.inf]])).round(3).tolist()
        [1.0, 0.25]
    """
    taus = np.linspace(1.0, _checked_ratio(max_ratio), NUM_TAUS)
    return np.trapezoid(profile(ratios, taus), taus, axis=1) / (max_ratio - 1.0)


def geometric_speedup(
    times: Float[np.ndarray, "submissions workloads"],
    reference: Float[np.ndarray, " workloads"],
    budgets: Float[np.ndarray, " workloads"] | None = None,
) -> Float[np.ndarray, " submissions"]:
    """``exp(mean_w log(reference_w / times_w))``, how many times faster than another (times as in arXiv:2306.07179).

    Misses: with budgets, one counts as the whole budget, which flatters whoever missed; without, only the workloads that
    both reached count. So read it beside the score, which punishes misses.

    Args:
        times: above 0; infinite or NaN is a miss.
        reference: of the one that they are compared with.
        budgets: the time that a trial was allowed, finite, or None.

    Returns:
        Above 1 where the submission is faster. NaN where no workload counts.

    Example:
        >>> times, reference = np.array([[10.0, 10.0, np.inf], [80.0, 5.0, 50.0]]), np.array([40.0, 10.0, 50.0])
        >>> [geometric_speedup(times, reference, budgets).round(2).tolist() for budgets in (None, np.full(3, 100.0))]
        [[2.0, 1.0], [1.26, 1.0]]
    """
    ours, theirs = _checked(times), _checked(reference)
    if min(ours.min(initial=np.inf), theirs.min(initial=np.inf)) == 0.0:
        raise ValueError("a speed-up needs times above 0, got 0")
    if budgets is not None:
        ours, theirs = (np.where(np.isinf(each), budgets, each) for each in (ours, theirs))
    counts = np.isfinite(ours) & np.isfinite(theirs)
    with np.errstate(divide="ignore", invalid="ignore"):  # misses, which are not summed; 0 / 0 where no workload counts
        return np.exp(np.log(theirs / ours).sum(axis=-1, where=counts) / counts.sum(axis=-1))


def _checked(times: np.ndarray) -> np.ndarray:
    """A copy with NaN, which says that there was no run, as a miss."""
    if (times < 0).any():
        raise ValueError(f"times are 0 or more, got {times.min()}; NaN or infinite is a miss")
    return np.where(np.isnan(times), np.inf, times)


def _checked_ratio(max_ratio: float) -> float:
    if not 1.0 < max_ratio < math.inf:
        raise ValueError(f"max_ratio is a number above 1, got {max_ratio}")
    return max_ratio


def _too_slow(times: np.ndarray, max_ratio: float) -> Bool[np.ndarray, "submissions workloads"]:
    return times > _checked_ratio(max_ratio) * times.min(axis=0, initial=np.inf)
