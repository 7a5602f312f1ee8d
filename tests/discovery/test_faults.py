"""Faults on purpose: nothing acknowledged is lost, nothing counts twice, and the resumed run is the run that nothing disturbed.

The full table of faults comes from tests/benchmarks/faults.py, whose functions are used here.
"""

import importlib.util
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepsmith.discovery import Run, failpoints, resume, search
from stepsmith.discovery.config import to_dict
from stepsmith.discovery.coordinator import QUEUE_FACTOR, Coordinator
from stepsmith.discovery.evaluate import WorkerPool, WorkerSpec, Yardstick, pool
from stepsmith.discovery.language import load
from stepsmith.discovery.ledger import Ledger, LedgerError, ProgramRow, Step, locked
from stepsmith.discovery.search import Strategy, regularized_evolution

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")]

_spec = importlib.util.spec_from_file_location("faults", Path(__file__).parents[1] / "benchmarks" / "faults.py")
assert _spec is not None and _spec.loader is not None
faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults)


@pytest.fixture(scope="module")
def digest(finished_run):
    """Of the search that the faults disturb."""
    return finished_run.digest()


def check(path, before, digest):
    verdict = faults.judge(path, before, digest)
    assert (verdict.lost, verdict.twice, verdict.same) == (0, 0, True)


def events(run, kind):
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        return [event.message for event in ledger.events() if event.kind == kind]


# The coordinator.


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a search that was killed inside its fourth commit, and what was acknowledged then. Copy it."""
    path = tmp_path_factory.mktemp("killed") / "run"
    happened, before, output = faults.inject(path, "commit.inside=kill@4", workers=1)
    assert happened and 0 < len(before.evaluations) < 40, output
    return path, before


@pytest.fixture
def killed_copy(killed, tmp_path):
    shutil.copytree(killed[0], tmp_path / "killed")
    return tmp_path / "killed"


def test_a_kill_inside_a_commit(killed, killed_copy, digest):
    assert Run(killed_copy).status()["status"] == "interrupted"  # the lock went with the process
    resume(killed_copy, workers=1)
    check(killed_copy, killed[1], digest)


@pytest.mark.parametrize("fault", ["finalists=hang@1", "export=abort@1"])
def test_a_fault_of_the_coordinator(fault, tmp_path, digest):
    happened, before, output = faults.inject(tmp_path / "run", fault, workers=1)
    assert happened and len(before.evaluations) >= 40, output
    assert not (tmp_path / "run" / "best.py").exists()
    resume(tmp_path / "run", workers=1)
    check(tmp_path / "run", before, digest)


# Workers. The variable is inherited by them; this process has no step of theirs.


@pytest.mark.parametrize(
    ("fault", "lost", "dropped"),
    [
        ("worker.evaluate=kill@3", 1, 0),
        ("worker.evaluate=hang@3", 1, 0),
        ("worker.evaluate=allocate@3", 1, 0),
        ("worker.send=late@3", 0, 1),
    ],
)
def test_a_fault_of_a_worker(fault, lost, dropped, small_config, digest, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SHORTEST_TIME_LIMIT", 3.0)
    monkeypatch.setenv(failpoints.VARIABLE, f"{fault}:{tmp_path / 'marker'}")
    run = search(small_config, tmp_path / "run", workers=2)
    assert (tmp_path / "marker").exists()
    assert run.status()["workers_lost"] == lost and len(events(run, "dropped")) == dropped
    check(run.folder, faults.acknowledged(run.folder), digest)


def test_the_loop_in_order_while_a_worker_repeats_itself(small_config, finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "worker.send=duplicate@2")
    with Ledger.open(finished_run.folder / "ledger.sqlite") as ledger:
        known = ledger.run().versions
    config = small_config.resolved()
    initial, calls = load(config.initial), []
    evolution = regularized_evolution(initial, config.evolution, config.mutation)

    def ask(state):
        candidate, state = evolution.ask(state)
        calls.append(("ask", candidate.birth))
        return candidate, state

    def tell(state, candidate, fitness):
        calls.append(("tell", candidate.birth))
        return evolution.tell(state, candidate, fitness)

    spec = WorkerSpec(config.tasks, initial=initial.to_json())
    yardsticks = {name: Yardstick(*values) for name, values in known["yardsticks"].items()}
    with Ledger.create(tmp_path / "ledger.sqlite", "run", to_dict(config), known) as ledger, WorkerPool(spec, 1) as workers:
        workers.wait_until_ready()
        strategy = Strategy(evolution.init, ask, tell)
        assert Coordinator(config, strategy, ledger, workers, yardsticks, known["tasks"]).run(lambda snapshot: None) == "finished"
        assert [event.kind for event in ledger.events()] == ["start", "dropped", "blocks", "finished"]
        assert ledger.digest() == finished_run.digest()
        num_births = ledger.counts()["births"]
    for name in ("ask", "tell"):
        assert [birth for call, birth in calls if call == name] == list(range(num_births))
    waiting = 0
    for call, _ in calls:
        waiting += 1 if call == "ask" else -1
        assert 0 <= waiting <= QUEUE_FACTOR * config.in_flight


# The disk, and what is on it.


def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_space(tmp_path, digest):
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    try:
        with faults.small_disk(tmp_path / "disk") as disk:
            code, before, output = faults.fill_disk(disk / "run", workers=1)
            assert code in (1, 2) and before.told, output
            last = output.splitlines()[-1]
            assert last.startswith("stepsmith: cannot write") and f"stepsmith resume {disk / 'run'}" in last and "Traceback" not in output
            resume(disk / "run", workers=1)
            check(disk / "run", before, digest)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no small disk can be mounted: {error.stderr}")


LIMITED = r"""
import resource, sys
from stepsmith.discovery.ledger import Ledger, LedgerError, Step, ProgramRow
with Ledger.create(sys.argv[1], "x", {}, {}) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    for number in range(100):
        try:
            ledger.commit(Step(programs=[ProgramRow(str(number), 1, "x" * 9_000, 0, 0, 1)]))
        except LedgerError as error:
            print(number, error, sep="\n")
            break
