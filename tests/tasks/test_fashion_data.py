"""Fashion-MNIST: the reader of IDX files, a folder of the user's own, and what is said where it is absent or damaged."""

import gzip
import struct

import jax
import numpy as np
import pytest

from stepsmith import tasks
from stepsmith.tasks import DataError
from stepsmith.tasks.data import fashion


def _idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _arrays(num_train=24, num_test=6):
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (num_train, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, num_train, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (num_test, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, num_test, dtype=np.uint8),
    }


def _write(folder, arrays, zipped=False):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        (folder / f"{name}.gz" if zipped else folder / name).write_bytes(gzip.compress(_idx(array)) if zipped else _idx(array))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_DATA", str(tmp_path))
    return tmp_path / "fashion-mnist"


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_idx_file_is_read_as_it_was_written(tmp_path, shape, zipped):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    _write(tmp_path, {"file": array}, zipped)
    found = fashion.read_idx(tmp_path / "file")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


def test_numbers_in_an_idx_file_are_big_endian(tmp_path):
    (tmp_path / "file").write_bytes(b"\0\0\x08\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + bytes([1, 2, 3, 4, 5, 255]))
    assert fashion.read_idx(tmp_path / "file").tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize("zipped", [True, False])
def test_the_users_folder_is_read_and_split(folder, zipped):
    arrays = _arrays()
    _write(folder, arrays, zipped)
    data = fashion.load()
    assert {split: len(found["label"]) for split, found in data.items()} == {"train": 22, "validation": 2, "test": 6}
    for field, kind in (("image", "images-idx3"), ("label", "labels-idx1")):
        joined = np.concatenate([data["train"][field], data["validation"][field]])
        np.testing.assert_array_equal(joined, arrays[f"train-{kind}-ubyte"])
        np.testing.assert_array_equal(data["test"][field], arrays[f"t10k-{kind}-ubyte"])


@pytest.mark.parametrize("name", ["fashion_mlp", "fashion_cnn", "fashion_vit"])
def test_tasks_take_the_users_images(folder, name):
    _write(folder, _arrays())
    task = tasks.get(name)
    images = task.source.inputs(task.examples(task.load(), "validation"))
    assert images.shape == ((2, 784) if name == "fashion_mlp" else (2, 28, 28, 1))
    assert float(images.min()) >= 0 and 0.9 < float(images.max()) <= 1
    batch = task.batch(task.load(), jax.random.key(0), "train")
    assert batch["image"].shape == (task.batch_size, 28, 28)


def test_another_folder_is_read_anew(tmp_path, monkeypatch):
    for name, count in (("one", 12), ("two", 24)):
        (tmp_path / name).mkdir()
        _write(tmp_path / name / "fashion-mnist", _arrays(count))
        monkeypatch.setenv("STEPSMITH_DATA", str(tmp_path / name))
        assert len(fashion.load()["train"]["label"]) == count * 11 // 12


@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_package_is_read_where_there_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_DATA", str(tmp_path))
    data = fashion.load()
    assert {split: arrays["image"].shape for split, arrays in data.items()} == {
        "train": (55_000, 28, 28),
        "validation": (5_000, 28, 28),
        "test": (10_000, 28, 28),
    }
    assert {split: np.bincount(arrays["label"]).size for split, arrays in data.items()} == dict.fromkeys(data, 10)
    assert np.bincount(data["test"]["label"]).tolist() == [1000] * 10  # as the authors say


def test_absent_data_are_named_with_the_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("STEPSMITH_DATA", raising=False)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "nowhere")
    words = "not at .*nowhere: install it .*apt-get install dataset-fashion-mnist.*folder fashion-mnist and set STEPSMITH_DATA"
    with pytest.raises(DataError, match=words):
        tasks.get("fashion_mlp").load()


def _damaged(name, **changes):
    def write(folder):
        arrays = _arrays()
        _write(folder, arrays)
        content = changes["content"](_idx(arrays[name])) if "content" in changes else _idx(changes["array"])
        path = folder / name
        path.unlink()
        if content is not None:
            (folder / f"{name}.gz" if changes.get("zipped") else path).write_bytes(content)

    return write


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def _cut_off(content):
    return content[:-1]


def _flipped(content):
    """A gzip file with a byte changed in its compressed middle."""
    zipped = bytearray(gzip.compress(content))
    zipped[len(zipped) // 2 :] = bytes(255 - byte for byte in zipped[len(zipped) // 2 :])
    return bytes(zipped)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_damaged(IMAGES, content=lambda content: None), f"neither .*{IMAGES} nor {IMAGES}.gz beside it"),
        (_damaged(IMAGES, content=_cut_off), f"{IMAGES}: cut off or damaged: shape .24, 28, 28. and 18815 bytes"),
        (_damaged(LABELS, content=lambda content: content + b"x"), f"{LABELS}: cut off or damaged: shape .24,. and 25 bytes"),
        (_damaged(IMAGES, content=lambda content: content[:9]), f"{IMAGES}: cut off or damaged"),
        (_damaged(IMAGES, content=lambda content: content[:3]), f"{IMAGES}: no IDX file of unsigned bytes"),
        (_damaged(IMAGES, content=lambda content: b""), f"{IMAGES}: no IDX file of unsigned bytes"),
        (_damaged(IMAGES, content=lambda content: b"\0\0\x08\0x"), f"{IMAGES}: cut off or damaged"),
        (_damaged(IMAGES, content=lambda content: b"\0\0\x0d" + content[3:]), "no IDX file of unsigned bytes, it starts with .*r"),
        (_damaged(IMAGES, content=lambda content: gzip.compress(content)[:-20], zipped=True), f"{IMAGES}.gz: cannot be read"),
        (_damaged(IMAGES, content=_flipped, zipped=True), f"{IMAGES}.gz: cannot be read"),
        (_damaged(IMAGES, content=lambda content: content, zipped=True), f"{IMAGES}.gz: cannot be read"),
        (_damaged(IMAGES, array=np.zeros((24, 32, 32), np.uint8)), r"train have shape \(24, 32, 32\).*needed are \(N, 28, 28\)"),
        (_damaged(IMAGES, array=np.zeros((24, 784), np.uint8)), r"train have shape \(24, 784\)"),
        (_damaged(LABELS, array=np.zeros(23, np.uint8)), r"train have shape \(24, 28, 28\), its labels \(23,\)"),
        (_damaged(LABELS, array=np.full(24, 10, np.uint8)), "labels up to 10; allowed are 0 to 9"),
    ],
)
def test_damaged_files_are_named(folder, damage, words):
    damage(folder)
    with pytest.raises(DataError, match=words):
        fashion.load()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused(folder, count):
    _write(folder, _arrays(num_train=count))
    with pytest.raises(DataError, match=f"train are {count}; at least 2 are needed"):
        fashion.load()
