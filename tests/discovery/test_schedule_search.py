"""Searches for schedules, and for rules that hold their schedule: the same for any number of workers, and of use in a training run."""

import dataclasses
import importlib.util
import json
import math
import statistics

import pytest

from stepsmith.discovery import ConfigError, SearchConfig, resume, search
from stepsmith.discovery.evaluate import Evaluation, Status, Yardstick, outcome
from stepsmith.discovery.evaluate.rates import base_factors, best_factor
from stepsmith.discovery.evaluate.training_run import evaluate, prepare
from stepsmith.discovery.export import to_python
from stepsmith.discovery.language import load, parse, with_schedule
from stepsmith.discovery.ledger import Ledger
from stepsmith.discovery.search import EvolutionConfig
from stepsmith.discovery.selection import LevelConfig, SelectionConfig
from stepsmith.discovery.training.train import make_job, run_job

SMALL = SearchConfig(
    kind="schedule",
    tasks=("logistic",),
    seeds_per_task=1,
    replicates=2,
    budget="30",
    evolution=EvolutionConfig(population_size=12, tournament_size=3),
    finalists=3,
    finalist_seeds=2,
)


OBSERVING = """def schedule(progress, loss):
    multiplier = (1.0 - progress) * tanh(loss * 4.0)
    return multiplier
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Read it only."""
    return search(SMALL, tmp_path_factory.mktemp("schedule") / "run", workers=1)


