"""What is trained: data, models and losses, and the one loop that trains them.

Start with `base.Task`, the protocol; `digits.DigitsMLP` is the shortest task; `training.make_run` is the loop. `registry`
lists the tasks by name. `reference`, imported as a module of its own because it is also a command, holds the tuned AdamW
that candidates are compared with.
"""

from .base import SPLITS, Batch, Data, DataError, PyTree, Split, Task, digest
from .digits import DigitsAutoencoder, DigitsMLP
from .registry import TASKS, get, names
from .stdlib_lm import StdlibLM
from .training import DIVERGED, NONFINITE, OK, STATUS_NAMES, Outcome, Trained, TrainState, make_run, scores, start, train

__all__ = [
    "DIVERGED",
    "NONFINITE",
    "OK",
    "SPLITS",
    "STATUS_NAMES",
    "TASKS",
    "Batch",
    "Data",
    "DataError",
    "DigitsAutoencoder",
    "DigitsMLP",
    "Outcome",
    "PyTree",
    "Split",
    "StdlibLM",
    "Task",
    "TrainState",
    "Trained",
    "digest",
    "get",
    "make_run",
    "names",
    "scores",
    "start",
    "train",
]
