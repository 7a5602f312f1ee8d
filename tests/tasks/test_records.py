"""A user's own files: what is read of them, in which order, and what is said where they are not as they should be."""

import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

from stepsmith.tasks import DataError
from stepsmith.tasks.data.records import Field, Files, write_records
from stepsmith.tasks.data.stores import fingerprint

LENGTH = 4
IMAGES = Files(
    "small", (Field("image", "{split}_images.npy", (2, 2, 3), 256), Field("label", "{split}_labels.npy", (), 50)), lambda b: b["image"]
)
TOKENS = Files("text", (Field("tokens", "{split}.npy", (LENGTH + 1,), 300),), lambda batch: batch[:, :-1])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_DATA", str(tmp_path))
    (tmp_path / "small").mkdir()
    (tmp_path / "text").mkdir()
    return tmp_path


def _images(count, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return images, np.arange(count) % 50


def _write_arrays(folder, **counts):
    for seed, (split, count) in enumerate(counts.items()):
        images, labels = _images(count, seed)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)


def _write_records(folder, num_shards=3, **counts):
    for seed, (split, count) in enumerate(counts.items()):
        images, labels = _images(count, seed)
        for shard, rows in enumerate(np.array_split(np.arange(count), num_shards)):
            records = ({"image": images[row], "label": labels[row]} for row in rows)
            assert write_records(folder / f"{split}-{shard:05}.array_record", records) == len(rows)


WRITERS = pytest.mark.parametrize("write", [_write_arrays, _write_records])


def _labels(source, number, seed=0, start=0, batch_size=8):
    stream = source.stream(source.load(), seed, start, batch_size)
    batches = list(itertools.islice(stream, number))
    stream.close()
    return [batch["label"].tolist() for batch in batches]


@WRITERS
def test_a_stream_goes_on_anywhere_as_if_it_had_not_been_left(folder, write):
    write(folder / "small", train=21, validation=6)
    whole = _labels(IMAGES, 12)
    for start in (1, 2, 5, 11):
        assert _labels(IMAGES, 12 - start, start=start) == whole[start:]
    assert _labels(IMAGES, 12, seed=1) != whole
    assert _labels(IMAGES, 12, seed=2**32 + 7) == _labels(IMAGES, 12, seed=7)


