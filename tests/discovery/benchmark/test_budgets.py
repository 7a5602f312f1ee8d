"""Studies of budgets on the smallest workload: cells against the plain loop, ranks by hand, resuming, refusals, the command."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import optax
import pytest
from scipy import stats

from stepsmith.discovery import Run
from stepsmith.discovery.benchmark import workloads
from stepsmith.discovery.benchmark.budgets import table
from stepsmith.discovery.benchmark.budgets.cell import FIRST_SEED, CellTrainer, steps_at
from stepsmith.discovery.benchmark.budgets.command import long_enough, with_schedules
from stepsmith.discovery.benchmark.budgets.study import BUDGETS, BudgetConfig, Cell, evaluate_budgets, read
from stepsmith.discovery.benchmark.budgets.study import SCHEDULES as STUDIED
from stepsmith.discovery.benchmark.trial import entry
from stepsmith.discovery.config import ConfigError
from stepsmith.schedules import plateau, rex
from stepsmith.tasks import scores, train

SMALL = "table_values"
STORED = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "schedules" / "budgets.csv"
BOTH = ("sgd@linear", "sgd@rex")


def cell(schedule, loss, budget=10, rule="adam"):
    losses = () if loss is None else (loss - 0.5, loss + 0.5)
    return Cell(rule, schedule, SMALL, budget, 0.1 if losses else math.nan, losses, False)


SCHEDULES = {
    "adam@rex": lambda rate, steps: optax.adam(rex(rate, steps)),
    "momentum@step": lambda rate, steps: optax.sgd(optax.piecewise_constant_schedule(rate, {30: 0.1, 45: 0.1}), momentum=0.9),
    "sgd@plateau": lambda rate, steps: optax.chain(optax.sgd(rate), plateau(steps)),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_a_cell_is_the_plain_loop(name):
    found, workload = entry(name), workloads.get(SMALL)
    runs = CellTrainer(found, workload, 50).run(found, 1)
    task, steps = workload.task, 60
    assert {run.steps for run in runs if run.status == "ok"} == {steps} and {run.seed for run in runs} == {FIRST_SEED}
    for run in [run for run in runs if run.status == "ok"][:2]:
        state = train(task, SCHEDULES[name](run.learning_rate, steps), seed=run.seed, steps=steps).train_state
        expected = scores(task, state.params, state.state, task.load(), "validation")["loss"]
        assert run.loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.heavy
def test_the_walk_ends_between_two_worse_rates_and_schedules_share_what_is_compiled():
    linear, cosine = entry("sgd@linear"), entry("sgd@cosine")
    trainer = CellTrainer(linear, workloads.get(SMALL), 25)
    for found in (linear, cosine):
        runs = trainer.run(found, 2)
        rates = list(dict.fromkeys(run.learning_rate for run in runs))
        means = {rate: [run.loss for run in runs if run.learning_rate == rate] for rate in rates}
        assert all(len(losses) == 2 for losses in means.values())
        best = min(means, key=lambda rate: math.inf if any(map(math.isnan, means[rate])) else sum(means[rate]))
        factors = sorted(rate / best for rate in rates)
        assert factors[factors.index(1.0) - 1] == pytest.approx(1 / 3, rel=0.01)
        assert factors[factors.index(1.0) + 1] == pytest.approx(3, rel=0.01)
    alone = CellTrainer(cosine, workloads.get(SMALL), 25).run(cosine, 2)
    assert repr(alone) == repr(runs)  # the executable of another schedule gives the same, NaN included


@pytest.mark.heavy
def test_a_rate_far_too_high_is_left_behind():
    found = entry("sgd@linear")
    too_high = found._replace(source=found.source._replace(learning_rate=100.0))
    runs = CellTrainer(too_high, workloads.get(SMALL), 25).run(too_high, 1)
    assert runs[0].status != "ok" and math.isnan(runs[0].loss)
    assert any(run.status == "ok" for run in runs)


@pytest.mark.heavy
def test_a_study_grows_and_is_the_same_as_in_one_go(tmp_path):
    first = evaluate_budgets(BudgetConfig(BOTH[:1], (SMALL,), (10,), 1), tmp_path / "run", workers=1)
    assert first.missing == 0 and len(first.cells) == 1
    config = BudgetConfig(BOTH, (SMALL,), (10, 25), 1)
    told = []
    grown = evaluate_budgets(config, tmp_path / "run", workers=2, on_progress=lambda done, total, _: told.append((done, total)))
    assert told[0] == (1, 4) and told[-1] == (4, 4)
    whole = evaluate_budgets(config, tmp_path / "whole", workers=1)
    assert grown.cells == whole.cells == read(tmp_path / "run").cells
    assert {(c.schedule, c.budget) for c in whole.cells} == {("linear", 10), ("linear", 25), ("rex", 10), ("rex", 25)}
    assert all(len(c.losses) == 1 and not c.at_edge for c in whole.cells)
    assert Run(tmp_path / "run").summary()["kind"] == "budget study"
    with pytest.raises(ConfigError, match="holds another comparison: trials_per_rate"):
        evaluate_budgets(BudgetConfig(BOTH, (SMALL,), (10, 25), 2), tmp_path / "run", workers=1)


def test_ranks_shares_and_their_tables(tmp_path):
    cells = [
        *(cell("rex", 1.0), cell("linear", 2.0), cell("cosine", 2.0), cell("step", None)),
        *(cell("rex", 3.0, 50), cell("linear", 2.5, 50), cell("cosine", 9.0, 50), cell("step", 4.0, 50)),
        cell("rex", 1.0, rule="lion"),  # nothing to rank
    ]
    assert table.ranks(cells)["adam", SMALL, 10] == {"rex": (1.0, 1), "linear": (2.5, 2), "cosine": (2.5, 2), "step": (4.0, 4)}
    first, second, *_ = table.rows(cells)
    assert first == {"schedule": "rex", "settings": 2, "top-1": 0.5, "top-3": 1.0, "mean rank": 1.5, "10 %": 1.0, "50 %": 2.0}
    assert second["schedule"] == "linear" and second["top-1"] == 0.5 and second["mean rank"] == 1.75
    assert table.as_text(first)["top-1"] == "50%" and table.as_text(first)["10 %"] == "1.0"
    equal = [cell("rex", 1.0), cell("linear", 1.0), cell("cosine", 2.0), cell("step", None), cell("plateau", None)]
    assert {row["schedule"]: (row["top-1"], row["top-3"]) for row in table.rows(equal)} == {
        **{"rex": (1.0, 1.0), "linear": (1.0, 1.0), "cosine": (0.0, 1.0)},
        **{"step": (0.0, 0.0), "plateau": (0.0, 0.0)},  # equally bad
    }
    assert not table.rows([cell("rex", None), cell("linear", None)])
    table.write_csv(tmp_path / "cells.csv", cells)
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert len(rows) == len(cells) and rows[3]["loss"] == "" and rows[3]["rank"] == "4.0" and rows[-1]["rank"] == ""
    assert (rows[0]["loss"], rows[0]["loss_low"], rows[0]["loss_high"]) == ("1", "0.5", "1.5")
    table.draw(tmp_path / "ranks.png", cells, "title")
    assert (tmp_path / "ranks.png").stat().st_size > 10_000


def test_shares_and_losses_at_each_budget():
    cells = [cell("rex", 1.0), cell("linear", 2.0), cell("cosine", 3.0), cell("step", None), cell("rex", 5.0, 50), cell("linear", 4.0, 50)]
    cells += [cell("rex", 2.0, rule="lion"), cell("linear", 1.0, rule="lion")]
    shares = {row.pop("schedule"): row for row in table.shares(cells)}
    assert shares["rex"] == {"10 % top-1": 0.5, "10 % top-3": 1.0, "50 % top-1": 0.0, "50 % top-3": 1.0}
    assert shares["linear"]["10 % top-1"] == 0.5 and shares["linear"]["50 % top-1"] == 1.0
    assert shares["step"] == {"10 % top-1": 0.0, "10 % top-3": 0.0, "50 % top-1": None, "50 % top-3": None}
    rows = table.losses(cells)
    assert rows[0] == {"rule": "adam", "workload": SMALL, "schedule": "rex", "10 %": 1.0, "50 %": 5.0}
    assert [row["10 %"] for row in rows if row["schedule"] == "step"] == [None]
    assert [row["rule"] for row in rows] == ["adam"] * 4 + ["lion"] * 2


def test_a_subset_is_ranked_among_itself():
    cells = [cell("rex", 2.0), cell("linear", 3.0), cell("one_cycle", 1.0)]
    assert [row["top-1"] for row in table.rows(cells) if row["schedule"] == "rex"] == [0.0]
    assert [row["top-1"] for row in table.rows(table.only(cells, ["rex", "linear"])) if row["schedule"] == "rex"] == [1.0]
    with pytest.raises(ConfigError, match="no schedule sinus; there are rex, linear, one_cycle"):
        table.only(cells, ["rex", "sinus"])


def test_written_cells_are_read_again(tmp_path):
    trials = (0.9, 1.1, 1.6)
    cells = [cell("rex", None), Cell("adam", "linear", SMALL, 10, 0.3, trials, True)]
    table.write_csv(tmp_path / "cells.csv", cells)
    failed, read = table.read_csv(tmp_path / "cells.csv")
    assert failed[:4] == cells[0][:4] and failed.losses == () and math.isnan(failed.learning_rate)
    np.testing.assert_allclose(read.losses, trials, rtol=1e-5)
    assert read._replace(losses=trials) == cells[1]
    (tmp_path / "cells.csv").write_text("step,learning_rate\n0,1\n")
    with pytest.raises(ConfigError, match="no cells of a budget study"):
        table.read_csv(tmp_path / "cells.csv")


@pytest.mark.skipif(not STORED.is_file(), reason="needs the repository: no stored study beside tests")
def test_the_stored_study_has_the_ranks_that_were_stored_with_it():
    cells = table.read_csv(STORED)
    ranked = table.ranks(cells)
    stored = list(csv.DictReader(STORED.read_text().splitlines()))
    assert [ranked[c.rule, c.workload, c.budget][c.schedule].rank for c in cells] == [float(row["rank"]) for row in stored]
    clock = {row["schedule"]: row for row in table.rows(table.only(cells, ["rex", "linear", "cosine", "step", "exponential"]))}
    assert (round(clock["rex"]["top-1"], 2), round(clock["rex"]["top-3"], 2)) == (0.69, 0.97)  # as EXPERIMENTS.md says


def test_schedules_against_one_of_them():
    rng = np.random.default_rng(0)
    cells, differences = [], {"linear": [], "step": []}
    for budget in range(1, 11):
        one = {name: rng.lognormal(size=3) for name in ("rex", "linear", "step")}
        cells += [Cell("adam", name, SMALL, budget, 0.1, tuple(losses), False) for name, losses in one.items()]
        for name in differences:
            differences[name].append(np.log(one[name]).mean() - np.log(one["rex"]).mean())
    found = {row["schedule"]: row for row in table.against([*cells, cell("failed", None, 3)], "rex")}
    assert set(found) == {"linear", "step"}
    for name, values in differences.items():
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        row = found[name]
        assert (row["settings"], row["won"]) == (10, sum(value < 0 for value in values))
        np.testing.assert_allclose((row["log loss"], row["from"], row["to"]), (np.mean(values), low, high))


def test_budgets_are_shares_of_the_steps():
    assert [steps_at(workloads.get("images_mlp"), budget) for budget in (1, 25, 100)] == [30, 750, 3_000]
    with pytest.raises(ValueError, match="give it budgets from 5 %"):
        steps_at(workloads.get(SMALL), 1)


def test_without_names_the_workloads_are_those_with_enough_steps(capsys):
    kept = long_enough(workloads.names(), BUDGETS)
    BudgetConfig(with_schedules(["momentum", "adam"], STUDIED), kept, BUDGETS).check()
    assert set(kept) == {"images_mlp", "text_gru", "digits_autoencoder", "digits_sequence"}
    assert "too few steps at 1 %: images_cnn" in capsys.readouterr().err
    assert long_enough(workloads.names(), (10, 100)) == workloads.names() and not capsys.readouterr().err


def test_a_schedule_may_be_a_file_and_its_edit_is_noticed(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("step,learning_rate\n0,1.0\n10,0.5\n")
    found = entry(f"adam@{file}")
    assert found.schedule == str(file) and found.digest and not found.is_edited()
    assert float(found.shape.relative(100)(0)) == 1.0
    file.write_text("step,learning_rate\n0,1.0\n10,0.25\n")
    assert found.is_edited()


BAD = {
    "no rule": ([], "name one or more rules"),
    "a budget of nothing": (["adam", "--budgets", "0"], "at least 1 and at most 1000"),
    "a budget twice": (["adam", "--budgets", "10", "10"], "must be one or more different"),
    "too few steps": (["adam", "--workloads", SMALL, "--budgets", "1"], "budgets from 5 %"),
    "no trials": (["adam", "--trials", "0"], "at least 1 and at most 100"),
    "an option of comparisons": (["adam", "--batch", "2"], "--batch"),
    "a final variant": (["adam", "--workloads", "text_gru_final"], "is a final variant"),
    "a rule that averages": (["schedule_free_adamw@linear"], "averages in place of a schedule"),
    "the same with decay on plateau": (["schedule_free_adamw@plateau"], "averages in place of a schedule"),
    "a reference that is not there": (["adam@rex", "--reference", "linear"], "takes no part; there are rex"),
    "unknown schedule": (["adam", "--schedules", "sinus"], "unknown schedule 'sinus'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path, monkeypatch, stepsmith):
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[name]
    code, out, err = stepsmith("evaluate", *arguments, *(() if "--budgets" in arguments else ("--budgets", "10")))
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_the_command_prints_a_table_or_json(tmp_path, stepsmith):
    command = ["evaluate", "sgd", "--schedules", "linear", "rex", "--workloads", SMALL, "--budgets", "10", "--trials", "1"]
    command += ["--run", tmp_path / "run", "--workers", "1"]
    code, out, err = stepsmith(*command)
    assert code == 0, err
    assert "mean rank" in out and "2 cells; in 0 none succeeded" in out
    found = json.loads(stepsmith(*command, "--json")[1])
    assert {row["schedule"] for row in found["schedules"]} == {"linear", "rex"} and len(found["cells"]) == 2
    assert found["search_steps"] == {}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"cells.csv", "ranks.png", "ledger.sqlite"}
