"""The funnel after real searches: in a search's own folder, over several runs, killed and continued."""

import dataclasses
import json
import math
import signal
import time

import numpy as np
import pytest

from stepsmith.discovery import ConfigError, Run, config, resume, search
from stepsmith.discovery.cli import read_command
from stepsmith.discovery.evaluate import plan
from stepsmith.discovery.language import canonical_hash, load
from stepsmith.discovery.ledger import Ledger
from stepsmith.discovery.selection import LevelConfig, SelectionConfig, funnel
from stepsmith.discovery.selection.result import FOLDER, Selection
from stepsmith.tasks import get
from stepsmith.tasks.reference import stored

pytestmark = pytest.mark.heavy

FACTORS = (0.316228, 1.0, 3.16228)
SELECTION = SelectionConfig(
    levels=(
        LevelConfig("B", ("logistic",), 2, 1, FACTORS, promote=2, beats=math.inf),
        LevelConfig("C", ("tabular", "logistic"), 2, 1, (1.0,), promote=1),
    ),
    entrants=3,
    validation=LevelConfig("", ("logistic",), 2, 1, (1.0,)),
    baselines=("initial", "sgd"),
    points=4,
)
TOML = """
[selection]
entrants = 3
points = 4
baselines = ["initial", "sgd"]
[[selection.levels]]
name = "B"
tasks = ["logistic"]
seeds = 2
tuning_seeds = 1
learning_rate_factors = [0.316228, 1, 3.16228]
promote = 2
beats = inf
[[selection.levels]]
name = "C"
tasks = ["tabular", "logistic"]
seeds = 2
tuning_seeds = 1
learning_rate_factors = [1]
promote = 1
[selection.validation]
tasks = ["logistic"]
seeds = 2
tuning_seeds = 1
learning_rate_factors = [1]
"""


@pytest.fixture(scope="module")
def places():
    return plan("cpu", 1)


@pytest.fixture(scope="module")
def selected(small_config, tmp_path_factory):
    """A search with a selection in its config. Read it only."""
    return search(dataclasses.replace(small_config, selection=SELECTION), tmp_path_factory.mktemp("selected") / "run", workers=1)


@pytest.fixture
def asked(monkeypatch):
    """What workers are asked for, as (program, task, factor, seed)."""
    runs = []

    class Recording(funnel.WorkerPool):
        def submit(self, job):
            runs.extend((job.program, job.tasks[0], job.learning_rate_factors[0], seed) for seed in job.seeds)
            super().submit(job)

    monkeypatch.setattr(funnel, "WorkerPool", Recording)
    return runs


def test_levels_in_a_config_read_as_they_are_written(tmp_path, selected):
    path = tmp_path / "levels.toml"
    path.write_text(TOML)
    assert config.load(path).selection == SELECTION
    assert selected.config().selection == SELECTION
    path.write_text(TOML.replace("promote", "promotes"))
    with pytest.raises(ConfigError, match=r"unknown key 'selection.levels\[0\].promotes'; allowed: .*selection.levels\[0\].promote"):
        config.load(path)


def test_a_selection_leaves_the_search_as_it_would_be_without(selected, finished_run):
    assert selected.digest() == finished_run.digest()
    assert selected.status()["status"] == "finished"


def test_a_level_scores_by_the_factor_that_other_seeds_chose(selected):
    with Ledger.open(selected.folder / FOLDER / "ledger.sqlite") as ledger:
        row = next(row for row in ledger.levels() if row.level == "B")
        runs = ledger.evaluations(row.hash)
    log_loss = {
        (run.learning_rate_factor, run.seed): np.log(run.loss) if run.loss else math.inf for run in runs if 101_000 <= run.seed < 102_000
    }
    tuning = {factor: loss for (factor, seed), loss in log_loss.items() if seed == 101_000}
    best = min(tuning, key=tuning.get)
    reference = stored(get("logistic"))
    scores = [(log_loss[best, seed] - reference.log_loss) / reference.scale for seed in (101_500, 101_501)]
    assert set(FACTORS) <= set(tuning) and json.loads(row.detail)["logistic"]["factor"] == best
    assert row.fitness == pytest.approx(np.mean(scores)) and row.error == pytest.approx(abs(scores[0] - scores[1]) / 2)


