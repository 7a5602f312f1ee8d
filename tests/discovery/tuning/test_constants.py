"""Constants as a vector: zero is the program itself, and each number moves one constant."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepsmith.discovery.language import load, names, parse, prune
from stepsmith.discovery.tuning.constants import coordinates, with_offsets

PROGRAMS = {name: prune(load(name)) for name in names()}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_no_offset_changes_nothing(program):
    found = coordinates(program)
    constants = [a for statement in program.statements for a in statement.args if isinstance(a, float)]
    assert [coordinate.value for coordinate in found] == constants
    assert with_offsets(program, found, [0.0] * len(found)) == program


@given(st.sampled_from(sorted(PROGRAMS)), st.data())
def test_an_offset_moves_its_own_constant_and_keeps_its_sign(name, data):
    program = PROGRAMS[name]
    found = coordinates(program)
    index = data.draw(st.integers(0, len(found) - 1))
    offset = data.draw(st.floats(-20, 20).filter(lambda x: abs(x) > 1e-3))
    moved = coordinates(with_offsets(program, found, [offset * (i == index) for i in range(len(found))]))
    for i, (before, after) in enumerate(zip(found, moved, strict=True)):
        assert (before.value == after.value) is (i != index)
        assert math.isfinite(after.value)
        if before.is_memory:
            assert after.value < 1
        elif before.value > 0:
            assert after.value > 0


def test_each_kind_of_constant_has_its_scale():
    program = prune(
        parse("""def train(w, g, m, v, lr):
            m = interp(g, m, 0.9)
            v = interp(g, v, 0.1)
            t = m * -2.0
            s = v + 0.0
            d = t + s
            update = d * lr
            return update, m, v""")
    )
    found = coordinates(program)
    x = math.log(2)
    assert [round(c.at(x), 12) for c in found] == [0.8, 0.2, -4.0, round(x, 12)]
    assert [c.at(0.0) for c in found] == [0.9, 0.1, -2.0, 0.0]