@pytest.mark.heavy
def test_a_schedule_is_found_and_drops_into_a_training_run(run):
    best = run.hall_of_fame()[0]
    assert best.program.kind == "schedule" and best.states == best.operations == 0
    spec = importlib.util.spec_from_file_location("best", run.folder / "best.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert math.isfinite(float(module.discovered(0.1, 200)(100)))
    job = make_job("logistic", "adamw", schedule=f"{run.folder / 'best.py'}:discovered", learning_rate=0.03)
    assert run_job(job).scores["test"]["accuracy"] > 0.9


@pytest.mark.heavy
def test_the_number_of_workers_changes_nothing(run, tmp_path):
    again = search(SMALL, tmp_path / "run", workers=2)
    assert again.digest() == run.digest() == resume(again.folder).digest()


@pytest.mark.heavy
def test_levels_tune_the_rule_and_rank_the_schedules(run, tmp_path):
    level = LevelConfig("B", ("logistic~50",), 2, 1, (0.3, 1.0, 3.0), promote=1, beats=math.inf)
    selected = search(
        dataclasses.replace(SMALL, selection=SelectionConfig(levels=(level,), entrants=2)), tmp_path / "run", workers=1
    ).selection()
    (summary,) = selected.levels()
    assert summary["entered"] == summary["placed"] == 2 and summary["passed"] == 1
    assert selected.best().program.kind == "schedule" and "def discovered(init_value" in selected.export()
    with Ledger.open(selected.folder / "ledger.sqlite") as ledger:
        base = ledger.run().versions["base_factors"]["logistic~50"]
        placed = {row.hash: row for row in ledger.levels()}
        entered = {row.hash: row.text for row in ledger.programs()}
    assert base == base_factors(load("adamw_corrected"), ["logistic~50"])["logistic~50"]
    prepared = prepare("logistic~50", "constant")._replace(rule=load("adamw_corrected"), base_factor=base)
    for name, row in placed.items():
        found = json.loads(row.detail)["logistic~50"]
        losses = [evaluate(prepared, parse(entered[name]), seed, found["factor"]).loss for seed in (101_500, 101_501)]
        assert found["log_loss"] == pytest.approx(sum(map(math.log, losses)) / 2, abs=1e-4)


@pytest.mark.heavy
def test_the_linear_schedule_is_scored_at_the_best_of_its_rates(run):
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        first = ledger.births()[0]
        runs = [e for e in ledger.evaluations(first.hash) if e.seed == SMALL.search_seeds[0]]
        factors = ledger.run().versions["base_factors"]
    assert {e.learning_rate_factor for e in runs} == {0.3, 1.0, 3.0} and first.fitness == run_best(runs, ledger)
    assert 1 < factors["logistic"] < 1e3  # the program's own rate is 0.001, tuned AdamW's 0.03


def run_best(runs, ledger):
    log_loss, scale = ledger.run().versions["yardsticks"]["logistic"]
    return min((math.log(e.loss) - log_loss) / scale for e in runs if e.loss is not None)


@pytest.mark.heavy
def test_a_schedule_that_observes_is_searched_exported_and_trained_with(tmp_path):
    (tmp_path / "start.txt").write_text(OBSERVING)
    config = dataclasses.replace(SMALL, language="extended", initial=str(tmp_path / "start.txt"), budget="12", finalists=1)
    run = search(config, tmp_path / "run", workers=1)
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        first = ledger.births()[0]
    assert first.status == "ok" and math.isfinite(first.fitness)
    (tmp_path / "mine.py").write_text(to_python(parse(OBSERVING), "mine"))
    trained = run_job(make_job("logistic", "adamw", schedule=str(tmp_path / "mine.py"), learning_rate=0.03))
    assert trained.scores["test"]["accuracy"] > 0.9
    with pytest.raises(ConfigError, match="uses loss, which the language paper has not; set language to extended"):
        search(dataclasses.replace(config, language="paper"), tmp_path / "paper", workers=1)


@pytest.mark.heavy
def test_a_joint_search_starts_from_a_rule_with_linear_decay(tmp_path):
    config = dataclasses.replace(SMALL, kind="joint", initial="adamw_corrected", budget="6", finalists=1)
    run = search(config, tmp_path / "run", workers=1)
    assert run.config().schedule == "constant" and run.config().language == "extended"
    assert run.config().learning_rate_factors == (10.0, 30.0, 100.0)
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        first = ledger.births()[0]
        runs = ledger.evaluations(first.hash)
    yardsticks = {name: Yardstick(*values) for name, values in run.status()["versions"]["yardsticks"].items()}
    seeds = [r for r in runs if r.seed in run.config().search_seeds]
    best = {(r.task, r.seed): min(o.loss for o in seeds if (o.task, o.seed) == (r.task, r.seed)) for r in seeds}
    expected = statistics.fmean([(math.log(loss) - yardsticks[task].log_loss) / yardsticks[task].scale for (task, _), loss in best.items()])
    assert first.fitness == pytest.approx(expected, rel=1e-6), "the best rate on each task counts"
    assert first.status == "ok" and first.program == with_schedule(load("adamw_corrected"), load("linear")).to_json()


def test_the_best_factor_counts_and_one_that_fails_does_not():
    def runs(*losses):
        status = [Status.OK if loss else Status.DIVERGED for loss in losses]
        return [Evaluation("a", 0, factor, s, loss, 9, 0.0) for factor, s, loss in zip((0.3, 1.0, 3.0), status, losses, strict=True)]

    yardsticks = {"a": Yardstick(0.0, 1.0)}
    assert outcome(runs(math.e, 1.0, None), yardsticks, best_factor=True).fitness == pytest.approx(0.0)
    assert outcome(runs(None, None, None), yardsticks, best_factor=True).status is Status.DIVERGED
    assert outcome(runs(math.e, 1.0, None), yardsticks).status is Status.DIVERGED


def test_the_walk_to_the_best_factor_ends_at_it():
    seen = []

    def score(factor):
        seen.append(factor)
        return abs(math.log10(factor) - 1.4)

    assert best_factor(score) == 31.6 and max(seen) == 100.0
    assert best_factor(lambda factor: 0.0) == 1.0


def test_a_rule_that_fails_at_every_rate_is_named():
    with pytest.raises(ValueError, match="fails on logistic at every learning rate"):
        base_factors(parse("def train(w, g, lr):\n    update = log(g * 0.0) * lr\n    return update"), ["logistic"])


REFUSED = {
    "a rule to start from": (
        {"initial": "lion"},
        "a search of kind schedule cannot start from; shipped are cosine, linear, rex",
    ),
    "a schedule under schedules": ({"schedule": "cosine"}, "schedule must be constant"),
    "a schedule as the rule": ({"rule": "rex"}, "'rex' is no update rule"),
    "a schedule where a rule is searched": ({"kind": "update", "initial": "rex"}, "set kind to schedule"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_named(case, tmp_path):
    changes, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        search(dataclasses.replace(SMALL, **changes), tmp_path / "run")
    assert load("rex").kind == "schedule"
