"""AutoLRS cut off anywhere, by an error, Ctrl-C or a kill, goes on to the schedule, the parameters and the loss of a run in one go."""

import json
import signal
import time
from operator import attrgetter

import chex
import pytest

from stepsmith.discovery.training import online
from stepsmith.discovery.training.schedule_loop import TaskLoop
from stepsmith.discovery.training.train import make_job, run_job

TASK, STEPS, RATE = "quadratic", 90, 0.1
LEARNED = attrgetter("params", "opt_state")  # of a training state
SEARCHES = ("autolrs", "autolrs:cooled")


def _job(schedule):
    return make_job(TASK, "adam", schedule=schedule, steps=STEPS, learning_rate=RATE)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """A search's name -> its folder and result. Stages of 20, 40 and 30 steps; of 32 and 31, and a cooldown of 27."""
    folders = {schedule: tmp_path_factory.mktemp("whole") for schedule in SEARCHES}
    return {schedule: (folder, run_job(_job(schedule), folder)) for schedule, folder in folders.items()}


def _assert_same_end(whole, folder, again):
    expected_folder, expected = whole
    assert (again.status, again.steps, again.search_steps) == ("ok", STEPS, expected.search_steps)
    chex.assert_trees_all_equal(LEARNED(again.train_state), LEARNED(expected.train_state))
    assert again.scores == expected.scores
    for name in ("schedule.json", "curve.csv"):
        assert (folder / name).read_text() == (expected_folder / name).read_text()


@pytest.mark.parametrize(
    ("schedule", "method", "cut", "calls"),
    [
        # Candidates, five at once: at the start, in the midst of a stage's search, after a stage. None is tried twice, but the one lost.
        *(("autolrs", "run_candidates", cut, 6 + 1) for cut in (1, 3, 4, 5)),
        *(("autolrs:cooled", "cool_candidates", cut, 2 + 1) for cut in (1, 2)),
        # A stage's own training, whose candidates are known already.
        *(("autolrs", "run", cut, 3 + 1) for cut in (1, 2, 3)),
        *(("autolrs:cooled", "run", cut, 2 + 27 + 1) for cut in (1, 2)),
        # The tenth step of the cooldown, which begins again at its first.
        ("autolrs:cooled", "run", 2 + 10, 2 + 10 + 27),
    ],
)
def test_cut_off_it_goes_on_to_the_same_end(wholes, schedule, method, cut, calls, tmp_path, monkeypatch):
    made, usual = [], getattr(TaskLoop, method)

    def lost(self, *arguments):
        """The work is done, and nobody hears of it."""
        result = usual(self, *arguments)
        made.append(1)
        if len(made) == cut:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(TaskLoop, method, lost)
    with pytest.raises(KeyboardInterrupt):
        run_job(_job(schedule), tmp_path)
    assert not (tmp_path / "schedule.json").exists()
    _assert_same_end(wholes[schedule], tmp_path, run_job(_job(schedule), tmp_path))
    assert len(made) == calls


def test_ctrl_c_ends_it_after_the_stage_and_the_same_command_goes_on(wholes, tmp_path):
    first = run_job(_job("autolrs"), tmp_path, on_chunk=lambda state, losses: signal.raise_signal(signal.SIGINT))
    assert (first.status, first.steps, first.scores) == ("interrupted", 20, {})
    again = run_job(_job("autolrs"), tmp_path)
    assert again.resumed_from == 20
    _assert_same_end(wholes["autolrs"], tmp_path, again)


def test_ctrl_c_among_candidates_ends_it_after_them_and_none_is_tried_again(wholes, tmp_path, monkeypatch):
    made, usual = [], TaskLoop.run_candidates

    def with_ctrl_c(self, rates, steps):
        made.append(1)
        if len(made) == 1:
            signal.raise_signal(signal.SIGINT)
        return usual(self, rates, steps)

    monkeypatch.setattr(TaskLoop, "run_candidates", with_ctrl_c)
    first = run_job(_job("autolrs"), tmp_path)
    assert (first.status, first.steps, len(made)) == ("interrupted", 0, 1)
    assert len(json.loads((tmp_path / online.SEARCH).read_text())["candidates"]) == online.BATCH
    _assert_same_end(wholes["autolrs"], tmp_path, run_job(_job("autolrs"), tmp_path))
    assert len(made) == 6


@pytest.mark.heavy
def test_killed_between_stages_it_goes_on_to_the_same_end(wholes, tmp_path, start_command):
    """The process is slowed down, so that the kill finds it searching its second stage."""
    options = [
        "--optimizer",
        "adam",
        "--schedule",
        "autolrs",
        "--steps",
        STEPS,
        "--learning-rate",
        RATE,
        "--checkpoint",
        tmp_path / "killed",
    ]
    slow = """
import time
from stepsmith.discovery.training.schedule_loop import TaskLoop
usual = TaskLoop.run_candidates
TaskLoop.run_candidates = lambda *arguments: time.sleep(0.5) or usual(*arguments)
"""
    process, deadline = start_command("train", TASK, *options, prelude=slow), time.monotonic() + 120
    while process.poll() is None and _searched_from(tmp_path / "killed") == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    printed, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, printed
    assert _searched_from(tmp_path / "killed") > 0 and not (tmp_path / "killed" / "schedule.json").exists()
    again = run_job(_job("autolrs"), tmp_path / "killed")
    assert again.resumed_from >= 20
    _assert_same_end(wholes["autolrs"], tmp_path / "killed", again)


def _searched_from(folder):
    """The first step of the stage that was searched last; 0 before there is one."""
    try:
        return json.loads((folder / online.SEARCH).read_text())["step"]
    except FileNotFoundError:
        return 0
