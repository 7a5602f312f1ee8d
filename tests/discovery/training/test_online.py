"""AutoLRS on our tasks: its schedule replayed is the run itself, candidates leave no trace, bad input is refused."""

import dataclasses
import json
from operator import attrgetter
from typing import ClassVar

import chex
import jax
import numpy as np
import optax
import pytest

from stepsmith.discovery.training import online as online_module
from stepsmith.discovery.training.online import make_online, train_online
from stepsmith.discovery.training.schedule_loop import TaskLoop
from stepsmith.discovery.training.train import line, make_job, run_job
from stepsmith.schedules import recorded_peak, recorded_search_steps
from stepsmith.schedules.autolrs.controller import falling
from stepsmith.tasks import get, train
from stepsmith.tasks.checkpoints import CheckpointError
from stepsmith.tasks.supervised import Supervised

TASK, STEPS = "quadratic", 90
LEARNED = attrgetter("params", "opt_state")  # of a training state


def _job(steps=STEPS, **settings):
    return make_job(TASK, "adam", schedule="autolrs", steps=steps, learning_rate=0.1, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_job(_job(), folder)


def test_a_rule_that_averages_is_judged_at_its_average():
    """Against optax's own function, at the parameters that the loop moved."""
    task = get("quadratic")
    loop = TaskLoop(task, lambda schedule: optax.contrib.schedule_free_sgd(schedule, b1=0.9))
    loop.run(0.3, 5)
    state, validation = loop.train_state, task.examples(task.load(), "validation")
    averaged, moved = (
        float(task.metric(params, state.state, validation)["loss"])
        for params in (optax.contrib.schedule_free_eval_params(state.opt_state, state.params), state.params)
    )
    assert loop.evaluate() == pytest.approx(averaged, rel=1e-6) and averaged != pytest.approx(moved, rel=1e-3)


def test_every_step_is_at_the_rate_given_from_the_first_on():
    task = get(TASK)
    loop = TaskLoop(task, optax.sgd)
    for rate in (0.01, 0.3, 0.02):
        before = loop.snapshot()
        loop.run(rate, 1)
        plain = train(task, optax.sgd(rate), steps=int(before.step) + 1, resume_from=before).train_state
        chex.assert_trees_all_close(loop.train_state.params, plain.params, rtol=1e-4, atol=1e-6)


def test_a_restored_loop_meets_the_same_batches():
    loop = TaskLoop(get("digits_mlp"), optax.adam, seed=3)
    loop.run(0.01, 10)
    before = loop.snapshot()
    first = loop.run(0.01, 7)
    loop.restore(before)
    other = loop.run(0.3, 7)
    loop.restore(before)
    np.testing.assert_array_equal(loop.run(0.01, 7), first)
    assert other[0] == first[0]  # before any update at the new rate
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("name", ["tabular", "fashion_cnn"])  # dropout, which draws at every step; batch norm, whose statistics move
def test_candidates_of_one_snapshot_at_one_rate_are_one(name, task_or_skip):
    task = task_or_skip(name)
    loop = TaskLoop(task, optax.adam, seed=1)
    loop.run(0.01, 2)
    before, ends, losses = loop.snapshot(), [], []
    for rate in (0.01, 0.1, 0.01):
        loop.restore(before)
        losses.append(loop.run(rate, 3))
        ends.append(loop.train_state)
    np.testing.assert_array_equal(losses[0], losses[2])
    chex.assert_trees_all_equal(ends[0]._replace(key=0), ends[2]._replace(key=0))
    assert losses[1][0] == losses[0][0] and losses[1][-1] != losses[0][-1]
    loop.restore(before)
    rows = loop.run_candidates([0.01, 0.1, 0.01], 3)
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_allclose(rows[:2], losses[:2], rtol=1e-3, atol=1e-4)
    if name == "fashion_cnn":
        assert any((one != other).any() for one, other in zip(*map(jax.tree.leaves, (before.state, ends[0].state)), strict=True))
    else:
        batch = task.batch(task.load(), jax.random.key(0), "train")
        assert len({float(task.loss(before.params, before.state, batch, jax.random.key(key))[0]) for key in range(3)}) == 3


@dataclasses.dataclass(frozen=True)
class Guarded(Supervised):
    """Notes how many examples the search scores; those of the test split are kept back until the search is over."""

    sizes: ClassVar[list[int]] = []
    over: ClassVar[list[int]] = []

    def examples(self, data, split):
        assert split != "test" or self.over, "the search asks for the test split"
        return super().examples(data, split)

    def metric(self, params, state, batch):
        if not self.over:
            self.sizes.append(len(batch["label"]))
        return super().metric(params, state, batch)


@pytest.mark.parametrize(("schedule", "changes"), [("autolrs", {"validation_from": 2}), ("autolrs:cooled", {})])
def test_a_search_sees_the_whole_validation_split_and_nothing_of_the_test_split(schedule, changes, monkeypatch):
    monkeypatch.setattr(Guarded, "sizes", [])
    monkeypatch.setattr(Guarded, "over", [])
    usual = get("digits_mlp")
    task = Guarded(**{field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)} | {"name": f"guarded {schedule}"})
    finder = make_job("digits_mlp", "adam", schedule=schedule, steps=40, learning_rate=0.01).finder
    finder = finder._replace(config=dataclasses.replace(finder.config, candidates=3, **changes))

    def ended(state, losses):
        if int(state.step) == 40:
            task.over.append(1)

    result = train_online(task, finder, on_chunk=ended)
    data = usual.load()
    assert {*task.sizes} == {len(data["validation"]["label"])} != {len(data["test"]["label"])}
    assert result.status == "ok" and task.over and "test" in result.scores


