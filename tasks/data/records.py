"""A user's own data, too large for the device: examples in files of arrays or records, fed batch by batch from the host.

The files lie in a folder below the one that the environment variable STEPSMITH_DATA names. For each split there are
either .npy arrays, one for each field, or record files `train*.array_record`, which `write_records` writes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax import Array

from ..base import Batch, Data, DataError, Split
from .folders import VARIABLE, user_folder
from .stores import SUFFIX, Examples, Field, Store, find, fingerprint, imported, open_store, write_records

__all__ = ["Field", "Files", "write_records"]

NUM_THREADS = 2
NUM_PREFETCHED = 32  # batches, more than a chunk of the training loop takes at once


@dataclasses.dataclass(frozen=True)
class Files:
    """A source, see `supervised.Stream`, that reads examples from a user's files.

    Training examples come in a new random order in every epoch; a batch may hold the end of one and the start of the
    next. Where there are no files of a test split, validation's examples with odd numbers are the test split and only
    those with even numbers validation.

    Attributes:
        folder: name of the folder below STEPSMITH_DATA.
        fields: what an example consists of. A batch is a dict of arrays by field, or where there is one, its array.
        inputs_fn: what the model sees of a batch.
        num_train: training examples, spread evenly over those that are there; all where None.
        num_examples: examples that a split is scored on, spread evenly over it; all where it has fewer.

    Example:
        >>> source = Files("my-text", (Field("tokens", "{split}.npy", (33,), limit=3000),), lambda batch: batch[:, :-1])
        >>> source.batch_shapes(64).shape
        (64, 33)
    """

    folder: str
    fields: tuple[Field, ...]
    inputs_fn: Callable[[Batch], Array]
    num_train: int | None = None
    num_examples: int = 2048

    def load(self) -> Data:
        """The arrays of the scored splits; 'train' is a store that `stream` reads from.

        Raises:
            DataError: where files are missing, damaged or empty, hold other shapes, types or values than the fields
                say, or grain is not installed.
        """
        files = self._files()
        train, validation = (open_store(files[split], self.fields) for split in ("train", "validation"))
        if files["test"]:
            test = open_store(files["test"], self.fields)
            return {"train": train, "validation": self._scored(validation), "test": self._scored(test)}
        if len(validation) < 2:
            raise DataError(f"{files['validation'][0]}: one example cannot be shared between validation and test; add more")
        return {"train": train, "validation": self._scored(validation, 0, 2), "test": self._scored(validation, 1, 2)}

    def stream(self, data: Data, seed: int, start: int, batch_size: int) -> Iterator[Batch]:
        """Batches from step `start` on, read ahead by threads that end with the iterator.

        Raises:
            DataError: where an example that is read is damaged or holds values outside its limit.
        """
        grain, store = imported("grain"), data["train"]
        count = len(store) if self.num_train is None else min(self.num_train, len(store))
        dataset = grain.MapDataset.range(count).seed(seed % 2**32).shuffle().repeat().batch(batch_size)
        batches = dataset.map(lambda indices: self._packed(store.take(indices * len(store) // count)))[start:]
        iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=NUM_THREADS, prefetch_buffer_size=NUM_PREFETCHED)))
        try:
            yield from iterator
        finally:
            iterator.close()

    def examples(self, data: Data, split: Split) -> Batch:
        """What `load` read of the split."""
        return data[split]

    def inputs(self, batch: Batch) -> Array:
        """What `inputs_fn` gives."""
        return self.inputs_fn(batch)

    def batch_shapes(self, batch_size: int) -> Batch:
        """Shapes and types of a training batch, known without the data."""
        shapes = {field.name: jax.ShapeDtypeStruct((batch_size, *field.shape), field.dtype) for field in self.fields}
        return shapes if len(shapes) > 1 else shapes[self.fields[0].name]

    def fingerprint(self) -> str:
        """Changes with the files' names, sizes and evenly spaced samples of their content.

        Raises:
            DataError: where files are missing.
        """
        return fingerprint(path for paths in self._files().values() for path in paths)

    def _files(self) -> dict[Split, list[Path]]:
        folder = user_folder(self.folder)
        if folder is None:
            raise DataError(f"no folder {self.folder}: make one with {self._wanted()} and set {VARIABLE} to the folder above it")
        files: dict[Split, list[Path]] = {split: find(folder, split, self.fields) for split in ("train", "validation", "test")}
        for split in ("train", "validation"):
            if not files[split]:
                raise DataError(f"{folder}: no files of the split {split}; needed are {self._wanted()}")
        return files

    def _wanted(self) -> str:
        arrays = [field.file.format(split=split) for split in ("train", "validation") for field in self.fields]
        return f"{', '.join(arrays)}, or record files train*{SUFFIX} and validation*{SUFFIX}"

    def _scored(self, store: Store, first: int = 0, step: int = 1) -> Batch:
        """Examples at equal distances among those with the numbers first, first + step, ..."""
        count = len(range(first, len(store), step))
        number = min(self.num_examples, count)
        return self._packed(store.take(first + step * (np.arange(number) * count // number)))

    def _packed(self, examples: Examples) -> Batch:
        return examples if len(examples) > 1 else examples[self.fields[0].name]
