"""The handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 pixels with values from 0 to 16.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..base import Batch

NUM_TRAIN, NUM_VALIDATION = 1200, 300  # the other 297 are the test split
MAX_PIXEL = 16


@functools.lru_cache(maxsize=1)
def load() -> dict[str, dict[str, np.ndarray]]:
    """Splits the images by one fixed permutation, whatever their class.

    Returns:
        For 'train', 'validation' and 'test': 'image', uint8 [N, 64] with values 0 to 16, and 'label', uint8 [N].

    Example:
        >>> {split: arrays["image"].shape for split, arrays in load().items()}
        {'train': (1200, 64), 'validation': (300, 64), 'test': (297, 64)}
    """
    from sklearn.datasets import load_digits  # slow to import, and only this task needs it

    pixels, classes = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(classes))
    images, labels = pixels.astype(np.uint8)[order], classes.astype(np.uint8)[order]
    for shared in (images, labels):
        shared.setflags(write=False)  # every caller gets the same arrays
    bounds = {
        "train": slice(0, NUM_TRAIN),
        "validation": slice(NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION),
        "test": slice(NUM_TRAIN + NUM_VALIDATION, None),
    }
    return {split: {"image": images[rows], "label": labels[rows]} for split, rows in bounds.items()}


def pixels(batch: Batch) -> Array:
    """Images with values in [0, 1], float32 [B, 64]."""
    return batch["image"].astype(jnp.float32) / MAX_PIXEL


def rows(batch: Batch) -> Array:
    """Images as sequences of their rows, float32 [B, 8, 8]."""
    return pixels(batch).reshape(-1, 8, 8)
