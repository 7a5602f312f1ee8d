"""Real comparisons on the smallest workloads: trials against the plain loop, kills, refusals, looks, the command."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from stepsmith.discovery import Run, SearchConfig, resume, search
from stepsmith.discovery.benchmark import baselines, looks, space, targets, workloads
from stepsmith.discovery.benchmark.comparison import Pool
from stepsmith.discovery.benchmark.evaluate import evaluate
from stepsmith.discovery.benchmark.record import Comparison, EvaluateConfig, read
from stepsmith.discovery.benchmark.trial import Trainer, entry, search_steps
from stepsmith.discovery.config import ConfigError
from stepsmith.discovery.export import to_optax
from stepsmith.discovery.language import load
from stepsmith.schedules import save_recorded
from stepsmith.tasks import DataError, scores, train

pytestmark = pytest.mark.heavy

SMALL = "table_values"
META = "table_values_meta"
COMMAND = [sys.executable, "-c", "from stepsmith.discovery.cli import main; main()", "evaluate"]


@pytest.fixture(autouse=True)
def own_record(tmp_path, monkeypatch):
    """No look of a test is counted against the user."""
    monkeypatch.setenv("STEPSMITH_LOOKS", str(tmp_path / "looks.jsonl"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of two rules; read it only."""
    return evaluate(
        EvaluateConfig(("lion", "momentum@cosine"), (SMALL, META), trials=6), tmp_path_factory.mktemp("done") / "run", workers=2
    )


def test_there_are_eight_workloads_of_four_families_and_their_variants():
    assert len(workloads.names()) == 8 and len({name.split("_")[0] for name in workloads.names()}) == 4
    for base, meta, final in zip(workloads.names(), workloads.names("meta"), workloads.names("final"), strict=True):
        tasks = [workloads.get(name).task for name in (base, meta, final)]
        assert meta.startswith(base) and final.startswith(base)
        assert len({(task.model, task.steps, task.batch_size) for task in tasks}) == 3
        assert all(task.steps % workloads.EVALUATIONS == 0 for task in tasks)
        assert [workloads.is_final(task) for task in tasks] == [False, False, True]


@pytest.mark.parametrize("name", [name for kind in ("base", "meta", "final") for name in workloads.names(kind)])
def test_every_workload_has_a_target_that_no_first_guess_reaches(name):
    task = workloads.get(name).task
    try:
        data = task.load()
    except DataError as error:
        pytest.skip(str(error))
    if name.startswith("text") and task.version not in json.loads(targets.PATH.read_text()):
        pytest.skip("this Python's standard library is another text; its targets are set by the command")
    params, state = task.init(jax.random.key(0))
    assert targets.get(name) < scores(task, params, state, data, "validation")["loss"]


@pytest.mark.parametrize(("name", "make"), [("adamw", optax.adamw), ("lion@constant", optax.lion)])
def test_a_trial_is_the_plain_loop(name, make):
    competitor, workload = entry(name), workloads.get(SMALL)
    chosen = space.settings(competitor.source, np.array([0.5, 0.9, 0.3, 0.7]))
    (result,) = Trainer(competitor, workload).run([4], [chosen], [11])
    others = {name: value for name, value in chosen.items() if name != "learning_rate"}
    peak, steps = chosen["learning_rate"], workload.task.steps
    schedule = optax.constant_schedule(peak) if "constant" in name else optax.linear_schedule(peak, 0.0, steps)
    trained = train(workload.task, make(schedule, **others), seed=11)
    state = trained.train_state
    expected = scores(workload.task, state.params, state.state, workload.task.load(), "validation")["loss"]
    assert (result.trial, result.status, result.steps, len(result.losses)) == (4, "ok", steps, 40)
    assert result.losses[-1] == pytest.approx(expected, rel=1e-3) and result.seconds > 0


