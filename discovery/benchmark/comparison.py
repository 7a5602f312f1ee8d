"""From trials to a comparison: times to target, studies drawn from the pool of trials, scores, speed-ups, intervals, tests.

A study is `per_study` trials drawn from the pool with replacement (without it, a resampled pool would give worse studies than the
pool itself, for it holds fewer different trials); its time is that of its first trial to reach the
target, and a competitor's time on a workload is the median over studies. All competitors ran the same points of the space from the
same seeds, so a draw takes the same trials from each: differences are paired. The intervals are percentiles of a bootstrap
over the pool of trials, the workloads held fixed.

A variant whose base workload takes part is held out, as in AlgoPerf: it is no workload of the score or of the speed-ups, but who
misses it loses its base workload in the score (`performance.apply_held_out`).
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .performance import Target, Trial, apply_held_out, geometric_speedup, ratios, score, time_to_target

STUDIES, PER_STUDY = 1000, 5
REPLICATE_STUDIES = 100  # of each replicate, to save time
MISS_BUDGETS = 2  # a miss counts as so many whole budgets in a speed-up
REPLICATES = 2000  # of the bootstrap; a p-value is no smaller than 2 / 2001 before correction


class Pool(NamedTuple):
    """All trials of a comparison.

    Attributes:
        entries: competitors.
        workloads: names.
        bases: name of the workload that each is scored with: its own, or that of its base where it is held out.
        reached: index of the evaluation that reached the target, from 1, infinite where none did; [entries, workloads, trials].
        steps: from one evaluation to the next, [workloads].
        budgets: evaluations that a run has, [workloads].
        step_seconds: median over trials of the seconds a step takes, infinite where none was done, [entries, workloads].
    """

    entries: tuple[str, ...]
    workloads: tuple[str, ...]
    bases: tuple[str, ...]
    reached: Float[np.ndarray, "entries workloads trials"]
    steps: Float[np.ndarray, " workloads"]
    budgets: Float[np.ndarray, " workloads"]
    step_seconds: Float[np.ndarray, "entries workloads"]

    @property
    def scored(self) -> tuple[str, ...]:
        """The workloads that are not held out."""
        return tuple(name for name, base in zip(self.workloads, self.bases, strict=True) if name == base)

    def costs(self, seconds: bool) -> Float[np.ndarray, "entries workloads trials"]:
        """Steps to the target, or seconds."""
        steps = self.reached * self.steps[:, None]
        return steps * self.step_seconds[:, :, None] if seconds else steps

    def limits(self, seconds: bool) -> Float[np.ndarray, "entries workloads"]:
        """What the whole budget costs; in seconds, an entry that did no step has the slowest one's."""
        steps = np.broadcast_to(self.budgets * self.steps, self.step_seconds.shape)
        if not seconds:
            return steps
        known = np.isfinite(self.step_seconds)
        slowest = np.max(self.step_seconds, axis=0, where=known, initial=np.finfo(float).tiny)  # above 0 where nobody did a step
        return steps * np.where(known, self.step_seconds, slowest)


class Standing(NamedTuple):
    """One competitor.

    Attributes:
        entry: its label.
        score: benchmark score among the competitors, from 0 to 1, and its interval.
        speedup: geometric mean over the scored workloads of the reference's time over this one's, and its interval; a miss
            counts as two whole budgets. The score alone knows the held-out rule.
        p_value: of no difference to the reference, Holm's correction included; NaN for the reference itself.
        times: on each workload, held-out ones too, infinite where missed, before any rule.
        ratios: to the best on each scored workload, infinite where missed, after all rules.
    """

    entry: str
    score: float
    score_interval: tuple[float, float]
    speedup: float
    speedup_interval: tuple[float, float]
    p_value: float
    times: dict[str, float]
    ratios: dict[str, float]

    @property
    def reached(self) -> int:
        """Workloads, held-out ones too, whose target it reaches."""
        return sum(map(math.isfinite, self.times.values()))


