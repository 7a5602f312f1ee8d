"""The controller around loops in NumPy: the algorithm step by step, and each known defect of AutoLRS shown to be absent."""

import dataclasses
import json

import numpy as np
import pytest

from stepsmith.schedules.autolrs import controller, stages
from stepsmith.schedules.autolrs.controller import Loop, advance, falling, run
from stepsmith.schedules.autolrs.forecast import compressed, forecast, steadied
from stepsmith.schedules.autolrs.replay import to_schedule
from stepsmith.schedules.autolrs.settings import BayesError, ExpectedImprovement, LowerConfidenceBound
from stepsmith.schedules.autolrs.stages import AutoLRSConfig, begin, cooled, found, process_config, scaled

CONFIG = AutoLRSConfig(steps=300, lowest=1e-4, highest=10.0, window=20, stage=100, largest_window=20)


class Quadratic:
    """Stochastic gradient descent with momentum on curvatures 1 and 30; above a rate of about 0.1 it diverges."""

    def __init__(self, seed=0):
        self.position, self.velocity = np.array([3.0, 1.0]), np.zeros(2)
        self.generator = np.random.default_rng(seed)
        self.log = []  # (rate, batch) of each step ever taken
        self.evaluations = 0

    def snapshot(self):
        return self.position.copy(), self.velocity.copy(), self.generator.bit_generator.state

    def restore(self, snapshot):
        self.position, self.velocity = snapshot[0].copy(), snapshot[1].copy()
        self.generator.bit_generator.state = snapshot[2]

    def run(self, rate, steps):
        losses = []
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                batch = self.generator.standard_normal(2)
                self.log.append((rate, float(batch[0])))
                losses.append(self.loss() + 0.01 * batch[0])
                self.velocity = 0.5 * self.velocity + np.array([1.0, 30.0]) * self.position + 0.3 * batch
                self.position = self.position - rate * self.velocity
        return losses

    def loss(self):
        with np.errstate(over="ignore", invalid="ignore"):
            return 0.5 * float(np.array([1.0, 30.0]) @ self.position**2)

    def evaluate(self):
        self.evaluations += 1
        return self.loss()

    def loop(self, **changes):
        return dataclasses.replace(Loop(self.snapshot, self.restore, self.run, self.evaluate), **changes)


def _batches(model, start, length):
    return [batch for _, batch in model.log[start : start + length]]


def test_the_stages_and_the_counts_are_those_of_the_algorithm():
    model = Quadratic()
    config = AutoLRSConfig(steps=900, lowest=1e-4, highest=1.0, candidates=4, window=10, stage=100, largest_window=40)
    state = run(config, model.loop())
    # 100, 200, 400: doubled while the window was below 40; the last stage is what is left.
    assert [(stage.start, stage.length) for stage in state.stages] == [(0, 100), (100, 200), (300, 400), (700, 200)]
    assert [len(stage.candidates) for stage in state.stages] == [4, 4, 4, 4]
    assert state.search_steps == 4 * (10 + 20 + 40 + 40)
    assert (state.step, len(model.log)) == (900, 900 + state.search_steps)
    assert [piece.start for piece in found(config, state).pieces] == [0, 100, 300, 700]


def test_it_beats_most_constant_rates():
    model = Quadratic()
    run(CONFIG, model.loop())
    constants = []
    for rate in np.geomspace(1e-4, 0.09, 12):
        other = Quadratic()
        other.run(rate, CONFIG.steps)
        constants.append(other.loss())
    assert model.loss() < np.median(constants)


def test_candidates_and_training_meet_the_same_batches():
    model = Quadratic()
    run(dataclasses.replace(CONFIG, steps=100), model.loop())
    window, k = CONFIG.window, CONFIG.candidates
    first = _batches(model, 0, window)
    for trial in range(1, k + 1):  # the last of them is the beginning of the stage
        assert _batches(model, trial * window, window) == first