"""


def test_a_limit_on_file_sizes_keeps_what_was_committed(tmp_path):
    path = tmp_path / "ledger.sqlite"
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    acknowledged, message = done.stdout.splitlines()
    assert int(acknowledged) > 5 and "cannot write" in message
    with Ledger.open(path) as ledger:
        assert ledger.counts()["programs"] == int(acknowledged)
        ledger.commit(Step(programs=[ProgramRow("last", 1, "", 0, 0, 1)]))
        assert ledger.counts()["programs"] == int(acknowledged) + 1


def test_creation_on_a_full_disk_leaves_nothing(tmp_path):
    code = LIMITED.replace("300_000, 300_000", "9, 9").replace(
        "with Ledger", "resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))\nwith Ledger"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "ledger.sqlite"], capture_output=True, text=True)
    assert "cannot create the ledger" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_ledger_stays_empty(tmp_path):
    ledger = tmp_path / "ledger.sqlite"
    ledger.touch()
    for use in (resume, lambda path: Run(path).status()):
        with pytest.raises(LedgerError, match="the file is empty"):
            use(tmp_path)
    assert ledger.read_bytes() == b"" and {path.name for path in tmp_path.iterdir()} <= {"ledger.sqlite", "ledger.lock"}
    assert Run(tmp_path).summary()["status"] == "damaged"


def lineage(path):
    """Births and what they were told, in order; None where the ledger says in one line that it is damaged."""
    try:
        with Ledger.open(path) as ledger:
            state, births, counts = ledger.state(), ledger.births(), ledger.counts()
    except LedgerError as error:
        assert "\n" not in str(error)
        return None
    told, evaluated = state.get("counters", {}).get("told", 0), state.get("counters", {}).get("evaluated", 0)
    if (len(births), counts["told"], sum(counts["statuses"].values())) != (state.get("search", {}).get("births", 0), told, evaluated):
        return None  # pages of several moments, which `resume` refuses
    return [birth[:5] for birth in births]


def test_a_cut_off_log_is_an_older_state_or_an_error(killed, tmp_path):
    whole_copy = shutil.copytree(killed[0], tmp_path / "whole") / "ledger.sqlite"
    log = (killed[0] / "ledger.sqlite-wal").read_bytes()
    whole = lineage(whole_copy)
    assert whole and len(log) > 20_000
    for size in range(0, len(log) + 1, len(log) // 23):
        path = tmp_path / str(size) / "ledger.sqlite"
        path.parent.mkdir()
        shutil.copy(killed[0] / "ledger.sqlite", path)
        if size:
            (path.parent / "ledger.sqlite-wal").write_bytes(log[:size])
        found = lineage(path)
        assert found is not None and found == whole[: len(found)]


def test_a_run_without_its_log_goes_on_from_an_older_state(killed_copy, digest):
    (killed_copy / "ledger.sqlite-wal").unlink()
    (killed_copy / "ledger.sqlite-shm").unlink(missing_ok=True)
    resume(killed_copy, workers=1)
    assert Run(killed_copy).digest() == digest


def test_a_ledger_of_several_moments_is_refused(killed_copy):
    with sqlite3.connect(killed_copy / "ledger.sqlite") as connection:
        connection.execute('DELETE FROM birth WHERE "index" = (SELECT max("index") FROM birth)')
    connection.close()
    with pytest.raises(LedgerError, match="damaged ledger"):
        resume(killed_copy, workers=1)


# Two writers, and Ctrl-C.


def test_a_second_session_is_refused_and_the_first_is_seen(killed_copy):
    run = Run(killed_copy)
    assert run.status()["status"] == "interrupted"
    with locked(killed_copy / "ledger.lock"):
        assert run.status()["status"] == run.summary()["status"] == "running"
        with pytest.raises(LedgerError, match=re.escape(str(killed_copy)) + " is in use"):
            resume(killed_copy)
    assert run.status()["status"] == "interrupted"


def test_a_finished_run_gets_the_files_that_it_lacks(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "copy")
    best, config = tmp_path / "copy" / "best.py", tmp_path / "copy" / "config.toml"
    written = config.read_bytes()
    best.write_text("# of an earlier session")
    config.unlink()
    resume(tmp_path / "copy")
    assert best.read_text() == Run(tmp_path / "copy").export() and config.read_bytes() == written
    assert not [path.name for path in best.parent.iterdir() if path.name.startswith(".")]


def test_ctrl_c_while_workers_compile_says_how_to_go_on(tmp_path):
    path = tmp_path / "run"
    with faults.start("search", *faults.SEARCH, "--run", path) as process:
        while not (path / "config.toml").exists():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(0.2)  # the handler is in place a moment later
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130 and f"stepsmith resume {path}" in output and "Traceback" not in output
    assert Run(path).status()["status"] == "interrupted" and Run(path).status()["evaluated"] == 0


# The names of faults.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tel=kill@1", "unknown step 'tel'; there are ask, submit"),
        ("tell=kil@1", "unknown action 'kil'; there are kill, abort"),
        ("tell=duplicate@1", "duplicate happens at worker.send only, not at tell"),
        ("tell=kill", "no count from 1"),
        ("tell=kill@0", "no count from 1"),
        ("tell=kill@²", "no count from 1"),
    ],
)
def test_a_fault_that_there_is_not(text, words):
    with pytest.raises(failpoints.FailpointError, match=re.escape(words)):
        failpoints.Failpoint.parse(text)
