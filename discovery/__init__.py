"""Search for update rules: programs, the machine that runs them, evolution, evaluation, the ledger and the command line.

Start with `run.py` (`search`, `resume`, `Run`) and `coordinator.py`, the loop. `language/` says what a program is, `vm/` runs it,
`search/` proposes, `evaluate/` scores, `ledger/` remembers, `simplify/` makes the winner short and readable, `export/` writes it as
an optax file; `selection/` and `tuning/` are what may follow a search, `training/` trains with any rule and
schedule, `cli.py` and `terminal/` are the command line.
"""

from .config import Budget, ConfigError, SearchConfig
from .evaluate import Devices
from .run import Finalist, Run, runs
from .session import resume, search
from .simplify import simplify

__all__ = ["Budget", "ConfigError", "Devices", "Finalist", "Run", "SearchConfig", "resume", "runs", "search", "simplify"]
