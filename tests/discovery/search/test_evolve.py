"""Strategies: ageing, tournaments, resuming, and a golden trajectory."""

import json
import math
from pathlib import Path

import pytest

from stepsmith.discovery.evaluate import Outcome, Status
from stepsmith.discovery.language import canonical_hash, extended_operations, load, parse
from stepsmith.discovery.search import (
    EvolutionConfig,
    MutationConfig,
    SearchState,
    constants_only,
    led_anew,
    measured_again,
    random_search,
    regularized_evolution,
)
from stepsmith.discovery.search.hall_of_fame import RESERVE, Entry, HallOfFame

GOLDEN = Path(__file__).parent / "golden.json"
ADAMW = load("adamw")


def _evolution(population=8, tournament=3, **settings):
    return regularized_evolution(ADAMW, EvolutionConfig(population, tournament, **settings), MutationConfig())


def _fitness(candidate):
    return float(int(candidate.hash, 16) % 1000)


def _advance(strategy, state, count, fitness=_fitness):
    candidates = []
    for _ in range(count):
        candidate, state = strategy.ask(state)
        state = strategy.tell(state, candidate, fitness(candidate))
        candidates.append(candidate)
    return candidates, state


def _trajectory():
    return [[c.hash, c.parent] for c in _advance(_evolution(), _evolution().init(17), 31)[0]]


def test_golden_trajectory():
    """After an intended change, regenerate it with
    `python -c "import runpy; runpy.run_path('tests/discovery/search/test_evolve.py', run_name='regenerate')"`."""
    assert _trajectory() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    "make",
    [
        lambda extended: regularized_evolution(ADAMW, EvolutionConfig(8, 3), MutationConfig(), extended),
        lambda extended: random_search(ADAMW, MutationConfig(), extended),
    ],
)
def test_only_the_extended_language_has_its_operations(make):
    for extended in (False, True):
        candidates, _ = _advance(make(extended), make(extended).init(3), 120)
        used = {op for candidate in candidates for op in extended_operations(candidate.program)}
        assert len(used) >= 5 if extended else not used
        assert {candidate.program.extra for candidate in candidates[1:]} == ({("step", "progress", "budget")} if extended else {()})


def test_first_candidate_is_the_initial_program():
    candidate, state = _evolution().ask(_evolution().init(0))
    assert (candidate.birth, candidate.program, candidate.hash, candidate.parent) == (0, ADAMW, canonical_hash(ADAMW), None)
    assert state.births == 1


def test_seeds_differ():
    one, two = (_advance(_evolution(), _evolution().init(seed), 10)[0] for seed in (0, 1))
    assert [c.hash for c in one[1:]] != [c.hash for c in two[1:]]


def test_oldest_is_dropped_even_if_best():
    strategy = _evolution(5)
    state = strategy.init(0)
    for birth in range(20):
        candidate, state = strategy.ask(state)
        assert candidate.birth == birth
        state = strategy.tell(state, candidate, float(birth))  # the oldest is always the best
        assert [member.birth for member in state.population] == list(range(max(0, birth - 4), birth + 1))
        assert [member.fitness for member in state.population] == [float(member.birth) for member in state.population]


def test_tournament_picks_the_best_drawn():
    """Of tournaments of 3 among 4 the worst is the parent only if drawn each time, 1 in 64; the second best of all is not the usual one."""
    strategy = _evolution(4, 3)
    _, state = _advance(strategy, strategy.init(0), 4, lambda c: float(c.birth))
    parents = [strategy.ask(state._replace(births=births))[0].parent for births in range(4, 404)]
    counts = [parents.count(birth) for birth in range(4)]
    # Expected of 400: 37/64, 19/64, 7/64, 1/64.
    assert counts[0] > counts[1] > counts[2] > counts[3]
    assert 190 < counts[0] < 272 and counts[3] < 20


def test_a_tournament_of_the_whole_population_size_one():
    strategy = _evolution(1, 1)
    candidates, _ = _advance(strategy, strategy.init(0), 6)
    assert [c.parent for c in candidates] == [None, 0, 1, 2, 3, 4]


def test_failure_never_wins_over_a_number():
    strategy = _evolution(4, 4)
    _, state = _advance(strategy, strategy.init(0), 4, lambda c: math.inf if c.birth != 2 else 1e30)
    parents = [strategy.ask(state._replace(births=births))[0].parent for births in range(4, 204)]
    # The number wins whenever it is drawn: 1 - (3/4)^4 = 0.68.
    assert 110 < parents.count(2) < 165
    _, failed = _advance(strategy, strategy.init(0), 4, lambda c: math.inf)
    assert strategy.ask(failed)[0].parent in range(4)


