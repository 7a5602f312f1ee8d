"""AlgoPerf's logs and targets, and the scores of the submissions in them.

Logs come in two forms. AlgoPerf's own is a folder, SUBMISSION/study_K/WORKLOAD_FRAMEWORK/trial_K/eval_measurements.csv, of
which the columns `score` (the submission's own seconds) and `validation/METRIC` are read. The compact one is a single CSV,
gzipped or not, with one row an evaluation and the columns `COLUMNS`. An empty metric says that it could not be taken.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from ..language.message import shown
from .performance import Choice, Target, Trial, apply_held_out, earliest, ratios, score, workload_time

COLUMNS = ("submission", "study", "workload", "trial", "evaluation", "time_s", "validation_metric")
MEASUREMENTS = "eval_measurements.csv"
LAYOUT = f"SUBMISSION/study_K/WORKLOAD_FRAMEWORK/trial_K/{MEASUREMENTS}"
# Metric -> whether a smaller one is better.
FALLS = {"accuracy": False, "bleu": False, "loss": True, "mean_average_precision": False, "ssim": False, "wer": True}
_FRAMEWORK = re.compile(r"_(jax|pytorch)$")
_GZIP = b"\x1f\x8b"  # what a gzip file begins with
_MAX_LINE = 1_000_000  # characters; a file without line ends is not read whole
_MAX_TARGETS = 1_000_000  # characters


class LogError(ValueError):
    """Logs or targets that cannot be read; says in one line what came, what is allowed and how to mend it."""


class Goal(NamedTuple):
    """What a workload asks for."""

    metric: str
    target: Target


class Targets(NamedTuple):
    """The workloads of a version of the benchmark."""

    base: tuple[str, ...]  # those that are scored
    held_out: tuple[str, ...]  # variants of them
    base_of: tuple[int, ...]  # index in `base` for each of `held_out`
    goals: Mapping[str, Goal]  # of each of both


Logs = Mapping[str, Mapping[str, Sequence[Sequence[Trial]]]]  # submission -> workload -> studies -> trials
Key = tuple[str, str, str, str]  # submission, workload, study, trial


class Standing(NamedTuple):
    """The submissions of some logs, the best first."""

    submissions: tuple[str, ...]
    workloads: tuple[str, ...]
    times: np.ndarray  # [submissions, workloads] float64, seconds to the target, infinite where missed, before any rule
    ratios: np.ndarray  # [submissions, workloads] float64, to the best, infinite where missed, after all rules
    scores: np.ndarray  # [submissions] float64, from 0 to 1


def score_logs(logs: Logs, targets: Targets, held_out: bool = True, choose: Choice = earliest) -> Standing:
    """Scores submissions against each other by the protocol of AlgoPerf (Dahl et al. 2023, arXiv:2306.07179).

    Args:
        logs: of `read_logs`. A workload that a submission was not run on is one that it missed.
        targets: of `read_targets`.
        held_out: whether who misses a held-out variant loses the workload.
        choose: the best trial of a study, `performance.earliest` or `performance.fastest`.

    Returns:
        Times, ratios and scores; submissions of equal score by name.

    Example:
        >>> trial = Trial(np.array([10.0]), np.array([0.9]))
        >>> targets = Targets(("wmt",), (), (), {"wmt": Goal("bleu", Target(0.5))})
        >>> score_logs({"a": {}, "b": {"wmt": [[trial]]}}, targets).submissions
        ('b', 'a')
    """

    def table(workloads: Sequence[str]) -> np.ndarray:
        rows = [[workload_time(logs[name].get(w, ()), targets.goals[w].target, choose) for w in workloads] for name in names]
        return np.array(rows, float).reshape(len(names), len(workloads))

    names = sorted(logs)
    times = table(targets.base)
    kept = apply_held_out(times, table(targets.held_out), targets.base_of) if held_out else times
    relative = ratios(kept)
    scores = score(relative)
    order = sorted(range(len(names)), key=lambda row: -scores[row])
    return Standing(tuple(names[row] for row in order), targets.base, times[order], relative[order], scores[order])


def read_targets(path: Path) -> Targets:
    """Reads which workloads count, and the validation metric that each must reach.

    Args:
        path: a JSON file, {"base_workloads": [NAME, ...], "held_out_workloads": [NAME, ...], "workloads":
            {NAME: {"metric": METRIC, "target": NUMBER}, ...}}. A held-out workload belongs to the base workload that its
            name begins with. Workloads that are in neither list, and further keys, are not read.

    Raises:
        LogError: no such file, or not of this form.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "targets.json"
        >>> wmt = '"base_workloads": ["wmt"], "workloads": {"wmt": {"metric": "bleu", "target": 30.8}}'
        >>> _ = file.write_text('{"held_out_workloads": [], ' + wmt + "}")
        >>> read_targets(file).goals
        {'wmt': Goal(metric='bleu', target=Target(value=30.8, falls=False))}
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_TARGETS + 1)
    except (OSError, UnicodeError) as error:
        raise LogError(f"{path}: the targets cannot be read: {_reason(error)}") from None
    if len(text) > _MAX_TARGETS:
        raise LogError(f"{path}: targets have no more than {_MAX_TARGETS} characters; give the JSON file of the targets")
    try:
        return _targets(json.loads(text))
    except LogError as error:
        raise LogError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path}: not JSON: {error}") from None


