"""What a Bayesian optimisation searches, and what it finds promising."""

import dataclasses
import math

import jax.numpy as jnp
import jax.scipy.stats
import numpy as np
from jax import Array

from . import gp

MAX_AXES = 10


class BayesError(ValueError):
    """A setting, a point or a number of points that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One variable and its bounds, which are included.

    Attributes:
        low: the lowest value.
        high: the highest.
        log: whether it is searched by its logarithm.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BayesError(f"an axis needs finite bounds, the lower first, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise BayesError(f"a logarithmic axis needs bounds above 0, got {self.low} and {self.high}")

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Values as shares of the way from the lowest to the highest."""
        scale = np.log if self.log else np.asarray
        low, high = scale(self.low), scale(self.high)
        return (scale(values) - low) / (high - low)

    def from_unit(self, shares: np.ndarray) -> np.ndarray:
        """The inverse of `to_unit`, never beyond the bounds."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return np.clip(np.exp(low + shares * (high - low)), self.low, self.high)
        return np.clip(self.low + shares * (self.high - self.low), self.low, self.high)


@dataclasses.dataclass(frozen=True)
class LowerConfidenceBound:
    """Promising is where mean - kappa * deviation is low (Srinivas et al., 2010, arXiv:0912.3995).

    Attributes:
        kappa: 0 only trusts the mean; far above 3 only explores.
    """

    kappa: float = 2.0

    def __call__(self, mean: Array, deviation: Array, best: Array) -> Array:
        return self.kappa * deviation - mean


@dataclasses.dataclass(frozen=True)
class ExpectedImprovement:
    """Promising is where E[max(best - margin - f, 0)] is high (Jones, Schonlau and Welch, 1998, equation 15).

    Attributes:
        margin: an improvement that counts as none, in standard deviations of the values.
    """

    margin: float = 0.0

    def __call__(self, mean: Array, deviation: Array, best: Array) -> Array:
        gain = best - self.margin - mean
        scaled = gain / deviation
        return gain * jax.scipy.stats.norm.cdf(scaled) + deviation * jnp.exp(jax.scipy.stats.norm.logpdf(scaled))


@dataclasses.dataclass(frozen=True)
class BayesConfig:
    """What is searched and how.

    Attributes:
        axes: one to ten.
        acquisition: `LowerConfidenceBound` or `ExpectedImprovement`.
        num_initial: points of a Sobol sequence before the process is asked; twice the axes, at least 3, where None.
        capacity: points that fit, those of a prior and of one ask included. One executable serves up to there.
        seed: of the Sobol sequence's scrambling and of the acquisition's candidates.
    """

    axes: tuple[Axis, ...]
    acquisition: gp.Acquisition = LowerConfidenceBound()
    num_initial: int | None = None
    capacity: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.axes) <= MAX_AXES:
            raise BayesError(f"1 to {MAX_AXES} axes can be searched, got {len(self.axes)}")
        if self.capacity < 1 or self.seed < 0 or (self.num_initial is not None and self.num_initial < 0):
            raise BayesError("capacity must be at least 1, seed and num_initial at least 0")

    @property
    def initial(self) -> int:
        """Points before the process is asked."""
        return max(3, 2 * len(self.axes)) if self.num_initial is None else self.num_initial
