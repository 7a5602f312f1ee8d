"""How the examples of a user's own data lie on disk, and how rows of them are read: NumPy arrays, or record files.

A record is the bytes of an .npz file with one array for each field; a record file holds many of them in the ArrayRecord
format (github.com/google/array_record), in which each can be read alone.
"""

import hashlib
import importlib
import io
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..base import DataError

SUFFIX = ".array_record"
NUM_SAMPLES, SAMPLE_BYTES = 64, 4096  # of each file, for its fingerprint
BROKEN = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)  # what damaged bytes make NumPy raise
Examples = dict[str, np.ndarray]  # by field, the first axis runs over examples


@dataclass(frozen=True)
class Field:
    """One array of every example, of whole numbers.

    Attributes:
        name: in a batch and in a record.
        file: the .npy file of all examples, with `{split}` in its name; [N, *shape], of any integer type.
        shape: of one example. Where it has one axis, a flat file [N] is cut into rows that share their end and start.
        limit: values are 0 ... limit - 1.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    limit: int

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds the values; that of a batch."""
        return np.min_scalar_type(self.limit - 1)

    def checked(self, array: np.ndarray, origin: str) -> np.ndarray:
        """The array as `dtype`.

        Raises:
            DataError: where a value is outside the limit; NumPy and JAX would clip it without a word.
        """
        if array.size and (array.min() < 0 or array.max() >= self.limit):
            raise DataError(
                f"{origin}: {self.name} has values from {array.min()} to {array.max()}, allowed are 0 to {self.limit - 1}; "
                "number them anew, or make a task of your own with more"
            )
        return array.astype(self.dtype, copy=False)

    def check_layout(self, shape: tuple[int, ...], dtype: np.dtype, origin: str) -> None:
        """Raises a DataError unless one example has the right shape and whole numbers."""
        if shape != self.shape or dtype.kind not in "iu":
            raise DataError(f"{origin}: {self.name} is {dtype} {list(shape)} an example, needed are integers {list(self.shape)}")


class Store(Protocol):
    """Examples on disk."""

    def __len__(self) -> int:
        """How many."""
        ...

    def take(self, rows: np.ndarray) -> Examples:
        """Reads these rows and no others, and checks them."""
        ...


def find(folder: Path, split: str, fields: Sequence[Field]) -> list[Path]:
    """The files of a split, empty where it has none.

    Raises:
        DataError: where there are both arrays and records, or only some of the arrays.
    """
    arrays = [folder / field.file.format(split=split) for field in fields]
    found = [path for path in arrays if path.is_file()]
    records = sorted(folder.glob(f"{split}*{SUFFIX}"))
    if found and records:
        raise DataError(f"{folder}: {found[0].name} and {records[0].name} are both there for the split {split}; leave one kind of file")
    if found and len(found) < len(arrays):
        raise DataError(f"{folder}: {found[0].name} is there, but {next(path.name for path in arrays if path not in found)} is not")
    return found or records


def open_store(paths: Sequence[Path], fields: Sequence[Field]) -> Store:
    """Opens what `find` found.

    Raises:
        DataError: where the files are damaged or empty, or hold something else than the fields say.
    """
    store = Records(paths, fields) if paths[0].name.endswith(SUFFIX) else Arrays(paths, fields)
    if not len(store):
        raise DataError(f"{paths[0]}: holds no example")
    return store


