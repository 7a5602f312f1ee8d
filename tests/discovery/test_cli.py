"""The command: bad input ends with one line and exit code 2, tables come as JSON too."""

import json
import os
import shutil
from importlib import metadata

import optax
import pytest

from stepsmith.discovery import Run
from stepsmith.discovery.language import load, names, parse
from stepsmith.discovery.terminal.table import table_lines
from stepsmith.optimizers import registry as optimizers
from stepsmith.schedules import registry as schedules
from stepsmith.tasks import registry as tasks


@pytest.fixture
def folder(tmp_path, finished_run, monkeypatch):
    """The current folder, with things to stumble over."""
    shutil.copytree(finished_run.folder, tmp_path / "done")
    shutil.copytree(finished_run.folder, tmp_path / "corrupt")
    ledger = tmp_path / "corrupt" / "ledger.sqlite"
    ledger.write_bytes(ledger.read_bytes()[:-5000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.txt").write_text("def train(w, g, lr):\n    update = __import__('os')\n    return update\n")
    (tmp_path / "blind.txt").write_text("def train(w, g, lr):\n    update = w * lr\n    return update\n")
    (tmp_path / "schedule.txt").write_text("def schedule(progress):\n    multiplier = 1.0 - progress\n    return multiplier\n")
    (tmp_path / "bad.json").write_text("[1, 2")
    (tmp_path / "typo.toml").write_text("buget = '5s'\n")
    (tmp_path / "nested.toml").write_text("[evolution]\ntournament_size = 0\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD = {
    "unknown task": ("search --tasks digit_mlp", ["unknown task 'digit_mlp'", "digits_mlp"]),
    "task that cannot be imported": ("search --tasks nowhere:Task", ["nowhere:Task"]),
    "task twice": ("search --tasks digits_mlp digits_mlp", ["tasks", "different"]),
    "unknown schedule": ("search --schedule bogus", ["bogus", "linear"]),
    "unknown initial program": ("search --initial bogus", ["bogus", "lion"]),
    "malformed initial program": ("search --initial bad.txt", ["bad.txt"]),
    "malformed JSON program": ("search --initial bad.json", ["JSON"]),
    "initial program without gradient": ("search --initial blind.txt", ["blind.txt", "gradient"]),
    "wrong TOML key": ("search --config typo.toml", ["typo.toml", "'buget'", "budget"]),
    "wrong TOML value": ("search --config nested.toml", ["nested.toml", "tournament_size"]),
    "not a text file": ("search --config binary.toml", ["binary.toml", "cannot be read"]),
    "a rule where a schedule begins": ("search --kind schedule --initial lion", ["lion", "cosine, linear, rex"]),
    "a schedule tuned": ("tune schedule.txt --tasks digits_mlp", ["is a schedule"]),
    "a schedule as a rule": ("train digits_mlp --optimizer schedule.txt", ["schedule.txt is a schedule", "stepsmith export"]),
    "a schedule simplified on tasks": ("simplify schedule.txt --tasks digits_mlp", ["leave the tasks out"]),
    "missing config file": ("search --config no.toml", ["no.toml", "cannot be read"]),
    "config is a folder": ("search --config empty", ["empty", "cannot be read"]),
    "bad budget": ("search --budget 5d", ["5d", "45s, 10m or 2h"]),
    "negative seed": ("search --seed -1", ["seed", "at least 0"]),
    "weight that is no number": ("search --insert nan", ["mutation.insert", "finite"]),
    "negative workers": ("search --workers -1", ["workers", "-1"]),
    "tournament too large": ("search --population-size 3", ["tournament_size", "3"]),
    "run folder that exists": ("search --run done", ["done", "exists already"]),
    "run below a file": ("search --run file/run", ["file/run"]),
    "negative workers to resume": ("resume done --workers -1", ["workers", "-1"]),
    "resume nothing": ("resume nothing", ["nothing", "no ledger"]),
    "resume without ledger": ("resume empty", ["empty", "no ledger"]),
    "resume corrupt": ("resume corrupt", ["corrupt/ledger.sqlite"]),
    "status of nothing": ("status nothing", ["nothing", "no ledger"]),
    "status without ledger": ("status empty", ["empty", "no ledger"]),
    "status of corrupt": ("status corrupt", ["corrupt/ledger.sqlite"]),
    "verify nothing": ("verify nothing", ["nothing", "no ledger"]),
    "verify corrupt": ("verify corrupt", ["corrupt/ledger.sqlite"]),
    "export nothing": ("export nothing", ["nothing", "lion"]),
    "export without ledger": ("export empty", ["empty", "no ledger"]),
    "export corrupt": ("export corrupt", ["corrupt/ledger.sqlite"]),
    "export malformed": ("export bad.txt", ["bad.txt"]),
    "rank 0": ("export done --rank 0", ["rank 0", "3 program"]),
    "rank out of range": ("export done --rank 99", ["rank 99", "3 program"]),
    "rank out of range as text": ("export done --rank 99 --as text", ["rank 99", "3 program"]),
    "name that is no identifier": ("export lion --name 2fast", ["2fast"]),
    "name that is a keyword": ("export done --name lambda", ["lambda"]),
    "output to nowhere": ("export lion -o nowhere/lion.py", ["nowhere/lion.py"]),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(stepsmith, folder, arguments, words):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = stepsmith(*arguments.split())
    assert code == 2
    assert err.startswith("stepsmith: ") and err.count("\n") == 1 and err.endswith("\n")
    for word in words:
        assert word in err
    # Nothing that was there is lost or touched, and no half-made run is left.
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))}
    assert after == before
    assert not (folder / "runs").exists()