def test_the_first_candidate_of_a_stage_is_the_lowest_rate():
    state = run(CONFIG, Quadratic().loop())
    assert [stage.candidates[0].rate for stage in state.stages] == 3 * [CONFIG.lowest]
    assert state.reference == ()


def test_every_step_of_a_candidate_is_at_its_own_rate():
    model = Quadratic()
    state = run(dataclasses.replace(CONFIG, steps=100), model.loop())
    for index, candidate in enumerate(state.stages[0].candidates):
        steps = model.log[index * CONFIG.window : (index + 1) * CONFIG.window]
        assert {rate for rate, _ in steps} == {candidate.rate}
    assert {rate for rate, _ in model.log[CONFIG.candidates * CONFIG.window :]} == {state.stages[0].rate}


def test_candidates_that_end_in_no_number_are_failures_and_never_chosen():
    class Fragile(Quadratic):
        def run(self, rate, steps):
            losses = super().run(rate, steps)
            return losses if rate < 0.01 else [*losses[:-1], np.nan]

    state = run(CONFIG, Fragile().loop())
    tried = [candidate for stage in state.stages for candidate in stage.candidates]
    assert any(np.isnan(candidate.loss) for candidate in tried)
    assert all(stage.rate < 0.01 for stage in state.stages)
    assert (state.status, state.step) == ("ok", CONFIG.steps)


def test_a_stage_that_ends_in_no_number_is_trained_again_at_another_rate():
    class Late(Quadratic):
        def run(self, rate, steps):
            losses = super().run(rate, steps)
            if steps > CONFIG.window and rate > 0.005:
                self.position[:] = np.nan
                losses[-1] = np.nan
            return losses

    model = Late()
    state = run(dataclasses.replace(CONFIG, lowest=1e-3), model.loop())
    assert (state.status, state.step) == ("ok", CONFIG.steps)
    assert np.isfinite(model.position).all()
    assert state.search_steps > 3 * CONFIG.candidates * CONFIG.window
    assert len(model.log) == state.step + state.search_steps


def test_a_loop_without_a_number_at_any_rate_ends_with_a_status():
    model = Quadratic()
    state = run(CONFIG, model.loop(run=lambda rate, steps: [np.nan] * steps))
    assert (state.status, state.step, state.stages) == ("nonfinite", 0, ())
    assert state.search_steps == CONFIG.candidates * CONFIG.window + 100  # the lowest rate was trained at once


