"""The run's database: what was born, what was measured, and where the search stands.

Start with `models.py`, the eight tables and the records that go into them; `store.py` holds `Ledger`, whose `commit` writes
one `Step` of the search in one transaction; `queries.py` holds what is read back. `database.py` opens SQLite or PostgreSQL,
and `migrations/` (Alembic) brings older files up to date. Only the coordinator of a search writes, which `lock.py` sees to; anybody
may read meanwhile.
"""

from .database import LedgerError
from .lock import is_locked, locked
from .models import BirthRow, EvaluationRow, EventRow, LevelRow, OutcomeRow, ProgramRow, RunRow, Step, ToldRow, TrialRow
from .queries import Best, Counts
from .store import Ledger

__all__ = [
    "Best",
    "BirthRow",
    "Counts",
    "EvaluationRow",
    "EventRow",
    "Ledger",
    "LedgerError",
    "LevelRow",
    "OutcomeRow",
    "ProgramRow",
    "RunRow",
    "Step",
    "ToldRow",
    "TrialRow",
    "is_locked",
    "locked",
]
