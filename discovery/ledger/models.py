"""The ledger's tables, and the records that go into them and come out.

A record is a `NamedTuple` whose fields are the columns of its table in their order, so a plain tuple in that order does too.
A number that is not finite is stored as NULL; the status beside it says why there is none. A changed table needs a new
file in `migrations/versions` (a test compares the two).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Table, Text

metadata = MetaData()


class RunRow(NamedTuple):
    """The one run of a ledger, with its JSON columns decoded."""

    name: str
    config: dict[str, Any]
    versions: dict[str, Any]  # of jax, of the language, of the canonical form...
    created: float  # Unix time, seconds
    status: str  # running, interrupted or finished
    elapsed: float  # seconds of search so far, all sessions together


class ProgramRow(NamedTuple):
    """A program that differs from all others by its canonical hash."""

    hash: str
    statements: int
    text: str  # source text without dead statements
    first_birth: int
    states: int  # arrays carried from step to step: its memory per parameter
    operations: int  # statements on whole arrays: its cost per parameter


class BirthRow(NamedTuple):
    """A child as it left the mutation; its last four fields are filled when its fitness is told."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    hash: str
    parent: int | None
    mutation: str
    program: str  # JSON text of the whole child, dead statements included
    block: int | None = None  # of seeds that it is evaluated on, from 0; None where the outcome was known
    told: int | None = None  # order of the tell
    fitness: float | None = None
    status: str | None = None
    cached: bool = False  # the outcome was known already


class ToldRow(NamedTuple):
    """What the search was told about a birth that an earlier record, or the same step, holds."""

    birth: int
    order: int
    fitness: float | None
    status: str
    cached: bool


class EvaluationRow(NamedTuple):
    """One training run: a program on a task with a seed."""

    hash: str
    task: str
    seed: int
    version: str  # of the task
    learning_rate_factor: float
    budget: int  # steps asked for
    steps: int  # done
    status: str
    loss: float | None
    seconds: float
    identity: str  # digest of device, precision, versions of jax...


class OutcomeRow(NamedTuple):
    """A program's fitness over all its tasks and seeds; a later row of the same program replaces it."""

    hash: str
    fitness: float | None  # mean of the scores
    status: str
    scores: str  # JSON: the fitness on each block of seeds


class LevelRow(NamedTuple):
    """A program's fitness on a level of the funnel; that of the search's own tasks is its outcome."""

    level: str
    hash: str
    told: int | None  # where it was the best so far along the search: after how many tells
    fitness: float | None
    error: float | None  # standard error over seeds
    status: str
    detail: str  # JSON: task -> the best learning-rate factor and the mean log loss there


class TrialRow(NamedTuple):
    """One training run of a comparison: a tuned rule on a workload with one setting of its hyperparameters."""

    entry: str
    workload: str
    trial: int
    version: str  # of the workload
    rule: str  # digest of the rule where its name does not say all, else empty
    settings: str  # JSON: hyperparameter -> value
    seed: int
    status: str
    steps: int  # done
    seconds: float  # of its steps alone
    losses: str  # JSON: the validation loss at each evaluation, null where it was not finite
    identity: str  # digest of device, precision, batch of trials, versions of jax...


class EventRow(NamedTuple):
    """Something worth telling the reader of a run."""

    time: float  # Unix time, seconds
    kind: str
    message: str


@dataclass
class Step:
    """What one commit writes: rows of each kind, and what changed about the run (None: unchanged)."""

    programs: Sequence[ProgramRow] = ()
    births: Sequence[BirthRow] = ()
    told: Sequence[ToldRow] = ()
    evaluations: Sequence[EvaluationRow] = ()
    outcomes: Sequence[OutcomeRow] = ()
    events: Sequence[EventRow] = ()
    trials: Sequence[TrialRow] = ()
    levels: Sequence[LevelRow] = ()
    state: Mapping[str, Any] | None = None  # JSON-able
    config: Mapping[str, Any] | None = None  # of a comparison that grows
    versions: Mapping[str, Any] | None = None
    elapsed: float | None = None
    status: str | None = None


def _required(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


run = Table(
    "run",
    metadata,
    _key("id", Integer),
    _required("name", Text),
    _required("config", Text),
    _required("versions", Text),
    _required("created", Double),
    _required("status", Text),
    _required("elapsed", Double),
)

program = Table(
    "program",
    metadata,
    _key("hash", Text),
    _required("statements", Integer),
    _required("text", Text),
    _required("first_birth", Integer),
    _required("states", Integer),
    _required("operations", Integer),
)

birth = Table(
    "birth",
    metadata,
    _key("index", Integer),
    _required("hash", Text),
    Column("parent", Integer),
    _required("mutation", Text),
    _required("program", Text),
    Column("block", Integer),
    Column("told", Integer),
    Column("fitness", Double),
    Column("status", Text),
    _required("cached", Boolean),
)

# A table whose rows are little more than their key is stored as its own index (half the pages to write).
evaluation = Table(
    "evaluation",
    metadata,
    _key("hash", Text),
    _key("task", Text),
    _key("seed", BigInteger),
    _required("version", Text),
    _key("learning_rate_factor", Double),
    _key("budget", Integer),
    _required("steps", Integer),
    _required("status", Text),
    Column("loss", Double),
    _required("seconds", Double),
    _required("identity", Text),
    sqlite_with_rowid=False,
)

outcome = Table(
    "outcome",
    metadata,
    _key("hash", Text),
    Column("fitness", Double),
    _required("status", Text),
    _required("scores", Text),
    sqlite_with_rowid=False,
)

level = Table(
    "level",
    metadata,
    _key("level", Text),
    _key("hash", Text),
    Column("told", Integer),
    Column("fitness", Double),
    Column("error", Double),
    _required("status", Text),
    _required("detail", Text),
)

trial = Table(
    "trial",
    metadata,
    _key("entry", Text),
    _key("workload", Text),
    _key("trial", Integer),
    _required("version", Text),
    _required("rule", Text),
    _required("settings", Text),
    _required("seed", BigInteger),
    _required("status", Text),
    _required("steps", Integer),
    _required("seconds", Double),
    _required("losses", Text),
    _required("identity", Text),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    _required("time", Double),
    _required("kind", Text),
    _required("message", Text),
)

search_state = Table("search_state", metadata, _key("run", Integer), _required("state", Text))
