"""Search configs as TOML text and as data, budgets, and the names that they hold."""

import dataclasses
import math
import tempfile
import tomllib
from pathlib import Path

import tomli_w
from fuzz_outcome import VALID, Kind, refusal
from hypothesis import strategies as st

from stepsmith import optimizers, schedules, tasks
from stepsmith.discovery import Budget, ConfigError, SearchConfig
from stepsmith.discovery.config import from_dict, load, to_dict
from stepsmith.discovery.language import load as load_program
from stepsmith.discovery.search import EvolutionConfig, MutationConfig, random_search, regularized_evolution

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-configs-"))
VALID_TOML = (
    tomli_w.dumps(to_dict(SearchConfig())),
    tomli_w.dumps(
        to_dict(SearchConfig(tasks=("digits_mlp",), budget="40", evolution=EvolutionConfig(12, 3), mutation=MutationConfig(insert=3.0)))
    ),
    "seed = 3\n\n[mutation]\ninsert = 2\n",
)
ANYTHING = st.text(max_size=200) | st.text(st.characters(codec="utf-8"), max_size=50)
HUGE = st.tuples(st.sampled_from([-1, 1]), st.sampled_from([31, 63, 64, 100, 1_400, 14_000, 20_000])).map(
    lambda case: case[0] * 2 ** case[1]
)
SCALARS = st.none() | st.booleans() | st.integers() | HUGE | st.floats() | st.text(max_size=8) | st.binary(max_size=4) | st.dates()
LIKELY = st.sampled_from(["digits_mlp", "90s", "10", "async", "random_search", "linear", "lion", 1, 5, 0.5, ["digits_mlp"], ("a", "b")])
VALUES = st.recursive(LIKELY | SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
KEYS = (
    st.sampled_from([field.name for field in dataclasses.fields(SearchConfig)])
    | st.text(max_size=5)
    | SCALARS.filter(lambda value: value.__hash__ is not None)
)
TABLES = {
    "evolution": st.dictionaries(
        st.sampled_from(["population_size", "tournament_size"]) | st.text(max_size=3), LIKELY | SCALARS, max_size=3
    )
    | VALUES,
    "mutation": st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(MutationConfig)]), LIKELY | SCALARS, max_size=3)
    | VALUES,
}
DATA = st.tuples(st.fixed_dictionaries({}, optional=TABLES), st.dictionaries(KEYS, VALUES, max_size=4)).map(
    lambda case: {**case[1], **case[0]}
)
TOML_WORDS = [
    "seed",
    "tasks",
    "budget",
    "[evolution]",
    "[mutation]",
    "[[x]]",
    "=",
    " = ",
    "\n",
    '"',
    "'",
    '"""',
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "#",
    "1979-05-27",
]
TOML_WORDS += [
    "inf",
    "nan",
    "true",
    "0x" + "f" * 5_000,
    "9" * 5_000,
    "1e400",
    "\\u0000",
    "\\ud800",
    "\x00",
    "'90s'",
    "insert",
    "1",
    "[" * 3_000,
    "{a=" * 900,
]
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 20), st.sampled_from(["", *TOML_WORDS]) | st.text(max_size=3))


def _toml_of(data):
    try:
        return tomli_w.dumps(data)
    except (TypeError, ValueError, AttributeError):  # TOML cannot say it: keys that are no text, None, endless numbers
        return "[nothing]"


def _edit(case):
    text, edits = case
    for at, size, new in edits:
        i = int(at * len(text))
        text = text[:i] + new + text[i + size :]
    return text


def check_toml(text):
    path = FOLDER / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        config = load(path)
    except ConfigError as error:
        assert str(path) in str(error)
        return refusal(error)
    return _check_config(config)


def check_data(data):
    try:
        config = from_dict(SearchConfig, data)
    except ConfigError as error:
        return refusal(error)
    return _check_config(config)


def _check_config(config):
    """What a valid config can do: it is written and read again, and a search of it is bounded."""
    assert from_dict(SearchConfig, to_dict(config)) == config == config.check()
    assert from_dict(SearchConfig, tomllib.loads(tomli_w.dumps(to_dict(config)))) == config
    budget = Budget.parse(config.budget)
    assert 0 < (budget.seconds or budget.evaluations or 0) < 1e13
    assert 0 <= config.seed < 2**31 and 1 <= config.in_flight <= 10_000 and 1 <= config.finalists <= 10_000 and config.resolved().tasks
    assert 1 <= config.evolution.tournament_size <= config.evolution.population_size <= 1_000_000
    assert all(math.isfinite(value) for value in dataclasses.astuple(config.mutation))
    assert len({*config.search_seeds, *config.finalist_seed_values}) == config.seeds_per_task + config.finalist_seeds
    program = load_program("lion")
    random_search(program, config.mutation)
    regularized_evolution(program, config.evolution, config.mutation)
    return VALID


def check_budget(text):
    try:
        budget = Budget.parse(text)
    except ConfigError as error:
        return refusal(error)
    assert (budget.seconds is None) != (budget.evaluations is None)
    assert 0 < (budget.seconds or budget.evaluations) < 1e13
    return VALID


def _known(get):
    def check(name):
        try:
            get(name)
        except ValueError as error:
            return refusal(error)
        return VALID

    return check


BUDGETS = st.tuples(
    st.text("0123456789.eE+-_٣ ", max_size=20) | st.integers().map(str) | st.floats().map(str),
    st.sampled_from(["", "s", "m", "h", "d", "\n", "S"]),
).map("".join)
TASK_NAMES = ANYTHING.filter(lambda name: ":" not in name and name.isprintable()) | st.sampled_from(
    ["digits_mlp", "quadratic@10", "a:b", "json:", "@", "x@y", ":x"]
)
NAMES = ANYTHING | st.sampled_from(["linear", "cosine", "sgd", "lion", "digits_mlp", "", ":", "a:b", "x" * 300])
KINDS = (
    Kind("config TOML", ANYTHING | st.binary(max_size=60) | st.lists(st.sampled_from(TOML_WORDS), max_size=12).map("".join), check_toml),
    Kind(
        "config TOML, edited",
        st.tuples(st.sampled_from(VALID_TOML), st.lists(EDIT, max_size=3)).map(_edit) | DATA.map(_toml_of),
        check_toml,
    ),
    Kind("config data", DATA | VALUES, check_data),
    Kind("budget", BUDGETS | ANYTHING, check_budget),
    Kind("schedule's name", NAMES, _known(lambda name: schedules.create(name, 1.0, 10))),
    Kind("optimizer's name", NAMES, _known(optimizers.get)),
    Kind("task's name", TASK_NAMES, _known(tasks.get)),
)
