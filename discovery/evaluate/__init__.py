"""From a program to its fitness.

Start with `fitness.py` (the number and the statuses); `pool.py` runs jobs on killable worker processes, `worker.py` is what runs
there (`process.py` its skeleton), `devices.py` where, `protocol.py` what the two say to each other, `identity.py` what makes
results comparable; `extrapolate.py` foresees the end of a run that is not worth going on, `blocks.py` makes scores on different
seeds comparable.
"""

from .blocks import Blocks
from .devices import Devices, Place, plan
from .extrapolate import Race
from .fitness import Evaluation, Outcome, Status, Yardstick, outcome, yardstick
from .pool import Result, WorkerError, WorkerPool
from .protocol import Job, WorkerSpec

__all__ = [
    "Blocks",
    "Devices",
    "Evaluation",
    "Job",
    "Outcome",
    "Place",
    "Race",
    "Result",
    "Status",
    "WorkerError",
    "WorkerPool",
    "WorkerSpec",
    "Yardstick",
    "outcome",
    "plan",
    "yardstick",
]