def test_the_funnel_narrows_and_the_hall_of_fame_follows_its_last_level(selected):
    b, c = selected.status()["selection"]["levels"]
    assert (b["entered"], b["placed"], b["passed"]) == (3, 3, 2) and (c["entered"], c["placed"]) == (2, 2)
    promoted = [program["hash"] for program in b["programs"] if program["passed"]]
    assert {program["hash"] for program in c["programs"]} == set(promoted) == {p["hash"] for p in b["programs"][:2]}
    finalists = selected.hall_of_fame()
    order = [program["hash"] for program in c["programs"] if program["fitness"] is not None]
    assert [f.hash for f in finalists][: len(order)] == order
    assert [f.level for f in finalists] == ["C"] * len(order) + ["B"] * (3 - len(order))
    assert [f.rank for f in finalists] == [1, 2, 3]
    assert "level C, tabular, logistic: fitness" in (selected.folder / "best.py").read_text()


def test_baselines_are_placed_on_each_level_and_neither_promoted_nor_finalists(selected):
    summary = selected.status()["selection"]["levels"]
    known = {"initial": canonical_hash(load(selected.config().initial)), "sgd": canonical_hash(load("sgd"))}
    for level, tasks in zip(summary, (["logistic"], ["tabular", "logistic"]), strict=True):
        assert {program["run"]: program["hash"] for program in level["baselines"]} == known
        assert [list(program["tasks"]) for program in level["baselines"]] == [tasks] * 2
        assert not any(program["passed"] for program in level["baselines"])
    b, c = summary
    assert b["passed"] == 2 and {p["hash"] for p in c["programs"]} == {p["hash"] for p in b["programs"] if p["passed"]}
    # Scored as finalists are: the factor by one seed, the fitness by others, against tuned AdamW.
    with Ledger.open(selected.folder / FOLDER / "ledger.sqlite") as ledger:
        runs = {(run.task, run.learning_rate_factor, run.seed): run.loss for run in ledger.evaluations(known["sgd"])}
    sgd = next(program for program in b["baselines"] if program["run"] == "sgd")
    factor, reference = sgd["tasks"]["logistic"]["factor"], stored(get("logistic"))
    scores = [(np.log(runs["logistic", factor, seed]) - reference.log_loss) / reference.scale for seed in (101_500, 101_501)]
    assert sgd["fitness"] == pytest.approx(np.mean(scores))
    finalists = selected.hall_of_fame()
    assert known["sgd"] not in {finalist.hash for finalist in finalists}
    assert len({finalist.hash for finalist in finalists}) == len(finalists)


def test_baselines_are_listed_with_the_programs(selected, stepsmith):
    shown = stepsmith("status", selected.folder)[1]
    assert shown.count("baseline: initial") == shown.count("baseline: sgd") == 2