def draw_studies(generator: np.random.Generator, num_trials: int, studies: int, per_study: int) -> np.ndarray:
    """Indices of the trials of each study, [studies, per_study], with replacement.

    Raises:
        ValueError: a study needs more trials than there are.
    """
    if per_study > num_trials:
        raise ValueError(f"a study of {per_study} trials needs a pool of as many, there are {num_trials}; run more trials")
    return generator.integers(num_trials, size=(studies, per_study))


def times(costs: np.ndarray, studies: np.ndarray) -> np.ndarray:
    """Median over studies of their best trial.

    Args:
        costs: [..., trials], infinite where the target was missed.
        studies: of `draw_studies`.

    Returns:
        [...]; of an even number of studies the mean of the two in the middle, so infinite as soon as one of them is.
    """
    return np.asarray(np.median(costs[..., studies].min(axis=-1), axis=-1))


def compare(
    pool: Pool,
    reference: str,
    seconds: bool = False,
    studies: int = STUDIES,
    per_study: int = PER_STUDY,
    level: float = 0.05,
    seed: int = 0,
    replicates: int = REPLICATES,
    added: Mapping[str, int] = MappingProxyType({}),
) -> list[Standing]:
    """Ranks the competitors of a pool.

    Args:
        pool: all trials.
        reference: the entry that speed-ups are over.
        seconds: time in seconds rather than in steps.
        studies: how many are drawn.
        per_study: trials in a study.
        level: error of the intervals, 0.05 for 95 %.
        seed: of the draws.
        replicates: of the bootstrap.
        added: entry -> steps that each of its runs costs beside its own, as a search for its schedule does; of no use with seconds.

    Returns:
        Highest score first, equal ones by speed-up.
    """
    generator = np.random.default_rng(seed)
    beside = np.array([float(added.get(name, 0)) for name in pool.entries])[:, None]
    costs, missed, at = pool.costs(seconds) + beside[..., None], MISS_BUDGETS * pool.limits(seconds) + beside, pool.entries.index(reference)
    num_trials = costs.shape[-1]
    found = times(costs, draw_studies(generator, num_trials, studies, per_study))
    relative = _relative(pool, found)
    scores, speedups = score(relative), _speedups(pool, found, missed, at)
    drawn_scores, drawn_speedups = [], []
    for _ in range(replicates):
        resampled = generator.integers(num_trials, size=num_trials)
        chosen = resampled[draw_studies(generator, num_trials, studies, per_study)]
        again = times(costs, chosen[:REPLICATE_STUDIES])
        drawn_scores.append(score(_relative(pool, again)))
        drawn_speedups.append(_speedups(pool, again, missed, at))
    ends = (level / 2, 1 - level / 2)
    score_ends, logs = np.quantile(drawn_scores, ends, axis=0), np.log(drawn_speedups)
    speedup_ends = np.exp(np.quantile(logs, ends, axis=0))
    p_values = holm(two_sided(logs), at)
    standings = [
        Standing(
            entry=name,
            score=float(scores[index]),
            score_interval=(float(score_ends[0, index]), float(score_ends[1, index])),
            speedup=float(speedups[index]),
            speedup_interval=(float(speedup_ends[0, index]), float(speedup_ends[1, index])),
            p_value=float(p_values[index]),
            times=dict(zip(pool.workloads, found[index].tolist(), strict=True)),
            ratios=dict(zip(pool.scored, relative[index].tolist(), strict=True)),
        )
        for index, name in enumerate(pool.entries)
    ]
    return sorted(standings, key=lambda s: (-s.score, -s.speedup, s.entry))


def _relative(pool: Pool, found: np.ndarray) -> np.ndarray:
    """Ratios to the best after all rules, [entries, scored workloads]."""
    scored = pool.scored
    held_out = [(index, scored.index(base)) for index, base in enumerate(pool.bases) if pool.workloads[index] not in scored]
    variants = found[:, [index for index, _ in held_out]]
    return ratios(apply_held_out(_scored(pool, found), variants, [base for _, base in held_out]))