@WRITERS
def test_every_epoch_has_each_example_once_in_an_order_of_its_own(folder, write):
    write(folder / "small", train=21, validation=6)
    flat = list(itertools.chain(*_labels(IMAGES, 21)))  # 8 epochs of 21 in 21 batches of 8, some across two epochs
    epochs = [flat[start : start + 21] for start in range(0, len(flat), 21)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_a_batch_may_be_larger_than_the_data(folder):
    _write_arrays(folder / "small", train=3, validation=2)
    assert sorted(_labels(IMAGES, 1, batch_size=9)[0]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_arrays_and_records_give_the_same_batches_and_splits(folder):
    counts = {"train": 30, "validation": 7, "test": 5}
    _write_arrays(folder / "small", **counts)
    (folder / "other").mkdir()
    _write_records(folder / "other", **counts)
    loaded = []
    for name in ("small", "other"):
        source = Files(name, IMAGES.fields, IMAGES.inputs_fn)
        data = source.load()
        batch = next(source.stream(data, 0, 0, 8))
        loaded.append([batch, source.examples(data, "validation"), source.examples(data, "test")])
    for one, other in zip(*loaded, strict=True):
        for field in ("image", "label"):
            assert one[field].dtype == other[field].dtype == np.uint8
            np.testing.assert_array_equal(one[field], other[field])
    images, _ = _images(30)
    np.testing.assert_array_equal(loaded[0][0]["image"], images[loaded[0][0]["label"]])  # each with its own label
    assert len(loaded[0][1]["label"]) == 7 and len(loaded[0][2]["label"]) == 5


def test_batches_have_the_shapes_that_are_known_without_them(folder):
    _write_arrays(folder / "small", train=9, validation=2)
    np.save(folder / "text" / "train.npy", np.arange(50))
    np.save(folder / "text" / "validation.npy", np.arange(50))
    for source in (IMAGES, TOKENS):
        batch, shapes = next(source.stream(source.load(), 0, 0, 8)), source.batch_shapes(8)
        pairs = [(batch, shapes)] if source is TOKENS else [(batch[name], shapes[name]) for name in ("image", "label")]
        assert all((array.shape, array.dtype) == (shape.shape, shape.dtype) for array, shape in pairs)


def test_without_a_test_split_validation_is_shared(folder):
    _write_arrays(folder / "small", train=5, validation=41)
    source = Files("small", IMAGES.fields, IMAGES.inputs_fn, num_examples=7)
    data = source.load()
    # 21 even and 20 odd numbers, 7 of each at equal distances.
    assert data["validation"]["label"].tolist() == [0, 6, 12, 18, 24, 30, 36]
    assert data["test"]["label"].tolist() == [1, 5, 11, 17, 23, 29, 35]


def test_fewer_training_examples_are_spread_over_all(folder):
    _write_arrays(folder / "small", train=40, validation=4)
    source = Files("small", IMAGES.fields, IMAGES.inputs_fn, num_train=10)
    assert sorted(itertools.chain(*_labels(source, 5, batch_size=4)))[::2] == list(range(0, 40, 4))


@pytest.mark.parametrize("flat", [True, False])
def test_tokens_are_windows(folder, flat):
    text = np.random.default_rng(0).integers(0, 300, 23, dtype=np.int64)
    windows = np.stack([text[start : start + LENGTH + 1] for start in range(0, 23 - LENGTH, LENGTH)])
    np.save(folder / "text" / "train.npy", text if flat else windows)
    np.save(folder / "text" / "validation.npy", text)
    data = TOKENS.load()
    found = next(TOKENS.stream(data, 0, 0, len(windows)))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(windows, axis=0))
    np.testing.assert_array_equal(TOKENS.examples(data, "validation"), windows[::2])
    np.testing.assert_array_equal(TOKENS.inputs(found), found[:, :LENGTH])


def test_records_of_tokens(folder):
    windows = np.random.default_rng(0).integers(0, 300, (6, LENGTH + 1))
    for split in ("train", "validation", "test"):
        write_records(folder / "text" / f"{split}.array_record", [{"tokens": window, "other": 1.5} for window in windows])
    data = TOKENS.load()
    np.testing.assert_array_equal(TOKENS.examples(data, "test"), windows)


def test_large_files_are_not_read_as_a_whole(folder):
    count = 500_000  # 6 GB, of which a sparse file takes nothing
    fields = (Field("image", "{split}_images.npy", (64, 64, 3), 256), Field("label", "{split}_labels.npy", (), 10))
    source = Files("small", fields, lambda batch: batch["image"])
    for split, number in (("train", count), ("validation", 10)):
        np.lib.format.open_memmap(folder / "small" / f"{split}_images.npy", mode="w+", dtype=np.uint8, shape=(number, 64, 64, 3)).flush()
        np.save(folder / "small" / f"{split}_labels.npy", np.arange(number) % 10)
    tracemalloc.start()
    stream = source.stream(source.load(), 0, 1000, 64)
    batch = next(stream)
    stream.close()
    assert batch["image"].shape == (64, 64, 64, 3) and set(batch["label"].tolist()) == set(range(10))
    assert len(source.fingerprint()) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_the_fingerprint_changes_with_content_size_and_name(folder):
    path = folder / "file"
    path.write_bytes(bytes(10_000))
    before = fingerprint([path])
    assert fingerprint([path]) == before
    path.write_bytes(bytes(5000) + b"x" + bytes(4999))
    assert fingerprint([path]) != before
    path.write_bytes(bytes(10_001))
    assert fingerprint([path]) != before
    path.write_bytes(bytes(10_000))
    assert fingerprint([path]) == before != fingerprint([path.rename(folder / "renamed")])


def test_the_threads_end_with_the_stream(folder):
    def readers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]

    _write_arrays(folder / "small", train=9, validation=2)
    others = set(readers())
    stream = IMAGES.stream(IMAGES.load(), 0, 0, 4)
    next(stream)
    assert set(readers()) - others
    del stream
    for _ in range(1000):
        if not set(readers()) - others:
            return
        time.sleep(0.01)
    pytest.fail("threads are still there")


def _nothing(folder):
    folder.rmdir()


def _no_validation(folder):
    for path in folder.glob("validation*"):
        path.unlink()


def _no_labels(folder):
    (folder / "train_labels.npy").unlink()


def _both_kinds(folder):
    _write_records(folder, num_shards=1, train=2)


def _cut_off(folder):
    path = folder / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-5])


def _not_numpy(folder):
    (folder / "train_labels.npy").write_bytes(b"1 2 3")


def _pickled(folder):
    np.save(folder / "train_labels.npy", np.array([None, 1] * 6), allow_pickle=True)


def _floats(folder):
    np.save(folder / "train_images.npy", np.zeros((12, 2, 2, 3), np.float32))


def _channels_first(folder):
    np.save(folder / "train_images.npy", np.zeros((12, 3, 2, 2), np.uint8))


def _lengths(folder):
    np.save(folder / "train_labels.npy", np.zeros(11, int))


def _no_examples(folder):
    _write_arrays(folder, train=0)


def _class_too_high(folder):
    np.save(folder / "validation_labels.npy", np.full(4, 50))


def _class_negative(folder):
    np.save(folder / "validation_labels.npy", np.full(4, -1))


