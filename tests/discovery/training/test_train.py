"""`stepsmith train`: rules by name, program and file; the same numbers as the loop itself; refusals; kill and go on."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.export import to_optax, to_pallas
from stepsmith.discovery.language import load, to_text
from stepsmith.discovery.training.rules import RuleError, evaluated, make_rule
from stepsmith.discovery.training.train import make_job, run_job
from stepsmith.schedules import plateau, save_recorded, self_tuned_params
from stepsmith.tasks import curves, get, train
from stepsmith.tasks.training import scores

TASK = "quadratic"
STEPS = 40
COMMAND = [sys.executable, "-c", "from stepsmith.discovery.cli import main; main()", "train"]


def _run(*arguments, **options):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def _params(transformation, steps=STEPS):
    return train(get(TASK), transformation, steps=steps).train_state.params


def _linear(peak):
    return optax.linear_schedule(peak, 0.0, STEPS)


def test_a_name_is_optax_rule():
    rule = make_rule("lion", STEPS, "linear", 0.002, 0.3)
    assert rule.settings == {"optimizer": "lion", "learning_rate": 0.002, "weight_decay": 0.3, "schedule": "linear"}
    chex.assert_trees_all_close(_params(rule.transformation), _params(optax.lion(_linear(0.002), weight_decay=0.3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rate", "decay"), [(None, None), (0.002, None), (0.002, 0.3), (None, 0.0)])
def test_a_program_takes_rate_and_decay(rate, decay):
    rule = make_rule("program:lion", STEPS, "linear", rate, decay)
    rate, decay = rate or 0.0003, 0.1 if decay is None else decay
    assert (rule.settings["learning_rate"], rule.settings["weight_decay"]) == (pytest.approx(rate), decay)
    expected = optax.lion(_linear(rate), b1=0.9, b2=0.99, weight_decay=decay)
    chex.assert_trees_all_close(_params(rule.transformation), _params(expected), rtol=1e-4, atol=1e-6)


def test_a_program_that_holds_its_rate_takes_a_factor(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("def train(w, g, lr):\n    x = g * lr\n    update = sin(x)\n    return update\n")
    rule = make_rule(str(file), STEPS, "constant", 0.5)
    assert rule.settings["learning_rate"] == 0.5 and rule.settings["weight_decay"] is None
    gradient = jnp.array([0.3, -2.0])
    update, _ = rule.transformation.update(gradient, rule.transformation.init(gradient), gradient)
    np.testing.assert_allclose(update, -np.sin(0.5 * np.asarray(gradient)), rtol=1e-6)
    with pytest.raises(RuleError, match="weight decay is no setting of this rule"):
        make_rule(str(file), STEPS, weight_decay=0.1)


def test_program_text_json_and_exported_file_are_the_same_rule(tmp_path):
    program = load("adamw")
    (tmp_path / "p.txt").write_text(to_text(program))
    (tmp_path / "p.json").write_text(program.to_json())
    (tmp_path / "best.py").write_text(to_optax(program, "found"))
    first, second, exported = (make_rule(str(tmp_path / name), STEPS, "cosine", 0.01) for name in ("p.txt", "p.json", "best.py"))
    assert first.settings["rule"] == second.settings["rule"]
    chex.assert_trees_all_close(_params(first.transformation), _params(exported.transformation), rtol=1e-4, atol=1e-6)
    named = make_rule(f"{tmp_path / 'best.py'}:found", STEPS, "cosine", 0.01)
    chex.assert_trees_all_close(_params(named.transformation), _params(exported.transformation), rtol=0, atol=1e-6)
    (tmp_path / "kernel.py").write_text(to_pallas(program, "found"))
    kernel = make_rule(str(tmp_path / "kernel.py"), STEPS, "cosine", 0.01)
    chex.assert_trees_all_close(_params(kernel.transformation), _params(exported.transformation), rtol=1e-4, atol=1e-6)


SELF_TUNED = """
import optax
from stepsmith.schedules import SelfTuningConfig, self_tuning

def tuned(learning_rate=0.1):
    rule = self_tuning(optax.identity(), 0.1, config=SelfTuningConfig(sigma=0.3))
    return optax.chain(optax.clip_by_global_norm(1.0), rule)