def test_candidates_at_once_are_the_candidates_one_by_one_and_leave_the_loop_alone():
    loop = TaskLoop(get("digits_mlp"), optax.adam)
    loop.run(0.01, 5)
    before = loop.snapshot()
    rates = [0.001, 0.01, 0.1]
    rows = loop.run_candidates(rates, 12)
    assert loop.train_state is before
    for rate, row in zip(rates, rows, strict=True):
        loop.restore(before)
        np.testing.assert_allclose(loop.run(rate, 12), row, rtol=1e-3, atol=1e-4)


def test_candidates_cooled_at_once_are_those_one_by_one_and_leave_the_loop_alone():
    task = get("digits_mlp")
    loop = TaskLoop(task, optax.adam)
    loop.run(0.01, 5)
    before = loop.snapshot()
    rates = [0.001, 0.01, 0.1]
    losses = loop.cool_candidates(rates, 8, 4)
    assert loop.train_state is before
    for rate, loss in zip(rates, losses, strict=True):
        loop.restore(before)
        loop.run(rate, 8)
        for at in falling(rate, 4):
            loop.run(at, 1)
        assert loop.evaluate() == pytest.approx(loss, rel=1e-3)
        plain = optax.join_schedules([optax.constant_schedule(rate), optax.linear_schedule(rate, 0.0, 4)], [13])
        alone = train(task, optax.adam(plain), steps=17, resume_from=before).train_state
        chex.assert_trees_all_close(loop.train_state.params, alone.params, rtol=1e-3, atol=1e-5)


def test_a_cooldown_longer_than_one_call_is_one_fall():
    loop = TaskLoop(get(TASK), optax.sgd)
    (long,) = loop.cool_candidates([0.1], 300, 700)
    for rate in [*[0.1] * 300, *falling(0.1, 700)]:
        loop.run(rate, 1)
    assert loop.evaluate() == pytest.approx(long, rel=1e-3)


def test_a_candidate_that_diverges_has_no_loss():
    losses = TaskLoop(get(TASK), optax.sgd).cool_candidates([0.01, 1e6], 20, 10)
    assert np.isfinite(losses).tolist() == [True, False]


