"""Population-based training on loops of plain NumPy: who is copied, what is changed, whose schedule it is, and going on."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith.schedules import ScheduleError, population
from stepsmith.schedules.population import Hyperparameter, PopulationConfig, PopulationLoop

RATE, DECAY = Hyperparameter("learning_rate", 1e-3, 10.0), Hyperparameter("weight_decay", 1e-4, 1.0)


def _config(**given):
    return PopulationConfig(**{"steps": 60, "interval": 10, "hyperparameters": (RATE, DECAY), **given})


class Descent:
    """Gradient descent with momentum on x*x/2 of each member; its trace is an optimizer's state that copies must keep."""

    def __init__(self, members):
        self.places, self.traces = np.full(members, 5.0), np.zeros(members)
        self.given, self.parents, self.scores = [], [], []

    def run(self, values, steps):
        self.given.append({name: row.copy() for name, row in values.items()})
        for _ in range(steps):
            self.traces = 0.5 * self.traces + self.places * (1 + values.get("weight_decay", 0.0))
            with np.errstate(over="ignore", invalid="ignore"):
                self.places = self.places - values["learning_rate"] * self.traces

    def evaluate(self):
        with np.errstate(over="ignore", invalid="ignore"):
            self.scores.append(np.where(self.places**2 < 1e6, self.places**2 / 2, np.nan))
        return self.scores[-1]

    def copy(self, parents):
        self.parents.append(parents)
        self.places, self.traces = self.places[parents], self.traces[parents]

    def loop(self):
        return PopulationLoop(self.run, self.evaluate, self.copy)


def _run(**given):
    config = _config(**given)
    descent = Descent(config.members)
    return config, descent, population.run(config, descent.loop())


def test_the_same_seed_is_the_same_run_and_another_is_not():
    first, same, other = (population.to_json(_run(seed=seed)[2]) for seed in (0, 0, 1))
    assert first == same and first["values"] != other["values"]


def test_the_first_values_cover_the_axis_evenly_in_their_logarithm():
    values = np.log(np.array(population.begin(_config(members=50)).values))
    for column, axis in zip(values.T, (RATE, DECAY), strict=True):
        shares = (column - np.log(axis.lowest)) / np.log(axis.highest / axis.lowest)
        assert (np.sort(shares * 50).astype(int) == np.arange(50)).all()


def test_the_worst_quarter_copies_the_best_quarter():
    scores = np.array([5.0, 1.0, 7.0, 2.0, 3.0, 8.0, 4.0, 6.0])
    seen = [population.exploit(_config(), scores, np.random.default_rng(seed)) for seed in range(50)]
    for parents in seen:
        assert [member for member in range(8) if parents[member] != member] == [2, 5]
    assert {int(parents[2]) for parents in seen} == {int(parents[5]) for parents in seen} == {1, 3}


@given(st.lists(st.one_of(st.floats(0, 1e6), st.just(np.nan)), min_size=2, max_size=12).filter(lambda s: not np.isnan(s).all()))
@settings(deadline=None)
def test_a_failure_is_always_replaced_and_never_copied(scores):
    config = _config(members=len(scores))
    parents = population.exploit(config, np.array(scores), np.random.default_rng(0))
    assert not np.isnan(np.array(scores)[parents]).any()


def test_a_copy_is_drawn_anew_or_moved_by_a_factor_and_the_others_stay():
    config = _config(members=4000, hyperparameters=(Hyperparameter("learning_rate", 1e-6, 1e6),))
    values, parents = np.full((4000, 1), 2.0), np.zeros(4000, int)
    explored = population.explore(config, values, parents, np.random.default_rng(0))[:, 0]
    assert explored[0] == 2.0  # its own parent
    shares = [np.isclose(explored, 2.0 * factor).mean() for factor in (1.2, 0.8)]
    np.testing.assert_allclose(shares, 0.375, atol=0.03)
    drawn = explored[~np.isclose(explored, 2.4) & ~np.isclose(explored, 1.6)]
    assert abs(np.log10(drawn[1:]).mean()) < 0.4 and np.log10(drawn).std() == pytest.approx(12 / np.sqrt(12), rel=0.1)