def _speedups(pool: Pool, found: np.ndarray, missed: np.ndarray, reference: int) -> np.ndarray:
    """Of each entry over the reference, [entries]; `missed` is what a miss counts as, [entries, workloads]."""
    counted = _scored(pool, np.where(np.isfinite(found), found, missed))
    return geometric_speedup(counted, counted[reference])


def _scored(pool: Pool, found: np.ndarray) -> np.ndarray:
    return found[:, [pool.workloads.index(name) for name in pool.scored]]


def two_sided(drawn: np.ndarray) -> np.ndarray:
    """Bootstrap p-values of "the mean is 0" for draws [replicates, entries]: twice the smaller share on either side.

    Example:
        >>> two_sided(np.array([[1.0], [2.0], [3.0], [-1.0]])).tolist()
        [0.8]
    """
    least = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0)) + 1
    return np.minimum(2 * least / (len(drawn) + 1), 1.0)


def holm(p_values: np.ndarray, reference: int) -> np.ndarray:
    """Holm's correction for many comparisons with one reference, which has no p-value of its own (NaN).

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> holm(np.array([0.01, 1.0, 0.03]), reference=1).tolist()
        [0.02, nan, 0.03]
    """
    corrected = np.full(len(p_values), np.nan)
    others = sorted((p, index) for index, p in enumerate(p_values) if index != reference)
    highest = 0.0
    for rank, (p, index) in enumerate(others):
        highest = max(highest, min(p * (len(others) - rank), 1.0))
        corrected[index] = highest
    return corrected


def target_of(curves: Sequence[Sequence[float]], share: float) -> float:
    """The target that a tuned baseline sets: the validation loss that a share of its trials reach within the budget.

    Args:
        curves: losses of each trial at each evaluation of a whole budget.
        share: of the trials, between 0 and 1.

    Example:
        >>> target_of([[4.0, 3.0], [4.0, 2.0], [4.0, 1.0], [math.nan]], share=0.5)
        2.0
    """
    lowest = sorted(min((loss for loss in curve if math.isfinite(loss)), default=math.inf) for curve in curves)
    return lowest[max(math.ceil(share * len(lowest)), 1) - 1]


def pool_of(
    curves: Mapping[tuple[str, str], Sequence[Sequence[float]]],
    step_seconds: Mapping[tuple[str, str], float],
    targets: Mapping[str, float],
    steps: Mapping[str, int],
    budgets: Mapping[str, int],
    bases: Mapping[str, str],
) -> Pool:
    """Puts the trials of (entry, workload) pairs, complete for all pairs, into arrays.

    Args:
        curves: losses of each trial, by pair.
        step_seconds: median seconds of a step, by pair.
        targets: by workload, as all that follow.
        steps: from one evaluation to the next.
        budgets: evaluations that a run has.
        bases: the workload that it is a variant of; one that takes no part holds nothing out.
    """
    entries = tuple(dict.fromkeys(entry for entry, _ in curves))
    names = tuple(dict.fromkeys(workload for _, workload in curves))
    num = min(len(trials) for trials in curves.values())
    reached = [[[_evaluations(losses, targets[w]) for losses in curves[e, w][:num]] for w in names] for e in entries]
    return Pool(
        entries,
        names,
        tuple(bases[w] if bases[w] in names else w for w in names),
        np.array(reached, float),
        np.array([steps[w] for w in names], float),
        np.array([budgets[w] for w in names], float),
        np.array([[step_seconds[e, w] for w in names] for e in entries], float),
    )


def _evaluations(losses: Sequence[float], target: float) -> float:
    """Evaluations up to the first that reaches the target, it included; infinite where none does."""
    return time_to_target(Trial(np.arange(1.0, len(losses) + 1), np.array(losses, float)), Target(target, falls=True)).time
