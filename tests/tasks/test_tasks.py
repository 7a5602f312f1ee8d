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
from stepsmith.tasks import SPLITS, DataError, version
from stepsmith.tasks.data import Rows, digits, stdlib_text
from stepsmith.tasks.models import MLP, Transformer

DIGITS = tasks.get("digits_mlp")
HOST_FED = ("imagenet_vit", "lm1b_transformer")  # tested with made data in test_proxies.py
DEVICE = [name for name in tasks.names() if name not in HOST_FED]


@pytest.fixture(params=DEVICE, scope="module")
def task(request, task_or_skip):
    return task_or_skip(request.param)


def _equal(left, right) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), left, right))


def test_names_itself_as_the_registry_does(task):
    assert tasks.TASKS[task.name](1) == task
    assert task.summary
    assert task.steps > 0 and task.batch_size > 0


@pytest.mark.heavy
def test_the_public_check_finds_nothing_to_blame(task, quick_compile):
    assert len(tasks.check(task)) == 9


@pytest.mark.parametrize("name", DEVICE)
def test_images_and_text_stay_bytes_until_the_loss(name, task_or_skip):
    for arrays in task_or_skip(name).load().values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
            assert leaf.dtype == np.uint8 or jax.tree_util.keystr(path) not in ("", "['image']", "['label']")


def test_gradients_reach_every_parameter(task):
    params, state = task.init(jax.random.key(0))
    batch = task.batch(task.load(), jax.random.key(1), "train")
    (loss, _), gradients = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, state, batch, jax.random.key(2))
    assert loss.shape == () and loss.dtype == jnp.float32
    assert 0 < loss < task.loss_threshold / 2
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool((leaf != 0).any()), jax.tree_util.keystr(path)


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
    images = {split: {row.tobytes() for row in DIGITS.load()[split]["image"]} for split in SPLITS}
    assert [len(DIGITS.load()[split]["image"]) for split in SPLITS] == [1200, 300, 297]
    assert len(set.union(*images.values())) == sum(map(len, images.values()))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"steps": 201},
        {"batch_size": 65},
        {"loss_threshold": 11.0},
        {"model": MLP((64, 33, 10))},
        {"model": MLP((64, 32, 10), dropout=0.1)},
        {"source": Rows(digits.load, digits.pixels, num_examples=299)},
        {"source": Rows(digits.load, digits.rows)},
        {"objective": lambda outputs, inputs, batch: {"loss": outputs.mean()}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_version_changes_with_every_setting(changed):
    assert dataclasses.replace(DIGITS, **changed).version != DIGITS.version


def test_version_holds_where_only_words_change():
    assert dataclasses.replace(DIGITS, summary="the same in other words").version == DIGITS.version
    assert version.code("x = 1  # one\n\n") == version.code("x = 1") != version.code("x = 2")


def test_code_in_strings_is_code():
    source = 'def f():\n    """Words."""\n    return "# no comment", \'\'\'# nor\n    this\'\'\'\n'
    assert version.code(source) == "def f():\n    return \"# no comment\", '''# nor\n    this'''"


def test_versions_differ_between_tasks_and_hold_between_instances(task):
    assert len(task.version) == 12 and int(task.version, 16) >= 0
    assert tasks.get(task.name).version == task.version
    others = [name for name in ("digits_mlp", "digits_mlp@10", "logistic", "quadratic") if name != task.name]
    assert task.version not in {tasks.get(name).version for name in others}


def test_version_changes_with_one_byte_of_the_data_and_with_the_code():
    current = {"data": digits.load()}

    def load():
        return current["data"]

    task = dataclasses.replace(DIGITS, source=Rows(load, digits.pixels))

    def digest(*modules):
        version._digest.cache_clear()
        return tasks.digest(task, *modules)

    before = digest()
    assert digest() == before
    assert digest(stdlib_text) != before
    with version.edited():
        assert digest() != before
    edited = jax.tree.map(np.copy, dict(current["data"]))
    edited["test"]["image"][0, 0] += 1
    current["data"] = edited
    assert digest() != before


def test_a_windows_next_byte_is_the_text_and_the_model_cannot_see_it():
    task = tasks.get("stdlib_lm")
    window = task.examples(task.load(), "validation")[:1]
    assert bytes(np.asarray(window[0])) in task.load()["validation"].tobytes()
    model = Transformer(8, 2, 2, 32).build(nnx.Rngs(0))
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
        "import dataclasses\nfrom stepsmith.tasks import get\nready = get('digits_mlp@10')\nnothing = 3\n"
        "def short(scale=1): return dataclasses.replace(ready, steps=5 * scale)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert tasks.get("own_task:short").steps == 5
    assert tasks.get("own_task:short@10").steps == 50
    assert tasks.get("own_task:ready").steps == 640
    with pytest.raises(ValueError, match="'own_task:ready' has no ladder"):
        tasks.get("own_task:ready@10")
    with pytest.raises(ValueError, match="'own_task:nothing' is no task"):
        tasks.get("own_task:nothing")
    with pytest.raises(ValueError, match="own_task:absent"):
        tasks.get("own_task:absent")
    with pytest.raises(ValueError, match="no_such_module"):
        tasks.get("no_such_module:task")


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'digit'.*digits_mlp, digits_autoencoder"):
        tasks.get("digit")


@pytest.mark.parametrize("name", ["digits_mlp@", "digits_mlp@big", "digits_mlp@-1"])
def test_a_scale_is_a_number(name):
    with pytest.raises(ValueError, match="after @ comes a scale"):
        tasks.get(name)


@pytest.mark.parametrize("percent", ["0", "01", "1001", "5000", "abc", "", "\u0663", "25~50", " 25", "+25", "2.5"])
def test_a_budget_is_a_percentage_in_one_spelling(percent):
    with pytest.raises(ValueError) as caught:
        tasks.get(f"digits_mlp~{percent}")
    assert str(caught.value) == (
        f"task {'digits_mlp~' + percent!r}: after ~ comes a budget in percent of its steps, 1 to 1000, such as digits_mlp~25"
    )


def test_a_budget_that_leads_nowhere_says_why():
    with pytest.raises(ValueError, match="unknown task 'unknown'; known are digits_mlp,"):
        tasks.get("unknown~25")
    with pytest.raises(ValueError, match="'digits_mlp~1': 1 % of 200 steps are 2, and 5 is the least"):
        tasks.get("digits_mlp~1")


def test_a_budget_is_a_share_of_the_steps():
    assert [tasks.get(f"digits_mlp~{percent}").steps for percent in (3, 25, 400, 1000)] == [6, 50, 800, 2000]
    assert tasks.get("digits_mlp@10~25").steps == 160