def read_logs(path: Path, targets: Targets) -> Logs:
    """Reads the evaluations of all submissions on the workloads of the targets; other workloads are left alone.

    Args:
        path: a folder or a CSV file of the forms described above. A trial's evaluations count 0, 1, 2, ... in the CSV,
            where rows may stand in any order, and are the rows of its file in a folder. A trial without that file has none.
        targets: of `read_targets`.

    Raises:
        LogError: nothing to read, a cell that is no number, a column, an evaluation or all measurements of a submission
            missing, or no workload that has a target.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "logs.csv"
        >>> _ = file.write_text(",".join(COLUMNS) + "\\nadamw,0,wmt,1,0,60.5,12.0\\nadamw,0,wmt,1,1,120.5,31.0\\n")
        >>> read_logs(file, Targets(("wmt",), (), (), {"wmt": Goal("bleu", Target(30.8))}))["adamw"]["wmt"][0][0].metrics
        array([12., 31.])
    """
    try:
        trials = _from_folder(path, targets) if path.is_dir() else _from_csv(path, targets)
    except OSError as error:
        raise LogError(f"{path}: the logs cannot be read: {_reason(error)}") from None
    logs: dict[str, dict[str, dict[str, list[Trial]]]] = {}
    for (submission, workload, study, _), trial in trials.items():
        logs.setdefault(submission, {}).setdefault(workload, {}).setdefault(study, []).append(trial)
    found = {workload for workloads in logs.values() for workload in workloads}
    if not found & set(targets.base):
        came = f"has {_listed(sorted(found))}" if found else "is empty"
        raise LogError(f"{path}: {came}; the targets are of {_listed(targets.base)}; give logs and targets of the same workloads")
    return {submission: {w: list(studies.values()) for w, studies in workloads.items()} for submission, workloads in logs.items()}


def _targets(data: Any) -> Targets:
    if not isinstance(data, dict):
        raise LogError(f"targets are an object of base_workloads, held_out_workloads and workloads, got {shown(data)}")
    base, held_out = (_names(data, key) for key in ("base_workloads", "held_out_workloads"))
    if not base:
        raise LogError("base_workloads is empty; list the workloads that are scored")
    if repeated := sorted({name for name in base + held_out if (base + held_out).count(name) > 1}):
        raise LogError(f"{_listed(repeated)} stands more than once in base_workloads and held_out_workloads; list each workload once")
    workloads = data.get("workloads")
    if not isinstance(workloads, dict):
        raise LogError(f"workloads is an object of names with metric and target, got {shown(workloads)}")
    goals = {name: _goal(name, workloads.get(name)) for name in base + held_out}
    return Targets(base, held_out, tuple(_base_of(name, base) for name in held_out), goals)


