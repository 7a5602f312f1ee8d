"""Every task of the registry keeps the protocol's promises."""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stepsmith import tasks
from stepsmith.tasks import SPLITS, DataError, DigitsMLP, StdlibLM, base
from stepsmith.tasks.data import stdlib_text
from stepsmith.tasks.models import transformer


@pytest.fixture(params=tasks.names(), scope="module")
def task(request):
    return tasks.get(request.param)


def _equal(left, right) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), left, right))


def test_names_itself_as_the_registry_does(task):
    assert tasks.TASKS[task.name]() == task
    assert task.summary
    assert task.steps > 0 and task.batch_size > 0


def test_data_are_numpy_arrays_of_bytes_in_three_splits(task):
    data = task.load()
    assert set(data) == set(SPLITS)
    leaves = jax.tree.leaves(dict(data))
    assert leaves and all(isinstance(leaf, np.ndarray) and leaf.dtype == np.uint8 and leaf.size for leaf in leaves)


def test_gradients_are_finite_and_reach_every_parameter(task):
    params, state = task.init(jax.random.key(0))
    batch = task.batch(task.load(), jax.random.key(1), "train")
    (loss, _), gradients = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, state, batch, jax.random.key(2))
    assert loss.shape == () and loss.dtype == jnp.float32
    assert 0 < loss < task.loss_threshold / 2
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.isfinite(leaf).all()), jax.tree_util.keystr(path)
        assert bool((leaf != 0).any()), jax.tree_util.keystr(path)


def test_a_key_gives_one_batch_and_one_initialisation(task):
    data = task.load()
    first, again, other = (task.batch(data, jax.random.key(seed), "train") for seed in (1, 1, 2))
    assert _equal(first, again) and not _equal(first, other)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(first)} == {task.batch_size}
    params, again, other = (task.init(jax.random.key(seed))[0] for seed in (1, 1, 2))
    assert _equal(params, again) and not _equal(params, other)


@pytest.mark.parametrize("split", SPLITS)
def test_examples_are_fixed_and_scored_alike_twice(task, split):
    data = task.load()
    assert _equal(task.examples(data, split), task.examples(data, split))
    params, state = task.init(jax.random.key(0))
    scores = tasks.scores(task, params, state, data, split)
    assert scores == tasks.scores(task, params, state, data, split)
    assert np.isfinite(scores["loss"]) and scores["loss"] > 0
    assert 0 <= scores.get("accuracy", 0) <= 1


def test_splits_share_no_digit():
    images = {split: {row.tobytes() for row in DigitsMLP().load()[split]["image"]} for split in SPLITS}
    assert [len(DigitsMLP().load()[split]["image"]) for split in SPLITS] == [1200, 300, 297]
    assert len(set.union(*images.values())) == sum(map(len, images.values()))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DigitsMLP) if field.name != "widths"])
def test_version_changes_with_every_field(field):
    value = getattr(DigitsMLP(), field)
    changed = dataclasses.replace(DigitsMLP(), **{field: value + "x" if isinstance(value, str) else value + 1})
    assert changed.version != DigitsMLP().version


def test_versions_differ_between_tasks_and_hold_between_instances(task):
    assert len(task.version) == 12 and int(task.version, 16) >= 0
    assert tasks.get(task.name).version == task.version
    assert len({tasks.get(name).version for name in tasks.names()}) == len(tasks.names())


def test_version_changes_with_one_byte_of_the_data_and_with_the_code():
    current = {"data": DigitsMLP().load()}

    class Borrowed(DigitsMLP):
        def load(self):
            return current["data"]

    def digest(task, *modules):
        base._digest.cache_clear()
        return tasks.digest(task, *modules)

    before = digest(Borrowed())
    assert digest(Borrowed()) == before
    assert digest(Borrowed(), transformer) != before
    edited = jax.tree.map(np.copy, dict(current["data"]))
    edited["test"]["image"][0, 0] += 1
    current["data"] = edited
    assert digest(Borrowed()) != before


def test_a_windows_next_byte_is_the_text_and_the_model_cannot_see_it():
    task = StdlibLM()
    window = task.examples(task.load(), "validation")[:1]
    assert bytes(np.asarray(window[0])) in task.load()["validation"].tobytes()
    model = transformer.Transformer(8, 2, 2, 32, rngs=nnx.Rngs(0))
    tokens = window[:, :-1]
    later = tokens.at[:, 20:].set(65)
    np.testing.assert_allclose(model(tokens)[:, :20], model(later)[:, :20], atol=1e-5)
    assert not np.allclose(model(tokens)[:, 20:], model(later)[:, 20:], atol=1e-3)


def test_library_files_are_chosen_by_folder_and_capped(tmp_path):
    for index in range(60):
        (tmp_path / f"module_{index}.py").write_text(f"# kept {index}\n" * 1000)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "hidden.py").write_text("# hidden\n" * 1000)
    texts = {split: text.tobytes() for split, text in stdlib_text.load(tmp_path).items()}
    found = {split: {int(line[7:]) for line in text.splitlines() if line} for split, text in texts.items()}
    assert set.union(*found.values()) == set(range(60))
    assert sum(map(len, found.values())) == 60
    assert all(b"hidden" not in text for text in texts.values())
    assert all(len(stdlib_text.load()[split]) <= limit for split, limit in stdlib_text.MAX_BYTES.items())


def test_a_missing_or_empty_library_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        stdlib_text.load(Path(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="0 bytes"):
        stdlib_text.load(tmp_path)


def test_a_users_own_task_is_found_by_module_and_attribute(tmp_path, monkeypatch):
    (tmp_path / "own_task.py").write_text(
        "from stepsmith.tasks import DigitsMLP\ndef short(): return DigitsMLP(steps=5)\nready = DigitsMLP(steps=6)\nnothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert tasks.get("own_task:short").steps == 5
    assert tasks.get("own_task:ready").steps == 6
    with pytest.raises(ValueError, match="'own_task:nothing' is no task"):
        tasks.get("own_task:nothing")
    with pytest.raises(ValueError, match="own_task:absent"):
        tasks.get("own_task:absent")
    with pytest.raises(ValueError, match="no_such_module"):
        tasks.get("no_such_module:task")


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'digit'.*digits_mlp, digits_autoencoder, stdlib_lm"):
        tasks.get("digit")
