"""A Gaussian process in the unit box, and where to look next: the numerical half of `optimizer`.

Matern 5/2 with a length scale an axis, learned noise, and a known noise variance a point beside it (Rasmussen and Williams, 2006,
equations 2.25, 2.26 and 4.17). Fitting maximises the marginal likelihood times weak priors, by BFGS from the best of several starts.

Arrays have one size, the capacity, so that points are added without compiling anew. Work is done on the smallest block of rows (16, 64,
256, then the capacity) that holds all points, chosen at run time; a row that holds no point yet is independent of all others and
changes nothing. All is float64, whatever jax is set to: near-equal points make float32 factors fail. Needs the library tinygp.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from .descent import descend

BLOCKS = (16, 64, 256)
REFINED = {16: 4, 64: 3}  # starts that the descent goes on from, by block; 1 in larger ones, where a factorisation takes a millisecond
LEAST_NOISE = 1e-6  # variance in units of the values' own; keeps the factorisation stable
LENGTH_SCALE_STARTS, NOISE_STARTS = (0.1, 0.3, 1.0), (1e-4, 1e-1)
CANDIDATES, LOCAL_ROUNDS = 512, 4  # of the acquisition's maximisation, and rounds of as many around its best so far
LOCAL_SPREAD, LOCAL_SHRINK = 0.1, 0.33  # of the first round, as a share of the box; from one to the next
LEAST_VARIANCE = 1e-12  # of a posterior, against rounding


class LibraryError(ValueError):
    """A library that is no dependency of the package is missing."""


class Data(NamedTuple):
    """Observations, in arrays that have room for more.

    Attributes:
        points: in the unit box, float64 [capacity, dimensions].
        values: of about mean 0 and variance 1, float64 [capacity].
        variances: known noise variances, in units of the values squared, float64 [capacity].
        filled: rows that hold an observation, the first ones, int [].
    """

    points: np.ndarray
    values: np.ndarray
    variances: np.ndarray
    filled: int


class Hyperparameters(NamedTuple):
    """Of the process, as natural logarithms.

    Attributes:
        amplitude: the prior variance, [].
        noise: the learned noise variance, above `LEAST_NOISE`, [].
        length_scales: one an axis, [dimensions].
    """

    amplitude: Array | np.ndarray
    noise: Array | np.ndarray
    length_scales: Array | np.ndarray


class Acquisition(Protocol):
    """What says how promising points are; hashable, for it is compiled in."""

    def __call__(self, mean: Array, deviation: Array, best: Array) -> Array:
        """Higher is more promising: of the posterior at points [points] and the lowest posterior mean at those observed, []."""
        ...


def fit(data: Data, previous: Hyperparameters | None = None) -> Hyperparameters:
    """The hyperparameters of highest posterior density found.

    Args:
        data: the observations.
        previous: a further start, such as the fit before the last point was added.

    Raises:
        LibraryError: tinygp is missing.

    Example:
        >>> points = np.linspace(0, 1, 16)[:, None]
        >>> wave = Data(points, 1.4 * np.sin(6 * points[:, 0]), np.zeros(16), 10)
        >>> bool(np.exp(fit(wave).noise) < 0.01)
        True
    """
    _library()
    dimensions = data.points.shape[1]
    start = default_hyperparameters(dimensions) if previous is None else previous
    with _float64():
        return jax.device_get(_fit(data, start))


def predict(data: Data, hyperparameters: Hyperparameters, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation, without the noise of an observation.

    Args:
        data: the observations.
        hyperparameters: as `fit` gives them.
        points: in the unit box, [points, dimensions].

    Returns:
        Two arrays [points].
    """
    _library()
    with _float64():
        mean, deviation = _predict(data, hyperparameters, points)
        return np.asarray(mean), np.asarray(deviation)


def propose(data: Data, hyperparameters: Hyperparameters, acquisition: Acquisition, seed: Sequence[int]) -> tuple[np.ndarray, float]:
    """The most promising point found, [dimensions], and the posterior mean there.

    Args:
        data: the observations.
        hyperparameters: as `fit` gives them.
        acquisition: a function of its own class, hashable.
        seed: non-negative integers, of the candidates.
    """
    _library()
    with _float64():
        point, mean = _propose(data, hyperparameters, _draws(data.points.shape[1], seed), acquisition)
        return np.asarray(point), float(mean)


