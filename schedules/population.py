"""Population-based training around any training loop, and the winner's schedule (Jaderberg et al., 2017, arXiv:1711.09846). No jax here.

    a population, its hyperparameters drawn log-uniformly
    until the end:
        every member trains `interval` steps at its own hyperparameters and is scored
        exploit: the lowest quarter, and whoever's score is no number, become copies of members drawn from the best quarter
        explore: a copy's hyperparameters are drawn anew with probability 1/4, each for itself, else multiplied by 1.2 or 0.8
    the winner: the best at the end; its schedule: what it and its ancestors were trained at

`run` does so to the end. `advance` does one round of it, and between two rounds everything is the loop's own state and a `State` that JSON
can hold: an interrupted run goes on to the same end. The random choices of a round follow from the seed and the round's number alone.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .profiles import ScheduleError

OK, NONFINITE = "ok", "nonfinite"

Values = Mapping[str, np.ndarray]  # hyperparameter -> its values, float64 [members]


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """What is searched, on a logarithmic axis.

    Attributes:
        name: such as 'learning_rate'.
        lowest: above 0; no member is ever below.
        highest: nor above.
    """

    name: str
    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf:
            raise ScheduleError(f"the bounds of {self.name} must ascend from above 0, got {self.lowest} and {self.highest}")

    def at(self, share: np.ndarray) -> np.ndarray:
        """The values at shares of the axis in [0, 1]."""
        return self.clip(self.lowest * (self.highest / self.lowest) ** share)

    def clip(self, values: np.ndarray) -> np.ndarray:
        """The values held to the bounds."""
        return np.clip(values, self.lowest, self.highest)


@dataclasses.dataclass(frozen=True)
class PopulationConfig:
    """How a population is trained. The defaults of the last three are the paper's.

    Attributes:
        steps: length of a member's run.
        hyperparameters: at least one.
        interval: steps of a round.
        members: size of the population.
        quantile: share of the members that is replaced, and share that is copied from; at least one member, at most half of them.
        resample_probability: that a copy's hyperparameter is drawn anew.
        factors: by one of which it is multiplied otherwise.
        seed: of all random choices.
    """

    steps: int
    hyperparameters: tuple[Hyperparameter, ...]
    interval: int
    members: int = 8
    quantile: float = 0.25
    resample_probability: float = 0.25
    factors: tuple[float, ...] = (1.2, 0.8)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in {"steps": 1, "interval": 1, "members": 2, "seed": 0}.items():
            if getattr(self, name) < lowest:
                raise ScheduleError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        names = [hyperparameter.name for hyperparameter in self.hyperparameters]
        if not names or len(set(names)) < len(names):
            raise ScheduleError(f"a population needs hyperparameters of different names, got {', '.join(names) or 'none'}")
        if not 0 < self.quantile <= 0.5:
            raise ScheduleError(f"the quantile must be above 0 and at most 0.5, got {self.quantile}")
        if not 0 <= self.resample_probability <= 1:
            raise ScheduleError(f"the resample probability must lie in 0 to 1, got {self.resample_probability}")
        if not self.factors or not all(0 < factor < math.inf for factor in self.factors):
            raise ScheduleError(f"the factors must be above 0, got {self.factors}")

    @property
    def replaced(self) -> int:
        """Members that are replaced in a round, those without a score apart."""
        return max(int(self.members * self.quantile), 1)


@dataclasses.dataclass(frozen=True)
class PopulationLoop:
    """A training loop of many members.

    Attributes:
        run: takes each hyperparameter's values and a number of steps, and trains every member as many at its own values.
        evaluate: a score of each member, [members]: the lower the better, NaN or infinite for one that has failed.
        copy: takes an index of each member, int [members], and makes member i what member `parents[i]` was, with its parameters, the
            optimizer's state and its place in the data, so that a copy scores what its parent did.
    """

    run: Callable[[Values, int], Any]
    evaluate: Callable[[], Sequence[float] | np.ndarray]
    copy: Callable[[np.ndarray], None]


class Round(NamedTuple):
    """A finished round.

    Attributes:
        start: its first step.
        length: in steps.
        values: trained at, [members][hyperparameters].
        scores: at its end, [members]; NaN for a failure.
        parents: whose copies the members went on as, [members]; the members themselves in the last round.
    """

    start: int
    length: int
    values: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...]
    parents: tuple[int, ...]


class State(NamedTuple):
    """Where a population stands, beside the loop's own state.

    Attributes:
        step: steps that each member has trained.
        values: of the next round, [members][hyperparameters].
        rounds: the finished ones.
        status: 'ok', or 'nonfinite' where all members have failed.
    """

    step: int
    values: tuple[tuple[float, ...], ...]
    rounds: tuple[Round, ...] = ()
    status: str = OK

    @property
    def total_steps(self) -> int:
        """Steps of all members together."""
        return self.step * len(self.values)


class Piece(NamedTuple):
    """What a lineage was trained at from a step on.

    Attributes:
        start: its first step.
        values: hyperparameter -> value.
    """

    start: int
    values: dict[str, float]


OnRound = Callable[[State], None]


def begin(config: PopulationConfig) -> State:
    """Before the first step: values drawn log-uniformly, one from each of as many equal parts of the axis as there are members.

    So each member's value is log-uniform, and together they leave no part of the axis out.
    """
    generator = np.random.default_rng([config.seed, 0])
    columns = []
    for hyperparameter in config.hyperparameters:
        shares = (generator.permutation(config.members) + generator.random(config.members)) / config.members
        columns.append(hyperparameter.at(shares))
    return State(0, _rows(np.stack(columns, axis=1)))


def run(config: PopulationConfig, loop: PopulationLoop, state: State | None = None, on_round: OnRound | None = None) -> State:
    """Trains to the end; `winner` and `lineage` tell what came out, and `recorded.piecewise_schedule` replays a lineage's rates.

    Args:
        config: how the population is trained.
        loop: at its first step, or where it was when the state was left.
        state: to go on from.
        on_round: called after each round, to show or to save.

    Example:
        >>> places = np.full(8, 5.0)  # gradient descent on x*x/2, eight times
        >>> def descend(values, steps):
        ...     places[:] = places * (1 - values["learning_rate"]) ** steps
        >>> loop = PopulationLoop(descend, lambda: places**2 / 2, lambda parents: places.__setitem__(slice(None), places[parents]))
        >>> config = PopulationConfig(steps=60, interval=10, hyperparameters=(Hyperparameter("learning_rate", 1e-3, 10.0),))
        >>> state = run(config, loop)
        >>> state.step, state.total_steps, bool(places[winner(state)] ** 2 < 1e-6), len(lineage(config, state))
        (60, 480, True, 6)
    """
    state = begin(config) if state is None else state
    while state.step < config.steps and state.status == OK:
        state = advance(config, loop, state)
        if on_round is not None:
            on_round(state)
    return state


def advance(config: PopulationConfig, loop: PopulationLoop, state: State) -> State:
    """One round: all members train and are scored; then, unless it was the last, the worst become changed copies of the best."""
    length = min(config.interval, config.steps - state.step)
    values = np.array(state.values)
    loop.run({hyperparameter.name: values[:, index] for index, hyperparameter in enumerate(config.hyperparameters)}, length)
    scores = np.asarray(loop.evaluate(), np.float64)
    scores = np.where(np.isfinite(scores), scores, np.nan)
    done, failed = state.step + length, bool(np.isnan(scores).all())
    parents = np.arange(config.members)
    if done < config.steps and not failed:
        generator = np.random.default_rng([config.seed, 1 + len(state.rounds)])
        parents = exploit(config, scores, generator)
        loop.copy(parents)
        values = explore(config, values, parents, generator)
    finished = Round(state.step, length, state.values, tuple(scores.tolist()), tuple(parents.tolist()))
    return State(done, _rows(values), (*state.rounds, finished), NONFINITE if failed else OK)


def exploit(config: PopulationConfig, scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Truncation selection: whom each member goes on as, int [members].

    Args:
        config: its `quantile` counts.
        scores: [members], NaN for a failure; not all of them.
        generator: draws the parents.
    """
    order = np.argsort(scores, kind="stable")  # NaN is last
    best = [member for member in order[: config.replaced] if np.isfinite(scores[member])]
    worst = {*order[-config.replaced :].tolist(), *np.flatnonzero(np.isnan(scores)).tolist()}
    return np.array([generator.choice(best) if member in worst else member for member in range(config.members)])


