"""The ledger on a real SQLite file, and on a real PostgreSQL server where there is one."""

import getpass
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

from stepsmith.discovery.ledger import (
    BirthRow,
    EvaluationRow,
    EventRow,
    Ledger,
    LedgerError,
    LevelRow,
    OutcomeRow,
    ProgramRow,
    Step,
    ToldRow,
)
from stepsmith.discovery.ledger.database import upgrade
from stepsmith.discovery.ledger.models import metadata

STEP = Step(
    programs=[ProgramRow("aa", 3, "update = g", 0, 0, 2), ProgramRow("bb", 5, "update = m", 1, 1, 4)],
    births=[BirthRow(0, "aa", None, "seed", "[]", 0), BirthRow(1, "bb", 0, "insert", "[1]", 0), BirthRow(2, "bb", 1, "rename", "[2]")],
    told=[ToldRow(0, 0, 0.1, "ok", False), ToldRow(1, 1, float("nan"), "nonfinite", False)],
    evaluations=[
        EvaluationRow("aa", "digits_mlp", 2**40, "v1", 1.0, 200, 200, "ok", 0.3, 0.004, "cpu"),
        EvaluationRow("bb", "digits_mlp", 0, "v1", 1.0, 200, 40, "nonfinite", float("inf"), 0.002, "cpu"),
    ],
    outcomes=[OutcomeRow("aa", 0.1, "ok", "[0.0, 0.2]"), OutcomeRow("bb", float("-inf"), "nonfinite", "[]")],
    levels=[LevelRow("B", "aa", 7, -0.5, 0.1, "ok", "{}"), LevelRow("A", "bb", None, None, float("nan"), "diverged", "{}")],
    events=[EventRow(10.0, "note", "first"), EventRow(9.0, "note", "second")],
    state={"population": [0, 1], "pending": [2]},
    elapsed=1.5,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "demo" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger.create(path, "demo", {"seed": 0}, {"jax": "0.10"}) as ledger:
        yield ledger


def written(path, step):
    with Ledger.create(path, "demo", {}, {}) as ledger:
        ledger.commit(step)
        return ledger.digest()


def check_reads(ledger):
    """What STEP wrote comes back, with NULL for every number that is not finite."""
    assert ledger.run()[:3] == ("demo", {"seed": 0}, {"jax": "0.10"})
    assert ledger.run()[4:] == ("running", 1.5)
    assert ledger.state() == STEP.state
    assert ledger.outcomes() == {"aa": ("ok", (0.0, 0.2)), "bb": ("nonfinite", ())}
    assert ledger.levels() == [STEP.levels[1]._replace(error=None), STEP.levels[0]]
    assert ledger.births() == [
        BirthRow(0, "aa", None, "seed", "[]", 0, 0, 0.1, "ok", False),
        BirthRow(1, "bb", 0, "insert", "[1]", 0, 1, None, "nonfinite", False),
        BirthRow(2, "bb", 1, "rename", "[2]"),
    ]
    assert ledger.evaluations("aa") == [STEP.evaluations[0]]
    assert ledger.evaluations("bb")[0].loss is None
    assert ledger.events() == STEP.events
    assert ledger.best(5) == [("aa", 0.1, 3, "update = g", 0, 0, 2, (0.0, 0.2))]
    assert [birth.index for birth in ledger.lineage(2)] == [1, 0]
    assert ledger.lineage(0) == []
    assert ledger.counts() == {
        "births": 3,
        "told": 2,
        "programs": 2,
        "evaluations": 2,
        "cached": 0,
        "statuses": {"nonfinite": 1, "ok": 1},
    }


def test_a_committed_step_reads_back_also_after_reopening(path):
    with Ledger.create(path, "demo", {"seed": 0}, {"jax": "0.10"}) as ledger:
        assert ledger.state() == {}
        ledger.commit(STEP)
        check_reads(ledger)
        digest = ledger.digest()
    with Ledger.open(str(path)) as ledger:
        check_reads(ledger)
        assert ledger.digest() == digest
        ledger.commit(Step(told=[ToldRow(2, 2, None, "nonfinite", True)], status="finished"))
        assert ledger.run().status == "finished"
        assert ledger.counts()["cached"] == 1
        assert ledger.state() == STEP.state


FAILING = {
    "a second birth with the same index": Step(births=[STEP.births[0]]),
    "an outcome without status": Step(outcomes=[OutcomeRow._make(("cc", 0.0, None, "[]"))]),
    "a told birth that was never born": Step(told=[ToldRow(99, 2, 0.0, "ok", False)]),
}


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING.keys())
def test_a_failing_row_rolls_the_whole_step_back(ledger, failing):
    ledger.commit(STEP)
    before = ledger.digest()
    new = {"programs": [ProgramRow("cc", 1, "", 3, 0, 1)], "births": [BirthRow(3, "cc", 0, "insert", "[]"), *failing.births]}
    with pytest.raises(LedgerError, match="cannot write"):
        ledger.commit(replace(failing, **new, state={"lost": True}, elapsed=9.0))
    assert ledger.digest() == before
    check_reads(ledger)


