"""The breast-cancer table that comes with scikit-learn: 569 tumours, 30 numbers each, malignant or benign.

Source: W. Wolberg, O. Mangasarian, N. Street and W. Street, Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning
Repository, 1993.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..base import Batch

NUM_TRAIN, NUM_VALIDATION = 341, 114  # the other 114 are the test split
LIMIT = 5  # standard deviations kept


@functools.lru_cache(maxsize=1)
def load() -> dict[str, dict[str, np.ndarray]]:
    """Splits the rows by one fixed permutation and standardises each column by the training rows.

    Returns:
        For 'train', 'validation' and 'test': 'features', int16 [N, 30], standard deviations from the mean times 1000, at
        most 5000, and 'label', uint8 [N]. Whole numbers, so that all machines have the same data and the same version.
    """
    from sklearn.datasets import load_breast_cancer  # slow to import, and only this task needs it

    columns, classes = map(np.asarray, load_breast_cancer(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(classes))
    columns, labels = columns[order], classes.astype(np.uint8)[order]
    known = columns[:NUM_TRAIN]
    standard = np.clip((columns - known.mean(0)) / known.std(0), -LIMIT, LIMIT)
    features = np.round(1000 * standard).astype(np.int16)
    bounds = {
        "train": slice(0, NUM_TRAIN),
        "validation": slice(NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION),
        "test": slice(NUM_TRAIN + NUM_VALIDATION, None),
    }
    return {split: {"features": features[rows], "label": labels[rows]} for split, rows in bounds.items()}


def columns(batch: Batch) -> Array:
    """Standardised columns, float32 [B, 30]."""
    return batch["features"].astype(jnp.float32) / 1000
