"""Equality by testing: forms that the normal form does not bring together are found equal, and near misses are not."""

import numpy as np
import pytest

from stepsmith.discovery.language import Program, Statement, canonical_hash, load, names, parse
from stepsmith.discovery.language.equality import different, differs, inputs, run

MOMENTUM = "def train(w, g, m, lr):\n    m = interp(g, m, 0.9)\n    x = {}\n    update = x * lr\n    return update, m"
SCHEDULE = "def schedule(progress):\n    x = {}\n    multiplier = x * 1.0\n    return multiplier"


def _kept(bodies, rule):
    return list(different(bodies, lambda body: parse(rule.format(body))))


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        (MOMENTUM, "tanh(m)", "1.0 - 2.0 / (exp(m + m) + 1.0)"),
        (MOMENTUM, "square(cosh(m)) - square(sinh(m)) + g", "g + 1.0"),
        (MOMENTUM, "maximum(m, 0.0)", "(m + abs(m)) * 0.5"),
        (SCHEDULE, "square(cos(progress))", "1.0 - square(sin(progress))"),
    ],
)
def test_equal_programs_of_unequal_hashes_are_one(rule, one, other):
    assert canonical_hash(parse(rule.format(one))) != canonical_hash(parse(rule.format(other)))
    assert _kept([one, other], rule) == [one] and _kept([other, one], rule) == [other]


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        (MOMENTUM, "m", "m * 1.0001"),
        (MOMENTUM, "sign(m)", "m / sqrt(m * m)"),  # at tiny values
        (MOMENTUM, "m", "m + w * 0.001"),
        (MOMENTUM, "m", "minimum(m, 1000.0)"),
        (SCHEDULE, "progress", "progress * 0.999"),
    ],
)
def test_near_misses_stay_apart(rule, one, other):
    assert _kept([one, other, one], rule) == [one, other]


def test_shipped_programs_differ():
    programs = [load(name) for name in names()]
    assert list(different(programs, lambda program: program)) == programs


def test_programs_without_outputs_are_not_taken_for_equal():
    nowhere = ["log(g - g) * m", "reciprocal(g - g) * m"]
    assert _kept(nowhere, MOMENTUM) == nowhere


def test_outputs_are_those_of_the_equation():
    """Two steps of momentum by hand, with the feed's learning rates."""
    program = Program((Statement("m", "interp", ("g", "m", 0.9)), Statement("update", "multiply", ("m", "lr"))), ("m",))
    feed = inputs(3, "normal")
    outputs, broken = run(program, feed, np.float64)
    first = 0.1 * feed[0]["g"]
    second = 0.1 * feed[1]["g"] + 0.9 * first
    np.testing.assert_allclose(outputs[:2], [first * feed[0]["lr"], second * feed[1]["lr"]], rtol=1e-14)
    assert not broken.any() and differs(program, program, 0) is None
