"""What an AutoLRS search is and where it stands: settings and state of `controller`, and the state as JSON."""

import dataclasses
import math
from typing import Any, NamedTuple

from . import optimizer as bayes
from .replay import Found, Piece
from .settings import Axis, BayesConfig, BayesError, ExpectedImprovement, LowerConfidenceBound

SPREAD_RATES = 2  # of a stage, after the lowest rate and before the process is asked; none where there is a prior
COOLDOWN = 0.3  # share of a run, of its end
OK, NONFINITE = "ok", "nonfinite"
LCB, EI = "lcb", "ei"


@dataclasses.dataclass(frozen=True)
class AutoLRSConfig:
    """How rates are searched. The defaults are the paper's, for runs of many thousands of steps; `scaled` suits shorter ones.

    Attributes:
        steps: length of the run, the search's own steps not counted.
        lowest: of the rates searched.
        highest: of the rates searched.
        candidates: rates tried a stage.
        window: steps of a candidate in the first stage.
        stage: steps of the first stage.
        largest_window: window and stage double after each stage while the window is below it.
        cooldown: steps of a linear fall to zero, at the end of the run and after every candidate's window, that is then judged by the
            validation loss behind the fall, see `cooled`; 0 for none, and for forecasts.
        warmup: steps of a linear warm-up that is not searched.
        warmup_rate: that it leads to; the geometric mean of the lowest and the highest where None.
        validation_from: length of a stage from which candidates are judged by validation losses; training losses before. A last stage
            that is cut short by the end of the run counts with the length that it was to have.
        validation_points: validation losses a candidate.
        batch: candidates asked for, and with `Loop.run_candidates` run, at once.
        acquisition: which rates are promising: 'lcb', the lower confidence bound, as published, or 'ei', the expected improvement.
        kappa: of the lower confidence bound.
        prior_variance: where given, a stage starts from the points of the one before, with this noise variance in units of their own.
        seed: of the first candidates.
    """

    steps: int
    lowest: float = 1e-5
    highest: float = 1.0
    candidates: int = 10
    window: int = 100
    stage: int = 1000
    largest_window: int = 800
    cooldown: int = 0
    warmup: int = 0
    warmup_rate: float | None = None
    validation_from: int = 8000
    validation_points: int = 16
    batch: int = 1
    acquisition: str = LCB
    kappa: float = 2.0
    prior_variance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "candidates": 1,
            "window": 2,
            "stage": 2,
            "largest_window": 1,
            "cooldown": 0,
            "warmup": 0,
            "validation_points": 2,
            "batch": 1,
        }
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise BayesError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        if self.acquisition not in (LCB, EI):
            raise BayesError(f"acquisition must be '{LCB}' or '{EI}', got {self.acquisition!r}")
        if self.window > self.stage:
            raise BayesError(f"a window of {self.window} steps does not fit into a stage of {self.stage}")
        if self.prior_variance is not None and not self.prior_variance > 0:
            raise BayesError(f"prior_variance must be above 0, got {self.prior_variance}")
        if self.warmup + self.window + self.cooldown >= self.steps + (self.cooldown > 0):
            rest = f"a warm-up of {self.warmup}, a window of {self.window} and a cooldown of {self.cooldown}"
            raise BayesError(f"a run of {self.steps} steps is too short for {rest}")
        Axis(self.lowest, self.highest, log=True)

    @property
    def searched(self) -> int:
        """The step at which the last stage ends and the cooldown begins."""
        return self.steps - self.cooldown

    @property
    def peak_of_warmup(self) -> float:
        """The rate that the warm-up leads to."""
        return math.sqrt(self.lowest * self.highest) if self.warmup_rate is None else self.warmup_rate