USAGE = {
    "no command": ("", "stepsmith: a command is missing; there are search, resume,"),
    "unknown command": ("serch", "stepsmith: unknown: serch; there are search, resume,"),
    "unknown option": ("search --taks digits_mlp", "--taks, digits_mlp; perhaps --tasks; see stepsmith search --help"),
    "unknown mode": ("search --mode fast", "--mode: 'fast' is none of 'deterministic', 'async'; see stepsmith search --help"),
    "unknown strategy": ("search --strategy luck", "--strategy: 'luck' is none of"),
    "seed that is no number": ("search --seed x", "--seed: 'x' is no whole number; see stepsmith search --help"),
    "seed that is a fraction": ("search --seed=1.5", "--seed: '1.5' is no whole number"),
    "weight that is no number": ("search --insert x", "--insert: 'x' is no number"),
    "value of many lines": ("search --seed " + "9" * 150 + "x", "9" * 150 + "x"),
    "seed of too many digits": ("search --seed " + "9" * 5000, "--seed: Exceeds the limit"),
    "config without a file": ("search --config", "--config: its value is missing; see stepsmith search --help"),
    "seed without a value": ("search --seed", "--seed: its value is missing"),
    "unknown export format": ("export lion --as yaml", "--as: 'yaml' is none of"),
    "rank that is no number": ("export lion --rank first", "--rank: 'first' is no whole number; see stepsmith export --help"),
    "resume without a run": ("resume", "missing: RUN"),
    "one argument too many": ("resume a b", "unknown: b; see stepsmith resume --help"),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE.keys())