@given(seed=st.integers(0, 1000), members=st.integers(2, 9), factor=st.floats(1.01, 100))
@settings(deadline=None, max_examples=30)
def test_values_stay_inside_their_bounds(seed, members, factor):
    _, descent, _ = _run(seed=seed, members=members, factors=(factor, 1 / factor))
    for values in descent.given:
        for axis in (RATE, DECAY):
            assert (axis.lowest <= values[axis.name]).all() and (values[axis.name] <= axis.highest).all()


def test_the_winner_replayed_by_its_ancestors_values_ends_where_it_ended():
    config, descent, state = _run(steps=95)
    assert any((parents != np.arange(8)).any() for parents in descent.parents)
    for member in range(8):
        again = Descent(1)
        pieces = population.lineage(config, state, member)
        assert [piece.start for piece in pieces] == list(range(0, 95, 10))
        for piece, length in zip(pieces, [10] * 9 + [5], strict=True):
            again.run({name: np.array([value]) for name, value in piece.values.items()}, length)
        np.testing.assert_array_equal(again.places[0], descent.places[member])
    assert population.lineage(config, state) == population.lineage(config, state, population.winner(state))
    assert descent.places[population.winner(state)] ** 2 / 2 == np.nanmin(descent.scores[-1])


def test_a_lineage_is_no_slot():
    """Else the test above could not tell the one from the other."""
    config, _, state = _run(steps=95)
    slots = [[finished.values[member] for finished in state.rounds] for member in range(8)]
    lineages = [[tuple(piece.values.values()) for piece in population.lineage(config, state, member)] for member in range(8)]
    assert slots != lineages


def test_a_copy_scores_what_its_parent_did():
    config, descent = _config(), Descent(8)
    state = population.begin(config)
    for _ in range(3):
        state = population.advance(config, descent.loop(), state)
        parents = np.array(state.rounds[-1].parents)
        np.testing.assert_array_equal(descent.evaluate(), np.array(state.rounds[-1].scores)[parents])


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_an_interrupted_run_goes_on_to_the_same_end(rounds):
    config, descent, whole = _run()
    first, state = Descent(8), population.begin(config)
    for _ in range(rounds):
        state = population.advance(config, first.loop(), state)
    again = Descent(8)
    again.places, again.traces = first.places.copy(), first.traces.copy()
    restored = population.from_json(json.loads(json.dumps(population.to_json(state), allow_nan=False)))
    end = population.run(config, again.loop(), restored)
    np.testing.assert_array_equal(again.places, descent.places)
    assert population.to_json(end) == population.to_json(whole)


def test_steps_of_all_members_are_counted():
    _, _, state = _run(steps=25, members=5)
    assert (state.step, state.total_steps, [r.length for r in state.rounds]) == (25, 125, [10, 10, 5])


def test_where_all_fail_the_run_ends_with_a_status_and_no_winner():
    loop = PopulationLoop(lambda values, steps: None, lambda: [np.nan, np.inf], lambda parents: None)
    state = population.run(_config(members=2), loop)
    assert (state.status, state.step) == ("nonfinite", 10)
    with pytest.raises(ScheduleError, match="all its members have failed"):
        population.winner(state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": 1}, "members must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"hyperparameters": ()}, "got none"),
        ({"hyperparameters": (RATE, RATE)}, "different names"),
        ({"quantile": 0.6}, "at most 0.5"),
        ({"resample_probability": 1.5}, "0 to 1"),
        ({"factors": (0.0,)}, "factors must be above 0"),
    ],
)
def test_bad_settings_are_refused(given, message):
    with pytest.raises(ScheduleError, match=message):
        _config(**given)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, np.inf), (np.nan, 1.0)])
def test_bad_bounds_are_refused(bounds):
    with pytest.raises(ScheduleError, match="must ascend from above 0"):
        Hyperparameter("learning_rate", *bounds)
