"""AutoLRS around any training loop (Jin et al., 2021, arXiv:2105.10762, algorithm 1). No jax here: a loop is four callables.

    warm-up, not searched
    for each stage:
        k times: rate = ask(); window steps at it; forecast the loss at the stage's end; tell; back to the stage's start
                 (the first of the k is the lowest rate: all meet the same batches, and it shows what these do to any loss)
        the rate whose forecast the process believes to be lowest, for the whole stage
        window and stage double while the window is below its largest

With a cooldown, which is not the paper's, a candidate is trained on through a linear fall to zero, its validation loss there stands in for
the forecast, and so does the run end.

`run` does so to the end. `advance` does one piece of it, a warm-up, some candidates or a stage, and between two pieces everything is the
loop's snapshot and a `State` that JSON can hold: an interrupted search goes on to the same schedule.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import optimizer as bayes
from .forecast import FAILED, Forecast, compressed, forecast, steadied
from .stages import NONFINITE, OK, AutoLRSConfig, Candidate, Stage, State, begin, process_config

RETRIES = 2  # rates of the next best candidates, where the best one's training ends in no number; then the lowest rate


@dataclasses.dataclass(frozen=True)
class Loop:
    """A training loop that can go back.

    Attributes:
        snapshot: gives all that the next step depends on: parameters, optimizer state, random numbers and place in the data.
        restore: goes back to a snapshot, which stays usable. The same steps after it are to meet the same batches.
        run: takes a rate and a number of steps, trains as many, every one of them at that rate, and gives their training losses.
        evaluate: gives the validation loss.
        run_candidates: takes several rates and a number of steps, and gives the training losses [rates, steps] of as many runs from
            where the loop stands, on the same batches, and leaves it there; one rate after the other where None.
        cool_candidates: takes several rates and two numbers of steps, trains as many runs for the first at their rates and for the second
            through `falling` ones, and gives their validation losses [rates]; else like `run_candidates`.
    """

    snapshot: Callable[[], Any]
    restore: Callable[[Any], None]
    run: Callable[[float, int], Sequence[float] | np.ndarray]
    evaluate: Callable[[], float]
    run_candidates: Callable[[Sequence[float], int], np.ndarray] | None = None
    cool_candidates: Callable[[Sequence[float], int, int], np.ndarray] | None = None


OnPiece = Callable[[State, np.ndarray], None]  # the state, and the training losses of the piece; none for candidates


def run(config: AutoLRSConfig, loop: Loop, state: State | None = None, on_piece: OnPiece | None = None) -> State:
    """Trains to the end and finds the schedule meanwhile, which `stages.found` gives.

    Args:
        config: how rates are searched.
        loop: at its first step, or where it was when the state was left.
        state: to go on from.
        on_piece: called after each piece of work, to show or to save.

    Example:
        >>> from stepsmith.schedules.autolrs import stages
        >>> place = [5.0]  # gradient descent on x*x/2
        >>> def descend(rate, steps):
        ...     losses = [place[0] ** 2 / 2 * (1 - rate) ** (2 * step) for step in range(steps)]
        ...     place[0] *= (1 - rate) ** steps
        ...     return losses
        >>> loop = Loop(lambda: place[0], lambda x: place.__setitem__(0, x), descend, lambda: place[0] ** 2 / 2)
        >>> config = stages.AutoLRSConfig(steps=100, window=10, stage=50, largest_window=10)
        >>> state = run(config, loop)
        >>> state.step, state.search_steps, abs(place[0]) < 0.1
        (100, 200, True)
    """
    state = begin(config) if state is None else state
    while state.step < config.steps and state.status == OK:
        state, losses = advance(config, loop, state)
        if on_piece is not None:
            on_piece(state, losses)
    return state


def advance(config: AutoLRSConfig, loop: Loop, state: State) -> tuple[State, np.ndarray]:
    """One piece of work: the warm-up, some candidates, a stage, the cooldown. The state afterwards, and the losses of what was trained."""
    if state.step < config.warmup:
        return _warm_up(config, loop, state)
    if state.step >= config.searched:
        return _cool_down(config, loop, state)
    nothing_to_forecast = not config.cooldown and config.steps - state.step <= state.window
    if len(state.candidates) < config.candidates and not nothing_to_forecast:
        return _try(config, loop, state), np.zeros(0)
    return _train(config, loop, state)


def _warm_up(config: AutoLRSConfig, loop: Loop, state: State) -> tuple[State, np.ndarray]:
    rates = [config.peak_of_warmup * (step + 1) / config.warmup for step in range(config.warmup)]
    losses = _run_each(loop, rates)
    return state._replace(step=config.warmup, status=_status(losses)), losses


def _cool_down(config: AutoLRSConfig, loop: Loop, state: State) -> tuple[State, np.ndarray]:
    losses = _run_each(loop, falling(state.stages[-1].rate, config.cooldown))
    return state._replace(step=config.steps, status=_status(losses)), losses


def falling(rate: float, steps: int) -> list[float]:
    """The rates of a cooldown: linear from the rate to zero, which comes after the last.

    >>> falling(0.4, 4)
    [0.4, 0.30000000000000004, 0.2, 0.1]
    """
    return [rate * ((steps - step) / steps) for step in range(steps)]


def _run_each(loop: Loop, rates: Sequence[float]) -> np.ndarray:
    return np.concatenate([np.asarray(loop.run(rate, 1), np.float64) for rate in rates])


def _try(config: AutoLRSConfig, loop: Loop, state: State) -> State:
    """Asks for rates, tries each from the stage's start, and tells what they promise for its end, or reach behind a cooldown."""
    searched = process_config(config, state)
    process = bayes.init(searched, state.prior) if state.process is None else state.process
    rates, process = _asked(config, state, process)
    forecasts, told, reference, steps = (_cooled if config.cooldown else _forecasts)(config, loop, state, rates)
    values, variances = [one.loss for one in told], [np.square(one.deviation) for one in told]
    process = bayes.tell(searched, process, np.array(rates)[:, None], values, variances)
    tried = tuple(Candidate(rate, float(one.loss), float(one.deviation)) for rate, one in zip(rates, forecasts, strict=True))
    search_steps = state.search_steps + len(rates) * steps
    return state._replace(candidates=state.candidates + tried, reference=reference, process=process, search_steps=search_steps)