"""


def test_a_self_tuned_rule_is_scored_without_its_perturbation(tmp_path):
    (tmp_path / "rule.py").write_text(SELF_TUNED)
    job = make_job(TASK, str(tmp_path / "rule.py"), steps=STEPS)
    result, stored = run_job(job), run_job(job, tmp_path / "run")
    state = result.train_state
    clean = self_tuned_params(state.opt_state[-1], state.params)
    at_clean, at_moved = (scores(job.task, p, state.state, job.task.load(), "test")["loss"] for p in (clean, state.params))
    assert result.scores["test"]["loss"] == stored.scores["test"]["loss"] == at_clean != at_moved
    last = curves.read(tmp_path / "run" / "curve.csv").validation["loss"][-1]
    assert last == pytest.approx(stored.scores["validation"]["loss"], rel=1e-5)
    chex.assert_trees_all_equal(evaluated(state.opt_state[-1], state.params), clean)


@pytest.mark.parametrize("rule", [optax.sgd(0.1), optax.adamw(0.1), optax.contrib.schedule_free_sgd(0.1), optax.identity()])
def test_other_rules_are_scored_where_they_say(rule):
    params = {"w": jnp.arange(3.0)}
    state = rule.init(params)
    averages = isinstance(state, optax.contrib.ScheduleFreeState)
    chex.assert_trees_all_equal(evaluated(state, params), optax.contrib.schedule_free_eval_params(state, params) if averages else params)


MINE = """
import optax

