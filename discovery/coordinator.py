"""The search loop: ask, submit, receive, tell, commit.

Only this process writes the ledger. What the loop does next depends on the sequence of asks and tells alone, never on
which worker was faster, so in deterministic mode 1 or 20 workers give the same run and a killed run resumes into the same
one: candidates that had been asked and not told are in the ledger and are evaluated again.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import failpoints
from .config import Budget, SearchConfig
from .evaluate import Evaluation, Job, Outcome, Result, Status, WorkerPool, Yardstick, outcome
from .evaluate.identity import digest_of
from .language import Program, prune, to_text
from .ledger import BirthRow, EvaluationRow, EventRow, Ledger, LedgerError, OutcomeRow, ProgramRow, Step, ToldRow
from .search import Candidate, SearchState, Strategy
from .search.hall_of_fame import Entry, HallOfFame

COMMIT_SECONDS = 0.5
QUEUE_FACTOR = 4  # candidates asked and not told, per evaluation in flight, most of them duplicates
FINALIST_KEY = 1 << 50  # keys of the finalists' jobs, beyond all births

_log = logging.getLogger(__name__)


class Counters(NamedTuple):
    """What the loop counts; stored with the state."""

    told: int = 0
    evaluated: int = 0  # unique programs with an outcome
    cached: int = 0  # told births whose outcome was known
    rejected: int = 0  # invalid mutants
    workers_lost: int = 0


class Snapshot(NamedTuple):
    """What a view shows."""

    phase: str  # searching, finalists, done
    elapsed: float  # seconds, all sessions together
    share: float  # of the budget, 0 to 1
    counters: Counters
    rate: float  # unique evaluations a second, this session
    failures: Mapping[str, int]  # status -> programs
    hall_of_fame: tuple[Entry, ...]


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
        self._deterministic = deterministic
        self._identities: dict[str, Mapping[str, str]] = ledger.state().get("identities", {})  # digest -> what it stands for
        self._step = Step([], [], [], [], [], [])
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= COMMIT_SECONDS

    def born(self, candidate: Candidate) -> None:
        c = candidate
        self._append("births", BirthRow(c.birth, c.hash, c.parent, c.mutation, c.program.to_json()))

    def program(self, candidate: Candidate) -> None:
        pruned = prune(candidate.program)
        self._append("programs", ProgramRow(candidate.hash, len(pruned.statements), to_text(pruned), candidate.birth))

    def evaluated(self, program_hash: str, result: Result) -> None:
        for e in result.evaluations:
            version, identity = self._versions[e.task], self._digest(result.identity)
            row = EvaluationRow(program_hash, e.task, e.seed, version, 1.0, e.steps, str(e.status), e.loss, e.seconds, identity)
            self._append("evaluations", row)

    def scored(self, program_hash: str, result: Outcome) -> None:
        self._append("outcomes", OutcomeRow(program_hash, result.fitness, str(result.status)))

    def told(self, birth: int, order: int, result: Outcome, cached: bool) -> None:
        self._append("told", ToldRow(birth, order, result.fitness, str(result.status), cached))

    def event(self, kind: str, message: str) -> None:
        self._append("events", EventRow(time.time(), kind, message))

    def commit(self, state: dict[str, Any], elapsed: float, status: str | None = None) -> None:
        self._step.state, self._step.elapsed, self._step.status = state | {"identities": self._identities}, elapsed, status
        failpoints.reached("commit.before")
        self._ledger.commit(self._step)
        failpoints.reached("commit.after")
        self._step = Step([], [], [], [], [], [])
        self._last = time.monotonic()

    def _append(self, name: str, row: Any) -> None:
        getattr(self._step, name).append(row)

    def _digest(self, identity: Mapping[str, str]) -> str:
        """The digest of a worker's identity; the state keeps what it stands for."""
        digest = digest_of(identity)
        if digest not in self._identities:
            if self._identities and self._deterministic:
                self._note_another(next(iter(self._identities.values())), identity)
            self._identities[digest] = identity
        return digest

    def _note_another(self, first: Mapping[str, str], now: Mapping[str, str]) -> None:
        changes = [f"{key} {first.get(key)} -> {now.get(key)}" for key in sorted({*first, *now}) if first.get(key) != now.get(key)]
        message = f"results come from elsewhere than the run's first ({', '.join(changes)}): from here on its digest may be another"
        self.event("identity", message)
        _log.warning("%s", message)


