"""Whole searches: what repeats, what stops, and what goes on."""

import dataclasses
import importlib.util
import math
import random
import re
import shutil
import signal
import sqlite3
import sys
import time

import jax.numpy as jnp
import optax
import pytest

from stepsmith.discovery import ConfigError, Run, resume, search, session
from stepsmith.discovery.config import load
from stepsmith.discovery.evaluate import WorkerSpec, yardstick
from stepsmith.discovery.evaluate.blocks import CALIBRATORS
from stepsmith.discovery.language import canonical_hash, extended_operations
from stepsmith.discovery.language import load as load_program
from stepsmith.discovery.ledger import Ledger, LedgerError
from stepsmith.tasks import get
from stepsmith.tasks import registry as tasks
from stepsmith.tasks.training import scores, train

pytestmark = pytest.mark.heavy


def check_finished(run, evaluations):
    """As many programs as the budget says, and a hall of fame in order, confirmed on new seeds."""
    status, hall, config = run.status(), run.hall_of_fame(), run.config()
    assert (status["status"], status["evaluated"], status["programs"]) == ("finished", evaluations, evaluations)
    assert status["births"] == status["told"] == status["evaluated"] + status["cached"]
    assert sum(status["statuses"].values()) == evaluations
    assert [finalist.rank for finalist in hall] == list(range(1, len(hall) + 1)) and 1 <= len(hall) <= config.finalists
    confirmed = [finalist.confirmed for finalist in hall if finalist.confirmed is not None]
    assert confirmed and confirmed == sorted(confirmed)
    assert len({finalist.hash for finalist in hall}) == len(hall)


def test_the_number_of_workers_changes_nothing(small_config, finished_run, tmp_path):
    again = search(small_config, tmp_path / "two", workers=2)
    assert again.digest() == finished_run.digest()
    assert again.hall_of_fame() == finished_run.hall_of_fame()
    check_finished(again, 40)


def test_a_search_in_batches_notes_their_shape_and_repeats(small_config, tmp_path, monkeypatch):
    """As on an accelerator, with the kernel's reference in its place; whichever worker a program comes to, the run is the same."""
    settings = {"batch": 4, "machine": "xla"}
    monkeypatch.setattr(session, "WorkerSpec", lambda *args, **others: WorkerSpec(*args, **(others | settings)))
    config, runs = dataclasses.replace(small_config, tasks=("quadratic",), budget="16"), []
    for workers in (1, 2):
        runs.append(search(config, tmp_path / f"{workers}", workers=workers))
        check_finished(runs[-1], 16)
        with Ledger.open(runs[-1].folder / "ledger.sqlite") as ledger:
            (digest,) = {each.identity for program in ledger.outcomes() for each in ledger.evaluations(program)}
            noted = ledger.state()["identities"][digest]
        assert (noted["batch"], noted["machine"]) == ("4 fixed", "xla")
    assert runs[0].digest() == runs[1].digest()


def test_another_seed_is_another_search(small_config, finished_run, tmp_path):
    other = search(dataclasses.replace(small_config, seed=1), tmp_path / "other", workers=1)
    check_finished(other, 40)
    assert other.digest() != finished_run.digest()
    assert {f.hash for f in other.hall_of_fame()} != {f.hash for f in finished_run.hall_of_fame()}


@pytest.mark.parametrize("change", [{"mode": "async"}, {"strategy": "random_search"}], ids=str)
def test_other_ways_to_search(small_config, tmp_path, change):
    snapshots = []
    run = search(dataclasses.replace(small_config, **change), tmp_path / "run", workers=2, on_progress=snapshots.append)
    check_finished(run, 40)
    assert snapshots[-1].phase == "done" and snapshots[-1].share == 1.0 and snapshots[-1].counters.evaluated == 40
    assert {f.hash for f in run.hall_of_fame()} == {entry.hash for entry in snapshots[-1].hall_of_fame}


def test_the_extended_language(small_config, tmp_path):
    """Its programs train in the workers, are told apart, and come out as files."""
    config = dataclasses.replace(small_config, initial="muon", language="extended", budget="12", seeds_per_task=2)
    run = search(config, tmp_path / "run", workers=1)
    check_finished(run, 12)
    best = run.best()
    assert best.confirmed is not None and extended_operations(best.program)
    assert "def orthogonalize" in (run.folder / "best.py").read_text()
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        assert ledger.outcomes()[canonical_hash(load_program("muon"))][0] == "ok"


def test_the_best_rate_counts_where_it_is_asked_for(small_config, tmp_path):
    """At a hundredth of its rate AdamW is worse: a mean of two rates shows it, and the best of them does not."""

    def fitness(name, factors, best_rate):
        config = dataclasses.replace(small_config, budget="1", learning_rate_factors=factors, best_rate=best_rate)
        with Ledger.open(search(config, tmp_path / name, workers=1).folder / "ledger.sqlite") as ledger:
            return ledger.outcomes()[canonical_hash(load_program("adamw"))][1][0]

    alone = fitness("alone", (1.0,), False)
    assert fitness("best", (0.01, 1.0), True) == alone
    assert fitness("mean", (0.01, 1.0), False) > alone + 0.1