def test_failures_age_out():
    strategy = _evolution(3, 2)
    _, state = _advance(strategy, strategy.init(0), 3, lambda c: math.inf)
    assert all(math.isinf(member.fitness) for member in state.population)
    _, state = _advance(strategy, state, 3)
    assert all(math.isfinite(member.fitness) for member in state.population)


@pytest.mark.parametrize("make", [_evolution, lambda: random_search(ADAMW, MutationConfig())])
def test_many_asked_before_one_is_told(make):
    strategy = make()
    state, asked = strategy.init(3), []
    for _ in range(6):
        candidate, state = strategy.ask(state)
        asked.append(candidate)
    assert [c.birth for c in asked] == [0, 1, 2, 3, 4, 5]
    assert len({c.hash for c in asked}) >= 5
    assert {c.parent for c in asked[1:]} == {0}
    for candidate in asked:
        state = strategy.tell(state, candidate, 1.0)
    assert strategy.ask(state)[0].birth == 6


def test_ask_is_pure():
    strategy = _evolution()
    _, state = _advance(strategy, strategy.init(0), 12)
    assert strategy.ask(state) == strategy.ask(state)


def test_resumes_identically_from_json():
    strategy = _evolution()
    fitness = lambda c: math.inf if c.birth % 5 == 4 else _fitness(c)  # noqa: E731
    before, state = _advance(strategy, strategy.init(9), 20, fitness)
    programs = {c.birth: c.program for c in before}
    restored = SearchState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)), programs.__getitem__)
    assert restored == state
    assert any(math.isinf(member.fitness) for member in restored.population)
    assert _advance(strategy, restored, 20, fitness) == _advance(strategy, state, 20, fitness)


def test_random_search_ignores_results():
    strategy = random_search(ADAMW, MutationConfig())
    low, _ = _advance(strategy, strategy.init(0), 15, lambda c: 0.0)
    high, state = _advance(strategy, strategy.init(0), 15, lambda c: float(c.birth))
    assert low == high
    assert state.population == ()
    assert {c.parent for c in low} == {None, 0}
    assert len({c.hash for c in low}) >= 14
    other, _ = _advance(strategy, strategy.init(1), 15)
    assert [c.hash for c in other[1:]] != [c.hash for c in low[1:]]


def test_random_search_walk_lengths():
    """Geometric with mean 8: of 150 walks the mean is within 4 standard errors."""
    strategy = random_search(ADAMW, MutationConfig())
    lengths = [int(c.mutation.split()[0]) for c in _advance(strategy, strategy.init(2), 151)[0][1:]]
    assert min(lengths) >= 1
    assert abs(sum(lengths) / 150 - 8) < 4 * 7.5 / math.sqrt(150)


@pytest.mark.parametrize(("population", "tournament"), [(4, 5), (4, 0), (0, 1)])
def test_bad_config(population, tournament):
    with pytest.raises(ValueError, match="tournament_size must be 1 to population_size"):
        EvolutionConfig(population, tournament).check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"islands": 0}, "islands must be 1 to population_size"),
        ({"migration": 1.5}, "migration is a probability"),
        ({"restart_after": -1}, "restart_after must be 0 to"),
        ({"random_start": -1}, "random_start must be 0 to"),
    ],
)
def test_bad_settings_of_the_population(change, words):
    with pytest.raises(ValueError, match=words):
        EvolutionConfig(**change).check()


def test_a_plateau_ends_in_a_restart_from_the_best():
    strategy = _evolution(8, 3, restart_after=5)
    _, state = _advance(strategy, strategy.init(0), 4, lambda c: -float(c.birth))  # better and better
    assert (state.best.birth, state.stagnant, state.restarts) == (3, 0, 0)
    _, state = _advance(strategy, state, 4, lambda c: 1.0)
    assert (state.stagnant, len(state.population)) == (4, 8)
    _, state = _advance(strategy, state, 1, lambda c: 1.0)
    assert state.population == (state.best,) and state.best.birth == 3
    assert (state.stagnant, state.restarts) == (0, 1)
    candidates, state = _advance(strategy, state, 1, lambda c: 1.0)
    assert candidates[0].parent == 3