def test_rows_that_are_there_already_stay_as_they_are(ledger):
    ledger.commit(STEP)
    before = ledger.digest()
    ledger.commit(
        Step(
            programs=[ProgramRow("aa", 99, "other", 9, 9, 9)],
            evaluations=[row._replace(loss=7.0, seconds=7.0) for row in STEP.evaluations],
            levels=[row._replace(fitness=7.0) for row in STEP.levels],
            outcomes=[OutcomeRow("cc", None, "timeout", "[]")],
        )
    )
    assert ledger.digest() == before
    assert ledger.best(1)[0].text == "update = g"
    assert ledger.outcomes() == {"aa": ("ok", (0.0, 0.2)), "bb": ("nonfinite", ()), "cc": ("timeout", ())}
    assert [level.fitness for level in ledger.levels()] == [None, -0.5]


def test_an_outcome_measured_again_replaces_the_older_one(ledger):
    ledger.commit(STEP)
    ledger.commit(Step(outcomes=[OutcomeRow("aa", 0.3, "ok", "[0.0, 0.2, 0.7]")]))
    assert ledger.outcomes()["aa"] == ("ok", (0.0, 0.2, 0.7)) and ledger.best(1)[0].fitness == 0.3


def told_with(**changes):
    return replace(STEP, told=[STEP.told[0]._replace(**changes), STEP.told[1]])


def measured_with(**changes):
    return replace(STEP, evaluations=[STEP.evaluations[0]._replace(**changes), STEP.evaluations[1]])


SAME = {
    "seconds": measured_with(seconds=99.0),
    "elapsed": replace(STEP, elapsed=99.0),
    "events": replace(STEP, events=[]),
    "order of evaluations": replace(STEP, evaluations=STEP.evaluations[::-1]),
    "untold birth": replace(STEP, births=STEP.births[:2]),
}
OTHER = {
    "last bit of a fitness": told_with(fitness=0.1 + 2**-56),
    "status": told_with(status="diverged"),
    "order of tells": told_with(order=2),
    "loss": measured_with(loss=0.31),
    "seed": measured_with(seed=1),
    "learning-rate factor": measured_with(learning_rate_factor=3.0),
    "mutation": replace(STEP, births=[STEP.births[0]._replace(mutation="random"), *STEP.births[1:]]),
}


@pytest.mark.parametrize("step", SAME.values(), ids=SAME.keys())
def test_digest_ignores_times(tmp_path, step):
    assert written(tmp_path / "a", step) == written(tmp_path / "b", STEP)


@pytest.mark.parametrize("step", OTHER.values(), ids=OTHER.keys())
def test_digest_sees_what_was_found(tmp_path, step):
    assert written(tmp_path / "a", step) != written(tmp_path / "b", STEP)


def test_best_goes_by_fitness_then_hash_and_wants_status_ok(ledger):
    fitness = {"d": (0.5, "ok"), "c": (-1.0, "ok"), "b": (0.5, "ok"), "a": (-9.0, "diverged"), "e": (None, "timeout")}
    ledger.commit(
        Step(
            programs=[ProgramRow(name, 1, "", 0, 0, 1) for name in fitness],
            outcomes=[OutcomeRow(name, *result, json.dumps([] if result[0] is None else [result[0]])) for name, result in fitness.items()],
        )
    )
    assert [best.hash for best in ledger.best(9)] == ["c", "b", "d"]
    assert [best.hash for best in ledger.best(2)] == ["c", "b"]