def test_a_start_that_is_lost_is_said(small_config, tmp_path, caplog):
    config = dataclasses.replace(small_config, budget="3", learning_rate_factors=(1e6,))
    run = search(config, tmp_path / "run", workers=1)
    message = "the initial program itself ends as nonfinite: "
    assert [record.getMessage().startswith(message) for record in caplog.records] == [True]
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        assert [event.message.startswith(message) for event in ledger.events() if event.kind == "initial"] == [True]


def test_random_search_draws_from_the_initial_program_alone(small_config, tmp_path):
    run = search(dataclasses.replace(small_config, strategy="random_search", budget="10"), tmp_path / "run", workers=1)
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        assert {birth.parent for birth in ledger.births()} == {None, 0}


def test_what_a_run_leaves_behind(small_config, finished_run):
    assert load(finished_run.folder / "config.toml") == small_config.resolved() == finished_run.config()
    assert {path.name for path in finished_run.folder.iterdir()} >= {"ledger.sqlite", "config.toml", "best.py"}
    with Ledger.open(finished_run.folder / "ledger.sqlite") as ledger:
        births = ledger.births()
        kinds = [event.kind for event in ledger.events()]
        assert ledger.state()["search"]["births"] == len(births)
    assert kinds == ["start", "blocks", "finished"]
    assert [birth.index for birth in births] == list(range(len(births))) == [birth.told for birth in births]
    assert births[0].parent is None and all(0 <= birth.parent < birth.index for birth in births[1:])


def test_finalists_are_scored_on_seeds_that_the_search_has_not_seen(small_config, finished_run):
    finalists = {finalist.hash for finalist in finished_run.hall_of_fame()}
    searched, confirmed = {*small_config.search_seeds}, {*small_config.finalist_seed_values}
    every = {seed for block in range(small_config.replicates) for seed in small_config.block_seeds(block)}
    assert searched < every and not every & confirmed
    with Ledger.open(finished_run.folder / "ledger.sqlite") as ledger:
        for program_hash in ledger.outcomes():
            seeds = {evaluation.seed for evaluation in ledger.evaluations(program_hash)}
            assert seeds >= searched and seeds & confirmed == (confirmed if program_hash in finalists else set())


def test_who_would_lead_is_evaluated_on_more_seeds(small_config, finished_run):
    blocks = [set(small_config.block_seeds(block)) for block in range(small_config.replicates)]
    with Ledger.open(finished_run.folder / "ledger.sqlite") as ledger:
        outcomes, births = ledger.outcomes(), ledger.births()
        for program_hash, (_, scores) in outcomes.items():
            seeds = {evaluation.seed for evaluation in ledger.evaluations(program_hash)}
            assert all(blocks[i] <= seeds for i in range(len(scores))) and 0 <= len(scores) <= small_config.replicates
    told = [birth for birth in births if birth.status == "ok"]
    first = list(dict.fromkeys(birth.hash for birth in told))[:CALIBRATORS]
    leader, best = None, float("inf")
    for birth in told:
        if birth.fitness < best or birth.hash in first:
            leader, best = birth.hash, min(birth.fitness, best)
            assert len(outcomes[leader][1]) == small_config.replicates
    assert leader is not None and outcomes[leader][1] != outcomes[leader][1][:1] * small_config.replicates
    assert finished_run.status()["repeated"] >= small_config.replicates - 1


def test_every_score_is_brought_to_the_first_block(small_config, tmp_path):
    config = dataclasses.replace(small_config, budget="100")
    reference, on_more = yardstick("digits_mlp"), set()
    run = search(config, tmp_path / "run", workers=2)
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        effects, calibrators = (ledger.state()["blocks"][name] for name in ("effects", "calibrators"))
        assert effects[0] == 0.0 and all(effects[1:])
        for program_hash, (status, scores) in ledger.outcomes().items():
            losses = {e.seed: e.loss for e in ledger.evaluations(program_hash)}
            if program_hash not in calibrators and len(scores) > 1:
                on_more.add(program_hash)
            for block, score in enumerate(scores if status == "ok" else ()):
                (seed,) = config.block_seeds(block)
                raw = (math.log(losses[seed]) - reference.log_loss) / reference.scale
                assert score == pytest.approx(raw - effects[block], abs=1e-6)
    assert on_more  # some that were not calibrators would have led


