"""Bayesian optimisation of a function that is dear and noisy: `init`, then `ask` and `tell` in turn. It minimises.

General: up to ten axes, linear or logarithmic, with bounds; several points an ask; failures; a known noise variance a point. What is
searched and how is said by `settings.BayesConfig`; the process and the search for the next point are in `gp`. A state is a value:
nothing is changed in place, and equal seeds give equal asks.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import qmc

from . import gp
from .settings import BayesConfig, BayesError

OUTLIER = 10.0  # values above the median by this many times its distance from the lowest are cut: how bad a bad point is says nothing
MOST_DEVIATIONS = 1e3  # of a point's known noise; one of as many says nothing
ROUNDING = 1e-9  # by which a point may lie outside, as a share of its axis
LARGEST = 1e100  # what is beyond it is a failure: its square would overflow


class Points(NamedTuple):
    """Places and what was seen there.

    Attributes:
        places: in the unit box, float64 [points, axes].
        values: float64 [points]; NaN for a failure.
        variances: known noise variances of the values, float64 [points].
    """

    places: np.ndarray
    values: np.ndarray
    variances: np.ndarray


class BayesState(NamedTuple):
    """All that the next ask needs.

    Attributes:
        told: what was observed.
        prior: what is believed beforehand, with values in standard deviations from their mean; see `as_prior`.
        asked: points asked for so far.
        hyperparameters: of the process fitted to both.
    """

    told: Points
    prior: Points
    asked: int
    hyperparameters: gp.Hyperparameters


class Observed(NamedTuple):
    """A point that was told.

    Attributes:
        point: in its own units, [axes].
        value: as it was told.
    """

    point: np.ndarray
    value: float


def init(config: BayesConfig, prior: Points | None = None) -> BayesState:
    """The state before the first ask.

    Args:
        config: what is searched.
        prior: what an earlier search of the same box saw, as `as_prior` gives it.

    Example:
        >>> from .settings import Axis
        >>> config = BayesConfig((Axis(-5.0, 10.0),), capacity=16)
        >>> state = init(config)
        >>> for _ in range(12):
        ...     points, state = ask(config, state)
        ...     state = tell(config, state, points, [(x - 3) ** 2 for (x,) in points])
        >>> bool(abs(best(config, state).point[0] - 3) < 0.3)
        True
    """
    axes = len(config.axes)
    nothing = Points(np.zeros((0, axes)), np.zeros(0), np.zeros(0))
    return BayesState(nothing, nothing if prior is None else prior, 0, gp.default_hyperparameters(axes))


def ask(config: BayesConfig, state: BayesState, num: int = 1) -> tuple[np.ndarray, BayesState]:
    """Points to look at next, [num, axes], in their own units.

    The points of one ask are chosen one after the other, each as if those before it had been observed at their posterior mean (the
    kriging believer of Ginsbourger, Le Riche and Carraro, 2010): that lowers the uncertainty around them and drives them apart.

    Raises:
        BayesError: there is no room for them.
    """
    if num < 1:
        raise BayesError(f"at least 1 point must be asked for, got {num}")
    _check_room(config, state, num)
    data = _data(config, state)
    points = []
    for index in range(state.asked, state.asked + num):
        if index < config.initial:
            point, mean = _sobol(config, index), 0.0
        else:
            point, mean = gp.propose(data, state.hyperparameters, config.acquisition, [config.seed, index])
        points.append(point)
        data = _with_believed(data, point, mean)
    return _natural(config, np.array(points)), state._replace(asked=state.asked + num)


def tell(config: BayesConfig, state: BayesState, points: ArrayLike, values: ArrayLike, variances: ArrayLike | None = None) -> BayesState:
    """The state that knows of these observations too, with the process fitted to all.

    Args:
        config: what is searched.
        state: before.
        points: in their own units, [points, axes]; they need not have been asked for.
        values: [points]. NaN, an infinity or a number beyond 1e100 is a failure: for the process it was as bad as the worst value told.
        variances: of the values' noise where it is known, [points]; the process adds a noise of its own that it learns.

    Raises:
        BayesError: a point outside the box, or no room.
    """
    unit = _unit(config, points)
    seen = np.asarray(values, np.float64).reshape(-1)
    noise = np.zeros(len(seen)) if variances is None else np.asarray(variances, np.float64).reshape(-1)
    if not len(unit) == len(seen) == len(noise):
        raise BayesError(f"{len(unit)} points, {len(seen)} values and {len(noise)} variances do not fit together")
    _check_room(config, state, len(unit))
    new = Points(unit, np.where(np.abs(seen) < LARGEST, seen, np.nan), np.where(noise > 0, noise, 0.0))
    told = Points(*(np.concatenate(pair) for pair in zip(state.told, new, strict=True)))
    state = state._replace(told=told)
    return state._replace(hyperparameters=gp.fit(_data(config, state), state.hyperparameters))


def best(config: BayesConfig, state: BayesState) -> Observed:
    """The point of the lowest value told.

    Raises:
        BayesError: nothing was told, or failures only.
    """
    if not np.isfinite(state.told.values).any():
        raise BayesError("no value was told that is a finite number")
    return _observed(config, state, int(np.nanargmin(state.told.values)))


def ranked(config: BayesConfig, state: BayesState) -> list[Observed]:
    """The points told, failures aside, in the order of what the process expects there, lowest first."""
    usable = np.flatnonzero(~np.isnan(state.told.values))
    if not len(usable):
        return []
    mean, _ = gp.predict(_data(config, state), state.hyperparameters, state.told.places)
    return [_observed(config, state, index) for index in usable[np.argsort(mean[usable], kind="stable")]]


def recommend(config: BayesConfig, state: BayesState) -> Observed:
    """The first of `ranked`: under noise a better choice than `best`.

    Raises:
        BayesError: nothing was told, or failures only.
    """
    for first in ranked(config, state):
        return first
    raise BayesError("no value was told that is a finite number")


def predict(config: BayesConfig, state: BayesState, points: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the function at points [points, axes], in the units of the values told."""
    mean, deviation = gp.predict(_data(config, state), state.hyperparameters, _unit(config, points))
    centre, scale = _normalisation(_penalised(state.told)[0])
    return centre + scale * mean, scale * deviation