@pytest.mark.parametrize("columns", ["40", "80"])
def test_wrong_usage_is_one_line(stepsmith, tmp_path, monkeypatch, columns, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = stepsmith(*arguments.split())
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("stepsmith: ") and err.endswith(" --help\n") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [] and os.environ["COLUMNS"] == columns


@pytest.mark.parametrize(
    ("command", "column", "expected"),
    [
        ("tasks", "task", tasks.names),
        ("schedules", "schedule", lambda: [*schedules.names(), "plateau", "autolrs", "pbt"]),
        ("optimizers", "optimizer", lambda: [*optimizers.names(), *names()]),
    ],
)
def test_tables(stepsmith, command, column, expected):
    code, out, _ = stepsmith(command, "--json")
    assert code == 0 and [row[column] for row in json.loads(out)] == list(expected())
    code, out, _ = stepsmith(command)
    assert code == 0 and all(name in out for name in expected())


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_tables_cut_nothing(width):
    rows = [
        {"task": name, "learning_rate": rate, "what": f"{name} is what is trained, in some words that do not end soon"}
        for name, rate in (("digits_mlp", 0.1), ("a_task_of_a_long_name", None))
    ]
    heading, lines = table_lines(rows, width)
    assert " ".join(" ".join([*heading, *lines]).split()).count("is what is trained, in some words that do not end soon") == 2
    assert {"digits_mlp", "a_task_of_a_long_name", "0.1"} <= set(" ".join(lines).split())
    assert width < 60 or max(map(len, [*heading, *lines])) <= width


def test_version(stepsmith):
    assert stepsmith("--version") == (0, f"stepsmith {metadata.version('stepsmith')}\n", "")


@pytest.mark.parametrize(
    "command", ["", "search", "resume", "status", "runs", "verify", "export", "tasks", "optimizers", "schedules", "train", "score"]
)
def test_help(stepsmith, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = stepsmith(*command.split(), "--help")
    assert code == 0 and "usage: stepsmith" in out and err == ""
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("usage: "))  # tyro does not break its usage
    assert "None" not in out and "--no-" not in out


def test_options_beside_a_config_file_win(stepsmith, folder):
    (folder / "good.toml").write_text("tasks = ['missing_a']\nschedule = 'cosine'\n")
    assert "missing_a" in stepsmith("search", "--config", "good.toml")[2]
    assert "missing_b" in stepsmith("search", "--config", "good.toml", "--tasks", "missing_b")[2]


@pytest.mark.parametrize("name", names())
def test_export_of_a_shipped_program(stepsmith, folder, name):
    written = {}
    for kind in ("text", "json", "optax"):
        code, out, err = stepsmith("export", name, "--as", kind)
        assert (code, err) == (0, "")
        assert stepsmith("export", name, "--as", kind, "-o", f"out.{kind}") == (0, f"wrote out.{kind}\n", "")
        written[kind] = out
        assert (folder / f"out.{kind}").read_text() == out
    assert parse(written["text"]) == load(name) == load(folder / "out.json")
    module = {"__name__": "exported"}
    exec(compile(written["optax"], name, "exec"), module)
    length = [100] if "progress" in load(name).extra else []  # of the run, which such a rule has to know
    assert isinstance(module[name](*length), optax.GradientTransformation)


def test_a_run_in_tables_and_json(stepsmith, folder):
    digest = Run("done").digest()
    code, out, _ = stepsmith("verify", "done", "--json")
    assert code == 0 and json.loads(out) == {"digest": digest, "status": "finished", "programs": 40}
    assert stepsmith("verify", "done")[1] == f"{digest}  40 programs, finished\n"
    code, out, _ = stepsmith("status", "done", "--json")
    status = json.loads(out)
    assert code == 0 and status["evaluated"] == 40 and [row["rank"] for row in status["hall_of_fame"]] == [1, 2, 3]
    code, out, _ = stepsmith("status", "done")
    assert code == 0 and out.startswith("done: finished") and status["hall_of_fame"][0]["text"] in out
    unbeaten = {finalist.hash[:8] for finalist in Run("done").front()}
    rows = {row["hash"][:8]: next(line for line in out.splitlines() if line.endswith(row["hash"][:8])) for row in status["hall_of_fame"]}
    assert {program for program, line in rows.items() if line.split()[-2] == "*"} == unbeaten & set(rows) != set()
    code, out, _ = stepsmith("runs", "--folder", ".", "--json")
    rows = [(row["run"], row["kind"], row["status"], row["programs"]) for row in json.loads(out)]
    assert code == 0 and rows == [("corrupt", None, "damaged", None), ("done", "search", "finished", 40)]
    assert "damaged" in stepsmith("runs", "--folder", ".")[1]


def test_folders_are_printed_as_they_are(stepsmith, folder):
    shutil.move("done", "[/b] :smile:")
    for command in ("status", "verify"):
        code, out, err = stepsmith(command, "[/b] :smile:")
        assert (code, err) == (0, "") and (command == "verify" or out.startswith("[/b] :smile:: finished"))
    assert "[/b] :smile:" in stepsmith("runs", "--folder", "[")[1]


def test_no_runs(stepsmith, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stepsmith("runs") == (0, "no runs in runs\n", "")
    assert json.loads(stepsmith("runs", "--json")[1]) == []


def test_export_of_a_run_by_rank(stepsmith, folder):
    texts = [stepsmith("export", "done", "--as", "text", "--rank", rank)[1] for rank in (1, 2, 3)]
    assert [parse(text) for text in texts] == [finalist.program for finalist in Run("done").hall_of_fame()]
    code, out, _ = stepsmith("export", "done", "--name", "mine")
    assert code == 0 and "def mine(" in out and "def scale_by_mine(" in out


def test_resume_of_a_finished_run_reports_it(stepsmith, folder):
    code, out, _ = stepsmith("resume", "done")
    assert code == 0 and "40 programs evaluated" in out and Run("done").digest()[:16] in out
