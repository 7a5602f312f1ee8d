"""Digits lifted to any number of fixed random features, which makes a linear model as large as one likes.

Source: A. Rahimi and B. Recht, Random features for large-scale kernel machines, 2007, algorithm 1.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..base import Batch, Data
from . import digits


@dataclasses.dataclass(frozen=True)
class RandomFeatures:
    """A loader: round(127 cos(x W + b)) of the pixels x, with W normal of variance 1/4 and b uniform in [0, 2 pi].

    Whole numbers, so that all machines have the same features and with them the same version of a task.

    Example:
        >>> RandomFeatures(100)()["test"]["feature"].shape
        (297, 100)
    """

    num_features: int

    def __call__(self) -> Data:
        """For each split 'feature', int8 [N, num_features], and 'label', uint8 [N]."""
        generator = np.random.default_rng(0)
        weights, phases = 0.5 * generator.normal(size=(64, self.num_features)), generator.uniform(0, 2 * np.pi, self.num_features)

        def lifted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            waves = np.cos(arrays["image"] / digits.MAX_PIXEL @ weights + phases)
            return {"feature": np.round(127 * waves).astype(np.int8), "label": arrays["label"]}

        return {split: lifted(arrays) for split, arrays in digits.load().items()}


def features(batch: Batch) -> Array:
    """Random features scaled to a norm of 8 a row, whatever their number: float32 [B, num_features]."""
    values = batch["feature"].astype(jnp.float32)
    return values * (8 / 127 * (2 / values.shape[-1]) ** 0.5)
