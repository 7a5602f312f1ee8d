"""Fashion-MNIST from a folder of IDX files: 70,000 grey images of 28 x 28 in 10 classes.

Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747. Debian's package
dataset-fashion-mnist has it; the folder of one's own is `fashion-mnist` below the one that STEPSMITH_DATA names.
"""

import functools
import gzip
import math
import struct
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..base import Batch, DataError
from .folders import user_folder

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NUM_TRAIN = 55_000  # of the 60,000 training images; the rest is the validation split
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load() -> dict[str, dict[str, np.ndarray]]:
    """The images, from the user's folder where there is one, else from Debian's.

    Returns:
        For 'train', 'validation' and 'test' (55,000, 5,000 and 10,000 of them): 'image', uint8 [N, 28, 28], and
        'label', uint8 [N].

    Raises:
        DataError: where there is no such folder, or its files are damaged.
    """
    folder = user_folder("fashion-mnist")
    return _load(folder if folder is not None else DEBIAN)


@functools.lru_cache(maxsize=2)
def _load(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    if not folder.is_dir():
        raise DataError(
            f"Fashion-MNIST is not at {folder}: install it (Debian: apt-get install dataset-fashion-mnist), or put its four IDX files "
            "(gzipped or not) into a folder fashion-mnist and set STEPSMITH_DATA to the folder above it"
        )
    whole = {split: {"image": read_idx(folder / images), "label": read_idx(folder / labels)} for split, (images, labels) in FILES.items()}
    for split, arrays in whole.items():
        _check(arrays["image"], arrays["label"], f"{folder}: the images of {split}")
    train, num_train = whole["train"], min(NUM_TRAIN, len(whole["train"]["label"]) * 11 // 12)
    return {
        "train": {name: array[:num_train] for name, array in train.items()},
        "validation": {name: array[num_train:] for name, array in train.items()},
        "test": whole["test"],
    }


def _check(images: np.ndarray, labels: np.ndarray, what: str) -> None:
    if images.shape != (*labels.shape, 28, 28):
        raise DataError(f"{what} have shape {images.shape}, its labels {labels.shape}; needed are (N, 28, 28) and (N,)")
    if len(labels) < 2:
        raise DataError(f"{what} are {len(labels)}; at least 2 are needed")
    if labels.max() >= 10:
        raise DataError(f"{what} have labels up to {labels.max()}; allowed are 0 to 9")


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, or the same with `.gz` behind its name.

    The format: two zero bytes, 8 for unsigned bytes, the number of axes, each axis' length as four bytes (big-endian),
    the bytes.

    Raises:
        DataError: where there is neither file, or it is no such file, or is cut off.
    """
    zipped = path.with_name(path.name + ".gz")
    try:
        content = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"neither {path} nor {zipped.name} beside it: Fashion-MNIST has four files of this kind") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{zipped if zipped.exists() else path}: cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path}: no IDX file of unsigned bytes, it starts with {content[:4]!r}")
    axes = content[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:start]) if len(content) >= start else ()
    if len(content) - start != math.prod(shape) or not shape:
        raise DataError(f"{path}: cut off or damaged: shape {shape} and {len(content) - start} bytes of data")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def flat(batch: Batch) -> Array:
    """Images with values in [0, 1], float32 [B, 784]."""
    return image(batch).reshape(-1, 28 * 28)


def image(batch: Batch) -> Array:
    """Images with values in [0, 1], float32 [B, 28, 28, 1]."""
    return batch["image"].astype(jnp.float32)[..., None] / 255