def test_a_program_measured_again_has_its_newest_fitness_everywhere():
    strategy = _evolution(8, 3)
    candidates, state = _advance(strategy, strategy.init(0), 5, lambda c: float(c.birth))
    again = candidates[0]._replace(birth=9)
    state = strategy.tell(measured_again(state, {again.hash: 2.5}), again, 2.5)
    assert [m.fitness for m in state.population if m.hash == again.hash] == [2.5, 2.5]
    assert (state.best.birth, state.best.fitness) == (0, 2.5)
    assert (led_anew(state).best.birth, led_anew(state).best.fitness) == (1, 1.0)
    state = strategy.tell(measured_again(state, {candidates[1].hash: 0.5}), candidates[1]._replace(birth=10), 0.5)
    assert (state.best.birth, state.best.fitness) == (10, 0.5)
    assert measured_again(strategy.init(0), {again.hash: 1.0}) == led_anew(strategy.init(0)) == strategy.init(0)


@pytest.mark.parametrize(("migration", "expected"), [(0.0, {0}), (1.0, {1})])
def test_islands_keep_to_themselves_but_for_migration(migration, expected):
    strategy = _evolution(30, 3, islands=3, migration=migration)
    candidates, _ = _advance(strategy, strategy.init(4), 120)
    distances = {(c.parent - c.birth) % 3 for c in candidates[30:]}
    assert distances == expected


def test_a_random_start_walks_from_the_initial_program_first():
    strategy = _evolution(8, 3, random_start=10)
    candidates, _ = _advance(strategy, strategy.init(0), 30)
    assert all(c.parent == 0 and "random mutations" in c.mutation for c in candidates[1:11])
    assert not any("random mutations" in c.mutation for c in candidates[11:])


def test_constants_only_changes_nothing_else():
    strategy = constants_only(ADAMW, EvolutionConfig(8, 3), MutationConfig())
    candidates, _ = _advance(strategy, strategy.init(0), 40)

    def shape(program):
        return [(s.target, s.op, [a if isinstance(a, str) else "number" for a in s.args]) for s in program.statements]

    assert all(shape(c.program) == shape(ADAMW) for c in candidates)
    assert len({c.hash for c in candidates}) >= 35


def _entry(program_hash, *scores, status=Status.OK):
    return Entry(program_hash, ADAMW, Outcome(status, scores), {"a": 1.0})


def test_hall_of_fame():
    entries = [_entry("c", 2.0), _entry("a", 1.0), _entry("b", 0.75, 1.25), _entry("d", 0.5), _entry("e", 3.0)]
    halls = HallOfFame(3), HallOfFame(3)
    for entry in entries:
        halls[0].put(entry)
    for entry in reversed(entries):
        halls[1].put(entry)
    assert [e.hash for e in halls[0].entries] == [e.hash for e in halls[1].entries] == ["d", "a", "b"]


def test_hall_of_fame_takes_in_what_becomes_known():
    hall = HallOfFame(2)
    for entry in (_entry("a", 0.0), _entry("b", 1.0), _entry("c", 2.0)):
        hall.put(entry)
    hall.put(_entry("a", 0.0, 3.0))  # mean 1.5
    assert [(e.hash, e.fitness) for e in hall.entries] == [("b", 1.0), ("a", 1.5)]
    hall.put(_entry("b", status=Status.DIVERGED))
    assert [e.hash for e in hall.entries] == ["a", "c"]
    assert hall.entries[0].outcome.error == 1.5


def test_programs_that_train_alike_have_one_place():
    """Told by their score on the first seeds; the others wait for its place."""
    hall = HallOfFame(2)
    assert hall.capacity == 2 * RESERVE
    for name, *scores in (("a", 0.25, 0.5), ("b", 0.25), ("c", 0.75), ("d", 1.0)):
        hall.put(_entry(name, *scores))
    assert [entry.hash for entry in hall.entries] == ["b", "c"]
    hall.put(_entry("b", 0.25, 2.0))
    assert [entry.hash for entry in hall.entries] == ["a", "c"]


def test_finalists_are_told_apart_by_random_inputs():
    """What the normal form does not know to be equal takes one place among them, and the next one has the other."""
    rule = "def train(w, g, lr):\n    x = {}\n    update = x * lr\n    return update"
    bodies = {"a": "tanh(g)", "b": "1.0 - 2.0 / (exp(g + g) + 1.0)", "c": "sin(g)", "d": "cos(g) * g"}
    hall = HallOfFame(2)
    for place, (name, body) in enumerate(bodies.items()):
        hall.put(Entry(name, parse(rule.format(body)), Outcome(Status.OK, (float(place),)), {"a": 1.0}))
    assert [entry.hash for entry in hall.entries] == ["a", "b"]
    assert [entry.hash for entry in hall.finalists] == ["a", "c"]


if __name__ == "regenerate":
    GOLDEN.write_text(json.dumps(_trajectory(), indent=0) + "\n")