def check_library() -> None:
    """Nothing where tinygp is installed.

    Raises:
        LibraryError: it is not.
    """
    _library()


def default_hyperparameters(dimensions: int) -> Hyperparameters:
    """The mode of the priors."""
    length = np.full(dimensions, _typical_log_length(dimensions))
    return Hyperparameters(np.zeros(()), np.asarray(np.log(1e-3)), length)


def log_density(data: Data, hyperparameters: Hyperparameters) -> Array:
    """Log marginal likelihood plus log priors, up to a constant of the block's size. Traceable."""
    process, _ = _process(data, hyperparameters)
    return process.log_probability(jnp.where(_real(data), data.values, 0.0)) + _log_prior(hyperparameters)


def _log_prior(hyperparameters: Hyperparameters) -> Array:
    """Normal in the logarithms; a typical length grows with the square root of the dimensions, as distances in the box do."""
    amplitude, noise, length_scales = hyperparameters
    typical = _typical_log_length(length_scales.shape[0])
    squares = amplitude**2 + ((noise - np.log(1e-3)) / 2.5) ** 2 + jnp.sum((length_scales - typical) ** 2)
    return -0.5 * jnp.asarray(squares)


def _typical_log_length(dimensions: int) -> float:
    return float(np.log(0.4 * np.sqrt(dimensions)))


def _real(data: Data) -> Array:
    return jnp.arange(data.points.shape[0]) < data.filled


def _process(data: Data, hyperparameters: Hyperparameters) -> tuple[Any, Callable[[Array], Array]]:
    """tinygp's process and how it takes points: with a last coordinate 1, while empty rows have 0, which leaves them uncorrelated."""
    tinygp = _library()
    amplitude, noise, length_scales = hyperparameters
    scale = jnp.append(jnp.exp(-length_scales), 0.0)
    matern = tinygp.transforms.Linear(scale, tinygp.kernels.Matern52(distance=tinygp.kernels.distance.L2Distance()))
    kernel = jnp.exp(amplitude) * matern * tinygp.transforms.Subspace(data.points.shape[1], tinygp.kernels.DotProduct())
    real = _real(data)
    rows = jnp.concatenate([data.points, real[:, None]], axis=1)
    noise_of_row = jnp.where(real, LEAST_NOISE + jnp.exp(noise) + data.variances, 1.0)
    process = tinygp.GaussianProcess(kernel, rows, diag=noise_of_row)
    return process, lambda points: jnp.concatenate([points, jnp.ones_like(points[:, :1])], axis=1)


def _posterior(data: Data, hyperparameters: Hyperparameters) -> tuple[Callable[[Array], tuple[Array, Array]], Array]:
    """Points -> mean and deviation; and the means at the observed points."""
    process, as_rows = _process(data, hyperparameters)
    values = jnp.where(_real(data), data.values, 0.0)
    whitened = process.solver.solve_triangular(values)

    def at(points: Array) -> tuple[Array, Array]:
        # Only the variances are wanted: tinygp's own `predict` also makes the whole covariance of the new points.
        cross = process.solver.solve_triangular(process.kernel(process.X, as_rows(points)))
        variance = jnp.exp(hyperparameters.amplitude) - jnp.sum(cross**2, axis=0)
        return cross.T @ whitened, jnp.sqrt(jnp.maximum(variance, LEAST_VARIANCE))

    weights = process.solver.solve_triangular(whitened, transpose=True)
    return at, values - process.noise.diagonal() * weights  # K w = (K + N) w - N w = values - N w


def _on_block(function: Callable[[Data, int], Any], data: Data) -> Any:
    """The function of the first rows of the data, as many as the smallest block that holds all points, and of their number."""
    capacity = data.points.shape[0]
    sizes = [*(size for size in BLOCKS if size < capacity), capacity]

    def on(size: int) -> Callable[[Data], Any]:
        return lambda data: function(Data(data.points[:size], data.values[:size], data.variances[:size], data.filled), size)

    return jax.lax.switch(jnp.searchsorted(jnp.asarray(sizes), data.filled), [on(size) for size in sizes], data)


