"""Where a loss is going: L(t) = a*exp(b*t) + c with b < 0, from a short window of losses, and how sure that is.

The window is smoothed first by a spline of degree 2 that drops outliers (Jin et al., 2021, arXiv:2105.10762, section 3.3). Then b is not
fitted but averaged over: on a grid of decay times a and c follow from linear equations, and each time counts by how well it explains
the window. There is nothing that could fail to converge, and the spread of the answers is part of the uncertainty.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LARGEST = 1e100  # a loss beyond it is no number, its square would overflow
FEWEST = 6  # points below which nothing is extrapolated
PASSES, DROPPED_SHARE, KEPT_DEVIATIONS = (
    10,
    0.03,
    2.5,
)  # of the spline: what it drops a pass, of the first half, if it is as far off as that
MOST_SEGMENTS, POINTS_IN_SEGMENT = 4, 8  # of the spline
DECAY_TIMES = 40
SHORTEST, LONGEST = 0.1, 1.0  # decay times, as shares of the window and of the way from its start to the horizon
LARGEST_FALL = 1.0  # standard deviation of a, in units of the change that the window shows
MODEL_ERROR = 0.1  # of what is extrapolated, as a standard deviation: few losses are one exponential
COMPRESSED_FROM = 0.1  # of a loss: how far above the start a forecast counts in full
LEAST_DEVIATION = 1e-9  # of the losses, as a share of their size; they are float32 at best


class Forecast(NamedTuple):
    """What to expect.

    Attributes:
        loss: at each step asked for, float64 [...]; NaN where the window holds a value that is not finite.
        deviation: its standard deviation, that of the smooth curve and not of a batch, float64 [...]; infinite where the loss is NaN.
    """

    loss: np.ndarray
    deviation: np.ndarray


FAILED = Forecast(np.array(np.nan), np.array(np.inf))


def forecast(losses: ArrayLike, at: ArrayLike, steps: ArrayLike | None = None) -> Forecast:
    """Extrapolates a window of losses. No window makes it raise: a hopeless one is answered with NaN.

    Args:
        losses: of the window, [points].
        at: steps to forecast, of any shape.
        steps: that the losses belong to, rising, [points]; 1, 2, ... where None.

    Raises:
        ValueError: losses and steps differ in number.

    Example:
        >>> steps = np.arange(1, 101)
        >>> there = forecast(2 * np.exp(-steps / 80) + 0.5, at=1000)
        >>> bool(abs(there.loss - 0.5) < 0.05)
        True
    """
    seen = np.asarray(losses, np.float64).reshape(-1)
    times = np.arange(1.0, len(seen) + 1) if steps is None else np.asarray(steps, np.float64).reshape(-1)
    horizon = np.asarray(at, np.float64)
    if len(times) != len(seen):
        raise ValueError(f"{len(seen)} losses and {len(times)} steps do not fit together")
    if not len(seen) or not (np.abs(seen) < LARGEST).all():
        return Forecast(*(np.full(horizon.shape, part) for part in FAILED))
    if len(seen) < FEWEST:
        return _constant(seen, horizon)
    smooth, noise = smoothed(seen, times)
    return _averaged(smooth, noise, times, horizon)


def steadied(losses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A window less what it shares with another on the same batches: a control variate.

    Which batches a short window meets moves its losses more than its rate does, and alike for all candidates. How much of it a candidate
    shares is read off what both windows have around their smooth curves.

    Args:
        losses: of the window, [points].
        reference: of a window from the same start whose rate is so low that its loss would hardly move on equal batches, [points].

    Example:
        >>> noise = np.random.default_rng(0).standard_normal(40)
        >>> steady = steadied(2 - 0.01 * np.arange(40) + noise, 2 + noise)
        >>> bool(np.ptp(np.diff(steady)) < 1e-6)
        True
    """
    if len(losses) < FEWEST or not (np.abs(np.concatenate([losses, reference])) < LARGEST).all():
        return losses
    steps = np.arange(1.0, len(losses) + 1)
    own, common = losses - smoothed(losses, steps)[0], reference - smoothed(reference, steps)[0]
    scale = max(float(np.abs(common).max()), np.finfo(np.float64).tiny)
    share = float(np.clip((own / scale) @ (common / scale) / max((common / scale) @ (common / scale), LEAST_DEVIATION), 0.0, 1.0))
    return losses - share * (reference - reference.mean())


def compressed(there: Forecast, start: float) -> Forecast:
    """The same forecast with what it is above the start taken logarithmically.

    A window that diverges is forecast to end anywhere between bad and 1e50, with a deviation to match. For the choice of a rate that is
    one thing, and a certain one.

    Args:
        there: a forecast.
        start: the loss that it started from.

    Example:
        >>> told = compressed(Forecast(np.array([1.5, 1e9]), np.array([0.1, 1e9])), start=2.0)
        >>> told.loss.round(1).tolist(), told.deviation.round(1).tolist()
        ([1.5, 6.5], [0.1, 0.2])
    """
    scale = max(COMPRESSED_FROM * abs(start), np.finfo(np.float64).tiny)
    above = np.maximum(there.loss - start, 0.0) / scale
    return Forecast(np.minimum(there.loss, start) + scale * np.log1p(above), there.deviation / (1.0 + above))


