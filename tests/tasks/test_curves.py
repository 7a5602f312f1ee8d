"""Curves: the CSV file goes on without a gap, TensorBoard's events agree with it, and the picture shows something."""

import matplotlib.image
import numpy as np
import pytest

from stepsmith.tasks import curves
from stepsmith.tasks.curves import CSV, EVENTS, Curve, CurveError, CurveLog

LOSSES = np.random.default_rng(0).uniform(0.1, 2.0, 60).astype(np.float32)


def _write(folder, begin, end):
    with CurveLog(folder, ("loss", "accuracy"), begin) as log:
        for step in range(begin, end, 20):
            log.append(LOSSES[step : step + 20], {"loss": 1 / (step + 20), "accuracy": 0.5} if step % 40 == 20 else None)


def test_the_file_reads_back_as_what_was_written(tmp_path):
    _write(tmp_path, 0, 60)
    lines = (tmp_path / CSV).read_text().split("\n")
    assert lines[0] == "step,train_loss,validation_loss,validation_accuracy"
    assert lines[1] == f"1,{LOSSES[0]!s},," and lines[40] == f"40,{LOSSES[39]!s},0.025,0.5" and lines[61:] == [""]
    curve = curves.read(tmp_path / CSV)
    np.testing.assert_array_equal(curve.steps, np.arange(1, 61))
    np.testing.assert_array_equal(curve.train_loss, LOSSES)
    assert np.flatnonzero(np.isfinite(curve.validation["loss"])).tolist() == [39]
    assert list(curve.validation) == ["loss", "accuracy"] and curve.validation["accuracy"][39] == 0.5


def test_a_failed_run_keeps_its_last_losses(tmp_path):
    with CurveLog(tmp_path, (), 0) as log:
        log.append([1.0, np.inf, np.nan])
    curve = curves.read(tmp_path / CSV)
    np.testing.assert_array_equal(curve.train_loss, np.array([1.0, np.inf, np.nan], np.float32))
    curves.draw(curve, tmp_path / "failed.png")
    assert matplotlib.image.imread(tmp_path / "failed.png").std() > 0.01


@pytest.mark.parametrize("torn", ["", "61,0.5", "61"])
def test_going_on_drops_what_came_after_the_step(tmp_path, read_events, torn):
    _write(tmp_path / "whole", 0, 60)
    _write(tmp_path / "torn", 0, 60)
    with (tmp_path / "torn" / CSV).open("a") as file:
        file.write(torn)
    for step in (40, 20, 40):
        _write(tmp_path / "torn", step, 60)
    assert (tmp_path / "torn" / CSV).read_bytes() == (tmp_path / "whole" / CSV).read_bytes()
    events = read_events(tmp_path / "torn" / EVENTS)
    assert events == read_events(tmp_path / "whole" / EVENTS)
    assert {tag: list(points) for tag, points in events.items()} == {
        "loss/train": [20, 40, 60],
        "loss/validation": [40],
        "accuracy/validation": [40],
    }
    assert events["loss/train"][40] == pytest.approx(LOSSES[20:40].mean())
    assert len(list((tmp_path / "torn" / EVENTS).iterdir())) == 4


def _cut(text):
    return text[: text.index("\n17,") + 5]


@pytest.mark.parametrize(
    "spoil",
    [
        _cut,
        lambda text: text.replace("\n17,", "\n18,", 1),
        lambda text: text.replace("accuracy", "perplexity"),
        lambda text: "",
        lambda text: text.replace("train", "tr\xe4in"),
    ],
    ids=["cut", "renumbered", "other columns", "empty", "not ascii"],
)
def test_a_file_without_the_rows_is_refused_and_kept(tmp_path, spoil):
    _write(tmp_path, 0, 60)
    path = tmp_path / CSV
    path.write_text(spoil(path.read_text()), encoding="latin-1")
    before = path.read_bytes()
    with pytest.raises(CurveError, match=r"curve\.csv"):
        CurveLog(tmp_path, ("loss", "accuracy"), 20)
    assert path.read_bytes() == before


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CurveError, match="cannot be read"):
        CurveLog(tmp_path, (), 20)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "step,train_loss\n1,x\n", "step,train_loss\n1,0.5,3,4\n1\n"])
def test_reading_something_else_is_refused(tmp_path, text):
    (tmp_path / CSV).write_text(text)
    with pytest.raises(CurveError, match="holds no curve"):
        curves.read(tmp_path / CSV)


def test_the_picture_shows_the_curve(tmp_path):
    steps = np.arange(1, 101)
    validation = {"loss": np.where(steps % 20 == 0, 1.0, np.nan), "accuracy": np.where(steps % 20 == 0, 0.5, np.nan)}
    pictures = []
    for losses in (10.0 / steps, 10.0 * np.ones(100)):
        curves.draw(Curve(steps, losses.astype(np.float32), validation), tmp_path / "curve.png", "a title")
        pictures.append(matplotlib.image.imread(tmp_path / "curve.png"))
    falling, flat = pictures
    assert falling.shape == flat.shape and min(falling.shape[:2]) > 400
    blue = (falling[..., 2] > 0.6) & (falling[..., 0] < 0.3)  # the training loss
    orange = (falling[..., 0] > 0.9) & (falling[..., 2] < 0.3)
    assert blue.sum() > 500 and orange.sum() > 500
    assert (falling != flat).any(axis=-1).sum() > 500
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