@pytest.mark.parametrize(
    ("baselines", "message"), [(("lyon",), "selection.baselines: no shipped program 'lyon'"), (("rex",), "'rex' is a schedule.*for rules")]
)
def test_baselines_that_are_none_are_refused_before_the_search(small_config, tmp_path, baselines, message):
    bad = dataclasses.replace(small_config, selection=dataclasses.replace(SELECTION, baselines=baselines))
    with pytest.raises(ConfigError, match=message):
        search(bad, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_the_course_holds_the_programs_that_led_the_search(selected):
    curve = selected.status()["selection"]["courses"][selected.folder.name]["curve"]
    assert 2 <= len(curve) <= SELECTION.points and curve[0]["told"] == 0
    told, search_fitness = [p["told"] for p in curve], [p["search"] for p in curve]
    assert told == sorted(told) and search_fitness == sorted(search_fitness, reverse=True)
    assert all(point["error"] is not None for point in curve if point["validation"] is not None)


def test_a_killed_selection_runs_nothing_twice_and_ends_in_the_same_places(selected, places, tmp_path, asked, monkeypatch):
    first_level = dataclasses.replace(SELECTION, levels=SELECTION.levels[:1], validation=LevelConfig())
    sources = [selected.source(first_level)]
    monkeypatch.setattr("stepsmith.discovery.recorder.COMMIT_SECONDS", 0.0)

    def kill(progress):
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        funnel.select(sources, first_level, tmp_path / "s", places, kill)
    assert Selection(tmp_path / "s").status()["status"] == "interrupted"
    with Ledger.open(tmp_path / "s" / "ledger.sqlite") as ledger:
        done = {(p.hash, run.task, run.learning_rate_factor, run.seed) for p in ledger.programs() for run in ledger.evaluations(p.hash)}
        programs = {funnel.parse(row.text).to_json(): row.hash for row in ledger.programs()}
    assert done
    asked.clear()
    finished = funnel.select(sources, first_level, tmp_path / "s", places)
    again = {(programs[program], *rest) for program, *rest in asked}
    assert again and not again & done and len(again) == len(asked)
    assert finished.levels() == selected.status()["selection"]["levels"][:1]
    asked.clear()
    funnel.select(sources, first_level, tmp_path / "s", places)
    assert not asked


def test_finalists_of_several_runs_meet_and_each_program_once(selected, finished_run, tmp_path, capfd):
    path, folder = tmp_path / "c.toml", tmp_path / "s"
    level = '[[selection.levels]]\nname = "B"\ntasks = ["tabular"]\nseeds = 2\ntuning_seeds = 1\nlearning_rate_factors = [1]\n'
    path.write_text("[selection]\nentrants = 2\n" + level)
    command = ["select", str(selected.folder), str(finished_run.folder), "--config", str(path), "--folder", str(folder), "--workers", "1"]
    assert read_command(command)() == 0
    assert "level B (tabular):" in capfd.readouterr().out
    done = Selection(folder)
    # The two runs are the same search; the entrants are each run's best by its own seeds.
    programs = done.levels()[0]["programs"]
    sources = [run.source(done.config()) for run in (selected, finished_run)]
    assert {program["hash"] for program in programs} == {best.hash for source in sources for best, _ in source.finalists[:2]}
    assert {program["run"] for program in programs} == {selected.folder.name}
    assert "found by run run" in (folder / "best.py").read_text()
    assert read_command(["status", str(folder), "--json"])() == 0
    assert json.loads(capfd.readouterr().out)["levels"] == done.levels()
    assert read_command(["export", str(folder), "--as", "text"])() == 0
    assert capfd.readouterr().out == done.best().text + "\n"
    path.write_text("[selection]\nentrants = 1\n" + level)
    with pytest.raises(ConfigError, match="holds another selection.*differs in entrants"):
        read_command(command)()
    for bad, message in ((command[:1] + command[3:], "nothing to select from"), ([*command[:2], *command[1:]], "the same run twice")):
        with pytest.raises(ValueError, match=message):
            read_command(bad)()


def test_what_cannot_be_selected_from_is_named(small_config, selected, places, tmp_path):
    final = "stepsmith.discovery.benchmark.workloads:table_classes_final"
    bad = SelectionConfig(levels=(LevelConfig("B", (final,)),))
    with pytest.raises(ConfigError, match="final variant"):
        funnel.select([selected.source(bad)], bad, tmp_path / "s", places)
    with pytest.raises(ConfigError, match="final variant"):
        search(dataclasses.replace(small_config, selection=bad), tmp_path / "t", workers=1)
    with pytest.raises(ConfigError, match="nothing to select by"):
        funnel.select([selected.source(SELECTION)], SelectionConfig(), tmp_path / "s", places)
    source = selected.source(SELECTION)
    with pytest.raises(ConfigError, match="different schedules"):
        funnel.select([source, source._replace(name="b", schedule="cosine")], SELECTION, tmp_path / "s", places)
    assert not (tmp_path / "s").exists() and not (tmp_path / "t").exists()


def test_ctrl_c_in_the_levels_of_a_search_is_continued_by_resume(small_config, tmp_path, start_command):
    tomli_w = pytest.importorskip("tomli_w")
    path, run = tmp_path / "c.toml", tmp_path / "run"
    level = dataclasses.replace(small_config, budget="20", selection=SelectionConfig(SELECTION.levels[:1]))
    path.write_text(tomli_w.dumps(dataclasses.asdict(level)))
    process = start_command("search", "--config", path, "--run", run, "--workers", "1")
    while not (run / FOLDER / "ledger.sqlite").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and f"stepsmith resume {run}" in said
    assert Run(run).status()["selection"]["status"] == "interrupted"
    resumed = resume(run, workers=1)
    assert resumed.status()["selection"]["status"] == "finished"
    assert resumed.best().level == "B"
