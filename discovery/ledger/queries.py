"""What is read back from a ledger; each function takes a connection inside a transaction."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from sqlalchemy import Connection, Integer, func, literal, select, true

from .intact import decoded, decoded_scores, decoded_state
from .models import (
    BirthRow,
    EvaluationRow,
    EventRow,
    LevelRow,
    ProgramRow,
    RunRow,
    TrialRow,
    birth,
    evaluation,
    event,
    level,
    outcome,
    program,
    run,
    search_state,
    trial,
)


class Best(NamedTuple):
    """A program with its fitness."""

    hash: str
    fitness: float
    statements: int
    text: str
    first_birth: int
    states: int
    operations: int
    scores: tuple[float, ...]  # on each block of seeds


_RANKED = (
    select(
        program.c.hash,
        outcome.c.fitness,
        *(program.c[name] for name in ("statements", "text", "first_birth", "states", "operations")),
        outcome.c.scores,
    )
    .join(outcome, outcome.c.hash == program.c.hash)
    .where(outcome.c.status == "ok", outcome.c.fitness.is_not(None))
    .order_by(outcome.c.fitness, program.c.hash)
)


class Counts(TypedDict):
    """How many rows of each kind; `statuses` counts the outcomes of distinct programs."""

    births: int
    told: int
    programs: int
    evaluations: int
    cached: int
    statuses: dict[str, int]


def read_run(connection: Connection) -> RunRow | None:
    """The run of this database, None if it has none yet."""
    row = connection.execute(select(run).where(run.c.id == 1)).one_or_none()
    if row is None:
        return None
    return RunRow(row.name, decoded(row.config, "config"), decoded(row.versions, "versions"), row.created, row.status, row.elapsed)


def state(connection: Connection) -> dict[str, Any]:
    """The search's state at the last commit that carried one; empty before it."""
    return decoded_state(connection.execute(select(search_state.c.state)).scalar_one())


