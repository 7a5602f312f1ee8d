"""`stepsmith schedules`: curves in text on any encoding, as numbers and as a picture."""

import io
import json
import sys

import matplotlib.image
import numpy as np
import pytest

from stepsmith import schedules
from stepsmith.discovery.cli import read_command
from stepsmith.discovery.training.schedule_listing import ASCII, BLOCKS, sparkline


def _printed(monkeypatch, encoding, *arguments):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    assert read_command(["schedules", *arguments])() == 0
    sys.stdout.flush()
    return raw.getvalue().decode(encoding)


def test_every_schedule_has_a_curve_in_a_line(monkeypatch):
    lines = _printed(monkeypatch, "utf-8").splitlines()[1:-4]
    curves = {line.split()[0]: line.split()[1] for line in lines}
    assert list(curves) == list(schedules.names())
    assert all(len(curve) == 24 and set(curve) <= set(BLOCKS) for curve in curves.values())
    assert curves["constant"] == "█" * 24 and curves["step"] == "█" * 12 + "▁" * 12
    assert curves["linear"][0] == curves["rex"][0] == "█" and curves["linear"][-1] == "▁"


def test_what_comes_of_the_training_is_listed_without_a_curve(stepsmith, tmp_path):
    *lines, rates = stepsmith("schedules")[1].splitlines()[-4:]
    assert all(f":{name}" in rates for name in schedules.SAMPLINGS)
    assert [line.split()[0] for line in lines] == ["plateau", "autolrs", "pbt"] and not any(set(line) & set(BLOCKS) for line in lines)
    rows = json.loads(stepsmith("schedules", "rex", "plateau", "--json")[1])
    assert [row["schedule"] for row in rows if row["values"] is None] == ["plateau"]
    code, _, err = stepsmith("schedules", "pbt", "--plot", str(tmp_path / "none.png"))
    assert code == 2 and "pbt comes of the training" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_where_blocks_cannot_be_printed_the_curve_is_ascii(monkeypatch, encoding):
    printed = _printed(monkeypatch, encoding)
    assert printed.isascii() and printed.splitlines()[1].split()[1] == "#" * 24
    assert set(printed.splitlines()[2].split()[1]) == set(ASCII)


def test_a_curve_in_text():
    assert sparkline(np.linspace(0, 1, 8)) == BLOCKS
    assert sparkline([0.0, 0.0]) == "▁▁" and sparkline([5.0]) == "█"
    assert len(sparkline(np.ones(1000))) == 24


def test_json_has_the_values_at_each_percent(stepsmith):
    code, out, err = stepsmith("schedules", "linear", "rex", "linear:50-75", "--json")
    rows = {row["schedule"]: row["values"] for row in json.loads(out)}
    p = np.linspace(0, 1, 101)
    assert (code, err) == (0, "")
    np.testing.assert_allclose(rows["linear"], 1 - p, atol=1e-5)
    np.testing.assert_allclose(rows["rex"], (1 - p) / (1 - p / 2), atol=1e-5)
    np.testing.assert_allclose(rows["linear:50-75"], np.where(p < 0.5, 1, np.where(p < 0.75, 0.5, 0.25)), atol=1e-6)


def test_a_file_is_listed_and_all_are_drawn(stepsmith, tmp_path):
    (tmp_path / "mine.csv").write_text("progress,learning_rate\n0,0\n0.5,1\n1,0\n")
    code, out, _ = stepsmith("schedules", str(tmp_path / "mine.csv"))
    assert code == 0 and "▁▂▂▃▄▄▅▆▆▇████▇▆▆▅▄▄▃▂▂▁  recorded learning rates" in out
    picture = tmp_path / "all.png"
    code, out, _ = stepsmith("schedules", "--plot", str(picture))
    assert code == 0 and out.endswith(f"drew {picture}\n")
    pixels = matplotlib.image.imread(picture)
    assert min(pixels.shape[:2]) > 500 and pixels.std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "unknown schedule 'bogus'"),
        (["gone.json"], "gone.json: cannot be read"),
        (["--plot", "nowhere/all.png"], "nowhere/all.png"),
        (["rex", "--plot", "all.xyz"], "xyz"),
    ],
)
def test_bad_input_is_one_line(stepsmith, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = stepsmith("schedules", *arguments)
    assert (code, out) == (2, "") and err.startswith("stepsmith: ") and err.count("\n") == 1 and words in err
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_list_stays_and_a_picture_is_refused(stepsmith, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert stepsmith("schedules", "rex")[0] == 0
    code, _, err = stepsmith("schedules", "rex", "--plot", "rex.png")
    assert code == 2 and "--plot needs matplotlib; install it with: pip install matplotlib" in err