class _Tried(NamedTuple):
    """Of some rates: what they promise, the same as it is told, the reference of the telling, and the steps that each took."""

    forecasts: list[Forecast]
    told: list[Forecast]
    reference: tuple[float, ...]
    steps: int


def _forecasts(config: AutoLRSConfig, loop: Loop, state: State, rates: Sequence[float]) -> _Tried:
    end = _length(config, state)
    windows = _windows(config, loop, state, rates)
    reference = state.reference or tuple(windows[0][0].tolist())
    forecasts, told = [], []
    for losses, steps in windows:
        # Validation losses know no batches.
        steady = steadied(losses, np.array(reference)) if steps is None else losses
        forecasts.append(forecast(steady, end, steps))
        told.append(compressed(forecasts[-1], float(np.mean(reference) if steps is None else reference[0])))
    return _Tried(forecasts, told, reference, state.window)


def _cooled(config: AutoLRSConfig, loop: Loop, state: State, rates: Sequence[float]) -> _Tried:
    window = min(state.window, _length(config, state))
    if loop.cool_candidates is not None:
        losses = np.asarray(loop.cool_candidates(rates, window, config.cooldown), np.float64)
    else:
        losses = np.array([_from_here(loop, lambda rate=rate: _behind_cooldown(config, loop, rate, window)) for rate in rates], np.float64)
    finite = np.isfinite(losses)
    seen = [Forecast(np.array(loss), np.array(0.0)) if number else FAILED for loss, number in zip(losses, finite, strict=True)]
    # All of a stage are told by how they compare with the best of its first.
    reference = state.reference or ((float(losses[finite].min()),) if finite.any() else ())
    return _Tried(seen, [compressed(one, reference[0]) if reference else one for one in seen], reference, window + config.cooldown)


