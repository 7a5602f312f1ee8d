"""The canonical hash tells programs apart by what they compute, and pruning keeps what they compute."""

from collections import defaultdict
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepsmith.discovery.language import ProgramError, canonical_hash, infer, is_live, load, names, parse, prune, to_text
from stepsmith.discovery.search import MutationConfig, mutant, mutate


def _program(*lines, signature="w, g, m, v, lr", returned="update, m, v"):
    return parse("\n    ".join([f"def train({signature}):", *lines, f"return {returned}"]))


def test_prune_removes_statements_dead_across_steps():
    program = _program("v = v + m", "m = m + g", "x = sin(v)", "v = v * 2.0", "update = g * lr", "y = update + x")
    assert to_text(prune(program)) == "def train(w, g, lr):\n    update = g * lr\n    return update"


def test_prune_keeps_a_chain_of_states():
    program = _program("update = m * lr", "m = v", "v = g")  # g reaches the update two steps later
    assert prune(program) == program
    assert is_live(program)


def test_prune_removes_a_state_overwritten_before_it_is_read():
    program = _program("m = g * 2.0", "update = m", "m = cosh(update)")
    assert prune(program) == parse("def train(w, g, lr):\n    m = g * 2.0\n    update = m\n    return update")


def test_prune_drops_unread_extra_inputs():
    program = _program("x = step * 2.0", "update = g * progress", signature="w, g, lr, step, progress", returned="update")
    assert prune(program).extra == ("progress",)
    program = _program("step = g * 2.0", "update = step * progress", signature="w, g, lr, step, progress", returned="update")
    assert prune(program).extra == ("progress",)  # step is another variable before it is read


def test_prune_of_lion_raw():
    kept = [statement.target for statement in prune(load("lion_raw")).statements]
    assert kept == ["g", "g", "m", "v1", "v", "lr", "update", "v1", "update", "wd", "wd", "update"]
    assert prune(load("lion_raw")).states == ("v",)


def test_is_live():
    assert not is_live(_program("m = g", "update = w * lr"))
    assert not is_live(_program("g = w * lr", "update = g + m", "m = g"))
    assert is_live(_program("g = g * lr", "update = g"))


BASE = ("a = g * 2.0", "b = w + m", "m = interp(a, m, 0.9)", "v = v + b", "update = m / v")
SAME = {
    "renamed": ("first = g * 2.0", "second = w + m", "m = interp(first, m, 0.9)", "v = v + second", "update = m / v"),
    "reordered": ("b = w + m", "a = g * 2.0", "v = v + b", "m = interp(a, m, 0.9)", "update = m / v"),
    "commuted": ("a = 2.0 * g", "b = m + w", "m = interp(a, m, 0.9)", "v = b + v", "update = m / v"),
    "dead code": ("x = sin(g)", *BASE, "y = update * x", "a = y"),
    "copied": ("h = g", "a = h * 2.0", "b = w + m", "n = interp(a, m, 0.9)", "m = n", "v = v + b", "update = n / v"),
    "computed twice": (*BASE[:4], "update = m / v", "update = m / v"),
    "states renamed": ("a = g * 2.0", "b = w + v", "v = interp(a, v, 0.9)", "m = m + b", "update = v / m"),
    "another scale of a state": ("a = g * 2.0", "b = w + m * 0.2", "m = a * 0.5 + m * 0.9", "v = v + b", "update = m * 0.2 / v"),
    "nested": ("b = w + m", "m = interp(g * 2.0, m, 0.9)", "v = v + b", "update = m / v"),
}
OTHER = {
    "interp arguments": (*BASE[:2], "m = interp(m, a, 0.9)", *BASE[3:]),
    "constant": ("a = g * 2.0000002", *BASE[1:]),
    "sign of a constant": ("a = g * -2.0", *BASE[1:]),
    "operation": (*BASE[:4], "update = m - v"),
    "division swapped": (*BASE[:4], "update = v / m"),
    "state read after its update": (BASE[0], BASE[2], BASE[1], *BASE[3:]),
    "update before the state": (*BASE[:2], BASE[4], *BASE[2:4]),
    "other input": ("a = w * 2.0", *BASE[1:]),
    "later state": (*BASE, "m = m * 2.0"),
}


@pytest.mark.parametrize("case", SAME)
def test_hash_is_the_same(case, outputs_of):
    assert canonical_hash(_program(*SAME[case])) == canonical_hash(_program(*BASE))
    np.testing.assert_allclose(outputs_of(_program(*SAME[case])), outputs_of(_program(*BASE)), rtol=1e-5)


def test_hashes_differ():
    hashes = [canonical_hash(_program(*lines)) for lines in (BASE, *OTHER.values())]
    assert len(set(hashes)) == len(hashes) == 10
    assert len({canonical_hash(load(name)) for name in names()}) == len(names())


def test_hash_ignores_unused_states_and_inputs():
    small = parse("def train(w, g, lr):\n    update = g * lr\n    return update")
    large = _program("v = sin(v)", "update = lr * g", signature="w, g, m, v, lr, step")
    assert canonical_hash(small) == canonical_hash(large)


def _mutated(name, seed, count):
    """A program of which much is dead: mutations applied whether or not they change what it computes."""
    program, random = load(name), Random(seed)
    for _ in range(count):
        candidate, _ = mutant(program, random, MutationConfig())
        try:
            infer(candidate)
        except ProgramError:
            continue
        program = candidate
    return program


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(names()), st.integers(0, 2**32), st.integers(1, 20))
def test_pruning_preserves_outputs_and_hash(outputs_of, name, seed, count):
    program = _mutated(name, seed, count)
    pruned = prune(program)
    # The same operations in the same order: equal to the last bit.
    np.testing.assert_array_equal(outputs_of(pruned), outputs_of(program))
    assert canonical_hash(pruned) == canonical_hash(program)
    assert prune(pruned) == pruned


def test_equal_hashes_mean_equal_outputs(outputs_of):
    groups = defaultdict(dict)
    # Few statements and no new constants, so that different texts of the same function are common.
    config = MutationConfig(constant=0.0, rescale=0.0, max_statements=12)
    for index, name in enumerate(["sgd", "momentum", "rmsprop", "lion"] * 150):
        random = Random(index)
        parent = load(name)
        for _ in range(2):
            child = mutate(parent, canonical_hash(parent), random, config)
            candidate, _ = mutant(child.program, random, config)
            for program in (child.program, candidate):
                try:
                    infer(program)
                except ProgramError:
                    continue
                groups[canonical_hash(program)][to_text(prune(program))] = program
            parent = child.program
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    assert len(several) >= 20
    for first, *rest in several:
        expected = outputs_of(first)
        for program in rest:
            np.testing.assert_allclose(outputs_of(program), expected, rtol=1e-5, atol=1e-12)
    assert len(groups) > 500
