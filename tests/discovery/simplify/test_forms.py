"""The forms that programs are edited and printed in compute what the program computes."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obfuscation import obfuscate, outputs, same

from stepsmith.discovery.language import ProgramError, canonical_hash, extended_operations, infer, load, names, parse, prune, to_text
from stepsmith.discovery.search import MutationConfig, mutant
from stepsmith.discovery.simplify.exact import exact
from stepsmith.discovery.simplify.graph import to_graph, to_program
from stepsmith.discovery.simplify.layout import to_short_text
from stepsmith.discovery.simplify.naming import readable
from stepsmith.discovery.simplify.parity import Parity, parities
from stepsmith.discovery.simplify.rounding import constants, rounded, with_constant

RELAXED = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PAPER = [name for name in names() if not extended_operations(load(name))]  # what the NumPy reference below knows
PROGRAMS = (st.sampled_from(PAPER), st.integers(0, 2**32), st.integers(0, 25))


def _mutated(name, seed, count, extended=False):
    program, random = load(name), Random(seed)
    for _ in range(count):
        candidate, _ = mutant(program, random, MutationConfig(max_statements=30), extended)
        try:
            infer(candidate)
        except ProgramError:
            continue
        program = candidate
    return program


def _finite_and_same(one, other):
    """Whether one is not finite, where nothing is promised, or the two are the same."""
    expected = outputs(one)
    return not (abs(expected) < 1e30).all() or same(expected, outputs(other))


def _without_copies(program):
    return [statement for statement in prune(program).statements if statement.op != "copy"]


@RELAXED
@given(*PROGRAMS)
def test_a_graph_is_the_program(name, seed, count):
    program = _mutated(name, seed, count)
    again = to_program(to_graph(program))
    infer(again)
    assert canonical_hash(again) == canonical_hash(program)
    assert _finite_and_same(program, again)
    assert len(_without_copies(again)) == len(_without_copies(program))


@RELAXED
@given(*PROGRAMS)
def test_the_readable_form_is_the_program(name, seed, count):
    program = _mutated(name, seed, count)
    again = readable(program)
    infer(again)
    assert _finite_and_same(program, again)
    assert len(again.statements) <= len(to_program(to_graph(program)).statements)
    assert readable(again) == again
    assert canonical_hash(parse(to_short_text(again))) == canonical_hash(again)


@RELAXED
@given(st.sampled_from(names()), *PROGRAMS[1:])
def test_programs_of_the_extended_language_keep_their_normal_form(name, seed, count):
    program = _mutated(name, seed, count, extended=True)
    again = readable(program)
    infer(again)
    assert canonical_hash(again) == canonical_hash(exact(program)) == canonical_hash(program)
    assert readable(again) == again
    assert canonical_hash(parse(to_short_text(again))) == canonical_hash(again)


@RELAXED
@given(*PROGRAMS)
def test_the_exact_tier_is_the_program(name, seed, count):
    program = _mutated(name, seed, count)
    again = exact(program)
    infer(again)
    assert _finite_and_same(program, again)
    assert len(again.statements) <= len(to_program(to_graph(program)).statements)


SWAPPED = "def train(w, g, m, v, lr):\n    x = m\n    m = v\n    v = x\n    v = interp(v, g, 0.1)\n    update = v\n    return update, m, v"
OUTPUTS = {
    "states swapped": SWAPPED,
    "an input put out": "def train(w, g, m, lr):\n    update = m\n    m = g\n    return update, m",
    "one value put out twice": "def train(w, g, m, lr):\n    m = m + g\n    update = m\n    return update, m",
    "a state read after its new value": "def train(w, g, m, lr):\n    old = m\n    m = m + g\n    update = m * old\n    return update, m",
    "an input overwritten": "def train(w, g, lr):\n    g = g * 2.0\n    lr = lr * 0.1\n    update = g * lr\n    return update",
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_that_are_no_values_of_their_own(case):
    program = parse(OUTPUTS[case])
    for again in (to_program(to_graph(program)), readable(program), parse(to_short_text(readable(program)))):
        assert same(outputs(program), outputs(again))
        assert len(again.statements) <= len(program.statements)


def test_readable_lion():
    assert to_short_text(readable(load("lion"))).splitlines() == [
        "def train(w, g, m, lr):",
        "    blend = interp(g, m, 0.9)",
        "    m = interp(g, m, 0.99)",
        "    direction = sign(blend)",
        "    update = (direction + w * 0.1) * (lr * 0.0003)",
        "    return update, m",
    ]


def test_names_do_not_depend_on_the_names_before():
    other = parse("""def train(w, g, a, b, lr):
        x1 = lr * 0.001
        b = interp(g, b, 0.9)
        x2 = square(g)
        x9 = w * 0.01
        a = interp(x2, a, 0.999)
        x3 = sqrt(a)
        x7 = b / x3
        x5 = x7 + x9
        update = x5 * x1
        return update, a, b""")
    assert set(to_text(readable(other)).splitlines()[1:-1]) == set(to_text(readable(load("adamw"))).splitlines()[1:-1])
    assert readable(other).states == ("v", "m")


def test_brackets_stand_where_they_are_needed():
    program = parse("""def train(w, g, lr):
        update = (g - (w - (g - 1.0))) / (g / (w * 2.0)) * lr - -(g + 1.0)
        return update""")
    short = to_short_text(readable(program))
    assert same(outputs(program), outputs(parse(short)))
    assert "((" not in short.replace("(((", "")


PARITIES = {
    "m = interp(g, m, 0.9)": Parity.ODD,
    "m = m + square(g)": Parity.EVEN,
    "m = interp(abs(g), m, 0.9)": Parity.EVEN,
    "m = interp(cube(g), m, 0.9)": Parity.ODD,
    "m = m + g * norm(g)": Parity.ODD,
    "m = m + w": Parity.NEITHER,
    "m = m + exp(g)": Parity.NEITHER,
    "m = maximum(m, g)": Parity.NEITHER,
    "m = maximum(m, abs(g))": Parity.EVEN,
    "m = m * m + g": Parity.NEITHER,
}


@pytest.mark.parametrize("line", PARITIES)
def test_parity(line):
    program = parse(f"def train(w, g, m, lr):\n    {line}\n    update = m * g\n    return update, m")
    assert parities(to_graph(program))["m"] is PARITIES[line]


@pytest.mark.parametrize(("value", "first"), [(0.46019, 0.5), (-3.28, -3.0), (0.999, 0.999), (1.109, 1.1), (0.0217, 0.02), (2.0, 2.0)])
def test_rounded(value, first):
    digits = list(rounded(value))
    assert digits[0] == first and digits[-1] == value
    assert len(set(digits)) == len(digits)


def test_with_constant():
    lion = load("lion")
    assert [lion.statements[i].args[j] for i, j in constants(lion)] == [0.9, 0.99, 0.1, 0.0003]
    assert with_constant(lion, constants(lion)[1], 0.98).statements[1].args == ("g", "m", 0.98)


@pytest.mark.parametrize("rewritten", [False, True], ids=["30 mutations", "15 mutations and 15 rewritings"])
@pytest.mark.parametrize("name", ["adamw", "lion", "powersign"])
def test_obfuscated_programs_come_back(name, rewritten):
    """Changes that leave the outputs on random inputs as they were: no statement of them is left."""
    program = load(name)
    for seed in range(10):
        long = obfuscate(program, Random(seed), 30, rewritten)
        assert len(long.statements) > (2 if rewritten else 1) * len(program.statements)
        short = readable(exact(long))
        assert same(outputs(program), outputs(short))
        assert len(short.statements) <= len(program.statements), to_text(short)
