"""Constant tuning: from bad constants back to tuned AdamW, and no gain where there is none."""

import sys

import numpy as np
import pytest
from scipy import stats

from stepsmith.discovery import ConfigError
from stepsmith.discovery.evaluate import Outcome, Status, plan
from stepsmith.discovery.language import load, parse
from stepsmith.discovery.tuning import tune as module
from stepsmith.discovery.tuning.tune import TuneConfig, paired_p_value, tune

ONE = plan("cpu", 1)
BAD_ADAMW = load("adamw_corrected")  # its learning rate, 0.001, is 100 times too small on digits_mlp


@pytest.mark.heavy
def test_bad_constants_are_brought_back_to_tuned_adamw():
    pytest.importorskip("cma")
    seen = []
    done = tune(BAD_ADAMW, TuneConfig(("digits_mlp",), 150, seeds=2), ONE, lambda *progress: seen.append(progress[:2]))
    assert done.better and done.p_value < 0.05 and done.program != BAD_ADAMW
    assert done.before.fitness > 5 and done.after.fitness < 1
    assert len(done.after.scores) == 8 and 130 < done.evaluations <= 150
    assert seen[-1] == (done.evaluations, 150) and not done.stopped


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_constants_and_what_chance_explains_keeps_the_program(monkeypatch):
    pytest.importorskip("cma")
    config = TuneConfig(("digits_mlp",), 20, seed=3, seeds=1, test_seeds=2)
    first = tune(load("sgd"), config, ONE)
    for p_value in (first.p_value, 0.049, 0.05):
        monkeypatch.setattr(module, "paired_p_value", lambda before, after, p_value=p_value: p_value)
        done = tune(load("sgd"), config, ONE)
        assert (done.before, done.after, done.evaluations) == (first.before, first.after, first.evaluations)
        assert done.better is (p_value < 0.05) and (done.program == load("sgd")) is not done.better


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(0)
    for shift in (-1.0, 0.0, 0.3, 1.0):
        before = rng.normal(size=8)
        after = before - shift + 0.5 * rng.normal(size=8)
        expected = stats.ttest_rel(before, after, alternative="greater").pvalue
        found = paired_p_value(Outcome(Status.OK, tuple(before.tolist())), Outcome(Status.OK, tuple(after.tolist())))
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_failure_never_wins():
    good, failed = Outcome(Status.OK, (0.1, 0.2)), Outcome(Status.DIVERGED)
    assert paired_p_value(good, failed) == paired_p_value(failed, failed) == 1.0
    assert paired_p_value(failed, good) == 0.0
    assert paired_p_value(good, good) == 1.0


BAD = {
    "no tasks": (TuneConfig(()), "tasks must be"),
    "a small budget": (TuneConfig(budget=1), "budget must be 2 to"),
    "one test seed": (TuneConfig(test_seeds=1), "test_seeds must be 2 to"),
    "a final variant": (TuneConfig(("stepsmith.discovery.benchmark.workloads:table_classes_final",)), "final variant"),
}


@pytest.mark.parametrize(("config", "message"), BAD.values(), ids=BAD.keys())
def test_settings_that_cannot_be_used_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        config.check()


def test_a_program_without_constants_and_a_missing_library_are_named(monkeypatch):
    bare = parse("def train(w, g, lr):\n    update = g * lr\n    return update")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cma", type(sys)("cma"))
        with pytest.raises(ConfigError, match="no constants"):
            tune(bare, TuneConfig(), ONE)
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ConfigError, match=r"pip install 'stepsmith\[tune\]'"):
        tune(BAD_ADAMW, TuneConfig(), ONE)
