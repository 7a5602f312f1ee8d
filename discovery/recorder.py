"""What happened in a session, as rows that are committed together with the state that they led to."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from ..tasks import registry as tasks
from . import failpoints
from .evaluate import Outcome, Result, Status
from .evaluate.identity import digest_of
from .language import operations, to_text
from .ledger import BirthRow, EvaluationRow, EventRow, Ledger, LevelRow, OutcomeRow, ProgramRow, Step, ToldRow
from .search import Candidate

COMMIT_SECONDS = 0.5

_log = logging.getLogger(__name__)

LOST_START = (
    "evolution has no start that it could improve on; give it another learning rate, several learning_rate_factors with best_rate, or a "
    "higher hurdle where it was stopped"
)


class Recorder:
    """Collects the rows of what happened and commits them, with the state that they led to, twice a second.

    Args:
        ledger: what it writes.
        versions: of the tasks.
        deterministic: whether results of another device or version than the run's first are noted.
    """

    def __init__(self, ledger: Ledger, versions: Mapping[str, str], deterministic: bool):
        self._ledger = ledger
        self._versions = versions
        self._steps = {name: tasks.get(name).steps for name in versions}
        self._deterministic = deterministic
        self._identities: dict[str, Mapping[str, str]] = ledger.state().get("identities", {})  # digest -> what it stands for
        self._digests: dict[tuple[tuple[str, str], ...], str] = {}  # a cache alone
        self._step = Step([], [], [], [], [], [], levels=[])
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= COMMIT_SECONDS

    def born(self, candidate: Candidate, block: int | None) -> None:
        c = candidate
        self._append("births", BirthRow(c.birth, c.hash, c.parent, c.mutation, c.program.to_json(), block))

    def program(self, candidate: Candidate) -> None:
        pruned = candidate.pruned
        row = ProgramRow(candidate.hash, len(pruned.statements), to_text(pruned), candidate.birth, len(pruned.states), operations(pruned))
        self._append("programs", row)

    def evaluated(self, program_hash: str, result: Result) -> None:
        for e in result.evaluations:
            version, identity = self._versions[e.task], self._digest(result.identity)
            asked = (version, e.learning_rate_factor, self._steps[e.task])
            row = EvaluationRow(program_hash, e.task, e.seed, *asked, e.steps, str(e.status), e.loss, e.seconds, identity)
            self._append("evaluations", row)

    def scored(self, program_hash: str, result: Outcome) -> None:
        self._append("outcomes", OutcomeRow(program_hash, result.fitness, str(result.status), json.dumps(result.scores)))

    def told(self, birth: int, order: int, result: Outcome, cached: bool) -> None:
        self._append("told", ToldRow(birth, order, result.fitness, str(result.status), cached))
        if birth == 0 and result.status is not Status.OK:
            self._warn("initial", f"the initial program itself ends as {result.status}: {LOST_START}")

    def placed(self, row: LevelRow) -> None:
        self._append("levels", row)

    def event(self, kind: str, message: str) -> None:
        self._append("events", EventRow(time.time(), kind, message))

    def commit(self, state: dict[str, Any], elapsed: float, status: str | None = None) -> None:
        self._step.state, self._step.elapsed, self._step.status = state | {"identities": self._identities}, elapsed, status
        failpoints.reached("commit.before")
        self._ledger.commit(self._step)
        failpoints.reached("commit.after")
        self._step = Step([], [], [], [], [], [], levels=[])
        self._last = time.monotonic()

    def _append(self, name: str, row: Any) -> None:
        getattr(self._step, name).append(row)

    def _digest(self, identity: Mapping[str, str]) -> str:
        """The digest of a worker's identity; the state keeps what it stands for."""
        key = tuple(identity.items())
        digest = self._digests.get(key) or self._digests.setdefault(key, digest_of(identity))
        if digest not in self._identities:
            if self._identities and self._deterministic:
                self._note_another(next(iter(self._identities.values())), identity)
            self._identities[digest] = identity
        return digest

    def _note_another(self, first: Mapping[str, str], now: Mapping[str, str]) -> None:
        changes = [f"{key} {first.get(key)} -> {now.get(key)}" for key in sorted({*first, *now}) if first.get(key) != now.get(key)]
        message = f"results come from elsewhere than the run's first ({', '.join(changes)}): from here on its digest may be another"
        self._warn("identity", message)

    def _warn(self, kind: str, message: str) -> None:
        self.event(kind, message)
        _log.warning("%s", message)