def _names(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = data.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LogError(f"{key} is a list of names, got {shown(names)}")
    return tuple(names)


def _goal(name: str, entry: Any) -> Goal:
    if not isinstance(entry, dict):
        raise LogError(f'workloads lacks {name}, which is to be scored; add "{name}": {{"metric": METRIC, "target": NUMBER}}')
    metric, value = entry.get("metric"), entry.get("target")
    if not isinstance(metric, str) or metric not in FALLS:
        raise LogError(f"{name}: the metric is one of {', '.join(FALLS)}, got {shown(metric)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise LogError(f"{name}: the target is a finite number, got {shown(value)}")
    return Goal(metric, Target(float(value), FALLS[metric]))


def _base_of(variant: str, base: Sequence[str]) -> int:
    owners = [name for name in base if variant.startswith(f"{name}_")]
    if not owners:
        raise LogError(f"the held-out {variant} begins with no base workload; there are {_listed(base)}")
    return base.index(max(owners, key=len))


def _from_csv(path: Path, targets: Targets) -> dict[Key, Trial]:
    evaluations: dict[Key, dict[int, tuple[float, float]]] = {}
    for line, (submission, study, workload, trial, index, time, metric) in _rows(path, COLUMNS):
        before = evaluations.setdefault((submission, workload, study, trial), {})
        if workload not in targets.goals:
            continue
        try:
            number = int(index)
        except ValueError:
            raise LogError(f"{path}, line {line}: an evaluation is a whole number, got {shown(index)}") from None
        if number in before:
            name = _trial_name(submission, workload, study, trial)
            raise LogError(f"{path}, line {line}: {name} has evaluation {number} twice; keep one")
        before[number] = _evaluation(path, line, time, metric)
    for key, found in evaluations.items():
        if missing := set(range(len(found))) - found.keys():
            name, first = _trial_name(*key), min(missing)
            raise LogError(f"{path}: {name} lacks evaluation {first}; they count 0, 1, 2, ...; add its row, or number them anew")
    return {key: _trial([found[number] for number in range(len(found))]) for key, found in evaluations.items()}


def _from_folder(folder: Path, targets: Targets) -> dict[Key, Trial]:
    trials: dict[Key, Trial] = {}
    for submission in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
        paths = sorted(path for path in submission.glob("study_*/*/trial_*") if path.is_dir())
        if not any((path / MEASUREMENTS).exists() for path in paths):
            raise LogError(f"{submission}: no measurements; a folder of logs holds {LAYOUT} and no other folders")
        for path in paths:
            study, workload, trial = path.relative_to(submission).parts
            key = (submission.name, _FRAMEWORK.sub("", workload), study.removeprefix("study_"), trial.removeprefix("trial_"))
            if key in trials:
                raise LogError(f"{path}: {_trial_name(*key)} is there in another framework too; keep one of the two")
            goal = targets.goals.get(key[1])
            trials[key] = _measured(path / MEASUREMENTS, goal.metric) if goal is not None else _trial([])
    return trials


def _measured(path: Path, metric: str) -> Trial:
    """The trial of a file; a trial that ended before its first evaluation has left none."""
    rows = _rows(path, ("score", f"validation/{metric}")) if path.exists() else ()
    return _trial([_evaluation(path, line, *cells) for line, cells in rows])


def _trial(evaluations: Sequence[tuple[float, float]]) -> Trial:
    times, metrics = np.array(evaluations, float).reshape(-1, 2).T
    return Trial(times, metrics)


def _evaluation(path: Path, line: int, time: str, metric: str) -> tuple[float, float]:
    try:
        seconds, value = float(time), float(metric or "nan")
    except ValueError:
        raise LogError(f"{path}, line {line}: time and metric are numbers, got {shown(time)} and {shown(metric)}") from None
    if not 0.0 <= seconds < math.inf:
        raise LogError(f"{path}, line {line}: a time is 0 seconds or more, got {shown(time)}")
    return seconds, value


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The number of each line with its cells in these columns; empty lines are passed over."""
    try:
        with _opened(path) as file:
            reader = csv.reader(iter(lambda: file.readline(_MAX_LINE), ""), strict=True)
            heading = next(reader, [])
            if missing := [column for column in columns if column not in heading]:
                raise LogError(f"{path}: the columns {', '.join(missing)} are missing; its first line must name {', '.join(columns)}")
            cells = itemgetter(*map(heading.index, columns))
            for row in reader:
                if len(row) == len(heading):
                    yield reader.line_num, cells(row)
                elif row:
                    raise LogError(f"{path}, line {reader.line_num}: {len(row)} cells below a heading of {len(heading)}; is it cut off?")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, csv.Error) as error:
        raise LogError(f"{path}: neither CSV nor gzipped CSV, or damaged: {error}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Text, unpacked where the file is a gzip file, whatever its name."""
    with path.open("rb") as raw:
        unpacked = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else contextlib.nullcontext(raw)
        with unpacked as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as file:
            yield file


def _trial_name(submission: str, workload: str, study: str, trial: str) -> str:
    return f"trial {trial} of {submission} on {workload} in study {study}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _reason(error: OSError | UnicodeError) -> str:
    return str(getattr(error, "strerror", None) or error)
