"""Scores from logs: both forms by hand, the published ones, and a refusal in one line for what cannot be read."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from stepsmith.discovery import cli
from stepsmith.discovery.benchmark import LogError, read_logs, read_targets, score_logs
from stepsmith.discovery.benchmark.algoperf import COLUMNS
from stepsmith.discovery.terminal import output

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
PUBLISHED = {
    "shampoo_submission": 0.7784,
    "schedule_free_adamw": 0.7077,
    "generalized_adam": 0.6383,
    "cyclic_lr": 0.6301,
    "nadamp": 0.5909,
    "baseline": 0.5707,
    "amos": 0.4918,
    "caspr_adaptive": 0.4722,
    "lawa_queue": 0.3699,
    "lawa_ema": 0.3384,
    "schedule_free_prodigy": 0.0,
}
BY_TIME = PUBLISHED | {"lawa_ema": 0.3434}

# The held-out workload belongs to vit_big, although its name begins with vit too.
TARGETS = {
    "base_workloads": ["vit", "vit_big"],
    "held_out_workloads": ["vit_big_tanh"],
    "workloads": {
        "vit": {"metric": "accuracy", "target": 0.8},
        "vit_big": {"metric": "loss", "target": 1.0},
        "vit_big_tanh": {"metric": "loss", "target": 1.5},
        "vit_tanh": {"metric": "taste", "target": "not read"},
    },
}
FRAMEWORK = {"vit": "jax", "vit_big": "pytorch", "vit_big_tanh": "jax", "vit_tanh": "jax"}
# (submission, study, workload, trial) -> (seconds, metric) of each evaluation
RUNS = {
    # Study 0: 20 s by evaluations, 17 s by time. Median with the 30 s of study 1: 25, or 23.5 by time.
    ("a", "0", "vit", "1"): [(10, 0.5), (20, 0.8)],
    ("a", "0", "vit", "2"): [(15, 0.7), (16, 0.7), (17, 0.85)],
    ("a", "1", "vit", "1"): [(10, 0.5), (30, 0.9)],
    ("b", "0", "vit", "1"): [(51, 0.8)],
    ("b", "1", "vit", "1"): [(51, 0.81)],
    # One of two studies misses: so does the median.
    ("c", "0", "vit", "1"): [(40, None), (50, 0.9)],
    ("c", "1", "vit", "1"): [(40, 0.1)],
    ("a", "0", "vit_big", "1"): [(10, 2.0), (100, 1.0)],
    ("b", "0", "vit_big", "1"): [(60, 0.9)],
    ("c", "0", "vit_big", "1"): [(40, 0.9)],
    # b misses the variant, c takes more than 4 times as long as the best: both lose vit_big.
    ("a", "0", "vit_big_tanh", "1"): [(10, 1.5)],
    ("b", "0", "vit_big_tanh", "1"): [(10, 1.6)],
    ("c", "0", "vit_big_tanh", "1"): [(41, 1.0)],
    ("a", "0", "vit_tanh", "1"): [("not", "read")],
    ("d", "0", "vit_tanh", "1"): [("not", "read")],
}
# A ratio between two of the 100 points, 1/33 apart, weighs from half way to the next. On vit, b has 51 / 25, from 34.5 of
# 99 on, or 51 / 23.5, from 38.5 on; on vit_big without the variant, a has 100 / 40, from 49.5 on, and b 60 / 40, from 16.5 on.
EXPECTED = {
    (): {"a": 1.0, "b": 64.5 / 99 / 2, "c": 0.0, "d": 0.0},
    ("--by-time",): {"a": 1.0, "b": 60.5 / 99 / 2, "c": 0.0, "d": 0.0},
    ("--base-only",): {"a": (1 + 49.5 / 99) / 2, "b": (64.5 + 82.5) / 99 / 2, "c": 0.5, "d": 0.0},
}


def _text(value):
    return "" if value is None else str(value)


def _write_csv(folder, runs=RUNS, name="logs.csv"):
    rows = [[*key, i, 100 * i, *map(_text, values)] for key, trial in runs.items() for i, values in enumerate(trial)]
    heading = [*COLUMNS[:5], "global_step", *COLUMNS[5:]]
    (folder / name).write_text("\n".join(",".join(map(str, row)) for row in [heading, *rows]) + "\n")
    return folder / name


def _write_folder(folder, runs=RUNS):
    for (submission, study, workload, trial), evaluations in runs.items():
        metric = TARGETS["workloads"][workload]["metric"]
        path = folder / "logs" / submission / f"study_{study}" / f"{workload}_{FRAMEWORK[workload]}" / f"trial_{trial}"
        path.mkdir(parents=True)
        lines = [f"accumulated_submission_time,global_step,score,test/{metric},validation/{metric},validation/num_examples"]
        lines += [f"{time},{100 * i},{time},0.5,{_text(value)},10" for i, (time, value) in enumerate(evaluations)]
        (path / "eval_measurements.csv").write_text("\n".join(lines) + "\n")
        (path / "flags_0.json").write_text("{}")
    (folder / "logs" / "README.md").write_text("not read")
    (folder / "logs" / ".git").mkdir()
    return folder / "logs"


def _write_gzip(folder):
    plain = _write_csv(folder)
    (folder / "packed").write_bytes(gzip.compress(plain.read_bytes()))
    return folder / "packed"


def _write_shuffled(folder):
    """Rows in another order, line ends and a first mark as spreadsheets write them, empty lines."""
    heading, *rows = _write_csv(folder).read_text().splitlines()
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    (folder / "shuffled.csv").write_bytes(("\ufeff" + "\r\n".join([heading, "", *rows, "", ""])).encode())
    return folder / "shuffled.csv"


@pytest.fixture
def stepsmith(monkeypatch, capsys):
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stepsmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def targets(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps(TARGETS))
    return path


@pytest.mark.parametrize("options", EXPECTED, ids=" ".join)
@pytest.mark.parametrize("write", [_write_csv, _write_folder, _write_gzip, _write_shuffled])
def test_scores_by_hand(stepsmith, tmp_path, targets, write, options):
    code, out, err = stepsmith("score", write(tmp_path), "--targets", targets, "--json", *options)
    assert (code, err) == (0, "")
    assert json.loads(out) == pytest.approx(EXPECTED[options], abs=1e-12)
    assert list(json.loads(out)) == list(EXPECTED[options])  # the best first, of equals by name


def test_times_and_ratios_by_hand(tmp_path, targets):
    found = read_targets(targets)
    assert (found.base, found.held_out, found.base_of) == (("vit", "vit_big"), ("vit_big_tanh",), (1,))
    standing = score_logs(read_logs(_write_csv(tmp_path), found), found)
    inf = np.inf
    np.testing.assert_array_equal(standing.times, [[25, 100], [51, 60], [inf, 40], [inf, inf]])
    np.testing.assert_array_equal(standing.ratios, [[1, 1], [51 / 25, inf], [inf, inf], [inf, inf]])


def test_a_process_of_its_own(tmp_path, targets):
    command = [sys.executable, "-c", "from stepsmith.discovery.cli import main; main()", "score", str(_write_csv(tmp_path))]
    done = subprocess.run([*command, "--targets", str(targets), "--json"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == pytest.approx(EXPECTED[()])
    done = subprocess.run([*command, "--targets", "nothing.json"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stepsmith: nothing.json: the targets cannot be read: No such file or directory\n"


def test_table(stepsmith, tmp_path, targets):
    code, out, _ = stepsmith("score", _write_csv(tmp_path), "--targets", targets)
    heading, *rows, _ = out.splitlines()
    assert code == 0 and heading.split() == ["submission", "score", "reached", "vit", "vit_big"]
    assert [row.split() for row in rows] == [
        ["a", "1.0000", "2", "of", "2", "1.00", "1.00"],
        ["b", "0.3258", "1", "of", "2", "2.04"],
        ["c", "0.0000", "0", "of", "2"],
        ["d", "0.0000", "0", "of", "2"],
    ]


@pytest.mark.parametrize(("width", "ratios"), [(38, False), (39, True)])
def test_table_on_a_terminal_is_no_wider(stepsmith, tmp_path, targets, monkeypatch, width, ratios):
    console = Console(force_terminal=True, color_system=None, width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(output, "out", console)
    out = stepsmith("score", _write_csv(tmp_path), "--targets", targets)[1]
    table = [line for line in out.splitlines() if not line.startswith("by workload")]
    assert max(map(len, table)) <= width and ("2.04" in out) == ratios and "0.3258" in out


def test_a_trial_that_left_nothing_has_missed(tmp_path, targets):
    """It ended before its first evaluation; a study of such trials is a miss, and not a study less."""
    logs = _write_folder(tmp_path)
    (logs / "a" / "study_1" / "vit_jax" / "trial_1" / "eval_measurements.csv").unlink()
    found = read_targets(targets)
    standing = score_logs(read_logs(logs, found), found)
    assert standing.times[standing.submissions.index("a")].tolist() == [np.inf, 100.0]


@pytest.mark.parametrize(("options", "expected"), [((), PUBLISHED), (("--by-time",), BY_TIME)], ids=["evaluations", "time"])
def test_published_scores(stepsmith, options, expected):
    logs, targets = DATA / "algoperf_v05_external.csv.gz", DATA / "algoperf_v05_targets.json"
    if not (logs.is_file() and targets.is_file()):
        pytest.skip("needs the logs of AlgoPerf v0.5, not in ../shared/data beside the repository")
    code, out, err = stepsmith("score", logs, "--targets", targets, "--json", *options)
    assert (code, err) == (0, "")
    assert {name: round(value, 4) for name, value in json.loads(out).items()} == expected


GOOD = "s,0,vit,1,0,10,0.9\ns,0,vit,1,1,20,0.9\n"
HEADING = ",".join(COLUMNS) + "\n"
BAD_LOGS = {
    "missing": (None, ["cannot be read", "No such file"]),
    "empty": (b"", ["columns submission, study", "missing"]),
    "no row": (HEADING, ["is empty", "vit, vit_big"]),
    "not CSV": (json.dumps(TARGETS), ["columns", "missing", "first line must name"]),
    "missing column": (HEADING.replace(",time_s", "") + "s,0,vit,1,0,0.9\n", ["columns time_s are missing"]),
    "other workloads": (HEADING + "s,0,wmt,1,0,10,0.9\n", ["has wmt", "vit, vit_big", "same workloads"]),
    "no base workload": (HEADING + "s,0,vit_big_tanh,1,0,10,0.9\n", ["has vit_big_tanh", "vit, vit_big", "same workloads"]),
    "time that is no number": (HEADING + "s,0,vit,1,0,soon,0.9\n", ["line 2", "numbers", "'soon'"]),
    "time that is missing": (HEADING + "s,0,vit,1,0,,0.9\n", ["line 2", "numbers", "''"]),
    "time that is infinite": (HEADING + "s,0,vit,1,0,inf,0.9\n", ["line 2", "0 seconds or more", "'inf'"]),
    "time that is NaN": (HEADING + "s,0,vit,1,0,nan,0.9\n", ["line 2", "0 seconds or more", "'nan'"]),
    "time below nought": (HEADING + "s,0,vit,1,0,-1,0.9\n", ["line 2", "0 seconds or more", "'-1'"]),
    "metric that is no number": (HEADING + GOOD + "s,0,vit,2,0,10,good\n", ["line 4", "numbers", "'good'"]),
    "evaluation that is no number": (HEADING + "s,0,vit,1,first,10,0.9\n", ["line 2", "whole number", "'first'"]),
    "evaluation twice": (HEADING + GOOD + "s,0,vit,1,1,20,0.9\n", ["line 4", "trial 1 of s on vit in study 0", "evaluation 1 twice"]),
    "evaluation missing": (HEADING + GOOD + "s,0,vit,1,3,20,0.9\n", ["trial 1 of s on vit in study 0", "lacks evaluation 2"]),
    "evaluation below nought": (HEADING + "s,0,vit,1,-1,20,0.9\n", ["lacks evaluation 0"]),
    "row cut off": (HEADING + GOOD + "s,0,vit,2,0", ["line 4", "5 cells", "heading of 7", "cut off"]),
    "row too long": (HEADING + GOOD.replace("0.9\n", "0.9,1\n"), ["line 2", "8 cells"]),
    "quote left open": (HEADING + '"s,0,vit,1,0,10,0.9\n', ["neither CSV nor", "unexpected end of data"]),
    "cell of a megabyte": (HEADING + "s" * 1_500_000, ["neither CSV nor", "field larger"]),
    "not text": (b"\xff\xfe" + HEADING.encode("utf-16"), ["neither CSV nor", "utf-8"]),
    "gzip cut off": (gzip.compress((HEADING + GOOD).encode())[:-12], ["neither CSV nor", "ended before"]),
    "gzip damaged": (b"\x1f\x8b\x08" + b"\x00" * 7 + b"\xff" * 50, ["neither CSV nor"]),
    "gzip of another kind": (b"\x1f\x8b" + b"\x00" * 50, ["neither CSV nor", "compression method"]),
    "gzip with a wrong sum": (gzip.compress((HEADING + GOOD).encode())[:-8] + b"\x00" * 8, ["neither CSV nor", "CRC"]),
}
BAD_TARGETS = {
    "missing": (None, ["targets cannot be read", "No such file"]),
    "empty": ("", ["not JSON"]),
    "not JSON": ("{", ["not JSON"]),
    "not text": (b"\xff\xfe", ["targets cannot be read", "utf-8"]),
    "too deep": ("[" * 100_000, ["not JSON"]),
    "too long": (" " * 1_000_001, ["no more than 1000000 characters"]),
    "a list": ("[]", ["an object", "a list of 0"]),
    "no base workloads": ({"base_workloads": ...}, ["base_workloads is a list of names", "None"]),
    "base workloads empty": ({"base_workloads": [], "held_out_workloads": []}, ["base_workloads is empty"]),
    "base workloads no list": ({"base_workloads": "vit"}, ["base_workloads is a list of names", "'vit'"]),
    "base workloads no names": ({"base_workloads": [1]}, ["base_workloads is a list of names", "a list of 1"]),
    "no held-out workloads": ({"held_out_workloads": ...}, ["held_out_workloads is a list of names"]),
    "workload twice": ({"base_workloads": ["vit", "vit"]}, ["vit stands more than once"]),
    "workload in both": ({"held_out_workloads": ["vit"]}, ["vit stands more than once"]),
    "no workloads": ({"workloads": ...}, ["workloads is an object", "None"]),
    "workloads no object": ({"workloads": []}, ["workloads is an object", "a list of 0"]),
    "workload without target": ({"base_workloads": ["vit", "wmt"]}, ["workloads lacks wmt", "add"]),
    "held out without target": ({"held_out_workloads": ["vit_gelu"]}, ["workloads lacks vit_gelu"]),
    "held out of no base": (
        {"held_out_workloads": ["vitriol"], "workloads": dict.fromkeys(("vit", "vit_big", "vitriol"), TARGETS["workloads"]["vit"])},
        ["vitriol begins with no base workload", "vit, vit_big"],
    ),
}
BAD_GOALS = {
    "no object": (3, ["workloads lacks vit"]),
    "no metric": ({"target": 0.8}, ["vit: the metric is one of accuracy, bleu", "None"]),
    "unknown metric": ({"metric": "taste", "target": 0.8}, ["vit: the metric is one of accuracy, bleu", "'taste'"]),
    "metric that is a list": ({"metric": [], "target": 0.8}, ["vit: the metric is one of"]),
    "no target": ({"metric": "accuracy"}, ["vit: the target is a finite number", "None"]),
    "target that is text": ({"metric": "accuracy", "target": "0.8"}, ["vit: the target is a finite number", "'0.8'"]),
    "target that is true": ({"metric": "accuracy", "target": True}, ["vit: the target is a finite number", "True"]),
    "target that is NaN": ({"metric": "accuracy", "target": float("nan")}, ["vit: the target is a finite number", "nan"]),
    "target that is huge": ({"metric": "accuracy", "target": 10**400}, ["vit: the target is a finite number", "bits"]),
}
BAD_GOALS = {f"goal: {name}": ({"workloads": TARGETS["workloads"] | {"vit": goal}}, words) for name, (goal, words) in BAD_GOALS.items()}


def _refused(stepsmith, logs, targets, words):
    with pytest.raises(LogError):
        read_logs(logs, read_targets(targets))
    code, out, err = stepsmith("score", logs, "--targets", targets)
    assert (code, out) == (2, "")
    assert err.startswith("stepsmith: ") and err.count("\n") == 1 and err.endswith("\n")
    for word in words:
        assert word in err


def _write(path, content):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(("content", "words"), BAD_LOGS.values(), ids=BAD_LOGS.keys())
def test_bad_logs_are_one_line(stepsmith, tmp_path, targets, content, words):
    _write(tmp_path / "logs.csv", content)
    _refused(stepsmith, tmp_path / "logs.csv", targets, [str(tmp_path / "logs.csv"), *words])


@pytest.mark.parametrize(("content", "words"), (BAD_TARGETS | BAD_GOALS).values(), ids=(BAD_TARGETS | BAD_GOALS).keys())
def test_bad_targets_are_one_line(stepsmith, tmp_path, content, words):
    if isinstance(content, dict):  # what differs from the good ones; ... leaves the key out
        content = json.dumps({key: value for key, value in (TARGETS | content).items() if value is not ...})
    _write(tmp_path / "targets.json", content)
    _refused(stepsmith, _write_csv(tmp_path), tmp_path / "targets.json", [str(tmp_path / "targets.json"), *words])


def _no_measurements(logs):
    for path in (logs / "c").rglob("eval_measurements.csv"):
        path.unlink()


def _one_submission(logs):
    for path in list((logs / "a").iterdir()):
        path.rename(logs / path.name)


def _two_frameworks(logs):
    folder = logs / "a" / "study_0"
    (folder / "vit_pytorch").symlink_to(folder / "vit_jax")


def _measurements(content):
    return lambda logs: (logs / "a" / "study_1" / "vit_jax" / "trial_1" / "eval_measurements.csv").write_text(content)


def _folder_instead(logs):
    path = logs / "a" / "study_1" / "vit_jax" / "trial_1" / "eval_measurements.csv"
    path.unlink()
    path.mkdir()


BAD_FOLDERS = {
    "no measurements": (
        _no_measurements,
        ["logs/c: no measurements", "SUBMISSION/study_K/WORKLOAD_FRAMEWORK/trial_K/eval_measurements.csv"],
    ),
    "another folder": (lambda logs: (logs / "plots").mkdir(), ["logs/plots: no measurements", "no other folders"]),
    "studies without a submission": (_one_submission, ["no measurements", "SUBMISSION/study_K"]),
    "two frameworks": (_two_frameworks, ["trial 1 of a on vit in study 0", "framework"]),
    "no metric": (_measurements("score,validation/loss\n1,2\n"), ["eval_measurements.csv: the columns validation/accuracy are missing"]),
    "no time": (_measurements("validation/accuracy,test/accuracy\n1,2\n"), ["the columns score are missing"]),
    "cell that is no number": (_measurements("score,validation/accuracy\n1,0.5\n2,x\n"), ["trial_1/eval_measurements.csv, line 3", "'x'"]),
    "folder instead of a file": (_folder_instead, ["cannot be read", "directory"]),
}


@pytest.mark.parametrize(("spoil", "words"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_bad_folders_are_one_line(stepsmith, tmp_path, targets, spoil, words):
    logs = _write_folder(tmp_path)
    spoil(logs)
    _refused(stepsmith, logs, targets, words)


def test_an_empty_folder_is_refused(stepsmith, tmp_path, targets):
    (tmp_path / "logs").mkdir()
    _refused(stepsmith, tmp_path / "logs", targets, ["is empty", "vit, vit_big"])