def test_one_executable_serves_every_rate_and_number_of_steps():
    made = []

    def create(schedule):
        made.append(1)
        return optax.sgd(schedule)

    loop = TaskLoop(get(TASK), create)
    loop.run(0.1, 3)
    traced = len(made)
    for rate, steps in [(0.2, 1), (0.01, 40), (0.3, 700)]:  # more than one call's worth of steps
        assert loop.run(rate, steps).shape == (steps,)
    assert len(made) == traced


def test_losses_that_the_task_calls_diverged_are_no_numbers():
    loop = TaskLoop(get(TASK), optax.sgd)
    assert np.isnan(loop.run(1e6, 30)[-1])


def test_the_schedule_found_replayed_gives_the_run_itself(whole):
    folder, result = whole
    file = folder / "schedule.json"
    again = run_job(make_job(TASK, "adam", schedule=str(file), learning_rate=recorded_peak(file), steps=STEPS))
    chex.assert_trees_all_close(result.train_state.params, again.train_state.params, rtol=1e-4, atol=1e-6)


def test_the_search_counts_where_its_schedule_is_replayed(whole, stepsmith):
    folder, result = whole
    assert recorded_search_steps(folder / "schedule.json") == result.search_steps
    command = ["train", TASK, "--optimizer", "adam", "--steps", 20, "--schedule", folder / "schedule.json"]
    assert f"schedule.json (found in {result.search_steps} steps of search), 20 steps" in " ".join(stepsmith(*command)[1].split())
    assert json.loads(stepsmith(*command, "--json")[1])["schedule_search_steps"] == result.search_steps
    assert "schedule_search_steps" not in make_job(TASK, "adam").settings


def test_it_says_what_it_did(whole):
    folder, result = whole
    assert (result.status, result.steps) == ("ok", STEPS)
    assert f"{STEPS} steps and {result.search_steps} of search" in line(result)
    assert result.search_steps > 0
    rows = (folder / "curve.csv").read_text().splitlines()
    assert len(rows) == STEPS + 1


def test_a_finished_run_is_left_as_it_is(whole):
    folder, result = whole
    again = run_job(_job(), folder)
    assert (again.status, again.resumed_from, again.search_steps) == ("ok", STEPS, result.search_steps)
    chex.assert_trees_all_equal(LEARNED(again.train_state), LEARNED(result.train_state))


def test_a_folder_of_another_run_is_refused(whole):
    with pytest.raises(CheckpointError, match="another run: steps"):
        run_job(_job(steps=80), whole[0])


def test_a_run_that_nothing_can_train_ends_with_a_status(tmp_path, monkeypatch):
    def fail(self, rate, steps):
        return np.full(steps, np.nan)

    monkeypatch.setattr(TaskLoop, "run", fail)
    for _ in range(2):  # the second call finds the end of the first
        result = run_job(_job(), tmp_path)
        assert (result.status, result.steps) == ("nonfinite", 0)


def test_it_works_with_programs_and_for_runs_of_any_length(tmp_path):
    for optimizer, steps in [("program:lion", 40), ("sgd", 33)]:
        job = make_job(TASK, optimizer, schedule="autolrs", steps=steps, save_schedule=tmp_path / "schedule.json")
        assert run_job(job).status == "ok"
        assert json.loads((tmp_path / "schedule.json").read_text())["steps"] == steps


def test_the_schedule_with_a_cooldown_replayed_gives_the_run_itself(tmp_path):
    for _ in range(2):  # the second call finds the end of the first
        result = run_job(make_job(TASK, "adam", schedule="autolrs:cooled", steps=STEPS, learning_rate=0.1), tmp_path)
    assert (result.status, result.steps, result.resumed_from) == ("ok", STEPS, STEPS)
    assert result.search_steps == 5 * (32 + 27) + 5 * (31 + 27)
    file = tmp_path / "schedule.json"
    again = run_job(make_job(TASK, "adam", schedule=str(file), learning_rate=recorded_peak(file), steps=STEPS))
    chex.assert_trees_all_close(result.train_state.params, again.train_state.params, rtol=1e-4, atol=1e-6)