def as_prior(state: BayesState, variance: float = 1.0) -> Points:
    """What a finished search says to the next one of a similar function: its points, with values in standard deviations from their mean.

    Args:
        state: of the finished search.
        variance: how little they are to be trusted, as a noise variance in the same units; 1 is as much as they differ among themselves.
    """
    told = _normalised(state.told)
    return told._replace(variances=told.variances + variance)


def to_json(state: BayesState) -> dict[str, Any]:
    """The state in JSON's own types."""
    return {
        "told": points_to_json(state.told),
        "prior": points_to_json(state.prior),
        "asked": state.asked,
        "hyperparameters": [np.asarray(part).tolist() for part in state.hyperparameters],
    }


def from_json(saved: dict[str, Any]) -> BayesState:
    """The inverse of `to_json`."""
    hyperparameters = gp.Hyperparameters(*(np.asarray(part, np.float64) for part in saved["hyperparameters"]))
    return BayesState(points_from_json(saved["told"]), points_from_json(saved["prior"]), saved["asked"], hyperparameters)


def points_to_json(points: Points) -> dict[str, Any]:
    """Points in JSON's own types; a failure's value is null."""
    values = [None if math.isnan(value) else value for value in points.values.tolist()]
    return {"axes": points.places.shape[1], "places": points.places.tolist(), "values": values, "variances": points.variances.tolist()}


def points_from_json(saved: dict[str, Any]) -> Points:
    """The inverse of `points_to_json`."""
    places = np.asarray(saved["places"], np.float64).reshape(-1, saved["axes"])
    return Points(places, np.asarray(saved["values"], np.float64), np.asarray(saved["variances"], np.float64))


def _observed(config: BayesConfig, state: BayesState, index: int) -> Observed:
    return Observed(_natural(config, state.told.places[index : index + 1])[0], float(state.told.values[index]))


def _unit(config: BayesConfig, points: ArrayLike) -> np.ndarray:
    places = np.asarray(points, np.float64).reshape(-1, len(config.axes))
    with np.errstate(invalid="ignore", divide="ignore"):  # logarithms of what is refused below
        shares = np.stack([axis.to_unit(column) for column, axis in zip(places.T, config.axes, strict=True)], axis=1)
    for column, axis, values in zip(shares.T, config.axes, places.T, strict=True):
        if not (np.abs(column - 0.5) <= 0.5 + ROUNDING).all():
            raise BayesError(f"a point lies outside its axis, {axis.low} to {axis.high}: {values.tolist()}")
    return np.clip(shares, 0.0, 1.0)


def _natural(config: BayesConfig, unit: np.ndarray) -> np.ndarray:
    return np.stack([axis.from_unit(column) for column, axis in zip(unit.T, config.axes, strict=True)], axis=1)


def _sobol(config: BayesConfig, index: int) -> np.ndarray:
    sequence = qmc.Sobol(len(config.axes), rng=np.random.default_rng(config.seed))
    return sequence.fast_forward(index).random(1)[0] if index else sequence.random(1)[0]


def _check_room(config: BayesConfig, state: BayesState, num: int) -> None:
    needed = len(state.told.values) + len(state.prior.values) + num
    if needed > config.capacity:
        raise BayesError(f"{needed} points do not fit into the capacity of {config.capacity}; give BayesConfig a larger one")


def _penalised(told: Points) -> tuple[np.ndarray, np.ndarray]:
    """Values with failures as bad as the worst, and outliers cut; and variances, 0 for both, since that they are bad is certain."""
    finite = told.values[np.isfinite(told.values)]
    if not len(finite):
        return np.zeros_like(told.values), np.zeros_like(told.values)
    lowest, median = finite.min(), np.median(finite)
    cut = median + OUTLIER * (median - lowest) if median > lowest else finite.max()
    values = np.where(np.isnan(told.values), finite.max(), told.values)
    return np.minimum(values, cut), np.where(np.isnan(told.values) | (values > cut), 0.0, told.variances)


def _normalisation(values: np.ndarray) -> tuple[float, float]:
    """Their mean and standard deviation; 1 where they do not differ."""
    if not len(values):
        return 0.0, 1.0
    spread = float(values.std())
    return float(values.mean()), spread if spread > 1e-12 * max(1.0, float(np.abs(values).max())) else 1.0


def _normalised(told: Points) -> Points:
    values, variances = _penalised(told)
    centre, scale = _normalisation(values)
    return Points(told.places, (values - centre) / scale, np.minimum(np.sqrt(variances) / scale, MOST_DEVIATIONS) ** 2)


def _data(config: BayesConfig, state: BayesState) -> gp.Data:
    rows = Points(*(np.concatenate(pair) for pair in zip(state.prior, _normalised(state.told), strict=True)))
    count = len(rows.values)
    data = gp.Data(np.zeros((config.capacity, len(config.axes))), np.zeros(config.capacity), np.zeros(config.capacity), count)
    for array, part in zip(data[:3], rows, strict=True):
        array[:count] = part
    return data


def _with_believed(data: gp.Data, point: np.ndarray, mean: float) -> gp.Data:
    points, values, variances = (array.copy() for array in data[:3])
    points[data.filled], values[data.filled] = point, mean
    return gp.Data(points, values, variances, data.filled + 1)