def test_the_front_holds_what_nothing_else_beats_in_all_respects(ledger):
    """fitness, statements, states, operations of each; b beats c, d beats e, f equals a in all but fitness."""
    found = {
        "a": (-3.0, 9, 2, 8),
        "b": (-2.0, 5, 2, 4),
        "c": (-1.0, 5, 2, 4),
        "d": (0.0, 6, 1, 5),
        "e": (1.0, 7, 1, 5),
        "f": (-2.5, 9, 2, 8),
    }
    ledger.commit(
        Step(
            programs=[ProgramRow(name, size, "", 0, states, cost) for name, (_, size, states, cost) in found.items()],
            outcomes=[OutcomeRow(name, row[0], "ok", json.dumps([row[0]])) for name, row in found.items()],
        )
    )
    assert [best.hash for best in ledger.front()] == ["a", "b", "d"]
    # Confirmed, f is better than a; b, of the search's fitness, is still compared by that.
    ledger.commit(Step(state={"finalists": [["f", -1.9], ["a", -1.5]]}))
    assert [best.hash for best in ledger.front()] == ["f", "b", "d"]
    # e is no better than d when the search's fitness is all that d has, and c than b by that of both on new seeds.
    ledger.commit(Step(state={"finalists": [["f", -1.9], ["c", -1.7], ["a", -1.5], ["b", -1.4], ["e", -0.5]]}))
    assert [best.hash for best in ledger.front()] == ["f", "c", "d"]


def test_a_ledger_of_the_older_schema_is_migrated(path):
    """Written by the migrations up to 0002: the factor joins the key, the budget is what was done, the score the fitness."""
    path.parent.mkdir(parents=True)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0002")
        connection.execute(text("insert into run values (1, 'old', '{}', '{}', 0.0, 'finished', 1.0)"))
        connection.execute(text("insert into search_state values (1, '{}')"))
        connection.execute(text("insert into program values ('aa', 3, 'update = g', 0)"))
        connection.execute(text("insert into evaluation values ('aa', 'digits_mlp', 5, 'v1', 1.0, 200, 'ok', 0.3, 0.1, 'cpu')"))
        connection.execute(text("insert into outcome values ('aa', -0.25, 'ok')"))
    engine.dispose()
    with Ledger.open(path) as ledger:
        assert ledger.evaluations("aa") == [("aa", "digits_mlp", 5, "v1", 1.0, 200, 200, "ok", 0.3, 0.1, "cpu")]
        assert ledger.outcomes() == {"aa": ("ok", (-0.25,))}
        other = EvaluationRow("aa", "digits_mlp", 5, "v1", 3.0, 200, 200, "ok", 0.4, 0.1, "cpu")
        ledger.commit(Step(evaluations=[other]))
        assert len(ledger.evaluations("aa")) == 2
        assert schema_differences(create_engine(f"sqlite:///{path}")) == []


def schema_differences(engine: Engine):
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)


def test_migrations_give_the_schema_of_the_models(ledger, path):
    engine = create_engine(f"sqlite:///{path}")
    assert schema_differences(engine) == []
    engine.dispose()


def test_create_never_overwrites(ledger, path):
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create(path, "other", {}, {})
    assert ledger.run().name == "demo"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5000])


