"""Settings: what is read is what was written, and what cannot be used is named."""

import dataclasses
import json
import math
from importlib.resources import files

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from stepsmith import tasks
from stepsmith.discovery import Budget, ConfigError, SearchConfig, search
from stepsmith.discovery.config import from_dict, load, to_dict
from stepsmith.discovery.search import EvolutionConfig, MutationConfig, RacingConfig
from stepsmith.discovery.selection import LevelConfig, SelectionConfig

CHANGED = SearchConfig(
    tasks=("digits_autoencoder", "digits_mlp"),
    budget="2h",
    seed=7,
    kind="joint",
    rule="lion",
    initial="lion",
    language="extended",
    strategy="random_search",
    mode="async",
    seeds_per_task=3,
    replicates=2,
    learning_rate_factors=(0.5, 2.0),
    best_rate=True,
    hurdle=3.0,
    in_flight=2,
    schedule="constant",
    finalists=4,
    finalist_seeds=5,
    memory_limit_mb=0,
    evolution=EvolutionConfig(30, 4, 100, 3, 0.1, 20),
    mutation=MutationConfig(0.5, 2.0, 0.0, 0.25, 0.75, 1.0, 12, 1, True),
    racing=RacingConfig(True, 300, 0.2, 3.0),
    selection=SelectionConfig(levels=(LevelConfig("B", ("logistic",)),)),
)


def test_toml_round_trip(tmp_path):
    default = SearchConfig()
    for field in dataclasses.fields(SearchConfig):
        assert getattr(CHANGED, field.name) != getattr(default, field.name), f"{field.name} is not tried"
    for config in (default, CHANGED):
        path = tmp_path / "config.toml"
        path.write_text(tomli_w.dumps(to_dict(config)))
        assert load(path) == config


