"""The paper's two proxies on made data of the right shapes: their sizes, and training from arrays and from records."""

import dataclasses
import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from stepsmith import tasks
from stepsmith.tasks import OK, STOPPED, DataError, cost, load_on_device, make_runner, scores, train
from stepsmith.tasks.data.records import write_records
from stepsmith.tasks.models import ViT

NAMES = ("imagenet_vit", "lm1b_transformer")


@dataclasses.dataclass(frozen=True)
class Shallow:
    """The quickest model that fits: a linear map from the mean colour, or from an embedding of the last token."""

    tokens: int = 0

    def build(self, rngs):
        return ShallowNetwork(self, rngs)


class ShallowNetwork(nnx.Module):
    def __init__(self, settings, rngs):
        self.first = nnx.Embed(settings.tokens, 4, rngs=rngs) if settings.tokens else nnx.Linear(3, 4, rngs=rngs)
        self.last = nnx.Linear(4, settings.tokens or 1000, rngs=rngs)

    def __call__(self, inputs, rngs=None):
        return self.last(self.first(inputs if inputs.ndim == 2 else inputs.mean(axis=(1, 2))))


SMALL = {
    "imagenet_vit": ViT(width=12, num_layers=1, num_heads=3, patch=16, size=64, channels=3, classes=1000),
    "lm1b_transformer": Shallow(tokens=3000),  # the worker below trains a transformer
}


def _images(count, seed):
    """Images whose brightness tells the class, one of the last four."""
    labels = 996 + np.arange(count) % 4
    noise = np.random.default_rng(seed).integers(0, 64, (count, 64, 64, 3))
    return {"image": (noise + 60 * (labels - 996)[:, None, None, None]).astype(np.uint8), "label": labels}


def _tokens(count, seed):
    """Windows that count around the last 16 tokens from a random one on."""
    starts = np.random.default_rng(seed).integers(0, 16, (count, 1))
    return {"tokens": 2984 + (starts + np.arange(33)) % 16}


MADE = {"imagenet_vit": ("imagenet64", _images), "lm1b_transformer": ("lm1b", _tokens)}
FILES = {"image": "_images", "label": "_labels", "tokens": ""}


def _write(root, name, kind, seed=0, count=256):
    folder, make = MADE[name]
    folder = root / folder
    folder.mkdir(parents=True)
    for index, (split, number) in enumerate({"train": count, "validation": 64, "test": 64}.items()):
        examples = make(number, 10 * seed + index)
        if kind == "records":
            write_records(
                folder / f"{split}.array_record", [dict(zip(examples, row, strict=True)) for row in zip(*examples.values(), strict=True)]
            )
        else:
            for field, array in examples.items():
                np.save(folder / f"{split}{FILES[field]}.npy", array)
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both tasks' data, once as arrays and once as records."""
    roots = {}
    for kind in ("arrays", "records"):
        roots[kind] = tmp_path_factory.mktemp(kind)
        for name in NAMES:
            _write(roots[kind], name, kind)
    return roots


def _small(name, steps=60):
    return dataclasses.replace(tasks.get(name), model=SMALL[name], steps=steps, batch_size=16)


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "kind"), [("imagenet_vit", "records"), ("lm1b_transformer", "arrays")])
def test_both_loops_learn_the_same_and_can_be_resumed(name, kind, written, monkeypatch):
    monkeypatch.setenv("STEPSMITH_DATA", str(written[kind]))
    task, states = _small(name), []
    data = load_on_device(task)
    runner = make_runner(task, optax.adam)
    outcome = runner(data, 0.01, 3)
    assert (int(outcome.status), int(outcome.steps)) == (OK, 60)
    limited = runner(data, 0.01, 3, np.array([np.inf, 0.5 * outcome.curve[1], np.inf], np.float32))
    assert (int(limited.status), int(limited.steps)) == (STOPPED, 40)
    np.testing.assert_allclose(limited.curve[:2], outcome.curve[:2], rtol=1e-4)

    whole = train(task, optax.adam(0.01), seed=3, data=data, on_chunk=lambda state, losses: states.append(state))
    found = scores(task, whole.train_state.params, whole.train_state.state, data, "validation")
    assert found["loss"] == pytest.approx(float(outcome.loss), rel=1e-4)
    assert found["loss"] < 0.7 * whole.losses[0]
    np.testing.assert_allclose(outcome.curve, whole.losses.reshape(3, 20).mean(axis=1), rtol=1e-3)

    rest = train(task, optax.adam(0.01), seed=3, resume_from=states[0])
    np.testing.assert_array_equal(rest.losses, whole.losses[20:])
    for one, other in zip(jax.tree.leaves(rest.train_state), jax.tree.leaves(whole.train_state), strict=True):
        assert bool((one == other).all())


