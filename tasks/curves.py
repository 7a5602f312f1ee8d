"""What a training run leaves to look at: a CSV file, events for TensorBoard and a picture.

`CurveLog` writes the first two while a run goes on, and after a kill goes on where the last checkpoint was. `read` and
`draw` are for afterwards. Imported as a module of its own, for few need the libraries behind it.
"""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

CSV, EVENTS, PICTURE = "curve.csv", "tensorboard", "curve.png"
TRAIN, VALIDATION = "train_loss", "validation_"  # a column, and what the names of the others begin with
FLUSH_SECONDS = 5.0  # how far TensorBoard lags behind
SMOOTHED_SHARE = 0.02  # of the steps, in the picture's running mean
LOG_RATIO = 10.0  # losses that span more than this are drawn on a logarithmic axis


class CurveError(ValueError):
    """A curve's file is not what its run wrote."""


class Curve(NamedTuple):
    """A training curve.

    Attributes:
        steps: steps done, int64 [num_rows].
        train_loss: the loss on the batch of that step, float32 [num_rows].
        validation: metric -> its value after the step, NaN where it was not taken, float64 [num_rows].
    """

    steps: np.ndarray
    train_loss: np.ndarray
    validation: dict[str, np.ndarray]


class CurveLog:
    """Writes curve.csv, one row a step, and TensorBoard's events, one point a call; a context manager.

    Args:
        folder: where to write; made where missing.
        metrics: names of the validation metrics, the columns after `step` and `train_loss`.
        step: where the run goes on. What was written for later steps is dropped: rows are cut off, and the new event
            file opens with the mark that makes TensorBoard forget them.

    Raises:
        CurveError: where the CSV file does not hold the rows up to `step`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with CurveLog(folder, ("loss",), step=0) as log:
        ...     log.append([0.5, 0.25], {"loss": 0.75})
        >>> (folder / "curve.csv").read_text().split()
        ['step,train_loss,validation_loss', '1,0.5,', '2,0.25,0.75']
    """

    def __init__(self, folder: Path, metrics: Sequence[str], step: int) -> None:
        self.step = step
        self._metrics = tuple(metrics)
        folder.mkdir(parents=True, exist_ok=True)
        self._csv = _go_on(folder / CSV, ",".join(["step", TRAIN, *(VALIDATION + name for name in metrics)]), step)
        self._events = _event_file(folder / EVENTS, step)
        self._flushed = time.monotonic()

    def __enter__(self) -> "CurveLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._csv.close()
        self._events.close()

    def append(self, losses: Sequence[float] | np.ndarray, validation: Mapping[str, float] | None = None) -> None:
        """Adds a row for each loss; the validation metrics are those after the last of them.

        TensorBoard gets the mean of the losses as one point, so that a long run stays small there.
        """
        losses = np.asarray(losses, np.float32)
        blank = "," * len(self._metrics)
        # str() of a float32 is the shortest text that reads back as the same number.
        rows = [f"{step},{loss!s}{blank}\n" for step, loss in enumerate(losses, self.step + 1)]
        self.step += len(losses)
        self._point("loss/train", float(losses.mean()))
        if validation is not None:
            rows[-1] = f"{self.step},{losses[-1]!s},{','.join(str(validation[name]) for name in self._metrics)}\n"
            for name in self._metrics:
                self._point(f"{name}/validation", validation[name])
        self._csv.write("".join(rows))
        self._csv.flush()
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def sync(self) -> None:
        """Brings all to the disk; to be called before the checkpoint of the same step is written."""
        os.fsync(self._csv.fileno())
        self._events.flush()

    def _point(self, tag: str, value: float) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=self.step, summary=scalar(tag, value)))


def _go_on(path: Path, header: str, step: int) -> TextIO:
    """The file with the header and the rows 1 to `step`, open for more."""
    beside = path.with_suffix(".csv.tmp")
    with beside.open("w", encoding="ascii", newline="\n") as kept:
        kept.write(header + "\n")
        if step:
            kept.writelines(_first_rows(path, header, step))
    beside.replace(path)
    return path.open("a", encoding="ascii", newline="\n")