def test_a_host_fed_task_goes_back_to_earlier_batches(fed):
    """In pieces whose last one is short: as plain training at that rate, and every candidate on the batches of the same steps."""
    loop = TaskLoop(fed, optax.sgd, seed=3)
    loop.run(0.1, 7)
    before = loop.snapshot()
    rows = loop.run_candidates([0.1, 0.3], 33)
    for rate, row in zip([0.1, 0.3], rows, strict=True):
        loop.restore(before)
        losses = loop.run(rate, 33)
        plain = train(fed, optax.sgd(rate), seed=3, steps=40, resume_from=before)
        np.testing.assert_allclose(losses, plain.losses, rtol=1e-4)
        np.testing.assert_allclose(row, plain.losses, rtol=1e-4)
        chex.assert_trees_all_close(loop.train_state.params, plain.train_state.params, rtol=1e-4, atol=1e-6)
    assert not np.allclose(plain.losses, TaskLoop(fed, optax.sgd, seed=4).run(0.3, 33), rtol=1e-2)


@pytest.mark.parametrize("schedule", ["autolrs", "autolrs:cooled"])
def test_autolrs_on_a_host_fed_task(schedule, fed):
    prepared, online = make_online(schedule, "adam", 60, 0.1, None, None)
    result = train_online(fed, online, settings=prepared.settings)
    assert (result.status, result.steps) == ("ok", 60) and result.search_steps > 0
    assert result.scores["validation"]["loss"] < TaskLoop(fed, optax.sgd).evaluate()


def test_a_missing_library_is_named_before_anything_is_trained(monkeypatch):
    from stepsmith.schedules.autolrs import gp

    def missing():
        raise gp.LibraryError("needs the library tinygp")

    monkeypatch.setattr(gp, "_library", missing)
    with pytest.raises(ValueError, match="tinygp"):
        _job()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "autolrs", "--learning-rate", "0"], "must be above 0"),
        (["--schedule", "autolrs:hot"], "there is autolrs, after the paper, and autolrs:cooled"),
        (["--schedule", "autolrs:"], "there is autolrs, after the paper, and autolrs:cooled"),
        (["--schedule", "autolrs", "--steps", "5"], "too short"),
        (["--schedule", "autolrs", "--checkpoint", "there", "--checkpoint-every", "5"], "leave out --checkpoint-every"),
        (["--schedule", "autolrs", "--save-schedule", "nowhere/there.json"], "there is no folder"),
        (["--save-schedule", "there.json"], "give --schedule autolrs or pbt"),
    ],
)
def test_bad_input_ends_with_one_line(options, message, tmp_path, monkeypatch, stepsmith):
    monkeypatch.chdir(tmp_path)
    code, _, err = stepsmith("train", TASK, "--optimizer", "sgd", *options)
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err


def test_the_command_prints_json(tmp_path, stepsmith):
    file = tmp_path / "found.json"
    options = ["--optimizer", "adam", "--schedule", "autolrs", "--steps", "40", "--json", "--save-schedule", file]
    code, out, _ = stepsmith("train", TASK, *options)
    printed = json.loads(out)
    assert (code, printed["schedule"], printed["status"]) == (0, "autolrs", "ok")
    assert printed["search_steps"] > 0 and recorded_peak(file) > 0


def test_the_search_is_wide_enough_to_mend_a_rate_that_is_off():
    job = _job()
    assert job.finder is not None
    assert job.finder.config.highest / job.finder.config.lowest == pytest.approx(online_module.SPAN**2)
    slow = train(get(TASK), optax.adam(0.1 / 20), steps=STEPS)
    found = train_online(get(TASK), make_job(TASK, "adam", schedule="autolrs", steps=STEPS, learning_rate=0.1 / 20).finder)
    assert found.scores["validation"]["loss"] < float(slow.losses[-1])
