"""`stepsmith schedules`: every schedule with its curve drawn in a line of text, as numbers, or as a picture.

Those that come of the training, `IN_TRAINING`, have none before it.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from ...schedules import SAMPLINGS, ScheduleError
from ...schedules import registry as schedules
from ..terminal.options import option
from ..terminal.output import out, print_table
from .online import AUTOLRS
from .population_training import PBT
from .schedule_sources import PLATEAU, find_schedule

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"  # from the lowest to the highest
STEPS = 1000  # of the run that is drawn
CELLS = 24  # of a curve in text
POINTS = 101  # of a curve in JSON: one for each percent of the run, its end included
COLUMNS = 4  # of panels in a picture
IN_TRAINING = {
    AUTOLRS: "searched while a model trains (Jin et al., arXiv:2105.10762); for train",
    PBT: "found by population-based training (Jaderberg et al., arXiv:1711.09846); for train",
}


@dataclass(frozen=True)
class Schedules:
    """List the learning-rate schedules with their curves."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """which (default: all), with sampling rates such as rex:50-75, or your own files"""
    plot: Annotated[Path | None, option("FILE", "no picture")] = None
    """draw them into a picture, .png or .pdf"""
    json: bool = False
    """as JSON, with the values at each percent of a run"""

    def __call__(self) -> int:
        names = self.names or (*schedules.names(), PLATEAU, *IN_TRAINING)
        sources = {name: find_schedule(name) for name in names if name not in IN_TRAINING}
        summaries = IN_TRAINING | {name: source.summary for name, source in sources.items()}
        curves = {name: _values(source.relative(STEPS)) for name, source in sources.items() if source.around is None}
        if self.plot is not None:
            if not curves:
                raise ScheduleError(f"--plot: {', '.join(names)} comes of the training and has no curve before it; name another one too")
            _plot(curves, self.plot)
        if self.json:
            every = STEPS // (POINTS - 1)
            values = {name: [round(float(value), 6) for value in curve[::every]] for name, curve in curves.items()}
            return print_table([{"schedule": name, "what": summaries[name], "values": values.get(name)} for name in names], True)
        characters = BLOCKS if _prints(BLOCKS) else ASCII
        drawn = {name: sparkline(curve, characters) for name, curve in curves.items()}
        print_table([{"schedule": name, "curve": drawn.get(name, ""), "what": summaries[name]} for name in names], False)
        if not self.names:
            rates = ", ".join(f":{name}" for name in SAMPLINGS)
            out.print(f"each is read at every step; a sampling rate behind a name reads it less often: {rates} (rex:50-75)")
        if self.plot is not None:
            out.print(f"drew {self.plot}")
        return 0


def sparkline(values: Sequence[float] | np.ndarray, characters: str = BLOCKS) -> str:
    """A curve in a line of text, as high as its highest value.

    Args:
        values: at least 0, [n]; each of up to 24 characters shows the mean of its share of them.
        characters: from the lowest to the highest.

    Example:
        >>> sparkline([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), sparkline([1.0, 1.0, 0.1], "_-#")
        ('▁▂▄▅▇█', '##_')
    """
    array = np.asarray(values, np.float64)
    cells = [part.mean() for part in np.array_split(array, min(CELLS, array.size))]
    highest = max(max(cells), sys.float_info.min)
    return "".join(characters[min(int(cell / highest * len(characters)), len(characters) - 1)] for cell in cells)


def _values(schedule: optax.Schedule) -> np.ndarray:
    """At every step of the run and at its end."""
    return np.asarray(jax.lax.map(lambda step: jnp.asarray(schedule(step), jnp.float32), jnp.arange(STEPS + 1)))


def _prints(characters: str) -> bool:
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _plot(curves: dict[str, np.ndarray], path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # takes a second to import
    except ImportError as error:
        raise ScheduleError("--plot needs matplotlib; install it with: pip install matplotlib") from error
    rows = math.ceil(len(curves) / COLUMNS)
    columns = min(COLUMNS, len(curves))
    figure = Figure(figsize=(2.6 * columns, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, (name, curve) in zip(panels, curves.items(), strict=False):
        panel.plot(np.linspace(0, 1, curve.size), curve, linewidth=1.5)
        panel.set_title(name, fontsize=9)
        panel.grid(alpha=0.3)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    figure.supxlabel("progress", fontsize=9)
    figure.supylabel("learning rate / peak", fontsize=9)
    figure.savefig(path, dpi=150)