def overwrite_pages(path):
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def make_newer(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def make_foreign(path):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE somebody (x)")
    connection.close()


BROKEN = {
    "missing": (Path.unlink, "there is no ledger"),
    "empty": (lambda path: path.write_bytes(b""), "not a stepsmith ledger"),
    "not a database": (lambda path: path.write_text("hello " * 100), "not a database"),
    "truncated": (truncate, "malformed|damaged"),
    "overwritten": (overwrite_pages, "malformed|damaged"),
    "newer": (make_newer, "newer stepsmith"),
    "foreign": (make_foreign, "not a stepsmith ledger"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_clear_line(path, damage, message):
    written(path, STEP)
    damage(path)
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger.open(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_somebody_elses_database_is_left_alone(path):
    written(path, STEP)
    make_foreign(path)
    with pytest.raises(LedgerError):
        Ledger.open(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("somebody",)]
    connection.close()


@pytest.mark.parametrize("location", ["mysql://host/name", "sqlite://", "://"])
def test_a_location_that_cannot_hold_a_ledger(location):
    with pytest.raises(LedgerError):
        Ledger.create(location, "demo", {}, {})


def test_a_full_disk_keeps_the_earlier_commits(ledger):
    ledger.commit(STEP)
    with ledger._engine.connect() as connection:  # the pool hands the same connection to the commit
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # SQLite raises it to the pages in use
    with pytest.raises(LedgerError, match="full") as caught:
        ledger.commit(Step(programs=[ProgramRow("big", 1, "x" * 10**6, 9, 0, 1)], state={"lost": True}))
    assert isinstance(caught.value.__cause__.__cause__, sqlite3.OperationalError)
    check_reads(ledger)


def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user (root?) writes to read-only folders")
        with pytest.raises(LedgerError, match="cannot create"):
            Ledger.create(tmp_path / "ledger.sqlite", "demo", {}, {})
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot create"):
        Ledger.create(tmp_path / "file" / "ledger.sqlite", "demo", {}, {})


def test_a_reader_sees_whole_commits_beside_the_writer(ledger, path):
    with Ledger.open(path) as reader:
        assert reader.counts()["births"] == 0
        ledger.commit(STEP)
        check_reads(reader)


@pytest.fixture(scope="module")
def postgres_url():
    pytest.importorskip("psycopg", reason="needs psycopg")
    if url := os.environ.get("STEPSMITH_TEST_POSTGRES"):
        yield url
        return
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not programs:
        pytest.skip("no PostgreSQL server: set STEPSMITH_TEST_POSTGRES or install postgresql")
    # Not in tmp_path: the server does not run as root, who alone may enter it, and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        yield from private_server(programs[-1], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def private_server(pg_ctl: Path, folder: Path):
    """Runs a server that listens on a socket in the folder alone, and yields its URL."""
    user, as_user = getpass.getuser(), []
    if os.geteuid() == 0:
        user = next((name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}), "")
        if not user or not shutil.which("runuser"):
            pytest.skip("root cannot run a PostgreSQL server, and there is no other user or no runuser")
        shutil.chown(folder, user)
        as_user = ["runuser", "-u", user, "--"]

    def control(*arguments: str) -> None:
        subprocess.run([*as_user, pg_ctl, "-D", folder / "data", *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    control("init", "-o", f"-A trust -U {user}")
    control("start", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -c listen_addresses= -c fsync=off")
    try:
        yield f"postgresql://{user}@/postgres?host={folder}"
    finally:
        control("stop", "-m", "immediate")


@pytest.fixture
def postgres_engine(postgres_url):
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for name in (*metadata.tables, "alembic_version"):
            connection.execute(text(f'DROP TABLE IF EXISTS "{name}"'))
    yield engine
    engine.dispose()


@pytest.mark.postgres
def test_postgres_holds_the_same_ledger(postgres_url, postgres_engine, tmp_path):
    with Ledger.create(postgres_url, "demo", {"seed": 0}, {"jax": "0.10"}) as ledger:
        assert schema_differences(postgres_engine) == []
        ledger.commit(STEP)
        for failing in FAILING.values():
            with pytest.raises(LedgerError, match="cannot write"):
                ledger.commit(replace(failing, state={"lost": True}))
        ledger.commit(replace(STEP, births=[], told=[], events=[]))
    with Ledger.open(postgres_url) as ledger:
        check_reads(ledger)
        assert ledger.digest() == written(tmp_path / "ledger.sqlite", STEP)
    with pytest.raises(LedgerError, match="holds a run already"):
        Ledger.create(postgres_url, "other", {}, {})


@pytest.mark.postgres
def test_postgres_without_a_ledger(postgres_url, postgres_engine):
    with pytest.raises(LedgerError, match="not a stepsmith ledger"):
        Ledger.open(postgres_url)
    with pytest.raises(LedgerError, match="cannot open"):
        Ledger.open("postgresql://nobody:secret@127.0.0.1:1/nothing")