def test_a_batch_of_trials_is_the_trials():
    competitor, workload = entry("adamw"), workloads.get(SMALL)
    chosen = [space.settings(competitor.source, point) for point in space.points(5)]
    alone = Trainer(competitor, workload).run(range(5), chosen, range(5))
    together = Trainer(competitor, workload, batch=3).run(range(5), chosen, range(5))
    assert [t.trial for t in together] == [0, 1, 2, 3, 4]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.losses[:5], other.losses[:5], rtol=1e-3)
        assert one.status == other.status


def test_a_trial_that_diverges_is_a_status_and_ends_early():
    (result,) = Trainer(entry("sgd"), workloads.get(SMALL)).run([0], [{"learning_rate": 1e6}], [0])
    assert result.status in ("diverged", "nonfinite") and result.steps < 120 and math.isnan(result.losses[-1])


def test_schedule_free_is_scored_at_its_average():
    """With b1 at 0.5 the parameters that it moves lie far from their average."""
    competitor = entry("schedule_free_adamw@constant")
    (result,) = Trainer(competitor, workloads.get(SMALL)).run([0], [{"learning_rate": 0.003, "b1": 0.5}], [0])
    task = workloads.get(SMALL).task
    rule = optax.contrib.schedule_free_adamw(0.003, b1=0.5)
    state = train(task, rule, seed=0).train_state
    averaged = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
    at_average, at_moved = (scores(task, p, state.state, task.load(), "validation")["loss"] for p in (averaged, state.params))
    assert result.losses[-1] == pytest.approx(at_average, rel=1e-3) and abs(at_average - at_moved) > 1e-3 * at_moved


def test_the_space_is_the_same_for_all_and_inside_its_bounds():
    cube = space.points(500)
    assert cube.min() > 0 and cube.max() < 1 and np.abs(cube.mean(0) - 0.5).max() < 0.01
    for name in ("adamw", "momentum", "lion", "muon", "prodigy", "adafactor", "program:lion"):
        source = entry(name).source
        found = [space.settings(source, point) for point in cube]
        rates = np.log10([s["learning_rate"] / source.learning_rate for s in found])
        assert -1.5 < rates.min() < -1.4 and 1.4 < rates.max() < 1.5
        assert set(found[0]) == {"learning_rate", *source.settings}
        if "weight_decay" in found[0]:
            shares = [s["weight_decay"] * source.learning_rate for s in found]
            assert 1e-6 < min(shares) < 1.1e-6 and 0.9e-3 < max(shares) < 1e-3
        if "b1" in found[0]:
            assert min(s["b1"] for s in found) > 0.5 and max(s["b1"] for s in found) < 0.98


ENTRIES = """
from stepsmith.discovery.benchmark.trial import entry
from stepsmith.discovery.language import names
from stepsmith.optimizers import registry
print(len([entry(name) for name in (*registry.names(), *(f"program:{name}" for name in names()))]))
"""