def explore(config: PopulationConfig, values: np.ndarray, parents: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The values [members, hyperparameters] of the next round: copies' changed, the others' kept."""
    columns = []
    for index, hyperparameter in enumerate(config.hyperparameters):
        drawn = hyperparameter.at(generator.random(config.members))
        moved = hyperparameter.clip(values[parents, index] * generator.choice(config.factors, config.members))
        changed = np.where(generator.random(config.members) < config.resample_probability, drawn, moved)
        columns.append(np.where(parents == np.arange(config.members), values[:, index], changed))
    return np.stack(columns, axis=1)


def winner(state: State) -> int:
    """The member with the best score in the latest round.

    Raises:
        ScheduleError: no round is finished, or all members have failed.
    """
    if not state.rounds or state.status != OK:
        raise ScheduleError("a population has no winner before its first round is finished, nor where all its members have failed")
    return int(np.nanargmin(state.rounds[-1].scores))


def lineage(config: PopulationConfig, state: State, member: int | None = None) -> tuple[Piece, ...]:
    """What a member and its ancestors were trained at, round by round: its schedule.

    Not what was trained in the member's place: where it was copied, its past is its parent's.

    Args:
        config: names the hyperparameters.
        state: with its rounds.
        member: its place in the latest round; the winner's where None.

    Raises:
        ScheduleError: as `winner`.
    """
    place = winner(state) if member is None else member
    names = [hyperparameter.name for hyperparameter in config.hyperparameters]
    pieces = []
    for index in reversed(range(len(state.rounds))):
        finished = state.rounds[index]
        if index < len(state.rounds) - 1:
            place = finished.parents[place]
        pieces.append(Piece(finished.start, dict(zip(names, finished.values[place], strict=True))))
    return tuple(reversed(pieces))


def to_json(state: State) -> dict[str, Any]:
    """The state in JSON's own types; a score that is no number is null."""
    rounds = [{**finished._asdict(), "scores": [None if math.isnan(s) else s for s in finished.scores]} for finished in state.rounds]
    return {**state._asdict(), "rounds": rounds}


def from_json(saved: Mapping[str, Any]) -> State:
    """The inverse of `to_json`."""
    rounds = []
    for row in saved["rounds"]:
        scores = tuple(math.nan if score is None else score for score in row["scores"])
        rounds.append(Round(row["start"], row["length"], _rows(row["values"]), scores, tuple(row["parents"])))
    return State(saved["step"], _rows(saved["values"]), tuple(rounds), saved["status"])


def _rows(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in values)