class Coordinator:
    """One session of a run, from wherever its ledger stands.

    Args:
        config: of the run.
        strategy: what to try next.
        ledger: of the run; its state is where the loop continues.
        pool: workers.
        yardsticks: the AdamW reference of each task.
        versions: of the tasks.
        stopping: asked at each step; once true, the session finishes that step, commits and returns.
    """

    def __init__(
        self,
        config: SearchConfig,
        strategy: Strategy,
        ledger: Ledger,
        pool: WorkerPool,
        yardsticks: Mapping[str, Yardstick],
        versions: Mapping[str, str],
        stopping: Callable[[], bool] = lambda: False,
    ):
        self._config, self._strategy, self._pool, self._yardsticks = config, strategy, pool, yardsticks
        self._budget = Budget.parse(config.budget)
        self._recorder = Recorder(ledger, versions, config.mode == "deterministic")
        self._results: dict[str, Result] = {}  # arrived and not yet told
        self._started = time.monotonic()
        self._stopping = stopping
        self._restore(ledger)

    @property
    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._started

    def run(self, on_progress: Callable[[Snapshot], None]) -> str:
        """Searches until the budget is spent, or until it is to stop; returns the run's new status."""
        self._recorder.event("start", f"{self._counters.evaluated} programs evaluated so far")
        while not self._stopping():
            self._fill()
            if not self._queue:
                break
            self._receive(0.1)
            if self._recorder.due:
                self._commit()
                on_progress(self.snapshot("searching"))
        searched = not self._queue and self._spent()
        if searched and not self.finalists:
            self._commit()
            on_progress(self.snapshot("finalists"))
            searched = self._score_finalists()
        status = "finished" if searched else "interrupted"
        self._recorder.event(status, f"{self._counters.evaluated} programs evaluated")
        self._commit(status)
        on_progress(self.snapshot("done"))
        return status

    def snapshot(self, phase: str) -> Snapshot:
        if self._budget.seconds is not None:
            share = self.elapsed / self._budget.seconds
        else:
            share = self._counters.evaluated / (self._budget.evaluations or 1)
        session = self._counters.evaluated - self._evaluated_before
        rate = session / max(time.monotonic() - self._started, 1e-9)
        return Snapshot(phase, self.elapsed, min(share, 1.0), self._counters, rate, dict(self._failures), tuple(self._hall.entries))

    def _restore(self, ledger: Ledger) -> None:
        state = ledger.state()
        births = {birth.index: birth for birth in ledger.births()}

        def program_of(index: int) -> Program:
            return Program.from_json(births[index].program)

        self._state = SearchState.from_json(state["search"], program_of) if state else self._strategy.init(self._config.seed)
        self._counters = Counters(**state["counters"]) if state else Counters()
        self.finalists: list[tuple[str, float]] = [(h, f) for h, f in state.get("finalists", [])]
        self._before = ledger.run().elapsed
        self._outcomes = {h: Outcome(Status(status), math.inf if f is None else f) for h, (f, status) in ledger.outcomes().items()}
        self._evaluated_before, self._workers_lost_before = len(self._outcomes), self._counters.workers_lost
        self._failures: dict[str, int] = {}
        for result in self._outcomes.values():
            self._count_failure(result)
        self._hall = HallOfFame(self._config.finalists)
        for best in ledger.best(self._config.finalists):
            rows = [Evaluation(e.task, e.seed, Status(e.status), e.loss, e.steps, e.seconds) for e in ledger.evaluations(best.hash)]
            searched = [e for e in rows if e.seed in self._config.search_seeds]
            self._hall.add(Entry(best.hash, prune(program_of(best.first_birth)), best.fitness, mean_losses(searched)))
        waiting = [birth for birth in births.values() if birth.told is None]
        self._queue = deque(Candidate(b.index, program_of(b.index), b.hash, b.parent, b.mutation, 0) for b in waiting)
        self._in_flight: set[str] = set()  # hashes of evaluations under way
        self._births_in_flight: dict[int, str] = {}  # job -> hash
        for candidate in self._queue:
            self._submit(candidate)

    def _fill(self) -> None:
        """Asks until enough distinct evaluations are under way or the budget is spent."""
        while (
            len(self._in_flight) < self._config.in_flight
            and len(self._queue) < QUEUE_FACTOR * self._config.in_flight
            and not self._spent()
            and not self.finalists
        ):
            candidate, self._state = self._strategy.ask(self._state)
            failpoints.reached("ask")
            self._counters = self._counters._replace(rejected=self._counters.rejected + candidate.rejected)
            self._recorder.born(candidate)
            self._queue.append(candidate)
            if self._submit(candidate):
                self._recorder.program(candidate)

    def _spent(self) -> bool:
        if self._budget.seconds is not None:
            return self.elapsed >= self._budget.seconds
        return len(self._outcomes) + len(self._in_flight) >= (self._budget.evaluations or 0)

    def _submit(self, candidate: Candidate) -> bool:
        """Submits a candidate unless its outcome is known or on its way."""
        if candidate.hash in self._outcomes or candidate.hash in self._in_flight:
            return False
        self._in_flight.add(candidate.hash)
        pruned = prune(candidate.program)
        self._pool.submit(Job(candidate.birth, pruned.to_json(), self._config.search_seeds))
        self._births_in_flight[candidate.birth] = candidate.hash
        failpoints.reached("submit")
        return True

    def _receive(self, timeout: float) -> None:
        """Waits for results unless something can be told at once, then tells what is due."""
        for result in self._pool.poll(0.0 if self._tellable() else timeout):
            self._results[self._births_in_flight.pop(result.key)] = result
            failpoints.reached("receive")
        self._note_dropped()
        while (candidate := self._tellable()) is not None:
            self._queue.remove(candidate)
            self._tell(candidate)
            if self._config.mode == "deterministic":
                self._fill()  # the same interleaving of asks and tells, whatever has arrived
        self._counters = self._counters._replace(workers_lost=self._workers_lost_before + self._pool.workers_lost)

    def _tellable(self) -> Candidate | None:
        candidates: Iterator[Candidate] = iter(self._queue)
        if self._config.mode == "deterministic":
            candidates = iter([self._queue[0]] if self._queue else [])
        return next((c for c in candidates if c.hash in self._results or c.hash in self._outcomes), None)

    def _tell(self, candidate: Candidate) -> None:
        known = self._outcomes.get(candidate.hash)
        result = known or self._score(candidate, self._results.pop(candidate.hash))
        self._state = self._strategy.tell(self._state, candidate, result.fitness)
        failpoints.reached("tell")
        told, evaluated, cached = self._counters.told, self._counters.evaluated, self._counters.cached
        self._recorder.told(candidate.birth, told, result, known is not None)
        self._counters = self._counters._replace(told=told + 1, evaluated=evaluated + (known is None), cached=cached + (known is not None))

    def _score(self, candidate: Candidate, result: Result) -> Outcome:
        scored = Outcome.failed(result.status) if result.status else outcome(result.evaluations, self._yardsticks)
        self._in_flight.discard(candidate.hash)
        self._outcomes[candidate.hash] = scored
        self._count_failure(scored)
        self._recorder.evaluated(candidate.hash, result)
        self._recorder.scored(candidate.hash, scored)
        if result.status:
            self._recorder.event(str(result.status), f"{candidate.hash} cost its workers; this outcome cannot be reproduced bit for bit")
        if scored.status is Status.OK and self._hall.admits(scored.fitness):
            self._hall.add(Entry(candidate.hash, prune(candidate.program), scored.fitness, mean_losses(result.evaluations)))
        return scored

    def _score_finalists(self) -> bool:
        """The hall of fame once more on seeds that the search has not seen; False if it is to stop before the end."""
        failpoints.reached("finalists")
        entries = dict(enumerate(self._hall.entries))
        for index, entry in entries.items():
            self._pool.submit(Job(FINALIST_KEY + index, entry.program.to_json(), self._config.finalist_seed_values))
        scores: dict[str, float] = {}
        while len(scores) < len(entries) and not self._stopping():
            for result in self._pool.poll(0.1):
                entry = entries[result.key - FINALIST_KEY]
                scored = Outcome.failed(result.status) if result.status else outcome(result.evaluations, self._yardsticks)
                self._recorder.evaluated(entry.hash, result)
                scores[entry.hash] = scored.fitness
            self._note_dropped()
        if len(scores) < len(entries):
            return False
        self.finalists = sorted(((h, f) for h, f in scores.items() if math.isfinite(f)), key=lambda pair: (pair[1], pair[0]))
        return True

    def _note_dropped(self) -> None:
        while self._pool.dropped:
            self._recorder.event("dropped", f"a worker sent the result of job {self._pool.dropped.popleft()} unasked; it was not counted")

    def _count_failure(self, result: Outcome) -> None:
        if result.status is not Status.OK:
            self._failures[str(result.status)] = self._failures.get(str(result.status), 0) + 1

    def _commit(self, status: str | None = None) -> None:
        state = {"search": self._state.to_json(), "counters": self._counters._asdict(), "finalists": self.finalists}
        self._recorder.commit(state, self.elapsed, status)


def check_one_moment(ledger: Ledger) -> None:
    """A file whose pages come from different commits can be sound to SQLite; the search's own counts tell.

    Raises:
        LedgerError: they differ from what the tables hold.
    """
    state = ledger.state()
    counts = ledger.counts()
    found = (counts["births"], counts["told"], sum(counts["statuses"].values()))
    expected = (state["search"]["births"], state["counters"]["told"], state["counters"]["evaluated"]) if state else (0, 0, 0)
    if found != expected:
        raise LedgerError(f"damaged ledger: it holds {found} births, tells and outcomes, its search knows of {expected}; start a new run")


def mean_losses(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Task -> geometric mean of the validation loss over seeds."""
    logs: dict[str, list[float]] = {}
    for evaluation in evaluations:
        if evaluation.loss is not None:
            logs.setdefault(evaluation.task, []).append(math.log(max(evaluation.loss, 1e-6)))
    return {task: math.exp(math.fsum(values) / len(values)) for task, values in logs.items()}