def test_the_coordinator_opens_no_device_for_an_entry():
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}  # opening it would raise
    done = subprocess.run([sys.executable, "-c", ENTRIES], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stderr


def test_a_comparison_is_no_search(finished):
    row = {"run": str(finished.path), "kind": "comparison", "status": "finished", "programs": None, "trials": 24, "best": None}
    assert {**Run(finished.path).summary(), "seconds": 0} == {**row, "seconds": 0}
    with pytest.raises(ConfigError, match="holds a comparison; go on with its own command"):
        resume(finished.path)
    with pytest.raises(ConfigError, match="holds a comparison; go on with its own command"):
        Run(finished.path).hall_of_fame()


def test_a_comparison_ranks_what_it_ran(finished):
    assert finished.missing == 0 and len(finished.rows) == 2 * 2 * 6 and finished.num_looks == 0
    assert {row.entry for row in finished.rows} == {"lion@linear", "momentum@cosine"}
    assert {row.seed for row in finished.rows} == set(range(7_000_000, 7_000_006))
    standings = finished.standings(with_baselines=False, replicates=20)
    assert [s.score for s in standings] == sorted((s.score for s in standings), reverse=True)
    assert standings[0].score > 0
    assert all(list(s.times) == [SMALL, META] and list(s.ratios) == [SMALL] for s in standings)  # the variant is held out
    for s in standings:
        assert s.ratios[SMALL] == math.inf or all(time < math.inf for time in s.times.values())
    by_hand = [
        min((i for i, loss in enumerate(json.loads(row.losses), 1) if loss is not None and loss <= targets.get(SMALL)), default=math.inf)
        for row in finished.rows
        if (row.entry, row.workload) == ("lion@linear", SMALL)
    ]
    pool = finished.pool(with_baselines=False)
    np.testing.assert_array_equal(pool.reached[pool.entries.index("lion@linear"), 0], by_hand)
    assert read(finished.path).rows == finished.rows


def test_intervals_and_p_values_pay_for_looks(monkeypatch):
    reached = np.random.default_rng(0).lognormal(1.0, 0.4, (2, 8, 20)) * np.array([1.0, 1.25])[:, None, None]
    names = tuple(f"w{i}" for i in range(8))
    pool = Pool(("a", "b"), names, names, reached, np.full(8, 10.0), np.full(8, 40.0), np.ones((2, 8)))
    monkeypatch.setattr(Comparison, "pool", lambda self, with_baselines: pool)
    found = []
    for num_looks in (0, 2):
        monkeypatch.setattr(Comparison, "num_looks", num_looks)
        standings = Comparison(Path(), EvaluateConfig(("a",)), []).standings(replicates=400)
        found.append({standing.entry: standing for standing in standings})
    free, paid = (each["b"] for each in found)
    assert free.p_value < 1 / 6 and paid.p_value == pytest.approx(free.p_value * 6)  # 1 / (2 * 3) of the level is left
    assert paid.speedup_interval[0] < free.speedup_interval[0] < free.speedup_interval[1] < paid.speedup_interval[1]
    assert math.isnan(found[1]["a"].p_value)


def test_killed_and_started_again_it_is_the_same(finished, tmp_path):
    path = tmp_path / "killed"
    command = [
        *COMMAND,
        "lion",
        "momentum@cosine",
        "--workloads",
        SMALL,
        META,
        "--trials",
        "6",
        "--run",
        str(path),
        "--workers",
        "1",
        "--alone",
    ]
    for wanted in (1, 11):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while child.poll() is None and _rows(path) < wanted:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    again = read(path)
    assert [row._replace(seconds=0.0) for row in again.rows] == [row._replace(seconds=0.0) for row in finished.rows]
    assert (path / "steps.csv").read_text().count("\n") == 5 and (path / "steps.png").stat().st_size > 10_000
    assert "by steps to the target" in done.stdout and "by seconds to the target" in done.stdout


def test_a_comparison_grows(tmp_path):
    first = evaluate(EvaluateConfig(("lion",), (SMALL,), trials=1), tmp_path / "run", workers=1)
    grown = evaluate(EvaluateConfig(("sgd", "lion"), (SMALL,), trials=2), tmp_path / "run", workers=1)
    assert [(row.entry, row.trial) for row in grown.rows] == [(f"{name}@linear", trial) for name in ("lion", "sgd") for trial in (0, 1)]
    assert grown.rows[0] == first.rows[0]
    assert read(tmp_path / "run").config.entries == ("sgd@linear", "lion@linear")
    with pytest.raises(ConfigError, match="holds another comparison: entries"):
        evaluate(EvaluateConfig(("sgd",), (SMALL,), trials=2), tmp_path / "run", workers=1)


def _rows(path):
    try:
        return len(read(path).rows)
    except ValueError:
        return 0


def test_exported_files_and_self_tuning(tmp_path):
    (tmp_path / "best.py").write_text(to_optax(load("lion"), "found"))
    config = EvaluateConfig((str(tmp_path / "best.py"),), (SMALL,), ruleset="self", trials=2)
    done = evaluate(config, tmp_path / "run", workers=1)
    assert all(row.steps == 3 * 120 and len(json.loads(row.losses)) == 120 for row in done.rows)
    assert all(json.loads(row.settings) == {"learning_rate": pytest.approx(0.0003)} and len(row.rule) == 16 for row in done.rows)
    assert done.standings(with_baselines=False, replicates=5)[0].speedup == 1.0


def test_final_variants_are_for_no_search_and_every_look_is_counted(tmp_path):
    final = "table_values_final"
    task = f"stepsmith.discovery.benchmark.workloads:{final}"
    with pytest.raises(ConfigError, match="is a final variant, which no search may train on"):
        search(SearchConfig(tasks=(task,), budget="1"), tmp_path / "search")
    config = EvaluateConfig(("lion",), (final,), trials=1)
    with pytest.raises(ConfigError, match="say who looks and what for"):
        evaluate(config, tmp_path / "a", workers=1)
    assert looks.looks() == []
    first = evaluate(config, tmp_path / "a", workers=1, reason="Ada, to see")
    again = evaluate(config, tmp_path / "a", workers=1, reason="Ada, to see")
    second = evaluate(config, tmp_path / "b", workers=1, reason="Bob, once more")
    assert (first.num_looks, again.num_looks, second.num_looks) == (1, 1, 2)
    assert (read(tmp_path / "a").num_looks, read(tmp_path / "b").num_looks) == (1, 2)
    assert [(look["reason"], look["workloads"]) for look in looks.looks()] == [("Ada, to see", [final]), ("Bob, once more", [final])]
    assert sum(looks.level(number) for number in range(1, 1000)) < looks.LEVEL
    assert all((looks.corrected(p, 3) <= 0.05) == (p <= looks.level(3)) for p in np.linspace(0, 0.01, 101))
    (tmp_path / "looks.jsonl").write_text("{not json\n")
    with pytest.raises(ValueError, match="mend the file"):
        looks.looks()


def test_baselines_are_kept_and_found_again(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "PATH", tmp_path / "trials.csv.gz")
    baselines._all.cache_clear()
    try:
        baselines.write(finished.rows, baselines.PATH)
        versions = {name: workloads.get(name).task.version for name in (SMALL, META)}
        found = baselines.rows(versions, 6)
        assert [r._replace(seconds=0.0) for r in found] == [r._replace(seconds=0.0) for r in finished.rows]
        assert baselines.rows({SMALL: "another"}, 6) == [] and baselines.rows(versions, 7) == []
        own = evaluate(EvaluateConfig(("adamw",), (SMALL, META), trials=6), tmp_path / "own", workers=1)
        assert {s.entry for s in own.standings(replicates=5)} == {"adamw@linear", "lion@linear", "momentum@cosine"}
    finally:
        baselines._all.cache_clear()


def test_a_target_of_another_version_is_asked_for_and_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "PATH", tmp_path / "none.json")
    with pytest.raises(ValueError, match="stepsmith evaluate --set-targets --workloads table_values"):
        evaluate(EvaluateConfig(("lion",), (SMALL,), trials=1), tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()
    targets.cache_path().parent.mkdir(parents=True)
    for damage in ("", "[]", '{"a": {}}'):
        targets.cache_path().write_text(damage)
        with pytest.raises(targets.TargetError, match="delete the file and set them anew"):
            targets.get(SMALL)
    targets.cache_path().unlink()
    targets.put({SMALL: [[9.0, 3.0], [2.0], [1.0]]}, targets.cache_path())
    assert targets.get(SMALL) == 2.0


def test_the_steps_of_a_search_for_a_schedule_are_counted_in_a_table_of_their_own(tmp_path, stepsmith):
    found = tmp_path / "found.json"
    save_recorded(found, optax.linear_schedule(0.1, 0.0, 50), 50, search_steps=280)
    entry_of_it = f"sgd@{found}"
    assert search_steps(("sgd@rex", entry_of_it)) == {entry_of_it: 280}
    command = ["evaluate", "sgd@linear", entry_of_it, "--workloads", SMALL, "--run", tmp_path / "run", "--workers", "1"]
    command += ["--trials", "2", "--trials-per-study", "1", "--studies", "2", "--alone"]
    code, out, err = stepsmith(*command)
    assert code == 0, err
    said = " ".join(out.split())
    assert "found.json: its schedule took 280 steps of search, counted in the last table alone" in said and said.count("of search") == 1
    assert said.index("by seconds to the target") < said.index("by steps with search to the target")
    printed = json.loads(stepsmith(*command, "--json")[1])
    assert printed["search_steps"] == {entry_of_it: 280}
    plain, searched = ({s["entry"]: s for s in printed[unit]} for unit in ("steps", "steps_with_search"))
    for name in plain:
        steps, longer = (each[name]["times"][SMALL] for each in (plain, searched))
        assert longer == (steps if steps is None or name != entry_of_it else steps + 280)
    assert searched[entry_of_it]["speedup"] < plain[entry_of_it]["speedup"]


BAD = {
    "nothing": ([], "name one or more rules"),
    "unknown rule": (["lyon"], "unknown optimizer 'lyon'"),
    "unknown schedule": (["lion@sinus"], "sinus"),
    "no rule before the schedule": (["@cosine"], "names no rule"),
    "twice": (["lion", "lion@linear"], "must be different"),
    "unknown workload": (["lion", "--workloads", "imagenet"], "unknown workload 'imagenet'"),
    "no trials": (["lion", "--trials", "0"], "at most the number of trials, 0"),
    "no batch": (["lion", "--batch", "0"], "batch must be at least 1"),
    "final without a reason": (["lion", "--workloads", "text_gru_final"], "--final REASON"),
    "no study": (["lion", "--studies", "0"], "studies must be at least 1"),
    "a study larger than the pool": (["lion", "--trials", "4"], "trials-per-study must be at least 1 and at most"),
    "unknown reference": (["lion", "--reference", "muon@cosine"], "takes no part; there are"),
    "final for nothing": (["lion", "--workloads", SMALL, "--final", "me"], "none of the workloads is one"),
    "targets of a rule": (["lion", "--set-targets"], "AdamW sets the targets"),
    "untuned targets": (["--set-targets", "--ruleset", "self"], "leave --ruleset out"),
    "untuned baselines": (["lion", "--keep", "--ruleset", "self"], "of the external ruleset"),
    "a rule that cannot step": (["BROKEN.py"], "cannot be called with"),
    "a rule without a rate": (["ZERO.py", "--workloads", SMALL], "learning rate of its own above 0"),
    "another comparison": (["lion", "--workloads", SMALL, "--run", "DONE"], "holds another comparison: entries"),
    "fewer trials": (
        ["lion", "momentum@cosine", "--workloads", SMALL, META, "--run", "DONE", "--trials", "1", "--trials-per-study", "1"],
        "holds another comparison: trials",
    ),
    "a folder below a file": (["lion", "--workloads", SMALL, "--run", "FILE/below"], "FILE"),
    "negative workers": (["lion", "--workers", "-1"], "workers must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name, finished, tmp_path, monkeypatch, capsys):
    from stepsmith.discovery.cli import main

    arguments, words = BAD[name]
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "BROKEN.py").write_text("def mine(learning_rate=0.1, *, decay):\n    return decay\n")
    (tmp_path / "ZERO.py").write_text("import optax\n\n\ndef mine(learning_rate=0.0):\n    return optax.sgd(learning_rate)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stepsmith", "evaluate", *(str(finished.path) if a == "DONE" else a for a in arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1 and words in err