def smoothed(losses: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, float]:
    """The losses on a least-squares spline of degree 2, [points], and the standard deviation of those kept around it.

    In each of 10 passes the 3 % of the first half that are farthest off, at least one, are dropped if they are outliers; recent losses,
    which say most about what comes, are all kept.
    """
    basis = _basis(steps)
    kept = np.ones(len(losses), bool)
    half = len(losses) // 2
    for _ in range(PASSES):
        residuals = np.abs(losses - _fitted(basis, losses, kept))
        limit = KEPT_DEVIATIONS * 1.4826 * np.median(residuals[kept])
        candidates = np.flatnonzero(kept[:half] & (residuals[:half] > limit))
        if not len(candidates):
            break
        worst = candidates[np.argsort(residuals[candidates])[::-1]]
        kept[worst[: max(1, round(DROPPED_SHARE * half))]] = False
    smooth = _fitted(basis, losses, kept)
    freedom = max(int(kept.sum()) - basis.shape[1], 1)
    noise = np.sqrt(np.sum((losses - smooth)[kept] ** 2) / freedom)
    return smooth, max(float(noise), LEAST_DEVIATION * float(np.abs(losses).max()), np.finfo(np.float64).tiny)


def _basis(steps: np.ndarray) -> np.ndarray:
    """Of the splines of degree 2 over a few equal segments, [points, segments + 2]."""
    from scipy.interpolate import BSpline  # loads for half a second

    segments = int(np.clip(len(steps) // POINTS_IN_SEGMENT, 1, MOST_SEGMENTS))
    edges = np.linspace(steps[0], steps[-1], segments + 1)
    knots = np.concatenate([[edges[0]] * 2, edges, [edges[-1]] * 2])
    return BSpline.design_matrix(steps, knots, 2).toarray()


def _fitted(basis: np.ndarray, losses: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return basis @ np.linalg.lstsq(basis[kept], losses[kept], rcond=None)[0]


def _constant(seen: np.ndarray, horizon: np.ndarray) -> Forecast:
    """The mean; with a standard deviation that lets any point of a real window outweigh it."""
    deviation = max(float(seen.std()), 0.1 * float(np.abs(seen).mean()), np.finfo(np.float64).tiny)
    return Forecast(np.full(horizon.shape, seen.mean()), np.full(horizon.shape, deviation))


def _averaged(smooth: np.ndarray, noise: float, times: np.ndarray, horizon: np.ndarray) -> Forecast:
    """Bayesian linear regression at each decay time, averaged by the evidence (Bishop, 2006, equations 3.53 and 3.86)."""
    length, reach = times[-1] - times[0], max(float(horizon.max(initial=times[-1])), times[-1]) - times[0]
    change = max(float(np.ptp(smooth)), noise)
    decay_times = np.geomspace(SHORTEST * length, max(LONGEST * reach, length), DECAY_TIMES)
    targets = smooth / noise
    forecasts = [_at_decay_time(time, targets, change / noise, times - times[0], horizon.reshape(-1) - times[0]) for time in decay_times]
    evidence = np.array([one[0] for one in forecasts])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    means, variances = (np.stack([one[index] for one in forecasts]) for index in (1, 2))
    mean = weights @ means
    variance = weights @ (variances + (means - mean) ** 2) + (MODEL_ERROR * (mean - targets[-1])) ** 2
    return Forecast((noise * mean).reshape(horizon.shape), (noise * np.sqrt(variance)).reshape(horizon.shape))


def _at_decay_time(
    time: float, targets: np.ndarray, change: float, steps: np.ndarray, horizon: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, and mean and variance at the horizon, of a*exp(-t/time) + c with noise of variance 1.

    c is free; a is normal around 0, which keeps a window that is nearly a straight line from being drawn out for ever.
    """
    features = np.stack([np.exp(-steps / time), np.ones(len(steps))], axis=1)
    precision = np.diag([1 / (LARGEST_FALL * change) ** 2, 0.0]) + features.T @ features
    covariance = np.linalg.pinv(precision, hermitian=True)
    weights = covariance @ features.T @ targets
    misfit = np.sum((targets - features @ weights) ** 2) + (weights[0] / (LARGEST_FALL * change)) ** 2
    evidence = -0.5 * misfit - 0.5 * np.linalg.slogdet(precision)[1]
    ahead = np.stack([np.exp(-horizon / time), np.ones(len(horizon))], axis=1)
    return float(evidence), ahead @ weights, np.maximum(np.einsum("ij,jk,ik->i", ahead, covariance, ahead), 0.0)
