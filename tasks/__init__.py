"""What is trained: data, models and losses, and the one loop that trains them.

Start with `base.Task`, the protocol; `digits.digits_mlp` is the shortest task, made of a source (`data`), a model
(`models`) and an objective by `supervised.Supervised`; `training.make_run` is the loop. `registry` lists the tasks by
name, `ladder` says how they grow, `checks.check` whether a task of one's own keeps the rules. `reference`, imported as a
module of its own because it is also a command, holds the tuned AdamW that candidates are compared with.
"""

from .base import SPLITS, Batch, Data, DataError, HostFed, PyTree, Split, Task, load_on_device
from .checks import TaskError, check
from .cost import Cost, cost
from .ladder import SCALES, transfer
from .objectives import cross_entropy
from .registry import TASKS, available, get, names
from .supervised import Supervised
from .training import (
    DIVERGED,
    NONFINITE,
    OK,
    STATUS_NAMES,
    STOPPED,
    Outcome,
    Trained,
    TrainState,
    make_run,
    make_runner,
    scores,
    start,
    train,
)
from .version import digest

__all__ = [
    "DIVERGED",
    "NONFINITE",
    "OK",
    "SCALES",
    "SPLITS",
    "STATUS_NAMES",
    "STOPPED",
    "TASKS",
    "Batch",
    "Cost",
    "Data",
    "DataError",
    "HostFed",
    "Outcome",
    "PyTree",
    "Split",
    "Supervised",
    "Task",
    "TaskError",
    "TrainState",
    "Trained",
    "available",
    "check",
    "cost",
    "cross_entropy",
    "digest",
    "get",
    "load_on_device",
    "make_run",
    "make_runner",
    "names",
    "scores",
    "start",
    "train",
    "transfer",
]
