"""Populations of our tasks: the winner's schedule replayed is the winner's run, interruption leaves no trace, bad input is refused."""

import json
import signal
from operator import attrgetter

import chex
import numpy as np
import optax
import pytest

from stepsmith.discovery.training.population_loop import TaskPopulation
from stepsmith.discovery.training.train import line, make_job, run_job
from stepsmith.schedules import from_profile, load_recorded, population, recorded_peak, recorded_search_steps
from stepsmith.schedules.population import Hyperparameter, PopulationConfig
from stepsmith.tasks import get, train
from stepsmith.tasks.checkpoints import CheckpointError

TASK, STEPS = "quadratic", 40
LEARNED = attrgetter("params", "opt_state")  # of a training state
RATES = (Hyperparameter("learning_rate", 1e-3, 1.0),)


def _job(steps=STEPS, schedule="pbt", **settings):
    return make_job(TASK, "adam", schedule=schedule, steps=steps, learning_rate=0.1, **settings)


def _members(task=TASK, rule=optax.sgd, config=None, **settings):
    config = PopulationConfig(20, RATES, interval=5, members=4) if config is None else config
    return TaskPopulation(get(task), lambda values: rule(**values), config, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_job(_job(), folder)


def test_every_member_trains_as_the_loop_does_at_its_values():
    rows = {"learning_rate": np.array([0.001, 0.03]), "weight_decay": np.array([0.01, 1.0])}
    decay = Hyperparameter("weight_decay", 1e-3, 1.0)
    members = _members("digits_mlp", optax.adamw, PopulationConfig(20, (*RATES, decay), interval=5, members=2), seed=3)
    members.run(rows, 6)
    members.run(rows, 6)
    for index in range(2):
        rule = optax.adamw(rows["learning_rate"][index], weight_decay=rows["weight_decay"][index])
        alone = train(get("digits_mlp"), rule, seed=3, steps=12)
        np.testing.assert_allclose(members.losses[index], alone.losses[6:], rtol=2e-3)
        assert int(members.member(index).step) == 12


def test_a_copy_keeps_the_optimizers_state_and_scores_what_its_parent_did():
    members = _members("digits_mlp", optax.adam)
    rows = {"learning_rate": np.array([0.001, 0.003, 0.01, 0.03])}
    members.run(rows, 5)
    before, parents = members.evaluate(), np.array([3, 1, 2, 3])
    members.copy(parents)
    np.testing.assert_array_equal(members.evaluate(), before[parents])
    members.run({"learning_rate": np.full(4, 0.01)}, 5)
    chex.assert_trees_all_equal(LEARNED(members.member(0)), LEARNED(members.member(3)))
    assert (members.losses[0] == members.losses[3]).all() and (members.losses[0] != members.losses[1]).any()


def test_a_member_that_diverges_has_no_score_and_spoils_no_other():
    members, alone = _members(), _members()
    members.run({"learning_rate": np.array([0.1, 1e6, 0.01, 0.1])}, 10)
    alone.run({"learning_rate": np.full(4, 0.1)}, 10)
    assert np.isnan(members.evaluate()).tolist() == [False, True, False, False]
    chex.assert_trees_all_equal(LEARNED(members.member(0)), LEARNED(alone.member(0)))


def test_one_executable_serves_all_rounds():
    made = []

    def rule(learning_rate):
        made.append(1)
        return optax.sgd(learning_rate)

    members = _members(rule=rule)
    config = PopulationConfig(100, RATES, interval=10, members=4)
    first = population.advance(config, members.loop(), population.begin(config))
    traced = len(made)
    population.run(config, members.loop(), first)
    assert len(made) == traced


def test_the_winners_schedule_replayed_is_the_winners_run(whole):
    folder, result = whole
    assert (result.status, result.steps) == ("ok", STEPS)
    path = folder / "schedule.csv"
    schedule = from_profile(load_recorded(path), recorded_peak(path), STEPS)
    again = train(get(TASK), optax.adam(schedule), steps=STEPS).train_state
    chex.assert_trees_all_close(result.train_state.params, again.params, rtol=1e-3, atol=1e-5)
    assert len({float(schedule(step)) for step in range(STEPS)}) > 1


def test_it_says_what_it_did(whole):
    folder, result = whole
    assert f"{STEPS} steps and {7 * STEPS} of search" in line(result)
    assert recorded_search_steps(folder / "schedule.csv") == 7 * STEPS
    assert len((folder / "curve.csv").read_text().splitlines()) == STEPS + 1
    rounds = population.from_json(json.loads((folder / "population.json").read_text())).rounds
    assert len(rounds) == 20 and all(len(one.values) == 8 for one in rounds)
    assert result.scores["validation"]["loss"] == pytest.approx(min(rounds[-1].scores), rel=1e-5)


def test_a_finished_run_is_left_as_it_is(whole):
    folder, result = whole
    again = run_job(_job(), folder)
    assert (again.status, again.resumed_from, again.search_steps) == ("ok", STEPS, 7 * STEPS)
    chex.assert_trees_all_equal(LEARNED(again.train_state), LEARNED(result.train_state))


@pytest.mark.parametrize("calls", [1, 2, 11])
def test_an_interrupted_run_goes_on_to_the_same_end(whole, calls, tmp_path, monkeypatch):
    folder, result = whole
    made, usual = [], TaskPopulation.run

    def cut(self, values, steps):
        made.append(1)
        if len(made) == calls:
            raise KeyboardInterrupt
        usual(self, values, steps)

    monkeypatch.setattr(TaskPopulation, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        run_job(_job(), tmp_path)
    again = run_job(_job(), tmp_path)
    assert (again.resumed_from, len(made)) == (2 * (calls - 1), 21)
    chex.assert_trees_all_equal(LEARNED(again.train_state), LEARNED(result.train_state))
    for name in ("schedule.csv", "population.json", "curve.csv"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()


def test_ctrl_c_ends_it_after_the_round_and_the_same_command_goes_on(whole, tmp_path):
    first = run_job(_job(), tmp_path, on_chunk=lambda state, losses: signal.raise_signal(signal.SIGINT))
    assert (first.status, first.steps, first.scores) == ("interrupted", 2, {})
    assert not (tmp_path / "schedule.csv").exists()
    again = run_job(_job(), tmp_path)
    assert (again.status, again.resumed_from) == ("ok", 2)
    chex.assert_trees_all_equal(LEARNED(again.train_state), LEARNED(whole[1].train_state))


def test_where_nothing_trains_the_run_ends_with_a_status(tmp_path):
    job = make_job(TASK, "sgd", schedule="pbt:3", steps=STEPS, learning_rate=1e20, save_schedule=tmp_path / "found.csv")
    for _ in range(2):  # the second call finds the end of the first
        result = run_job(job, tmp_path / "run")
        assert result.status == "nonfinite" and result.steps < STEPS
    assert not (tmp_path / "found.csv").exists()


def test_it_works_with_programs_and_for_runs_of_any_length(tmp_path):
    for optimizer, steps in [("program:lion", 23), ("sgd", 1)]:
        job = make_job(TASK, optimizer, schedule="pbt:2", steps=steps, save_schedule=tmp_path / "found.json")
        result = run_job(job)
        assert (result.status, result.steps, result.search_steps) == ("ok", steps, steps)
        assert len(json.loads((tmp_path / "found.json").read_text())["learning_rate"]) == steps


def test_another_seed_is_another_population():
    starts = [population.begin(_job(seed=seed).finder.config).values for seed in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]


def test_a_folder_of_another_run_is_refused(whole):
    with pytest.raises(CheckpointError, match="another run: schedule"):
        run_job(_job(schedule="pbt:9"), whole[0])


def test_members_of_a_host_fed_task_share_its_batches(fed):
    config = PopulationConfig(50, RATES, interval=25, members=2)
    members, losses = TaskPopulation(fed, lambda values: optax.sgd(**values), config, seed=3), []
    for _ in range(2):
        members.run({"learning_rate": np.array([0.01, 0.1])}, 25)
        losses.append(members.losses)
    for index, rate in enumerate([0.01, 0.1]):
        plain = train(fed, optax.sgd(rate), seed=3, steps=50)
        np.testing.assert_allclose(np.concatenate(losses, axis=1)[index], plain.losses, rtol=1e-4)
        chex.assert_trees_all_close(members.member(index).params, plain.train_state.params, rtol=1e-4, atol=1e-6)
    assert members.evaluate().shape == (2,) and np.isfinite(members.evaluate()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "pbt:one"], "2 to 1024 members, such as --schedule pbt:16, got 'one'"),
        (["--schedule", "pbt:"], "2 to 1024 members"),
        (["--schedule", "pbt:1"], "2 to 1024 members"),
        (["--schedule", "pbt:" + "9" * 5000], "2 to 1024 members"),
        (["--schedule", "pbt", "--learning-rate", "0"], "must be above 0"),
        (["--schedule", "pbt", "--checkpoint", "there", "--checkpoint-every", "5"], "leave out --checkpoint-every"),
        (["--schedule", "pbt", "--save-schedule", "nowhere/there.csv"], "there is no folder"),
        (["--schedule", "pbt", "--save-schedule", "there.txt"], ".csv or .json"),
        (["--save-schedule", "there.csv"], "give --schedule autolrs or pbt"),
    ],
)
def test_bad_input_ends_with_one_line(options, message, tmp_path, monkeypatch, stepsmith):
    monkeypatch.chdir(tmp_path)
    code, _, err = stepsmith("train", TASK, "--optimizer", "sgd", *options)
    assert (code, err.count("\n")) == (2, 1) and message in err


def test_the_command_prints_json_and_the_found_schedule_trains(tmp_path, stepsmith):
    options = [TASK, "--optimizer", "adam", "--steps", STEPS, "--json"]
    found = tmp_path / "found.csv"
    code, out, _ = stepsmith("train", *options, "--schedule", "pbt:4", "--save-schedule", found)
    printed = json.loads(out)
    assert (code, printed["schedule"], printed["search_steps"]) == (0, "pbt:4", 3 * STEPS)
    _, out, _ = stepsmith("train", *options, "--schedule", found, "--learning-rate", recorded_peak(found))
    again = json.loads(out)["scores"]["validation"]["loss"]
    assert again == pytest.approx(printed["scores"]["validation"]["loss"], rel=1e-3)