def test_missing_keys_are_defaults(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[evolution]\npopulation_size = 50\n")
    assert load(path) == SearchConfig(evolution=EvolutionConfig(population_size=50))


@pytest.mark.parametrize("kind", ["schedule", "joint"])
def test_what_holds_a_schedule_is_tried_at_several_budgets_of_one_task(kind):
    found = [tasks.get(name) for name in SearchConfig(kind=kind).check().resolved().tasks]
    assert {task.name.partition("~")[0] for task in found} == {"digits_mlp"} and [task.steps for task in found] == [50, 200, 800]
    stored = json.loads((files("stepsmith.tasks") / "references.json").read_text())
    assert all(task.version in stored for task in found)  # such a search need not tune AdamW first
    assert SearchConfig(kind=kind, tasks=("logistic",)).resolved().tasks == ("logistic",)
    assert SearchConfig().resolved().tasks == ("digits_mlp", "digits_autoencoder")


def test_an_integer_serves_as_a_float():
    weight = from_dict(SearchConfig, {"mutation": {"insert": 2}}).mutation.insert
    assert weight == 2.0 and isinstance(weight, float)


BAD = {
    "unknown key": ("buget = '5s'", ["'buget'", "budget", "seed"]),
    "unknown nested key": ("[evolution]\npopulation = 3", ["'evolution.population'", "evolution.population_size"]),
    "a number for text": ("budget = 5", ["budget", "str", "5"]),
    "text for a number": ("seed = '5'", ["seed", "int", "'5'"]),
    "a float for an integer": ("seed = 1.5", ["seed", "int", "1.5"]),
    "a truth value for an integer": ("seed = true", ["seed", "int", "True"]),
    "a truth value for a float": ("[mutation]\ninsert = true", ["mutation.insert", "float", "True"]),
    "text for a list": ("tasks = 'digits_mlp'", ["tasks", "list"]),
    "a list of numbers": ("tasks = [1]", ["tasks[0]", "str", "1"]),
    "a list of texts for numbers": ("learning_rate_factors = [1.0, '3']", ["learning_rate_factors[1]", "float", "'3'"]),
    "a factor of zero": ("learning_rate_factors = [0.0]", ["learning_rate_factors", "above 0"]),
    "a factor twice": ("learning_rate_factors = [1.0, 1]", ["learning_rate_factors", "differ"]),
    "the best of one rate": ("best_rate = true", ["best_rate", "two or more learning_rate_factors"]),
    "a hurdle that is no number": ("hurdle = nan", ["hurdle", "nan"]),
    "blocks that meet the finalists'": ("replicates = 100\nseeds_per_task = 5", ["replicates", "at most 400", "5 x 100"]),
    "islands beyond members": ("[evolution]\nislands = 300", ["islands", "200", "300"]),
    "a migration that is no probability": ("[evolution]\nmigration = 2.0", ["migration", "probability", "2.0"]),
    "a restart that never comes": ("[evolution]\nrestart_after = -1", ["restart_after", "-1"]),
    "more states than there are": ("[mutation]\nmax_states = 7", ["mutation.max_states", "0 to 6", "7"]),
    "a number for a table": ("evolution = 3", ["evolution", "table", "3"]),
    "no such choice": ("mode = 'fast'", ["mode", "deterministic", "async", "'fast'"]),
    "a list for a choice": ("mode = ['async']", ["mode", "deterministic", "async"]),
    "no tasks": ("tasks = []", ["tasks", "one or more"]),
    "a task twice": ("tasks = ['a', 'a']", ["tasks", "different"]),
    "negative seed": ("seed = -1", ["seed", "at least 0", "-1"]),
    "seed beyond 64 bits": ("seed = 10000000000000000000000", ["seed", "at most 2147483647"]),
    "nothing in flight": ("in_flight = 0", ["in_flight", "at least 1"]),
    "no seeds": ("seeds_per_task = 0", ["seeds_per_task", "at least 1"]),
    "seeds that meet the finalists'": ("seeds_per_task = 401", ["seeds_per_task", "at most 400", "401"]),
    "too much memory": (f"memory_limit_mb = {2**41}", ["memory_limit_mb", "at most"]),
    "tournament above population": ("[evolution]\npopulation_size = 3\ntournament_size = 4", ["tournament_size", "3", "4"]),
    "not a probability": ("[mutation]\nconstant = 1.5", ["mutation.constant", "probability", "1.5"]),
    "negative weight": ("[mutation]\ninsert = -1.0", ["weights", "at least 0", "-1.0"]),
    "weight that is no number": ("[mutation]\ninsert = nan", ["mutation.insert", "finite"]),
    "infinite weight": ("[mutation]\nalter = inf", ["mutation.alter", "finite"]),
    "weight beyond floats": (f"[mutation]\ninsert = 1{'0' * 400}", ["mutation.insert", "1e308"]),
    "too many statements": ("[mutation]\nmax_statements = 1000", ["mutation.max_statements", "1000"]),
    "population without end": (f"[evolution]\npopulation_size = {10**7}", ["population_size", "at most 1000000"]),
    "finalists beyond 64 bits": (f"finalists = {10**30}", ["finalists", "at most 10000"]),
    "in flight without end": ("in_flight = 20000", ["in_flight", "at most 10000"]),
    "weights of infinite sum": ("[mutation]\ninsert = 1e308\ndelete = 1e308", ["weights", "sum"]),
    "length beyond floats": (f"[mutation]\nmax_statements = 1{'0' * 400}", ["mutation.max_statements", "a number of 1329 bits"]),
    "more digits than Python reads": ("seed = " + "9" * 5000, ["not TOML", "digits"]),
    "more bits than Python prints": ("seed = 0x" + "f" * 5000, ["seed", "a number of 20000 bits"]),
    "nested without end": ("tasks = " + "[" * 5000, ["not TOML"]),
    "a file without end": ("#" * 100_001, ["more than 100000 characters"]),
    "zero byte": ('initial = "a\\u0000b"', ["initial", "no name"]),
    "not TOML": ("seed = = 3", ["not TOML", "line 1"]),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_one_clear_line(tmp_path, text, words):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_search_checks_its_config(tmp_path):
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        search(SearchConfig(seed=-1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_initial_program_of_the_other_language(tmp_path):
    with pytest.raises(ConfigError, match="^initial 'adafactor' uses row_mean, .* set language to extended$"):
        search(SearchConfig(initial="adafactor"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"initial = '\xe9'")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "latin"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path)


@pytest.mark.parametrize(
    ("text", "budget"), [("45s", (45.0, None)), ("1.5m", (90.0, None)), ("2h", (7200.0, None)), ("5000", (None, 5000))]
)
def test_budgets(text, budget):
    assert dataclasses.astuple(Budget.parse(text)) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0s",
        "0.0m",
        "-5",
        "-5s",
        "1.5",
        "5 s",
        "5d",
        "s",
        "nan",
        "1e3",
        "5s\n",
        "infs",
        "5e3",
        "9" * 400 + "s",
        "9" * 5000,
        "9999999999s",
        "\u0665",
    ],
)
def test_bad_budgets(text):
    with pytest.raises(ConfigError, match="such as 45s, 10m or 2h, or a number of evaluations"):
        SearchConfig(budget=text).check()


def test_finalists_see_new_seeds():
    for seed in (0, 1, 2**31 - 1):
        config = SearchConfig(seed=seed, seeds_per_task=400, finalist_seeds=400)
        assert len({*config.search_seeds, *config.finalist_seed_values}) == 800
    assert not {*SearchConfig(seed=0, finalist_seeds=400).finalist_seed_values} & {*SearchConfig(seed=1, seeds_per_task=400).search_seeds}


def names_of(cls):
    return st.sampled_from([field.name for field in dataclasses.fields(cls)])


SCALARS = st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats() | st.text(max_size=8)
LIKELY = st.sampled_from(["digits_mlp", "90s", "10", "async", "random_search", "linear", 1, 5, 0.5])
VALUES = st.recursive(LIKELY | SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
TABLES = {
    "evolution": st.dictionaries(names_of(EvolutionConfig) | st.text(max_size=3), VALUES, max_size=3),
    "mutation": st.dictionaries(names_of(MutationConfig), LIKELY | SCALARS, max_size=3),
}


@given(st.fixed_dictionaries({}, optional=TABLES), st.dictionaries(names_of(SearchConfig) | st.text(max_size=5), VALUES, max_size=4))
def test_any_data_give_a_config_or_a_value_error(tables, values):
    try:
        config = from_dict(SearchConfig, {**values, **tables})
    except ValueError:
        return
    assert from_dict(SearchConfig, to_dict(config)) == config
    assert 0 <= config.seed < 2**31 and config.in_flight >= 1 and config.tasks
    assert 1 <= config.evolution.tournament_size <= config.evolution.population_size
    assert all(math.isfinite(value) for value in dataclasses.astuple(config.mutation))