@pytest.mark.parametrize("kind", ["arrays", "records"])
@pytest.mark.parametrize("name", NAMES)
def test_the_public_check_finds_nothing_to_blame(name, kind, written, monkeypatch):
    monkeypatch.setenv("STEPSMITH_DATA", str(written[kind]))
    model = Shallow(tokens=3000 if name == "lm1b_transformer" else 0)
    assert len(tasks.check(dataclasses.replace(tasks.get(name), model=model, steps=20, batch_size=16))) == 9


@pytest.mark.parametrize("name", NAMES)
def test_arrays_and_records_give_the_same_batches(name, written, monkeypatch):
    task, batches = tasks.get(name), []
    for root in written.values():
        monkeypatch.setenv("STEPSMITH_DATA", str(root))
        batches.append(list(itertools.islice(task.stream(task.load(), 0, 3), 4)))
    for one, other in zip(jax.tree.leaves(batches[0]), jax.tree.leaves(batches[1]), strict=True):
        np.testing.assert_array_equal(one, other)


WORKER = """
import sys
from stepsmith.discovery.evaluate.training_run import evaluate, prepare
from stepsmith.discovery.language import load
print(repr(evaluate(prepare(sys.argv[1], "constant"), load("adamw"), 5).loss))
"""


def test_a_worker_trains_it_in_a_process_of_its_own(written, tmp_path):
    (tmp_path / "small_proxies.py").write_text(
        "import dataclasses\n"
        "from stepsmith.tasks import get\n"
        "from stepsmith.tasks.models import Transformer\n"
        "model = Transformer(width=8, num_layers=1, num_heads=2, context=32, vocabulary=3000)\n"
        "def text(): return dataclasses.replace(get('lm1b_transformer'), model=model, steps=40, batch_size=16)\n"
    )
    environment = {**os.environ, "STEPSMITH_DATA": str(written["records"]), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", WORKER, "small_proxies:text"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < float(done.stdout) < np.log(3000)  # that of a uniform guess


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.delenv("STEPSMITH_DATA", raising=False)


@pytest.mark.parametrize("scale", tasks.SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_without_data_all_works_that_needs_none(name, scale, absent):
    task = tasks.get(name, scale)
    assert task.name == (name if scale == 1 else f"{name}@{scale}") and tasks.get(task.name) == task
    params, state = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == cost(task).parameters
    assert state == {}
    for use in (task.load, lambda: task.version, lambda: load_on_device(task), lambda: train(task, optax.sgd(0.1))):
        with pytest.raises(DataError, match=f"no folder {MADE[name][0]}: make one with .* set STEPSMITH_DATA"):
            use()


def test_the_sizes_are_those_of_the_paper(absent):
    def block(width):  # attention without biases, a perceptron of 4 times the width with biases, two norms
        return 4 * width**2 + 8 * width**2 + 5 * width + 4 * width

    vit, language = tasks.get("imagenet_vit"), tasks.get("lm1b_transformer")
    assert cost(vit).parameters == 768 * 96 + 96 + 16 * 96 + 3 * block(96) + 2 * 96 + 96 * 1000 + 1000
    assert cost(language).parameters == 3000 * 128 + 32 * 128 + 2 * block(128) + 2 * 128 + 128 * 3000
    assert (vit.steps, vit.batch_size, language.steps, language.batch_size) == (30_000, 64, 20_000, 64)


@pytest.mark.parametrize("name", NAMES)
def test_costs_rise_with_the_scale(name, absent):
    runs = [cost(tasks.get(name, scale)).run_flops for scale in tasks.SCALES]
    assert 5 < runs[1] / runs[0] < 20 and 50 < runs[2] / runs[0] < 200


@pytest.mark.parametrize("name", NAMES)
def test_the_version_is_that_of_the_data(name, written, monkeypatch, tmp_path):
    monkeypatch.setenv("STEPSMITH_DATA", str(written["arrays"]))
    task = tasks.get(name)
    before = task.version
    assert task.version == before != dataclasses.replace(task, steps=20).version
    monkeypatch.setenv("STEPSMITH_DATA", str(_write(tmp_path, name, "arrays", seed=1)))
    assert task.version != before


@pytest.mark.parametrize(
    ("name", "file", "array", "words"),
    [
        ("imagenet_vit", "validation_labels", np.full(64, 1000), "label has values from 1000 to 1000, allowed are 0 to 999"),
        (
            "imagenet_vit",
            "train_images",
            np.zeros((256, 32, 32, 3), np.uint8),
            r"image is uint8 \[32, 32, 3\] .* needed are integers \[64, 64, 3\]",
        ),
        ("lm1b_transformer", "validation", np.full(400, 3000), "tokens has values from 3000 to 3000, allowed are 0 to 2999"),
        ("lm1b_transformer", "train", np.zeros((9, 32), int), r"tokens is int64 \[32\] an example, needed are integers \[33\]"),
        ("lm1b_transformer", "train", np.zeros(32, int), "32 values, at least 33 are needed"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(name, file, array, words, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_DATA", str(_write(tmp_path, name, "arrays")))
    np.save(tmp_path / MADE[name][0] / f"{file}.npy", array)
    with pytest.raises(DataError, match=words):
        tasks.get(name).load()