def scaled(steps: int, **settings: Any) -> AutoLRSConfig:
    """The paper's proportions for a run of any length: stages of a twentieth and then twice of a tenth, windows of a tenth of them.

    Example:
        >>> config = scaled(2000, highest=0.1)
        >>> config.stage, config.window, config.largest_window
        (100, 10, 20)
    """
    stage = max(steps // 20, 20)
    window = max(stage // 10, 8)
    return AutoLRSConfig(steps, **{"stage": stage, "window": window, "largest_window": 2 * window, **settings})


def cooled(steps: int, **settings: Any) -> AutoLRSConfig:
    """Two stages and a cooldown of three tenths of the run, which every candidate goes through too.

    A loss falls fastest where its rate falls, because the noise of small batches goes away, so who forecasts the loss of the next steps
    lowers the rate too early (Wu et al., 2018, arXiv:1803.02021). Behind a fall to zero all rates have lost that noise, and what is left
    to see is how far they came. The price: a candidate takes as many steps as a stage and a cooldown together.

    Example:
        >>> config = cooled(2000, highest=0.1)
        >>> config.stage, config.window, config.cooldown
        (700, 700, 600)
    """
    cooldown = max(round(COOLDOWN * steps), 1)
    stage = max((steps - cooldown + 1) // 2, 2)
    defaults = {"stage": stage, "window": stage, "largest_window": stage, "cooldown": cooldown, "candidates": 5, "prior_variance": 1.0}
    return AutoLRSConfig(steps, **{**defaults, **settings})


class Candidate(NamedTuple):
    """A rate that was tried.

    Attributes:
        rate: the learning rate.
        loss: forecast for the end of the stage, or that behind the cooldown; NaN for a failure.
        deviation: of the forecast, 0 where the loss was seen; infinite for a failure.
    """

    rate: float
    loss: float
    deviation: float


FAILURE = Candidate(math.nan, math.nan, math.inf)  # what null stands for in each place


class Stage(NamedTuple):
    """A finished stage.

    Attributes:
        start: its first step.
        length: in steps.
        rate: it was trained at.
        candidates: in the order of trial; none where the rate before went on.
    """

    start: int
    length: int
    rate: float
    candidates: tuple[Candidate, ...]


class State(NamedTuple):
    """Where the search stands, beside the loop's own state.

    Attributes:
        step: steps trained.
        search_steps: steps that candidates took.
        window: of the next candidate.
        stage: length of the stage.
        stages: the finished ones.
        candidates: of the stage that is searched.
        reference: losses of that stage's first candidate, at the lowest rate, or the lowest loss behind a cooldown; empty before.
        process: of the stage that is searched; None before its first candidate.
        prior: what its process starts from; None without.
        status: 'ok', or 'nonfinite' where no rate could train any further.
    """

    step: int
    search_steps: int
    window: int
    stage: int
    stages: tuple[Stage, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    reference: tuple[float, ...] = ()
    process: bayes.BayesState | None = None
    prior: bayes.Points | None = None
    status: str = OK


def begin(config: AutoLRSConfig) -> State:
    """Before the first step."""
    return State(0, 0, config.window, config.stage)


def process_config(config: AutoLRSConfig, state: State) -> BayesConfig:
    """How the rate of the present stage is searched."""
    prior = 0 if state.prior is None else len(state.prior.values)
    return BayesConfig(
        (Axis(config.lowest, config.highest, log=True),),
        ExpectedImprovement() if config.acquisition == EI else LowerConfidenceBound(config.kappa),
        num_initial=0 if prior else max(SPREAD_RATES, config.batch) if config.cooldown else SPREAD_RATES,
        # One size for all stages, so that one executable serves them.
        capacity=config.candidates * (1 if config.prior_variance is None else 2),
        seed=config.seed + len(state.stages),
    )


def found(config: AutoLRSConfig, state: State) -> Found:
    """The schedule of the finished stages, to be saved and replayed with `replay`."""
    pieces = tuple(Piece(stage.start, stage.rate) for stage in state.stages)
    warmup_rate = config.peak_of_warmup if config.warmup else 0.0
    return Found(config.warmup, warmup_rate, pieces, config.cooldown, config.steps, state.search_steps)


def to_json(state: State) -> dict[str, Any]:
    """The state in JSON's own types; what is not finite is null."""
    return {
        **state._asdict(),
        "stages": [{**stage._asdict(), "candidates": _rows(stage.candidates)} for stage in state.stages],
        "candidates": _rows(state.candidates),
        "reference": [value if math.isfinite(value) else None for value in state.reference],
        "process": None if state.process is None else bayes.to_json(state.process),
        "prior": None if state.prior is None else bayes.points_to_json(state.prior),
    }


def from_json(saved: dict[str, Any]) -> State:
    """The inverse of `to_json`."""
    stages = tuple(Stage(**{**stage, "candidates": _candidates(stage["candidates"])}) for stage in saved["stages"])
    process = None if saved["process"] is None else bayes.from_json(saved["process"])
    prior = None if saved["prior"] is None else bayes.points_from_json(saved["prior"])
    reference = tuple(math.nan if value is None else value for value in saved["reference"])
    own = {"stages": stages, "candidates": _candidates(saved["candidates"]), "reference": reference, "process": process, "prior": prior}
    return State(**{**saved, **own})


def _rows(candidates: tuple[Candidate, ...]) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in candidate] for candidate in candidates]


def _candidates(rows: list[list[float | None]]) -> tuple[Candidate, ...]:
    return tuple(Candidate(*(failed if value is None else value for value, failed in zip(row, FAILURE, strict=True))) for row in rows)