def halved(init_value, decay_steps):
    return optax.piecewise_constant_schedule(init_value, {decay_steps // 2: 0.5})

def peaked(peak_value, decay_steps):
    return optax.cosine_onecycle_schedule(decay_steps, peak_value)
"""


def test_a_file_is_a_schedule(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "drawn.csv").write_text("progress,learning_rate\n0,4\n1,0\n")
    save_recorded(tmp_path / "linear.json", _linear(7.0), STEPS)
    halved, one_cycle = optax.piecewise_constant_schedule(0.01, {STEPS // 2: 0.5}), optax.cosine_onecycle_schedule(STEPS, 0.01)
    expected = {"drawn.csv": _linear(0.01), "linear.json": _linear(0.01), "mine.py:halved": halved, "mine.py:peaked": one_cycle}
    digests = []
    for name, schedule in expected.items():
        rule = make_rule("sgd", STEPS, str(tmp_path / name), 0.01)
        state = rule.transformation.init(jnp.ones(()))
        for step in range(STEPS):
            update, state = rule.transformation.update(jnp.ones(()), state)
            np.testing.assert_allclose(-update, schedule(step), rtol=1e-4, atol=1e-8)
        digests.append(rule.settings["schedule_file"])
    assert digests[2] == digests[3] and len({*digests}) == 3  # an edited file meets no old checkpoint


def test_plateau_falls_where_the_training_loss_does_not(stepsmith):
    rule = make_rule("sgd", STEPS, "plateau", 0.5)
    assert rule.settings["schedule"] == "plateau"
    state, rates = rule.transformation.init(jnp.ones(())), []
    for loss in [*range(STEPS, STEPS // 2, -1), *[1.0] * (STEPS // 2)]:
        update, state = rule.transformation.update(jnp.ones(()), state, value=float(loss))
        rates.append(-float(update))
    np.testing.assert_allclose(rates[: STEPS // 2 + 1], 0.5, rtol=1e-6)
    assert rates[-1] < 0.051 and set(np.diff(rates) > 0) == {False}
    hot = 3.0  # diverges slowly without a fall
    expected = _params(optax.chain(optax.adam(hot), plateau(STEPS)))
    chex.assert_trees_all_close(_params(make_rule("adam", STEPS, "plateau", hot).transformation), expected, rtol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(_params(optax.adam(hot)), expected, rtol=1e-3)
    with pytest.raises(RuleError, match="schedule_free_adamw: this rule averages"):
        make_rule("schedule_free_adamw", STEPS, "plateau")
    code, _, err = stepsmith("train", TASK, "--optimizer", "adam", "--steps", STEPS, "--json", "--schedule", "plateau")
    assert (code, err) == (0, "")
    code, _, err = stepsmith("search", "--schedule", "plateau")
    assert code == 2 and err.count("\n") == 1 and "it follows the loss" in err


def test_the_command_takes_a_file_for_a_schedule(tmp_path, stepsmith):
    save_recorded(tmp_path / "cosine.csv", optax.cosine_decay_schedule(0.3, STEPS), STEPS)
    arguments = [TASK, "--optimizer", "adam", "--learning-rate", "0.1", "--steps", STEPS, "--json", "--schedule"]
    printed = [stepsmith("train", *arguments, schedule) for schedule in (tmp_path / "cosine.csv", "cosine")]
    assert all((code, err) == (0, "") for code, _, err in printed)
    losses = [json.loads(out)["scores"]["validation"]["loss"] for _, out, _ in printed]
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("name", ["lion", "program:adamw"])
def test_the_command_prints_what_the_loop_gives(name, stepsmith):
    code, out, err = stepsmith("train", TASK, "--optimizer", name, "--learning-rate", "0.01", "--steps", STEPS, "--seed", 3, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    here = run_job(make_job(TASK, name, learning_rate=0.01, steps=STEPS, seed=3))
    assert result["scores"] == here.scores and result["status"] == "ok" and result["steps_done"] == STEPS
    assert (
        here.scores["validation"]["loss"]
        < run_job(make_job(TASK, name, learning_rate=0.0, steps=STEPS, seed=3)).scores["validation"]["loss"]
    )


def test_a_run_that_diverges_says_so_and_ends_with_1(stepsmith):
    code, out, _ = stepsmith("train", TASK, "--optimizer", "sgd", "--learning-rate", "1e9", "--json")
    result = json.loads(out)
    assert code == 1 and result["status"] in ("diverged", "nonfinite")
    assert all(value is None or math.isfinite(value) for metrics in result["scores"].values() for value in metrics.values())


@pytest.mark.heavy
def test_killed_and_started_again_it_prints_the_same(tmp_path):
    def command(folder):
        return ["digits_mlp", "--optimizer", "program:adamw_corrected", "--steps", 2000, "--checkpoint", folder, "--checkpoint-every", 20]

    whole = _run(*command(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    for goal in (100, 900):
        arguments = [*COMMAND, *map(str, command(tmp_path / "killed"))]
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and _rows(tmp_path / "killed") < goal:
            time.sleep(0.002)
        child.kill()
        child.wait()
    again = _run(*command(tmp_path / "killed"))
    assert again.returncode == 0 and "going on from step" in again.stdout
    assert _scores(again.stdout) == _scores(whole.stdout)
    assert (tmp_path / "killed" / "curve.csv").read_bytes() == (tmp_path / "whole" / "curve.csv").read_bytes()
    assert "finished already" in _run(*command(tmp_path / "killed")).stdout


def _rows(folder: Path) -> int:
    curve = folder / "curve.csv"
    return curve.read_bytes().count(b"\n") if curve.exists() else 0


def _scores(out):
    return out.splitlines()[-1].partition(";")[2]


@pytest.mark.heavy
def test_ctrl_c_says_how_to_go_on(tmp_path):
    command = ["digits_mlp", "--optimizer", "lion", "--steps", "1000000", "--checkpoint", str(tmp_path / "run")]
    child = subprocess.Popen([*COMMAND, *command], stdout=subprocess.PIPE, text=True)
    while _rows(tmp_path / "run") < 50 and child.poll() is None:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 130 and f"go on with: stepsmith train {' '.join(command)}" in out.splitlines()[-1]


BAD = {
    "unknown task": (["nowhere", "--optimizer", "lion"], ["unknown task 'nowhere'", "digits_mlp"]),
    "unknown rule": ([TASK, "--optimizer", "lyon"], ["unknown optimizer 'lyon'", "lion", "powersign", ".py"]),
    "no rule": ([TASK], ["--optimizer"]),
    "missing file": ([TASK, "--optimizer", "gone.py"], ["gone.py: no such file"]),
    "broken file": ([TASK, "--optimizer", "broken.py"], ["broken.py: cannot be imported: SyntaxError"]),
    "empty file": ([TASK, "--optimizer", "empty.py"], ["empty.py: has no public function with a learning_rate"]),
    "two rules": ([TASK, "--optimizer", "two.py"], ["several functions", "a, b", "two.py:FUNCTION"]),
    "no such function": ([TASK, "--optimizer", "two.py:c"], ["no function 'c'", "a, b"]),
    "no transformation": ([TASK, "--optimizer", "two.py:a"], ["gives int, not an optax.GradientTransformation"]),
    "no rate": ([TASK, "--optimizer", "two.py:b"], ["no default learning rate", "--learning-rate"]),
    "bad program": ([TASK, "--optimizer", "bad.txt"], ["bad.txt"]),
    "no weight decay": (
        [TASK, "--optimizer", "sgd", "--weight-decay", "0.1"],
        ["sgd: weight decay is no setting of this rule"],
    ),
    "negative rate": ([TASK, "--optimizer", "lion", "--learning-rate", "-1"], ["learning rate must be", "-1"]),
    "nan decay": ([TASK, "--optimizer", "lion", "--weight-decay", "nan"], ["weight decay must be", "nan"]),
    "unknown schedule": ([TASK, "--optimizer", "lion", "--schedule", "bogus"], ["bogus", "linear"]),
    "schedule and files": ([TASK, "--optimizer", "lion", "--schedule", "bogus"], ["give a .csv or .json file", ".py file"]),
    "sampling rate": ([TASK, "--optimizer", "lion", "--schedule", "rex:2%"], ["sampling rate '2%'", "50-75"]),
    "missing schedule": ([TASK, "--optimizer", "lion", "--schedule", "gone.csv"], ["gone.csv: cannot be read"]),
    "bad schedule": ([TASK, "--optimizer", "lion", "--schedule", "bad.csv"], ["bad.csv: learning_rate holds 'high'"]),
    "bad recorded": ([TASK, "--optimizer", "lion", "--schedule", "bad.json"], ["bad.json: is no JSON"]),
    "broken schedule": ([TASK, "--optimizer", "lion", "--schedule", "broken.py"], ["broken.py: cannot be imported"]),
    "no schedule": ([TASK, "--optimizer", "lion", "--schedule", "two.py"], ["no public function with a decay_steps"]),
    "failing schedule": (
        [TASK, "--optimizer", "lion", "--schedule", "shapes.py:failing"],
        ["shapes.py:failing: failing cannot be called with decay_steps=", "KeyError"],
    ),
    "negative schedule": ([TASK, "--optimizer", "lion", "--schedule", "shapes.py:negative"], ["finite learning rates of at least 0", "-1"]),
    "no steps": ([TASK, "--optimizer", "lion", "--steps", "0"], ["steps must be at least 1", "got 0"]),
    "too many steps": ([TASK, "--optimizer", "lion", "--steps", "9" * 30], ["steps must be", "at most"]),
    "negative seed": ([TASK, "--optimizer", "lion", "--seed", "-1"], ["seed must be at least 0"]),
    "interval without a folder": ([TASK, "--optimizer", "lion", "--checkpoint-every", "5"], ["--checkpoint DIR"]),
    "foreign folder": ([TASK, "--optimizer", "lion", "--checkpoint", "."], ["holds other files", "empty folder"]),
    "folder below a file": ([TASK, "--optimizer", "lion", "--checkpoint", "two.py/out"], ["cannot be used for checkpoints"]),
}


@pytest.fixture(scope="module")
def stumbling(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stumbling")
    (folder / "broken.py").write_text("def found(learning_rate=1.0:\n")
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "two.py").write_text("def a(learning_rate=1.0):\n    return 3\n\n\ndef b(learning_rate):\n    return 4\n")
    (folder / "bad.csv").write_text("step,learning_rate\n0,high\n")
    (folder / "bad.json").write_text("{")
    (folder / "shapes.py").write_text(
        "def failing(decay_steps):\n    return {}[decay_steps]\n\n\ndef negative(decay_steps):\n    return lambda step: -1.0\n"
    )
    (folder / "bad.txt").write_text("def train(w, g, lr):\n    update = nothing(g)\n    return update\n")
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name, stumbling, monkeypatch, capsys):
    from stepsmith.discovery.cli import main

    arguments, words = BAD[name]
    monkeypatch.chdir(stumbling)
    monkeypatch.setattr(sys, "argv", ["stepsmith", "train", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1 and err.startswith("stepsmith: ")
    for word in words:
        assert word in err


def test_another_rule_in_the_same_folder_is_refused(tmp_path):
    assert _run(TASK, "--optimizer", "lion", "--steps", 20, "--checkpoint", tmp_path / "run").returncode == 0
    other = _run(TASK, "--optimizer", "lion", "--learning-rate", 0.1, "--steps", 20, "--checkpoint", tmp_path / "run")
    assert other.returncode == 2 and "learning_rate is 0.0003 there and 0.1 here" in other.stderr
