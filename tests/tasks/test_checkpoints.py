"""Training that is stopped, killed or broken and goes on: the same parameters bit for bit and the same curve."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.tasks import get, scores, train
from stepsmith.tasks import training as loop
from stepsmith.tasks.checkpoints import CHECKPOINTS, RUN, train_and_score, train_with_checkpoints
from stepsmith.tasks.curves import CSV, EVENTS, PICTURE, CurveError
from stepsmith.tasks.saving import CheckpointError, Store, from_arrays, to_arrays

TASK = get("quadratic")  # compiles fastest
DIGITS = get("digits_mlp")
RULE = optax.adam(optax.linear_schedule(0.01, 0.0, 200))
KILLS = 3
CHILD = """
import sys, optax
from stepsmith.tasks import get
from stepsmith.tasks.checkpoints import train_with_checkpoints
train_with_checkpoints(get("digits_mlp"), optax.adam(optax.linear_schedule(0.01, 0.0, 200)), sys.argv[1], steps=1500, every=20)
"""


class Crash(Exception):
    pass


def _crash_at(*steps):
    def on_chunk(state, losses):
        if int(state.step) in steps:
            raise Crash

    return on_chunk


def _equal(a, b):
    a, b = to_arrays(a), to_arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed, and its folder; copy the folder before writing to it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return train_with_checkpoints(TASK, RULE, folder, every=40, settings={"optimizer": "adam"}), folder


@pytest.fixture
def half(finished, tmp_path):
    """The folder of the same run, broken off after the checkpoint of step 120."""
    folder = tmp_path / "half"
    with pytest.raises(Crash):
        train_with_checkpoints(TASK, RULE, folder, every=40, settings={"optimizer": "adam"}, on_chunk=_crash_at(140))
    return folder


def _go_on(folder, **options):
    return train_with_checkpoints(TASK, RULE, folder, every=40, settings={"optimizer": "adam"}, **options)


@pytest.mark.parametrize("task", [TASK, DIGITS], ids=lambda task: task.name)
def test_a_whole_run_is_that_of_the_plain_loop(task, tmp_path):
    result = train_with_checkpoints(task, RULE, tmp_path)
    trained = train(task, RULE)
    _equal(result.train_state, trained.train_state)
    rows = [line.split(",") for line in (tmp_path / CSV).read_text().splitlines()]
    np.testing.assert_array_equal(np.array([row[1] for row in rows[1:]], np.float32), trained.losses)
    assert (result.status, result.steps, result.resumed_from) == ("ok", 200, 0)
    params, state = trained.train_state.params, trained.train_state.state
    assert result.scores == {split: scores(task, params, state, task.load(), split) for split in ("train", "validation", "test")}
    assert train_and_score(task, RULE).scores == result.scores
    names = [name.removeprefix("validation_") for name in rows[0][2:]]
    assert names == ["loss", "accuracy"][: len(names)] and set(names) == set(result.scores["validation"])
    assert [float(cell) for cell in rows[-1][2:]] == [result.scores["validation"][name] for name in names]


def test_the_folder_holds_what_it_says(finished):
    _, folder = finished
    assert {path.name for path in folder.iterdir()} == {RUN, "run.lock", CHECKPOINTS, CSV, EVENTS, PICTURE}
    assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir()) == ["160", "200"]
    identity = json.loads((folder / RUN).read_text())
    expected = {"task": "quadratic", "task_version": TASK.version, "steps": 200, "seed": 0, "optimizer": "adam"}
    assert identity == {"format": 1, **expected}
    validated = [line.split(",")[0] for line in (folder / CSV).read_text().splitlines()[1:] if not line.endswith(",")]
    assert validated == ["40", "80", "120", "160", "200"]


def test_a_finished_run_is_left_alone(finished):
    result, folder = finished
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"
    }
    calls = []
    again = _go_on(folder, on_chunk=lambda *_: calls.append(1))
    assert not calls and again.resumed_from == 200
    assert (again.status, again.seconds, again.scores) == (result.status, result.seconds, result.scores)
    _equal(again.train_state, result.train_state)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_broken_off_several_times_it_ends_the_same(finished, tmp_path, read_events):
    whole, whole_folder = finished
    for step in (20, 40, 100, 180, 200):
        with pytest.raises(Crash):
            _go_on(tmp_path / "run", on_chunk=_crash_at(step))
    result = _go_on(tmp_path / "run")
    assert result.resumed_from == 160 and result.seconds > 0
    _equal(result.train_state, whole.train_state)
    assert (tmp_path / "run" / CSV).read_bytes() == (whole_folder / CSV).read_bytes()
    assert read_events(tmp_path / "run" / EVENTS) == read_events(whole_folder / EVENTS)


@pytest.mark.heavy
def test_killed_at_random_moments_it_ends_the_same(tmp_path, read_events):
    rule = optax.adam(optax.linear_schedule(0.01, 0.0, 200))
    whole = train_with_checkpoints(DIGITS, rule, tmp_path / "whole", steps=1500, every=20)
    chance, folder, kills = random.Random(0), tmp_path / "killed", 0
    for kill in range(KILLS):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stderr=subprocess.PIPE)
        # By the rows written, for how long the start takes nobody knows; then somewhere inside a chunk or a checkpoint.
        goal = 1400 * (kill + chance.random()) / KILLS
        while child.poll() is None and not ((folder / CSV).exists() and (folder / CSV).read_bytes().count(b"\n") > goal):
            time.sleep(0.002)
        time.sleep(0.05 * chance.random())
        child.kill()
        assert child.communicate()[1] == b""
        kills += child.returncode == -signal.SIGKILL
    assert kills >= KILLS - 1
    result = train_with_checkpoints(DIGITS, rule, folder, steps=1500, every=20)
    assert result.status == "ok" and result.resumed_from > 0
    _equal(result.train_state, whole.train_state)
    assert (folder / CSV).read_bytes() == (tmp_path / "whole" / CSV).read_bytes()
    assert read_events(folder / EVENTS) == read_events(tmp_path / "whole" / EVENTS)


def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on(finished, tmp_path):
    usual = signal.getsignal(signal.SIGINT)

    def interrupt(state, losses):
        if int(state.step) == 60:
            signal.raise_signal(signal.SIGINT)

    stopped = _go_on(tmp_path / "run", on_chunk=interrupt)
    assert (stopped.status, stopped.steps, stopped.scores) == ("interrupted", 80, {})
    assert (tmp_path / "run" / PICTURE).is_file() and signal.getsignal(signal.SIGINT) is usual
    stopped = _go_on(tmp_path / "run", on_chunk=lambda state, _: int(state.step) == 100 and signal.raise_signal(signal.SIGINT))
    assert (stopped.status, stopped.steps, stopped.resumed_from) == ("interrupted", 120, 80)
    result = _go_on(tmp_path / "run")
    assert result.resumed_from == 120
    _equal(result.train_state, finished[0].train_state)
    assert (tmp_path / "run" / CSV).read_bytes() == (finished[1] / CSV).read_bytes()


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    def interrupt_twice(state, losses):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.05)  # two at the same moment may be handled as one

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            _go_on(tmp_path, on_chunk=interrupt_twice)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_runs_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train_with_checkpoints(TASK, RULE, tmp_path, steps=20)))
    thread.start()
    thread.join()
    assert results[0].status == "ok"


@pytest.mark.parametrize(("rate", "status"), [(5.0, "diverged"), (1e30, "nonfinite")])
def test_a_failed_run_is_a_status_and_stays_one(tmp_path, rate, status):
    # It fails in the chunk after the one with a checkpoint, and right at one.
    rule = optax.sgd(lambda step: jnp.where(step < 20, 0.1, rate))
    for every in (20, 40):
        result = train_with_checkpoints(TASK, rule, tmp_path / str(every), every=every)
        assert (result.status, result.steps) == (status, 40)
        again = train_with_checkpoints(TASK, rule, tmp_path / str(every), every=every)
        assert (again.status, again.resumed_from) == (status, 40)
        assert (tmp_path / str(every) / CSV).read_text().count("\n") == 41


def test_a_run_that_breaks_in_its_last_update_is_nonfinite(tmp_path):
    rule = optax.sgd(lambda step: jnp.where(step == 19, jnp.inf, 0.1))
    assert train_with_checkpoints(TASK, rule, tmp_path, steps=20).status == "nonfinite"
    assert train_and_score(TASK, rule, steps=20).status == "nonfinite"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, ["seed is 0 there and 1 here"]),
        ({"steps": 100}, ["steps is 200 there and 100 here"]),
        ({"settings": {"optimizer": "lion"}}, ["optimizer is 'adam' there and 'lion' here"]),
        ({"settings": {}}, ["optimizer is 'adam' there and None here"]),
        ({"task": DIGITS}, ["task is 'quadratic' there and 'digits_mlp' here"]),
        ({"every": 0}, ["at least 1"]),
        ({"steps": 0}, ["at least 1"]),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else "",
)
def test_another_run_is_refused(finished, change, words):
    options = {"task": TASK, "transformation": RULE, "folder": finished[1], "settings": {"optimizer": "adam"}, **change}
    with pytest.raises(ValueError) as caught:
        train_with_checkpoints(**options)
    for word in words:
        assert word in str(caught.value)


def test_foreign_and_busy_folders_are_refused(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for folder, word in (("foreign", "thesis.txt"), ("file", "cannot be used"), ("file/below", "cannot be used")):
        with pytest.raises(CheckpointError, match=word):
            _go_on(tmp_path / folder)
    with pytest.raises(CheckpointError, match="another process"):
        _go_on(tmp_path / "busy", on_chunk=lambda *_: _go_on(tmp_path / "busy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["busy", "file", "foreign"]


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    with pytest.raises(Crash):
        _go_on(tmp_path, on_chunk=_crash_at(20))
    assert _go_on(tmp_path, on_chunk=lambda state, losses: None).resumed_from == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax leaves futures of the reads that failed
def test_a_damaged_file_is_noticed_or_makes_no_difference(half, tmp_path):
    """Each file of the latest checkpoint, cut in half, with a byte changed, or gone."""
    like = jax.jit(lambda key: loop.start(TASK, RULE, key))(jax.random.key(0))
    with Store(half / CHECKPOINTS) as store:
        assert store.latest == 120
        whole, _ = store.restore(like)
    copy, noticed = tmp_path / "copy", 0
    for file in sorted(path.relative_to(half) for path in (half / CHECKPOINTS / "120").rglob("*") if path.is_file()):
        content = (half / file).read_bytes()
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :] if content else b"x"
        for spoiled in (content[:middle], changed, None):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(half / CHECKPOINTS, copy)
            path = copy / file.relative_to(CHECKPOINTS)
            path.unlink() if spoiled is None else path.write_bytes(spoiled)
            try:
                with Store(copy) as store:
                    if store.latest == 120:
                        _equal(store.restore(like)[0], whole)
            except CheckpointError as error:
                assert "120" in str(error) and "go on from step 80" in str(error)
                noticed += 1
    assert noticed >= 6  # orbax does not read all of its files


def test_without_the_damaged_checkpoint_the_run_goes_on_from_the_one_before(half, finished):
    shutil.rmtree(half / CHECKPOINTS / "120")
    result = _go_on(half)
    assert result.resumed_from == 80
    _equal(result.train_state, finished[0].train_state)
    assert (half / CSV).read_bytes() == (finished[1] / CSV).read_bytes()


def test_a_curve_that_was_changed_is_refused(half):
    (half / CSV).write_text("step,train_loss\n")
    with pytest.raises(CurveError, match=r"curve\.csv"):
        _go_on(half)


@pytest.mark.parametrize("text", ["", "[1]", "3"])
def test_an_unreadable_record_of_the_run_is_refused(half, text):
    (half / RUN).write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        _go_on(half)


def test_a_checkpoint_of_another_shape_is_refused(half):
    with pytest.raises(CheckpointError, match="120"):
        train_with_checkpoints(TASK, optax.sgd(0.1, momentum=0.9), half, every=40, settings={"optimizer": "adam"})


def test_every_kind_of_leaf_comes_back(tmp_path):
    tree = {
        "float": jnp.arange(3.0),
        "half": jnp.ones((2, 2), jnp.bfloat16),
        "scalar": jnp.asarray(7),
        "bool": jnp.array([True, False]),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(3, impl="rbg"), 2),
        "empty": jnp.zeros((0, 3)),
        "none": None,
    }
    state = loop.TrainState(tree, {}, optax.adam(0.1).init({"w": jnp.ones(2)}), jnp.asarray(4, jnp.int32), jax.random.key(1))
    with Store(tmp_path) as store:
        store.save(state, {"a": [1, None]})
    like = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros_like(leaf), state)
    with Store(tmp_path) as store:
        restored, notes = store.restore(like)
    assert notes == {"a": [1, None]}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    _equal(restored, state)
    assert jax.random.key_impl(restored.params["keys"]) == jax.random.key_impl(tree["keys"])
    assert not from_arrays(to_arrays({"a": jnp.asarray(1.0)}), {"a": jnp.asarray(1.0)})["a"].weak_type


def test_other_lengths_of_a_run_resume_bit_for_bit(tmp_path):
    """Chunks of 14 steps, and of one: 31 is prime."""
    for steps in (70, 31):
        whole = train(TASK, RULE, steps=steps)
        with pytest.raises(Crash):
            train_with_checkpoints(TASK, RULE, tmp_path / str(steps), steps=steps, every=7, on_chunk=_crash_at(28))
        result = train_with_checkpoints(TASK, RULE, tmp_path / str(steps), steps=steps, every=7)
        assert result.resumed_from == 28
        _equal(result.train_state, whole.train_state)