@jax.jit
def _fit(data: Data, previous: Hyperparameters) -> Hyperparameters:
    return _on_block(lambda block, size: _fit_block(block, previous, REFINED.get(size, 1)), data)


def _fit_block(data: Data, previous: Hyperparameters, refined: int) -> Hyperparameters:
    dimensions = data.points.shape[1]
    defaults = [
        Hyperparameters(jnp.zeros(()), jnp.log(noise), jnp.full(dimensions, jnp.log(length * np.sqrt(dimensions))))
        for length in LENGTH_SCALE_STARTS
        for noise in NOISE_STARTS
    ]
    as_vector = [ravel_pytree(start)[0] for start in (previous, *defaults)]
    as_struct = ravel_pytree(defaults[0])[1]

    def loss(vector: Array) -> Array:
        density = log_density(data, as_struct(vector))
        return jnp.where(jnp.isfinite(density), -density, 1e12)  # the factorisation failed

    starts = jnp.stack(as_vector)
    best = jnp.argsort(jax.lax.map(loss, starts))[:refined]
    ends, losses = jax.lax.map(lambda start: descend(loss, start), starts[best])
    return as_struct(ends[jnp.argmin(losses)])


@jax.jit
def _predict(data: Data, hyperparameters: Hyperparameters, points: Array) -> tuple[Array, Array]:
    return _on_block(lambda block, size: _posterior(block, hyperparameters)[0](points), data)


@functools.partial(jax.jit, static_argnums=3)
def _propose(data: Data, hyperparameters: Hyperparameters, draws: Array, acquisition: Acquisition) -> tuple[Array, Array]:
    return _on_block(lambda block, size: _propose_block(block, hyperparameters, draws, acquisition), data)


def _propose_block(data: Data, hyperparameters: Hyperparameters, draws: Array, acquisition: Acquisition) -> tuple[Array, Array]:
    """Uniform candidates, then rounds of normal ones around the best so far: needs no gradient and handles the box's faces."""
    posterior, at_observed = _posterior(data, hyperparameters)
    observed = jnp.where(_real(data), at_observed, jnp.inf)
    lowest = jnp.min(observed)

    def round_of(best: tuple[Array, Array, Array], candidates: Array) -> tuple[tuple[Array, Array, Array], None]:
        # The first round's candidates span the box, whatever is best so far.
        points = jnp.where(jnp.isinf(best[1]), candidates, jnp.clip(best[0] + candidates, 0.0, 1.0))
        mean, deviation = posterior(points)
        worths = acquisition(mean, deviation, lowest)
        winner = jnp.argmax(worths)
        found = points[winner], worths[winner], mean[winner]
        return jax.tree.map(lambda new, old: jnp.where(found[1] > best[1], new, old), found, best), None

    nothing = jnp.zeros(data.points.shape[1]), jnp.asarray(-jnp.inf), jnp.asarray(0.0)
    (point, _, mean), _ = jax.lax.scan(round_of, nothing, draws)
    return point, mean


def _draws(dimensions: int, seed: Sequence[int]) -> np.ndarray:
    """Candidates, then offsets, [1 + LOCAL_ROUNDS, CANDIDATES, dimensions]. By NumPy: jax takes seconds to compile its generator."""
    generator = np.random.default_rng(seed)
    spreads = LOCAL_SPREAD * LOCAL_SHRINK ** np.arange(LOCAL_ROUNDS)
    offsets = spreads[:, None, None] * generator.standard_normal((LOCAL_ROUNDS, CANDIDATES, dimensions))
    return np.concatenate([generator.random((1, CANDIDATES, dimensions)), offsets])


def _float64() -> ExitStack:
    """float64 and, where there is one, the CPU: factorisations this small only wait for an accelerator."""
    stack = ExitStack()
    stack.enter_context(jax.enable_x64(True))
    try:
        stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return stack
    return stack


@functools.cache
def _library() -> Any:
    try:
        tinygp = importlib.import_module("tinygp")
    except ImportError:
        raise LibraryError("Bayesian optimisation needs the library tinygp: pip install 'stepsmith[autolrs]'") from None
    importlib.import_module("tinygp.transforms")
    return tinygp