def _first_rows(path: Path, header: str, step: int) -> list[str]:
    try:
        with path.open(encoding="ascii", newline="\n") as file:
            lines = list(itertools.islice(file, step + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise CurveError(f"{path}: cannot be read, so the run's curve cannot go on from step {step}: {error}") from None
    numbered = all(line.startswith(f"{index},") and line.endswith("\n") for index, line in enumerate(lines[1:], 1))
    if len(lines) != step + 1 or lines[0] != header + "\n" or not numbered:
        raise CurveError(f"{path}: was changed, it should hold {header!r} and the rows 1 to {step}")
    return lines[1:]


def _event_file(folder: Path, step: int) -> EventsWriter:
    """A new file of events; those of steps after `step` in older files are void."""
    folder.mkdir(exist_ok=True)
    # TensorBoard reads the files by name. A name holds the second only, so the number keeps two of one second apart.
    number = sum(1 for _ in folder.glob("events.out.tfevents.*"))
    writer = EventsWriter(str(folder / "events"), f".{number:04d}")
    writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))
    return writer


def read(path: Path) -> Curve:
    """Reads a curve.csv.

    Raises:
        CurveError: where the file holds no curve.
    """
    try:
        header, *rows = path.read_text(encoding="ascii").splitlines()
        columns = header.split(",")
        if columns[:2] != ["step", TRAIN] or not all(name.startswith(VALIDATION) for name in columns[2:]):
            raise ValueError(f"its first line is {header[:80]!r}")
        cells = [row.split(",") for row in rows]
        table = np.array([[float(cell) if cell else np.nan for cell in row] for row in cells], np.float64).reshape(-1, len(columns))
    except (OSError, ValueError) as error:
        raise CurveError(f"{path}: holds no curve: {error}") from None
    validation = {name.removeprefix(VALIDATION): table[:, index] for index, name in enumerate(columns) if index > 1}
    return Curve(table[:, 0].astype(np.int64), table[:, 1].astype(np.float32), validation)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of each value and up to `width` - 1 before it.

    Example:
        >>> smoothed(np.array([1.0, 3.0, 5.0]), 2).tolist()
        [1.0, 2.0, 4.0]
    """
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)


def draw(curve: Curve, path: Path, title: str = "") -> None:
    """Draws the losses, and below them each other validation metric, as a PNG."""
    # matplotlib takes a second to import, which a run only owes at its end. A Figure of its own needs no display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    others = [name for name in curve.validation if name != "loss"]
    figure = Figure(figsize=(8, 4 + 2 * len(others)), layout="constrained")
    panels = figure.subplots(1 + len(others), sharex=True, squeeze=False, height_ratios=[2] + [1] * len(others))[:, 0]
    panels[0].set_title(title)
    _draw_losses(panels[0], curve)
    for axes, name in zip(panels[1:], others, strict=True):
        taken = np.isfinite(curve.validation[name])
        axes.plot(curve.steps[taken], curve.validation[name][taken], "o-", color="C1", markersize=4)
        axes.set_ylabel(f"validation {name}")
    for axes in panels:
        axes.grid(alpha=0.3, which="both")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("step")
    beside = path.with_name(path.name + ".tmp")
    figure.savefig(beside, dpi=120, format="png")
    beside.replace(path)


def _draw_losses(axes: Any, curve: Curve) -> None:
    finite = np.isfinite(curve.train_loss)
    steps, losses = curve.steps[finite], curve.train_loss[finite].astype(np.float64)
    width = max(round(SMOOTHED_SHARE * len(steps)), 1)
    axes.plot(steps, losses, color="C0", alpha=0.35, linewidth=0.8, label="training, one batch")
    axes.plot(steps, smoothed(losses, width), color="C0", label=f"training, mean of {width} steps")
    validation = curve.validation.get("loss", np.zeros(0))
    taken = np.isfinite(validation)
    if taken.any():
        axes.plot(curve.steps[taken], validation[taken], "o-", color="C1", markersize=4, label="validation")
    drawn = np.concatenate([losses, validation[taken]])
    if len(drawn) and drawn.min() > 0 and drawn.max() > LOG_RATIO * drawn.min():
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
