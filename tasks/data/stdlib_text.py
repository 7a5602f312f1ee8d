"""The source of this Python's own standard library, as bytes: a text corpus that every machine has.

The text differs between Python versions, and so does the version of a task that reads it.
"""

import functools
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..base import DataError

MAX_BYTES = {"train": 4 * 2**20, "validation": 256 * 2**10, "test": 256 * 2**10}
# Installed packages, tests, and programs that some distributions leave out.
EXCLUDED_FOLDERS = frozenset(
    ["site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "__pycache__", "lib-dynload"]
)
# Written when Python is built, so they differ between two builds of one version.
GENERATED_PREFIXES = ("config-", "_sysconfigdata", "_sysconfig_vars")


@functools.lru_cache(maxsize=2)
def load(folder: Path | None = None) -> dict[str, np.ndarray]:
    """Reads the library's `*.py` files in the order of their paths, whole files going to one split.

    Args:
        folder: the library's folder; this Python's where None.

    Returns:
        For 'train', 'validation' and 'test' a uint8 array of at most 4 MiB, 256 KiB and 256 KiB.

    Raises:
        DataError: where the folder is missing, or too small to fill every split.
    """
    folder = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    if not folder.is_dir():
        raise DataError(f"the standard library's source is not at {folder}; install it (Debian: libpython3-stdlib) or choose another task")
    parts: dict[str, list[bytes]] = {split: [] for split in MAX_BYTES}
    for path in _paths(folder):
        parts[split_of(path)].append((folder / path).read_bytes())
    texts = {split: b"".join(files)[: MAX_BYTES[split]] for split, files in parts.items()}
    for split, text in texts.items():
        if len(text) < 2**12:
            raise DataError(f"{folder} holds {len(text)} bytes of Python for the split {split!r}, at least 4096 are needed")
    return {split: np.frombuffer(text, dtype=np.uint8) for split, text in texts.items()}


def split_of(path: str) -> str:
    """The split of a file, by the SHA-256 of its relative path: 80 % train, 10 % validation, 10 % test.

    Example:
        >>> split_of("abc.py"), split_of("json/decoder.py") in MAX_BYTES
        ('train', True)
    """
    percent = int(hashlib.sha256(path.encode()).hexdigest(), 16) % 100
    return "train" if percent < 80 else "validation" if percent < 90 else "test"


def _paths(folder: Path) -> Iterator[str]:
    """Relative paths with forward slashes, sorted, so that every system reads the files in the same order."""
    for path in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")):
        names = path.split("/")
        if EXCLUDED_FOLDERS.isdisjoint(names) and not any(name.startswith(GENERATED_PREFIXES) for name in names):
            yield path