def _behind_cooldown(config: AutoLRSConfig, loop: Loop, rate: float, window: int) -> float:
    loop.run(rate, window)
    _run_each(loop, falling(rate, config.cooldown))
    return loop.evaluate()


def _asked(config: AutoLRSConfig, state: State, process: bayes.BayesState) -> tuple[list[float], bayes.BayesState]:
    """The rates to try next. A stage's first is the lowest, which shows what batches do to a window; the others are asked for."""
    first = [] if state.candidates or config.cooldown else [config.lowest]
    num = min(config.batch, config.candidates - len(state.candidates)) - len(first)
    if not num:
        return first, process
    points, process = bayes.ask(process_config(config, state), process, num)
    return [*first, *(float(rate) for rate in points[:, 0])], process


def _windows(config: AutoLRSConfig, loop: Loop, state: State, rates: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """The losses of each rate from where the loop stands, and the steps where they are not 1, 2, ..."""
    window = state.window
    if state.stage >= config.validation_from:  # a last stage that the run's end cuts short is judged as the others
        steps = np.unique(np.linspace(0, window, min(config.validation_points, window)).round().astype(int))
        return [(_from_here(loop, lambda rate=rate: _validated(loop, rate, steps)), steps) for rate in rates]
    if loop.run_candidates is not None:
        return [(losses, None) for losses in np.asarray(loop.run_candidates(rates, window), np.float64)]
    return [(np.asarray(_from_here(loop, lambda rate=rate: loop.run(rate, window)), np.float64), None) for rate in rates]


def _validated(loop: Loop, rate: float, steps: np.ndarray) -> np.ndarray:
    """Validation losses after each of the steps, the first of which is 0."""
    losses = [loop.evaluate()]
    for length in np.diff(steps):
        loop.run(rate, int(length))
        losses.append(loop.evaluate())
    return np.array(losses, np.float64)


def _from_here(loop: Loop, trial: Callable[[], Any]) -> Any:
    """What the trial gives, with the loop back where it was."""
    before = loop.snapshot()
    try:
        return trial()
    finally:
        loop.restore(before)


def _train(config: AutoLRSConfig, loop: Loop, state: State) -> tuple[State, np.ndarray]:
    """The stage at the rate believed best; at the next where that one's training ends in no number."""
    length, before, wasted = _length(config, state), loop.snapshot(), 0
    for rate in _rates(config, state):
        losses = np.asarray(loop.run(rate, length), np.float64)
        if _status(losses) == OK:
            return _finished(config, state, rate, length, wasted), losses
        loop.restore(before)
        wasted += length
    return state._replace(search_steps=state.search_steps + wasted, status=NONFINITE), np.zeros(0)


def _rates(config: AutoLRSConfig, state: State) -> list[float]:
    """In the order in which they are to be tried; that of the stage before where no rate was searched."""
    if state.process is None:
        return [*(stage.rate for stage in state.stages[-1:]), config.lowest]
    ranked = bayes.ranked(process_config(config, state), state.process)
    return [*(float(seen.point[0]) for seen in ranked[: 1 + RETRIES]), config.lowest]


def _finished(config: AutoLRSConfig, state: State, rate: float, length: int, wasted: int) -> State:
    grown = 2 if state.window < config.largest_window else 1
    prior = state.prior
    if config.prior_variance is not None and state.process is not None:
        prior = bayes.as_prior(state.process, config.prior_variance)
    return State(
        step=state.step + length,
        search_steps=state.search_steps + wasted,
        window=grown * state.window,
        stage=grown * state.stage,
        stages=(*state.stages, Stage(state.step, length, rate, state.candidates)),
        prior=prior,
    )


def _length(config: AutoLRSConfig, state: State) -> int:
    return min(state.stage, config.searched - state.step)


def _status(losses: np.ndarray) -> str:
    return OK if np.isfinite(losses).all() else NONFINITE