def _one_validation(folder):
    _write_arrays(folder, validation=1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_nothing, "no folder small.*train_images.npy.*array_record.*STEPSMITH_DATA"),
        (_no_validation, "no files of the split validation; needed are train_images.npy"),
        (_no_labels, "train_images.npy is there, but train_labels.npy is not"),
        (_both_kinds, "train_images.npy and train-00000.array_record are both there"),
        (_cut_off, "train_images.npy: no .npy file of numbers, or cut off"),
        (_not_numpy, "train_labels.npy: no .npy file"),
        (_pickled, "train_labels.npy: no .npy file"),
        (_floats, r"image is float32 \[2, 2, 3\] an example, needed are integers \[2, 2, 3\]"),
        (_channels_first, r"image is uint8 \[3, 2, 2\] an example, needed are integers \[2, 2, 3\]"),
        (_lengths, "differ in their number of examples: {'train_images.npy': 12, 'train_labels.npy': 11}"),
        (_no_examples, "train_images.npy: holds no example"),
        (_class_too_high, "validation_labels.npy: label has values from 50 to 50, allowed are 0 to 49"),
        (_class_negative, "validation_labels.npy: label has values from -1 to -1, allowed are 0 to 49"),
        (_one_validation, "one example cannot be shared"),
    ],
)
def test_wrong_arrays_are_named(folder, damage, words):
    if damage is not _nothing:
        _write_arrays(folder / "small", train=12, validation=4)
    damage(folder / "small")
    with pytest.raises(DataError, match=words):
        IMAGES.load()


@WRITERS
def test_a_wrong_label_among_the_training_examples_stops_the_stream(folder, write):
    images, labels = _images(20)
    labels = np.where(np.arange(20) == 13, 60, labels)
    if write is _write_arrays:
        np.save(folder / "small" / "train_images.npy", images)
        np.save(folder / "small" / "train_labels.npy", labels)
    else:
        write_records(folder / "small" / "train.array_record", ({"image": i, "label": k} for i, k in zip(images, labels, strict=True)))
    write(folder / "small", validation=4)
    stream = IMAGES.stream(IMAGES.load(), 0, 0, 20)
    with pytest.raises(DataError, match="train.*label has values from .* to 60, allowed are 0 to 49"):
        next(stream)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"image": np.zeros((2, 2, 3), np.uint8)}, "record 0: damaged, or not written by write_records.*label"),
        ({"image": np.zeros((2, 2), np.uint8), "label": 1}, r"record 0: image is uint8 \[2, 2\] an example"),
        ({"image": np.zeros((2, 2, 3), np.uint8), "label": 1.5}, "record 0: label is float64"),
        ({"image": np.zeros((2, 2, 3), np.uint8), "label": 50}, "record 0: label has values from 50 to 50"),
    ],
)
def test_wrong_records_are_named(folder, record, words):
    _write_records(folder / "small", validation=4)
    write_records(folder / "small" / "train.array_record", [record])
    with pytest.raises(DataError, match=words):
        IMAGES.load()


@pytest.mark.parametrize("content", [b"", b"x" * 100_000, pickle.dumps([1, 2])])
def test_other_files_by_the_name_of_records_are_named(folder, content):
    _write_records(folder / "small", validation=4)
    (folder / "small" / "train.array_record").write_bytes(content)
    with pytest.raises(DataError, match="train.array_record: damaged, or without a record"):
        IMAGES.load()


def test_damaged_records_are_named(folder):
    _write_records(folder / "small", num_shards=1, validation=4)
    path = folder / "small" / "train.array_record"
    rng = np.random.default_rng(0)
    fields = (Field("image", "", (64, 64, 3), 256), Field("label", "", (), 50))
    source = Files("small", fields, lambda batch: batch["image"])
    for split in ("train", "validation-00000"):
        examples = [{"image": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "label": label} for label in range(20)]
        write_records(folder / "small" / f"{split}.array_record", examples)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="train.array_record: damaged, or without a record"):
        source.load()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    stream = source.stream(source.load(), 0, 0, 20)
    with pytest.raises(DataError, match=r"train.array_record, record \d+: damaged"):
        next(stream)


def test_records_hold_numbers_and_their_files_a_name(tmp_path):
    with pytest.raises(ValueError, match="example 1: tokens is an array of Python objects"):
        write_records(tmp_path / "train.array_record", [{"tokens": np.arange(3)}, {"tokens": np.array([None])}])
    with pytest.raises(ValueError, match="train.records: the name of a record file ends in .array_record"):
        write_records(tmp_path / "train.records", [])


def test_without_grain_one_is_told_what_to_install(folder):
    _write_arrays(folder / "small", train=9, validation=2)
    program = (
        "import sys; sys.modules['grain'] = None\n"  # importing it then fails as if it were not there
        "from stepsmith.tasks.data.records import Field, Files\n"
        "fields = (Field('image', '{split}_images.npy', (2, 2, 3), 256), Field('label', '{split}_labels.npy', (), 50))\n"
        "source = Files('small', fields, len)\n"
        "next(source.stream(source.load(), 0, 0, 4))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1
    assert "DataError: reading one's own large data needs the package grain" in done.stderr
    assert "pip install 'stepsmith[data]'" in done.stderr


def test_grain_is_not_imported_before_it_is_needed():
    program = "import sys, stepsmith.tasks; sys.exit('grain' in sys.modules or 'array_record' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