def outcomes(connection: Connection) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Canonical hash -> (status, fitness on each block of seeds)."""
    return {row.hash: (row.status, decoded_scores(row.scores)) for row in connection.execute(select(outcome))}


def births(connection: Connection) -> list[BirthRow]:
    """All births, by index."""
    return [BirthRow(*row) for row in connection.execute(select(birth).order_by(birth.c.index))]


def programs(connection: Connection) -> list[ProgramRow]:
    """All distinct programs, by hash."""
    return [ProgramRow(*row) for row in connection.execute(select(program).order_by(program.c.hash))]


def best(connection: Connection, num: int) -> list[Best]:
    """The `num` fittest programs, lowest fitness first, ties by hash."""
    return [_best(row) for row in connection.execute(_RANKED.limit(num))]


def front(connection: Connection) -> list[Best]:
    """The programs that no other one beats in fitness, statements, states and operations alike.

    Finalists are compared with each other by their confirmed fitness, on new seeds, all others by the search's: that of a program
    which was never confirmed has the luck in it that confirming takes out. Confirmed ones first, best fitness first.
    """
    confirmed = dict(state(connection).get("finalists", []))
    rows = connection.execute(_RANKED).all()
    searched = {row.hash: row.fitness for row in rows}
    finalists = [row for row in rows if row.hash in confirmed]
    others = _unbeaten([row for row in rows if row.hash not in confirmed], searched)
    kept = [row for row in _unbeaten(finalists, confirmed) if not any(_beats(other, row, searched) for other in others)]
    kept += [row for row in others if not any(_beats(finalist, row, searched) for finalist in finalists)]
    return [_best(row) for row in kept]


def _unbeaten(rows: Sequence[Any], fitness: Mapping[str, float]) -> list[Any]:
    """The rows that no other one of them beats, best fitness first."""
    kept: list[Any] = []
    for row in sorted(rows, key=lambda row: (fitness[row.hash], row.hash)):
        if not any(_beats(better, row, fitness) for better in kept):
            kept.append(row)
    return kept


def _beats(one: Any, other: Any, fitness: Mapping[str, float]) -> bool:
    """Whether one program is no worse than another in any respect; of two that are equal in all the first by hash is the better one."""
    if (fitness[one.hash], one.hash) > (fitness[other.hash], other.hash):
        return False
    return one.statements <= other.statements and one.states <= other.states and one.operations <= other.operations


def _best(row: Any) -> Best:
    return Best(**{**row._mapping, "scores": decoded_scores(row.scores)})


def levels(connection: Connection) -> list[LevelRow]:
    """What the funnel found, by level and hash."""
    return [LevelRow(*row) for row in connection.execute(select(level).order_by(level.c.level, level.c.hash))]


def counts(connection: Connection) -> Counts:
    """How far the run is."""
    num_births, num_told, num_cached = connection.execute(
        select(func.count(), func.count(birth.c.told), func.count().filter(birth.c.cached == true())).select_from(birth)
    ).one()
    statuses = select(outcome.c.status, func.count()).group_by(outcome.c.status).order_by(outcome.c.status)
    return Counts(
        births=num_births,
        told=num_told,
        programs=connection.execute(select(func.count()).select_from(program)).scalar_one(),
        evaluations=connection.execute(select(func.count()).select_from(evaluation)).scalar_one(),
        cached=num_cached,
        statuses={row[0]: row[1] for row in connection.execute(statuses)},
    )


def events(connection: Connection) -> list[EventRow]:
    """All events, oldest first."""
    return [EventRow(*row) for row in connection.execute(select(event.c.time, event.c.kind, event.c.message).order_by(event.c.id))]


def lineage(connection: Connection, index: int) -> list[BirthRow]:
    """The ancestors of a birth, its parent first, the seed program last."""
    chain = (
        select(birth.c.parent.label("ancestor"), literal(0, Integer).label("depth"))
        .where(birth.c.index == index)
        .cte("chain", recursive=True)
    )
    older = select(birth.c.parent, chain.c.depth + 1).join(chain, birth.c.index == chain.c.ancestor)
    # A parent is older than its child; that also ends the recursion whatever the rows hold.
    chain = chain.union_all(older.where(birth.c.parent < birth.c.index))
    query = select(birth).join(chain, birth.c.index == chain.c.ancestor).order_by(chain.c.depth)
    return [BirthRow(*row) for row in connection.execute(query)]


def evaluations(connection: Connection, program_hash: str) -> list[EvaluationRow]:
    """The training runs of a program, by task and seed."""
    rows = connection.execute(select(evaluation).where(evaluation.c.hash == program_hash))
    return sorted((EvaluationRow(*row) for row in rows), key=lambda row: (row.task, row.seed, row.learning_rate_factor, row.budget))


def trials(connection: Connection) -> list[TrialRow]:
    """The trials of a comparison, by entry, workload and number."""
    return sorted(TrialRow(*row) for row in connection.execute(select(trial)))


def digest(connection: Connection) -> str:
    """SHA-256 of what two runs share if they are the same search: lineage, statuses, fitness and losses, but no times."""
    told = (
        select(birth.c.index, birth.c.hash, birth.c.parent, birth.c.mutation, birth.c.status, birth.c.fitness)
        .where(birth.c.told.is_not(None))
        .order_by(birth.c.told, birth.c.index)
    )
    measured = select(*(evaluation.c[name] for name in ("hash", "task", "seed", "learning_rate_factor", "budget", "status", "loss")))
    digester = hashlib.sha256()
    for row in connection.execute(told):
        digester.update(f"birth {tuple(row)!r}\n".encode())
    # Sorted here, by code point: databases collate text differently. The key comes first and is unique.
    for row in sorted(tuple(row) for row in connection.execute(measured)):
        digester.update(f"evaluation {row!r}\n".encode())
    for row in trials(connection):
        digester.update(f"trial {tuple(row._replace(seconds=0.0))!r}\n".encode())
    return digester.hexdigest()