def fingerprint(paths: Iterable[Path]) -> str:
    """A digest of the files' names, their sizes and 64 evenly spaced pieces of 4 KiB of each: cheap for files of any size.

    A change in between goes unseen; a file that is written anew in another order or with other content does not.
    """
    state = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        state.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            for index in range(NUM_SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * index // (NUM_SAMPLES - 1))
                state.update(file.read(SAMPLE_BYTES))
    return state.hexdigest()


class Arrays:
    """One .npy file for each field, mapped into memory and never read as a whole."""

    def __init__(self, paths: Sequence[Path], fields: Sequence[Field]):
        self._paths, self._fields = dict(zip([field.name for field in fields], paths, strict=True)), fields
        self._arrays = {field.name: _mapped(self._paths[field.name], field) for field in fields}
        lengths = {path.name: len(self._arrays[name]) for name, path in self._paths.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{paths[0].parent}: files of one split differ in their number of examples: {lengths}")

    def __len__(self) -> int:
        return len(self._arrays[self._fields[0].name])

    def take(self, rows: np.ndarray) -> Examples:
        """Copies the rows out of the files."""
        return {field.name: field.checked(self._arrays[field.name][rows], str(self._paths[field.name])) for field in self._fields}


def _mapped(path: Path, field: Field) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN as error:
        raise DataError(f"{path}: no .npy file of numbers, or cut off: {error}") from error
    if array.ndim == 1 and len(field.shape) == 1:
        if len(array) < field.shape[0]:
            raise DataError(f"{path}: {len(array)} values, at least {field.shape[0]} are needed")
        # Views, not copies: every value but the first of a file is to be predicted once.
        array = np.lib.stride_tricks.sliding_window_view(array, field.shape[0])[:: field.shape[0] - 1]
    field.check_layout(array.shape[1:], array.dtype, str(path))
    return array


class Records:
    """Record files, taken one after another in the order of their names."""

    def __init__(self, paths: Sequence[Path], fields: Sequence[Field]):
        module = imported("array_record.python.array_record_module")
        self._paths, self._fields = paths, fields
        # Rows are read at random, so reading ahead in a file would read the wrong ones.
        self._readers = [module.ArrayRecordReader(str(path), options="readahead_buffer_size:0") for path in paths]
        self._ends = np.cumsum([_num_records(path, reader) for path, reader in zip(paths, self._readers, strict=True)])
        self._lock = threading.Lock()  # a reader does not promise to serve two threads at a time
        self.take(np.zeros(1, np.int64))  # other data than expected are found before training starts

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: np.ndarray) -> Examples:
        """Reads and decodes the rows."""
        examples = [self._example(int(row)) for row in rows]
        return {field.name: np.stack([example[field.name] for example in examples]) for field in self._fields}

    def _example(self, row: int) -> Examples:
        shard = int(np.searchsorted(self._ends, row, side="right"))
        position = row - (int(self._ends[shard - 1]) if shard else 0)
        origin = f"{self._paths[shard]}, record {position}"
        try:
            with self._lock:
                record = self._readers[shard].read([position])[0]
            example = _decoded(record, self._fields)
        except (RuntimeError, *BROKEN) as error:
            raise DataError(f"{origin}: damaged, or not written by write_records: {error}") from error
        for field in self._fields:
            field.check_layout(example[field.name].shape, example[field.name].dtype, origin)
        return {field.name: field.checked(example[field.name], origin) for field in self._fields}


def _num_records(path: Path, reader) -> int:
    """A reader of a damaged file counts no records, and says why when asked for the first."""
    count = reader.num_records()
    if not count:
        try:
            reader.read([0])
        except RuntimeError as error:
            raise DataError(f"{path}: damaged, or without a record; write it anew with write_records: {error}") from error
    return count


# numpy parses headers with `ast`, which before Python 3.11.8 and 3.12.2 fails now and then in two threads at once (python/cpython#106905).
_PARSING = threading.Lock()


def _decoded(record: bytes, fields: Sequence[Field]) -> Examples:
    with _PARSING:
        loaded = np.load(io.BytesIO(record), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("one .npy array instead of an .npz file")
        with loaded:
            return {field.name: loaded[field.name] for field in fields}


def write_records(path: str | Path, examples: Iterable[Mapping[str, ArrayLike]]) -> int:
    """Writes a record file.

    Args:
        path: such as `train-00000.array_record`; the name starts with the split and ends so. Splits may have many files.
        examples: one after another, each with its arrays by name: 'image' and 'label', or 'tokens'.

    Returns:
        The number of examples written.

    Raises:
        ValueError: where the name is not of this kind, or an array holds Python objects.
        DataError: where the package grain is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_records(f"{folder}/train.array_record", [{"tokens": np.arange(33)} for _ in range(5)])
        5
    """
    if not str(path).endswith(SUFFIX):
        raise ValueError(f"{path}: the name of a record file ends in {SUFFIX}")
    # A group is what is read at once: one record, since they are read at random.
    writer = imported("array_record.python.array_record_module").ArrayRecordWriter(str(path), "group_size:1")
    count = 0
    try:
        for example in examples:
            writer.write(_encoded({name: np.asarray(value) for name, value in example.items()}, count))
            count += 1
    finally:
        writer.close()
    return count


def _encoded(arrays: Examples, index: int) -> bytes:
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"example {index}: {name} is an array of Python objects; only numbers can be written")
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def imported(name: str) -> ModuleType:
    """Imports grain or what comes with it, only when it is needed: it takes a second, and not everybody has it.

    Raises:
        DataError: where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"reading one's own large data needs the package grain ({error}): pip install 'stepsmith[data]'") from error
