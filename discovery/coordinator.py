"""The search loop: ask, submit, receive, tell, commit.

Only this process writes the ledger. What the loop does next depends on the sequence of asks and tells alone, never on
which worker was faster, so in deterministic mode 1 or 20 workers give the same run and a killed run resumes into the same
one: candidates that had been asked and not told are in the ledger and are evaluated again.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import failpoints
from .config import Budget, SearchConfig
from .counters import Counters, Snapshot
from .evaluate import Blocks, Evaluation, Job, Outcome, Race, Result, Status, WorkerPool, Yardstick, outcome
from .evaluate.fitness import log_loss
from .language import Program, prune
from .ledger import EvaluationRow, Ledger, LedgerError
from .recorder import Recorder
from .search import Candidate, SearchState, Strategy, led_anew, measured_again
from .search.hall_of_fame import Entry, HallOfFame

QUEUE_FACTOR = 4  # candidates asked and not told, per evaluation in flight, most of them duplicates
FINALIST_KEY = 1 << 50  # keys of the finalists' jobs, beyond all births


class Coordinator:
    """One session of a run, from wherever its ledger stands.

    Args:
        config: of the run, resolved.
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
        self._factors, self._best_factor = config.learning_rate_factors, config.best_rate or config.kind != "update"
        self._recorder = Recorder(ledger, versions, config.mode == "deterministic")
        self._results: dict[int, Result] = {}  # of births; arrived and not yet told
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
        return Snapshot(
            phase, self.elapsed, min(share, 1.0), self._counters, rate, dict(self._failures), self._hall.entries, self._state.restarts
        )

    def _restore(self, ledger: Ledger) -> None:
        state = ledger.state()
        births = {birth.index: birth for birth in ledger.births()}

        def program_of(index: int) -> Program:
            return Program.from_json(births[index].program)

        self._state = SearchState.from_json(state["search"], program_of) if state else self._strategy.init(self._config.seed)
        self._counters = Counters(**state["counters"]) if state else Counters()
        self.finalists: list[tuple[str, float]] = [(h, f) for h, f in state.get("finalists", [])]
        self._before = ledger.run().elapsed
        self._outcomes = {h: Outcome(Status(status), scores) for h, (status, scores) in ledger.outcomes().items()}
        self._evaluated_before, self._workers_lost_before = len(self._outcomes), self._counters.workers_lost
        self._failures: dict[str, int] = {}
        for result in self._outcomes.values():
            self._count_failure(result)
        self._hall = HallOfFame(self._config.finalists)
        for best in ledger.best(self._hall.capacity):
            searched = [e for e in ledger.evaluations(best.hash) if e.seed in self._config.search_seeds]
            program = prune(program_of(best.first_birth))
            self._hall.put(Entry(best.hash, program, self._outcomes[best.hash], mean_losses(searched)))
        waiting = [birth for birth in births.values() if birth.told is None]
        self._queue = deque(
            Candidate(b.index, program := program_of(b.index), b.hash, b.parent, b.mutation, prune(program)) for b in waiting
        )
        self._in_flight: set[str] = set()  # hashes of evaluations under way
        self._block_of: dict[int, int | None] = {birth.index: birth.block for birth in waiting}  # of the queue
        self._blocks = Blocks(self._config.replicates, state.get("blocks", {}))
        self._partial: dict[str, Outcome] = {}  # of programs that are being evaluated on further blocks, on those so far
        self._race = Race(self._config.racing, state.get("racing", {}), self._best_factor)
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
            block = self._block(candidate)
            self._recorder.born(candidate, block)
            self._counters = self._counters.with_birth(candidate)
            self._block_of[candidate.birth] = block
            self._queue.append(candidate)
            if self._submit(candidate) and block == 0:
                self._recorder.program(candidate)

    def _spent(self) -> bool:
        if self._budget.seconds is not None:
            return self.elapsed >= self._budget.seconds
        new_in_flight = sum(block == 0 for block in self._block_of.values())
        return len(self._outcomes) + new_in_flight >= (self._budget.evaluations or 0)

    def _block(self, candidate: Candidate) -> int | None:
        """Which block of seeds a birth is evaluated on: the first, or the next one if its program is known and promising.

        Promising is what is as good as the best tenth of the population: there an error decides who has children.
        """
        known = self._outcomes.get(candidate.hash)
        if candidate.hash in self._in_flight:
            return None
        if known is None:
            return 0
        if known.status is not Status.OK or len(known.scores) >= self._config.replicates or self._blocks.calibrating:
            return None
        population = sorted(member.fitness for member in self._state.population)
        return len(known.scores) if population and known.fitness <= population[len(population) // 10] else None

    def _submit(self, candidate: Candidate) -> bool:
        """Submits a candidate unless its outcome is known or on its way."""
        block = self._block_of[candidate.birth]
        if block is None:
            return False
        self._in_flight.add(candidate.hash)
        self._submit_block(candidate, block)
        return True

    def _submit_block(self, candidate: Candidate, block: int) -> None:
        config, stops = self._config, {}
        if block == 0:  # further blocks are for programs that have shown what they are worth
            hurdle = config.hurdle if math.isfinite(config.hurdle) else None
            stops = {"hurdle": hurdle, "limits": self._race.limits_of(candidate.birth), "curves": self._race.calibrating}
        self._pool.submit(self._job(candidate.birth, candidate.pruned, config.block_seeds(block), **stops))
        failpoints.reached("submit")

    def _job(self, key: int, program: Program, seeds: tuple[int, ...], **stops: Any) -> Job:
        return Job(key, program.to_json(), seeds, self._factors, best_factor=self._best_factor, **stops)

    def _calibrate(self, candidate: Candidate, scored: Outcome, result: Result) -> None:
        """Shows a program's first block to the race, which sets its limits once it has seen enough of them."""
        if self._race.observe(candidate.birth, scored.fitness, result.evaluations, self._state.births):
            first = self._state.births
            count = sum(limit is not None for *_, row in self._race.limits_of(first) for limit in row)
            self._recorder.event("racing", f"{count} limits of training losses hold from birth {first} on")

    def _receive(self, timeout: float) -> None:
        """Waits for results unless something can be told at once, then tells what is due."""
        for result in self._pool.poll(0.0 if self._tellable() else timeout):
            self._results[result.key] = result
            failpoints.reached("receive")
        self._note_dropped()
        while (candidate := self._tellable()) is not None:
            self._tell(candidate)
            if self._config.mode == "deterministic":
                self._fill()  # the same interleaving of asks and tells, whatever has arrived
        if (lost := self._workers_lost_before + self._pool.workers_lost) != self._counters.workers_lost:
            self._counters = self._counters._replace(workers_lost=lost)

    def _tellable(self) -> Candidate | None:
        candidates: Iterator[Candidate] = iter(self._queue)
        if self._config.mode == "deterministic":
            candidates = iter([self._queue[0]] if self._queue else [])
        return next((c for c in candidates if self._is_known(c)), None)

    def _is_known(self, candidate: Candidate) -> bool:
        """Whether the outcome that a birth waits for is there: of its own evaluation, or else of an earlier birth's."""
        if self._block_of[candidate.birth] is None:
            return candidate.hash in self._outcomes
        return candidate.birth in self._results

    def _tell(self, candidate: Candidate) -> None:
        block = self._block_of[candidate.birth]
        if block is not None and not self._score(candidate, self._results.pop(candidate.birth)):
            return  # it goes on with another block
        del self._block_of[candidate.birth]
        self._queue.remove(candidate)
        result = self._outcomes[candidate.hash]
        self._state = self._strategy.tell(self._state, candidate, result.fitness)
        failpoints.reached("tell")
        counters = self._counters
        self._recorder.told(candidate.birth, counters.told, result, block != 0)
        self._counters = counters._replace(
            told=counters.told + 1, evaluated=counters.evaluated + (block == 0), cached=counters.cached + (block != 0)
        )

    def _score(self, candidate: Candidate, result: Result) -> bool:
        """Takes in the result of a block of seeds; False if one more is needed before the birth is told.

        A program that would be the best is evaluated on further seeds until it is not, or has been on all of them: else the
        luckiest would lead.
        """
        known = self._outcomes.get(candidate.hash)
        before = self._partial.pop(candidate.hash, known)
        scored = self._outcome(result, self._config.seeds_per_task)
        self._recorder.evaluated(candidate.hash, result)
        if before is None:
            self._calibrate(candidate, scored, result)
        else:
            scored = self._blocks.corrected(scored, len(before.scores))
            self._counters = self._counters._replace(repeated=self._counters.repeated + 1)
        if result.status:
            self._recorder.event(str(result.status), f"{candidate.hash} cost its workers; this outcome cannot be reproduced bit for bit")
        joined = scored if before is None else before.joined(scored)
        best, count = self._state.best, len(joined.scores)
        leads = best is None or (joined.fitness < best.fitness and best.hash != candidate.hash)
        if joined.status is Status.OK and (leads or self._blocks.calibrating) and count < self._config.replicates:
            self._partial[candidate.hash] = joined
            self._submit_block(candidate, count)
            return False
        self._in_flight.discard(candidate.hash)
        self._count_failure(joined, known)
        if joined.status is Status.OK and self._blocks.calibrating:
            joined = self._observe_blocks(candidate.hash, joined)
        self._outcomes[candidate.hash] = joined
        if known is not None:
            self._state = measured_again(self._state, {candidate.hash: joined.fitness})
        self._recorder.scored(candidate.hash, joined)
        self._hall.put(Entry(candidate.hash, candidate.pruned, joined, mean_losses(result.evaluations)))
        return True

    def _observe_blocks(self, program_hash: str, scored: Outcome) -> Outcome:
        """Shows a program's scores on all blocks; until the blocks can be compared only the first counts."""
        self._blocks.observe(program_hash, scored.scores)
        if self._blocks.calibrating:
            return scored._replace(scores=scored.scores[:1])
        self._partial = {name: self._blocks.corrected(partial) for name, partial in self._partial.items()}
        found = {name: self._blocks.corrected(Outcome(Status.OK, scores)) for name, scores in self._blocks.calibrators.items()}
        for name, known in found.items():
            self._outcomes[name] = known
            self._recorder.scored(name, known)
        for entry in self._hall.entries:
            self._hall.put(entry._replace(outcome=found.get(entry.hash, entry.outcome)))
        self._state = led_anew(measured_again(self._state, {name: outcome.fitness for name, outcome in found.items()}))
        self._recorder.event("blocks", f"{len(self._blocks.calibrators)} programs tell by how much blocks of seeds differ")
        return self._blocks.corrected(scored)

    def _outcome(self, result: Result, seeds: int) -> Outcome:
        if result.status:
            return Outcome(result.status)
        runs = len(self._config.tasks) * seeds * len(self._factors)
        return outcome(result.evaluations, self._yardsticks, runs, self._best_factor)

    def _score_finalists(self) -> bool:
        """The hall of fame once more on seeds that the search has not seen; False if it is to stop before the end."""
        failpoints.reached("finalists")
        entries = dict(enumerate(self._hall.finalists))
        for index, entry in entries.items():
            self._pool.submit(self._job(FINALIST_KEY + index, entry.program, self._config.finalist_seed_values))
        scores: dict[str, float] = {}
        while len(scores) < len(entries) and not self._stopping():
            for result in self._pool.poll(0.1):
                entry = entries[result.key - FINALIST_KEY]
                self._recorder.evaluated(entry.hash, result)
                scores[entry.hash] = self._outcome(result, self._config.finalist_seeds).fitness
            self._note_dropped()
        if len(scores) < len(entries):
            return False
        self.finalists = sorted(((h, f) for h, f in scores.items() if math.isfinite(f)), key=lambda pair: (pair[1], pair[0]))
        return True

    def _note_dropped(self) -> None:
        while self._pool.dropped:
            self._recorder.event("dropped", f"a worker sent the result of job {self._pool.dropped.popleft()} unasked; it was not counted")

    def _count_failure(self, result: Outcome, before: Outcome | None = None) -> None:
        if result.status is not Status.OK and (before is None or before.status is Status.OK):
            self._failures[str(result.status)] = self._failures.get(str(result.status), 0) + 1

    def _commit(self, status: str | None = None) -> None:
        state = {"search": self._state.to_json(), "counters": self._counters._asdict(), "finalists": self.finalists}
        state |= {"racing": self._race.to_json(), "blocks": self._blocks.to_json()}
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


def mean_losses(evaluations: Sequence[Evaluation | EvaluationRow]) -> dict[str, float]:
    """Task -> geometric mean of the validation loss over seeds."""
    logs: dict[str, list[float]] = {}
    for evaluation in evaluations:
        if evaluation.loss is not None:
            logs.setdefault(evaluation.task, []).append(log_loss(evaluation.loss))
    return {task: math.exp(math.fsum(values) / len(values)) for task, values in logs.items()}