WINDOWS = {
    "flat": lambda rate, steps, noise: np.full(len(steps), 2.0),
    "noisy line": lambda rate, steps, noise: 2 - 0.01 * steps + 0.3 * noise,
    "rising": lambda rate, steps, noise: 2 + rate * steps,
    "diverging": lambda rate, steps, noise: 2.0 * 10 ** np.minimum(steps, 80),
    "huge": lambda rate, steps, noise: np.full(len(steps), 1e300),
    "negative": lambda rate, steps, noise: -3 - np.log(steps + rate),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_no_shape_of_a_window_stops_the_search(name):
    generator = np.random.default_rng(0)

    def losses(rate, steps):
        return WINDOWS[name](rate, np.arange(1, steps + 1), generator.standard_normal(steps))

    config = dataclasses.replace(CONFIG, steps=200, candidates=5)
    state = run(config, Quadratic().loop(run=losses))
    assert (state.step, state.status, len(state.stages)) == (200, "ok", 2)
    assert all(config.lowest <= stage.rate <= config.highest for stage in state.stages)


@pytest.mark.parametrize("settings", [{}, {"prior_variance": 1.0}, {"cooldown": 40}], ids=str)
def test_an_interrupted_search_goes_on_to_the_same_schedule(settings):
    config = dataclasses.replace(CONFIG, candidates=5, warmup=10, **settings)
    whole = Quadratic()
    expected = run(config, whole.loop())
    for cut in (1, 4, 6, 9, 14):  # pieces of work before the kill: warm-up, candidates, stages
        before = Quadratic()
        state = begin(config)
        for _ in range(cut):
            state, _ = advance(config, before.loop(), state)
        saved, snapshot = json.dumps(stages.to_json(state), allow_nan=False), before.snapshot()
        after = Quadratic(seed=99)
        after.restore(snapshot)
        again = run(config, after.loop(), stages.from_json(json.loads(saved)))
        assert found(config, again) == found(config, expected)
        np.testing.assert_array_equal(after.position, whole.position)


def test_failures_survive_json():
    state = begin(CONFIG)._replace(candidates=(stages.FAILURE._replace(rate=0.1),), reference=(1.0, np.nan))
    again = stages.from_json(json.loads(json.dumps(stages.to_json(state), allow_nan=False)))
    np.testing.assert_array_equal(again.candidates, state.candidates)
    np.testing.assert_array_equal(again.reference, state.reference)


def test_the_acquisition_does_not_only_explore():
    """A million deviations, as released code had it, spread ten rates evenly; two close in on the best."""

    def distances(kappa):
        far = []
        for seed in range(3):
            state = run(dataclasses.replace(CONFIG, steps=100, lowest=1e-6, kappa=kappa, seed=seed), Quadratic().loop())
            exponents = np.log10([candidate.rate for candidate in state.stages[0].candidates])
            far.extend(np.abs(exponents[5:] - np.log10(state.stages[0].rate)))
        return far

    assert AutoLRSConfig(steps=1000).kappa <= 3
    assert np.median(distances(AutoLRSConfig(steps=1000).kappa)) < 0.6 * np.median(distances(1e6))


def test_the_acquisition_is_chosen_and_chooses_the_rates():
    for make in (AutoLRSConfig, scaled, cooled):
        usual, other = make(2000, kappa=1.5), make(2000, acquisition="ei")
        assert process_config(usual, begin(usual)).acquisition == LowerConfidenceBound(1.5)
        assert process_config(other, begin(other)).acquisition == ExpectedImprovement()
    tried, ends = {}, {}
    for acquisition in ("lcb", "ei"):
        model = Quadratic()
        state = run(dataclasses.replace(CONFIG, acquisition=acquisition), model.loop())
        assert (state.status, state.step, len(state.stages)) == ("ok", CONFIG.steps, 3)
        tried[acquisition], ends[acquisition] = [one.rate for one in state.stages[0].candidates], model.loss()
    first = 1 + stages.SPREAD_RATES  # before the process is asked
    assert tried["lcb"][:first] == tried["ei"][:first]
    assert not set(tried["lcb"][first:]) & set(tried["ei"][first:])
    assert max(ends.values()) < Quadratic().loss() / 10


def test_the_process_is_told_forecasts_of_steadied_windows_and_how_wide_they_are(monkeypatch):
    tell, told = controller.bayes.tell, []

    def seen(config, process, points, values, variances):
        told.extend(zip(points[:, 0], values, variances, strict=True))
        return tell(config, process, points, values, variances)

    monkeypatch.setattr(controller.bayes, "tell", seen)
    run(dataclasses.replace(CONFIG, steps=100), Quadratic().loop())
    assert len(told) == CONFIG.candidates
    windows = [np.array(Quadratic().run(rate, CONFIG.window)) for rate, _, _ in told]
    for (_, value, variance), losses in zip(told, windows, strict=True):
        if np.isfinite(losses).all():
            promised = compressed(forecast(steadied(losses, windows[0]), 100), float(windows[0].mean()))
            assert (
                value == pytest.approx(float(promised.loss)) and variance == pytest.approx(float(promised.deviation) ** 2) and variance > 0
            )


def test_validation_losses_judge_candidates_of_long_stages():
    model = Quadratic()
    config = dataclasses.replace(CONFIG, steps=200, candidates=3, validation_from=100, validation_points=16)
    state = run(config, model.loop())
    assert model.evaluations == 2 * 3 * 16
    assert state.search_steps == 2 * 3 * CONFIG.window
    cut_short = Quadratic()
    state = run(dataclasses.replace(config, steps=250), cut_short.loop())
    assert [stage.length for stage in state.stages] == [100, 100, 50]
    assert cut_short.evaluations == 3 * 3 * 16
    silent = Quadratic()
    run(dataclasses.replace(config, validation_from=101), silent.loop())
    assert silent.evaluations == 0


def test_the_warm_up_is_linear_and_not_searched():
    model = Quadratic()
    config = dataclasses.replace(CONFIG, warmup=10, warmup_rate=0.02)
    state = run(config, model.loop())
    np.testing.assert_allclose([rate for rate, _ in model.log[:10]], 0.02 * np.arange(1, 11) / 10)
    assert state.stages[0].start == 10
    schedule = found(config, state)
    assert (schedule.warmup_steps, schedule.warmup_rate) == (10, 0.02)


def test_a_batch_of_candidates_is_run_at_once():
    model, calls = Quadratic(), []

    def run_candidates(rates, steps):
        calls.append(len(rates))
        before, rows = model.snapshot(), []
        for rate in rates:
            rows.append(model.run(rate, steps))
            model.restore(before)
        return np.array(rows)

    config = dataclasses.replace(CONFIG, batch=4)
    state = run(config, model.loop(run_candidates=run_candidates))
    assert calls == 3 * [4, 4, 2]
    assert len(model.log) == state.step + state.search_steps
    assert model.loss() < 0.5


COOLED = cooled(100, lowest=1e-4, highest=10.0, warmup=5, warmup_rate=0.02)  # stages of 35 and 30 steps, a cooldown of 30


def test_with_a_cooldown_candidates_and_the_run_fall_to_zero():
    model = Quadratic()
    state = run(COOLED, model.loop())
    assert [(stage.start, stage.length) for stage in state.stages] == [(5, 35), (40, 30)]
    assert state.search_steps == 5 * (35 + 30) + 5 * (30 + 30)
    assert (state.step, state.status, len(model.log)) == (100, "ok", 100 + state.search_steps)
    assert model.evaluations == 10
    fall = np.arange(30, 0, -1) / 30
    rates = np.array([rate for rate, _ in model.log])
    for index, candidate in enumerate(state.stages[0].candidates):
        start = 5 + 65 * index
        np.testing.assert_allclose(rates[start : start + 65], candidate.rate * np.concatenate([np.ones(35), fall]))
        assert _batches(model, start, 65) == _batches(model, 5, 65)
    np.testing.assert_allclose(rates[-30:], state.stages[-1].rate * fall)
    schedule = to_schedule(found(COOLED, state))
    trained = np.concatenate([rates[:5], *([stage.rate] * stage.length for stage in state.stages), rates[-30:]])
    np.testing.assert_allclose([schedule(step) for step in range(100)], trained, rtol=1e-6)


def test_the_last_stage_knows_how_the_run_ends():
    model = Quadratic()
    state = run(COOLED, model.loop())
    seen = {candidate.rate: candidate.loss for candidate in state.stages[-1].candidates}
    assert seen[state.stages[-1].rate] == pytest.approx(model.loss())
    assert sum(loss < model.loss() for loss in seen.values()) <= 1  # the process, not the best value, chooses


def test_behind_a_cooldown_rates_are_not_lowered_too_early():
    """At every forecast a lower rate is better: its noise is gone at once. On the flat axis that is lost ground."""

    class Noisy(Quadratic):
        def __init__(self):
            super().__init__()
            self.position = np.array([30.0, 0.0])

        def run(self, rate, steps):
            for _ in range(steps):
                self.position = self.position - min(rate, 0.06) * (
                    np.array([0.05, 30.0]) * self.position + 3.0 * self.generator.standard_normal(2)
                )
            return [self.loss()] * steps

        def loss(self):
            return 0.5 * float(np.array([0.05, 30.0]) @ self.position**2)

    def reached(config):
        model = Noisy()
        run(config, model.loop())
        return model.loss()

    bounds = {"lowest": 1e-4, "highest": 0.05}
    forecasted, cooled_down = ([reached(make(300, seed=seed, **bounds)) for seed in range(5)] for make in (scaled, cooled))
    assert np.median(cooled_down) < np.median(forecasted)


def test_candidates_cooled_at_once_are_those_one_by_one():
    model, calls = Quadratic(), []

    def cool_candidates(rates, steps, cooldown):
        calls.append((len(rates), steps, cooldown))
        before, losses = model.snapshot(), []
        for rate in rates:
            model.run(rate, steps)
            for at in falling(rate, cooldown):
                model.run(at, 1)
            losses.append(model.loss())
            model.restore(before)
        return np.array(losses)

    config = dataclasses.replace(COOLED, batch=5)
    together = run(config, model.loop(cool_candidates=cool_candidates))
    assert calls == [(5, 35, 30), (5, 30, 30)]
    assert found(config, together) == found(config, run(config, Quadratic().loop()))


def test_a_cooldown_without_a_number_is_a_failure():
    state = run(COOLED, Quadratic().loop(evaluate=lambda: np.nan))
    assert all(np.isnan(candidate.loss) for stage in state.stages for candidate in stage.candidates)
    assert [stage.rate for stage in state.stages] == [COOLED.lowest] * 2
    assert (state.step, state.status) == (100, "ok")


def test_a_stage_can_start_from_what_the_one_before_saw():
    config = dataclasses.replace(CONFIG, candidates=4, prior_variance=1.0)
    model = Quadratic()
    loop, state = model.loop(), begin(config)
    while not state.stages:
        assert state.prior is None
        state, _ = advance(config, loop, state)
    assert state.prior is not None
    assert len(state.prior.values) == 4
    assert (state.prior.variances >= 1).all()
    plain = run(dataclasses.replace(config, prior_variance=None), Quadratic().loop())
    state = run(config, loop, state)
    first, second = (both.stages[1].candidates[1].rate for both in (state, plain))
    assert first != second
    assert (state.status, len(state.stages)) == ("ok", 3)
    assert model.loss() < Quadratic().loss() / 10


@pytest.mark.parametrize("steps", [100, 1000, 12_345, 10**6])
def test_scaled_settings_fit_any_run(steps):
    config = scaled(steps)
    # Stages of 1, 2, 2, ... twentieths: the search takes as many steps again where windows are a tenth of a stage and there are ten.
    assert steps / 25 <= config.stage <= max(steps / 20, 20)
    assert 2 <= config.window <= max(config.stage / 10, 8)


@pytest.mark.parametrize("steps", [5, 6, 7, 100, 1001, 10**6])
def test_cooled_settings_fit_any_run(steps):
    config = cooled(steps)
    assert config.cooldown == pytest.approx(0.3 * steps, abs=1)
    assert config.searched - 1 <= 2 * config.stage <= config.searched + 1
    assert config.window == config.stage == config.largest_window


def test_what_cannot_be_used_is_refused():
    for changes, message in [
        ({"steps": 0}, "steps must be at least 1"),
        ({"window": 1}, "window must be at least 2"),
        ({"window": 101}, "does not fit into a stage"),
        ({"lowest": 1.0, "highest": 0.1}, "the lower first"),
        ({"lowest": 0.0}, "above 0"),
        ({"warmup": 290}, "too short"),
        ({"prior_variance": 0.0}, "prior_variance"),
        ({"acquisition": "ucb"}, "acquisition must be 'lcb' or 'ei', got 'ucb'"),
        ({"cooldown": -1}, "cooldown must be at least 0"),
        ({"cooldown": 281}, "too short"),
    ]:
        with pytest.raises(BayesError, match=message):
            dataclasses.replace(CONFIG, **changes)