def test_the_best_rule_trains_in_an_optax_chain(finished_run):
    spec = importlib.util.spec_from_file_location("best", finished_run.folder / "best.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rule = optax.chain(optax.clip_by_global_norm(1.0), module.discovered())
    trained = train(get("digits_mlp"), rule, steps=100)
    assert trained.status == 0 and jnp.mean(trained.losses[-20:]) < 0.5 * jnp.mean(trained.losses[:5])
    state = trained.train_state
    assert scores(get("digits_mlp"), state.params, state.state, get("digits_mlp").load(), "validation")["accuracy"] > 0.7


def test_resume_of_a_finished_run_changes_nothing(finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.folder, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert resume(copy).digest() == finished_run.digest()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.parametrize(
    "cut",
    [lambda b: b[:-5000], lambda b: b[:4096] + b"\xff" * (len(b) - 4096), lambda b: b"hello" * 99],
    ids=["truncated", "overwritten", "replaced"],
)
def test_a_damaged_ledger_is_left_as_it_is(finished_run, tmp_path, cut):
    ledger = tmp_path / "ledger.sqlite"
    ledger.write_bytes(damaged := cut((finished_run.folder / "ledger.sqlite").read_bytes()))
    for use in (resume, lambda path: Run(path).status()):
        with pytest.raises(LedgerError, match=re.escape(str(ledger))) as caught:
            use(tmp_path)
        assert "\n" not in str(caught.value)
    assert ledger.read_bytes() == damaged


@pytest.fixture
def unfinished(small_config, tmp_path):
    """A run that was killed before its first commit."""
    versions = {"tasks": {"digits_mlp": tasks.get("digits_mlp").version}, "yardsticks": {"digits_mlp": [-2.0, 1.0]}, "format": "3"}

    def make(**changed):
        with Ledger.create(tmp_path / "ledger.sqlite", "x", dataclasses.asdict(small_config), versions | changed):
            return tmp_path

    return make


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tasks": {"digits_mlp": "0ld"}}, "task digits_mlp is version .* here and 0ld in the run.*new run"),
        ({"format": "0"}, "format 0.*new run"),
    ],
    ids=["task", "format"],
)
def test_a_run_of_another_version_is_not_continued(unfinished, changed, words):
    path = unfinished(**changed)
    before = (path / "ledger.sqlite").read_bytes()
    with pytest.raises(ConfigError, match=words):
        resume(path)
    assert (path / "ledger.sqlite").read_bytes() == before


def test_an_existing_run_is_not_overwritten(small_config, finished_run):
    digest = finished_run.digest()
    with pytest.raises(LedgerError, match="exists already"):
        search(small_config, finished_run.folder)
    assert finished_run.digest() == digest


# Runs that are stopped and go on. Several seeds and one worker make them last long enough to be hit.


@pytest.fixture(scope="module")
def long_config(small_config):
    return dataclasses.replace(small_config, budget="200", seeds_per_task=5)


@pytest.fixture(scope="module")
def uninterrupted(long_config, tmp_path_factory):
    return search(long_config, tmp_path_factory.mktemp("whole") / "run", workers=2)


@pytest.fixture
def arguments(long_config, small_toml, tmp_path):
    options = ("--budget", long_config.budget, "--seeds-per-task", long_config.seeds_per_task)
    return ("search", "--config", small_toml, *options, "--workers", 1, "--run", tmp_path / "run")


def told(path):
    """Births told so far in the committed state; 0 where there is none."""
    try:
        connection = sqlite3.connect(f"file:{path / 'ledger.sqlite'}?mode=ro", uri=True, timeout=30)
    except sqlite3.Error:
        return 0
    try:
        return connection.execute("SELECT count(told) FROM birth").fetchone()[0]
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def wait_for_more(process, path, than):
    while told(path) <= than:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_cleanly_and_resume_completes(start_command, arguments, uninterrupted, tmp_path):
    with start_command(*arguments) as process:
        wait_for_more(process, tmp_path / "run", 0)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    run = Run(tmp_path / "run")
    assert process.returncode == 130, output
    assert f"stepsmith resume {run.path}" in output and "Traceback" not in output
    assert run.status()["status"] == "interrupted" and 0 < run.status()["evaluated"] < 200
    # In a pipe the view is plain lines.
    assert output.startswith("preparing") and "\x1b" not in output and "\r" not in output

    with start_command("resume", run.path) as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "200 programs evaluated" in output and "best.py" in output and "\x1b" not in output
    check_finished(run, 200)
    assert run.digest() == uninterrupted.digest()
    assert run.hall_of_fame() == uninterrupted.hall_of_fame()


def test_kills_at_random_moments_change_nothing(start_command, arguments, uninterrupted, tmp_path):
    path, delays = tmp_path / "run", random.Random(0)
    for kill in range(3):
        with start_command(*(arguments if kill == 0 else ("resume", path, "--workers", 1))) as process:
            wait_for_more(process, path, told(path))
            time.sleep(delays.uniform(0.0, 0.3))
            process.kill()
        assert Run(path).status()["status"] == "interrupted"  # it was hit before its end
    run = resume(path, workers=2)
    check_finished(run, 200)
    assert run.digest() == uninterrupted.digest()
    assert run.hall_of_fame() == uninterrupted.hall_of_fame()
