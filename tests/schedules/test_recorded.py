"""Recorded schedules: both formats, both axes, exact replay, refusals in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith import schedules as s


@pytest.mark.parametrize("suffix", ["csv", "json"])
@pytest.mark.parametrize("name", ["constant", "rex", "one_cycle", "sgdr", "step"])
def test_a_saved_schedule_replays_exactly(tmp_path, name, suffix):
    path = tmp_path / f"{name}.{suffix}"
    original = s.create(name, 0.3, 100)
    s.save_recorded(path, original, 100)
    replayed = s.from_profile(s.load_recorded(path), 0.3, 100)
    highest = max(float(original(step)) for step in range(100))
    expected = [float(original(step)) * 0.3 / highest for step in range(100)]
    np.testing.assert_allclose(jax.jit(jax.vmap(replayed))(jnp.arange(100)), expected, rtol=1e-4, atol=1e-5)
    assert replayed(100) == replayed(101) == replayed(1000)
    np.testing.assert_allclose(replayed(1000), expected[-1], rtol=1e-5)


def test_a_run_of_another_length_follows_the_progress(tmp_path):
    path = tmp_path / "linear.csv"
    s.save_recorded(path, s.create("linear", 1.0, 100), 100)
    schedule = s.from_profile(s.load_recorded(path), 0.5, 1000)
    np.testing.assert_allclose([schedule(step) for step in (0, 250, 905, 990)], [0.5, 0.375, 0.0475, 0.005], rtol=1e-3)


def test_points_are_joined_by_lines(tmp_path):
    for name, text in (
        ("a.csv", "\ufeffprogress, learning_rate\r\n0,0\r\n0.1,4\n\n1,0\n"),
        ("b.json", json.dumps({"step": [0, 100, 1000], "learning_rate": [0, 4, 0], "steps": 1001})),
        ("c.json", json.dumps({"progress": [0, 0.1, 1], "learning_rate": [0, 4, 0]})),
    ):
        (tmp_path / name).write_text(text)
        profile = s.load_recorded(tmp_path / name)
        np.testing.assert_allclose([profile(p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)], [0, 0.5, 1, 0.5, 0], atol=2e-3)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_found_schedule_says_what_its_search_took_and_replays_as_without(tmp_path, suffix):
    with_steps, without = tmp_path / f"with.{suffix}", tmp_path / f"without.{suffix}"
    s.save_recorded(with_steps, s.create("rex", 0.3, 20), 20, search_steps=2500)
    s.save_recorded(without, s.create("rex", 0.3, 20), 20)
    assert [s.recorded_search_steps(path) for path in (with_steps, without)] == [2500, 0]
    profiles = [s.load_recorded(path) for path in (with_steps, without)]
    assert all(profiles[0](p) == profiles[1](p) for p in np.linspace(0, 1, 33))


@pytest.mark.parametrize("said", [-1, 0.5, "many", True, [], [1, 2], None])
def test_a_number_of_search_steps_that_is_none_is_refused_in_one_line(tmp_path, said):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"step": [0, 1], "learning_rate": [1, 0.5], "search_steps": said}))
    with pytest.raises(s.ScheduleError, match="search_steps") as refusal:
        s.recorded_search_steps(path)
    assert "found.json" in str(refusal.value) and "\n" not in str(refusal.value)


BAD = {
    "empty.csv": ("", "is empty"),
    "headless.csv": ("0,1\n1,0\n", "needs learning_rate and one of step and progress, got '0', '1'"),
    "both.csv": ("step,progress,learning_rate\n0,0,1\n", "one of step and progress"),
    "word.csv": ("step,learning_rate\n0,high\n", "learning_rate holds 'high', which is no finite number"),
    "nan.csv": ("step,learning_rate\n0,nan\n", "no finite number"),
    "short.csv": ("step,learning_rate\n0,1\n1\n", "row 3 has 1 cells, its heading 2"),
    "rows.csv": ("step,learning_rate\n", "as many learning rates as points"),
    "negative.csv": ("step,learning_rate\n0,1\n1,-1\n", "at least 0"),
    "zero.csv": ("step,learning_rate\n0,0\n1,0\n", "one of them above 0"),
    "order.csv": ("step,learning_rate\n1,1\n0,1\n", "must ascend"),
    "outside.csv": ("progress,learning_rate\n0,1\n2,1\n", "end of the run"),
    "text.json": ("rates", "is no JSON"),
    "list.json": ("[1, 2]", "must hold an object of lists"),
    "scalar.json": ('{"step": 1, "learning_rate": 2}', "step must be a list of numbers"),
    "bool.json": ('{"step": [0], "learning_rate": [true]}', "no finite number"),
    "nested.json": ('{"step": [0], "learning_rate": [[1]]}', "no finite number"),
    "uneven.json": ('{"step": [0, 1], "learning_rate": [1]}', "as many learning rates as points"),
    "steps.json": ('{"step": [0, 9], "learning_rate": [1, 1], "steps": 9}', "has 9 steps, which must be more than .* 9"),
    "nosteps.json": ('{"step": [0, 9], "learning_rate": [1, 1], "steps": null}', "steps holds None"),
    "other.txt": ("", "is a .csv or .json file"),
    "gone.csv": (None, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name):
    text, words = BAD[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(s.ScheduleError, match=words) as refusal:
        s.load_recorded(tmp_path / name)
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


def test_binary_files_and_other_names_are_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(s.ScheduleError, match="cannot be read"):
        s.load_recorded(tmp_path / "bytes.csv")
    with pytest.raises(s.ScheduleError, match="is a .csv or .json file"):
        s.save_recorded(tmp_path / "a.txt", s.rex(0.1, 10), 10)


def test_recorded_values_stay_until_the_next_and_survive_a_file(tmp_path):
    schedule = s.piecewise_schedule([0, 3, 7], [0.2, 0.4, 0.1])
    expected = [0.2] * 3 + [0.4] * 4 + [0.1] * 5
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(12)), expected, rtol=1e-6)
    s.save_recorded(tmp_path / "found.csv", schedule, 12)
    replayed = s.from_profile(s.load_recorded(tmp_path / "found.csv"), 0.4, 12)
    np.testing.assert_allclose([replayed(step) for step in range(12)], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("starts", "values"), [([], []), ([1], [0.1]), ([0, 0], [0.1, 0.1]), ([0], [0.1, 0.2]), ([0], [-1.0]), ([0], [np.nan])]
)
def test_values_that_make_no_schedule_are_refused(starts, values):
    with pytest.raises(s.ScheduleError, match="recorded values"):
        s.piecewise_schedule(starts, values)
