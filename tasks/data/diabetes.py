"""The diabetes table that comes with scikit-learn: 442 patients, 10 numbers each, and how the disease had progressed in a year.

Source: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least angle regression, Annals of Statistics 32, 2004.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..base import Batch

NUM_TRAIN, NUM_VALIDATION = 266, 88  # the other 88 are the test split


@functools.lru_cache(maxsize=1)
def load() -> dict[str, dict[str, np.ndarray]]:
    """Splits the rows by one fixed permutation and standardises each column, and the target, by the training rows.

    Returns:
        For 'train', 'validation' and 'test': 'features', int16 [N, 10], standard deviations from the mean times 1000, and
        'target', float32 [N], in standard deviations rounded to thousandths, so that all machines have the same data.
    """
    from sklearn.datasets import load_diabetes  # slow to import, and only this task needs it

    columns, targets = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    order = np.random.default_rng(0).permutation(len(targets))
    table = np.concatenate([columns, targets[:, None]], axis=1)[order]
    known = table[:NUM_TRAIN]
    thousandths = np.round(1000 * (table - known.mean(0)) / known.std(0))
    features, target = thousandths[:, :-1].astype(np.int16), (thousandths[:, -1] / 1000).astype(np.float32)
    bounds = {
        "train": slice(0, NUM_TRAIN),
        "validation": slice(NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION),
        "test": slice(NUM_TRAIN + NUM_VALIDATION, None),
    }
    return {split: {"features": features[rows], "target": target[rows]} for split, rows in bounds.items()}


def columns(batch: Batch) -> Array:
    """Standardised columns, float32 [B, 10]."""
    return batch["features"].astype(jnp.float32) / 1000
