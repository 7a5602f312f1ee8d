"""Mutations of a tiny program: the exact set of what may come out, and that children are valid."""

from random import Random

import pytest

from stepsmith.discovery.language import (
    OPS,
    Program,
    Statement,
    canonical_hash,
    infer,
    is_live,
    load,
    names,
    parse,
    prune,
    to_text,
)
from stepsmith.discovery.language.ops import SAMPLED, SAMPLED_EXTENDED
from stepsmith.discovery.search import MutationConfig, mutant, mutate

TINY = parse("def train(w, g, lr):\n    x = g * lr\n    y = interp(x, w, 0.9)\n    update = sin(y)\n    return update")
X, Y, UPDATE = TINY.statements


def _outcomes(draws=3000, parent=TINY, extended=False, **settings):
    random, config = Random(0), MutationConfig(**{k: v if k == "max_statements" else float(v) for k, v in settings.items()})
    return [mutant(parent, random, config, extended)[0].statements for _ in range(draws)]


def test_delete_exact_set():
    assert set(_outcomes(200, insert=0, alter=0)) == {(Y, UPDATE), (X, UPDATE), (X, Y)}


def test_alter_exact_set():
    """Variables only: those assigned before the statement, the old argument included."""
    expected = {(Statement("x", "multiply", (a, "lr")), Y, UPDATE) for a in ("w", "g", "lr")}
    expected |= {(Statement("x", "multiply", ("g", a)), Y, UPDATE) for a in ("w", "g", "lr")}
    for position, old in enumerate(Y.args):
        for new in ("w", "g", "lr", "x"):
            args = (*Y.args[:position], new, *Y.args[position + 1 :])
            expected.add((X, Statement("y", "interp", args), UPDATE))
            assert old != new or args == Y.args
    expected |= {(X, Y, Statement("update", "sin", (a,))) for a in ("w", "g", "lr", "x", "y")}
    assert set(_outcomes(insert=0, delete=0, constant=0, rescale=0)) == expected


def test_alter_to_constants_only():
    for statements in _outcomes(300, insert=0, delete=0, constant=1, rescale=0):
        changed = [(new, old) for new, old in zip(statements, TINY.statements, strict=True) if new != old]
        assert len(changed) == 1
        new, old = changed[0]
        differing = [a for a, b in zip(new.args, old.args, strict=True) if a != b]
        assert (new.target, new.op) == (old.target, old.op) and len(differing) == 1 and isinstance(differing[0], float)


def test_rescale_keeps_the_sign_of_a_constant():
    constants = [
        y.args[2] for _, y, _ in _outcomes(600, insert=0, delete=0, constant=0, rescale=1) if isinstance(y.args[2], float) and y != Y
    ]
    assert len(constants) > 50
    assert min(constants) > 0 and min(constants) < 0.9 < max(constants)


def test_nothing_to_alter():
    parent = parse("def train(w, g, lr):\n    update = get_pi()\n    return update")
    assert set(_outcomes(50, parent, insert=0, delete=0)) == {parent.statements}


@pytest.mark.parametrize(("extended", "sampled"), [(False, SAMPLED), (True, SAMPLED_EXTENDED)])
def test_insert_exact_targets_and_places(extended, sampled):
    places, targets, ops, read = set(), set(), set(), set()
    time = {"step", "progress", "budget"} if extended else set()
    for statements in _outcomes(6000, delete=0, alter=0, constant=0, extended=extended):
        at = next(i for i in range(4) if statements[:i] + statements[i + 1 :] == TINY.statements)
        new = statements[at]
        before = {"w", "g", "lr", *time, *(s.target for s in TINY.statements[:at])}
        assert set(new.args) <= before and len(new.args) == OPS[new.op].arity
        places.add(at)
        targets.add(new.target)
        ops.add(new.op)
        read |= {*new.args}
    assert places == {0, 1, 2, 3}
    assert targets == {"w", "g", "lr", "x", "y", "update", "x1", *time}
    assert ops == {op.name for op in sampled}
    assert read == {"w", "g", "lr", "x", "y", "update", *time}


@pytest.mark.parametrize(("fresh", "expected"), [(1.0, {"x1"}), (0.0, {"w", "g", "lr", "x", "y", "update"})])
def test_fresh_target(fresh, expected):
    known = set(TINY.statements)
    assert {
        s.target for statements in _outcomes(500, delete=0, alter=0, fresh_target=fresh) for s in statements if s not in known
    } == expected


def test_fresh_target_avoids_taken_names():
    parent = parse("def train(w, g, x1, lr):\n    x2 = g * lr\n    update = x2\n    return update, x1")
    inserted = {s.target for statements in _outcomes(50, parent, delete=0, alter=0, fresh_target=1.0) for s in statements}
    assert inserted == {"x2", "update", "x3"}


@pytest.mark.parametrize(
    ("weights", "sizes"),
    [
        ((1, 0, 0), {4}),
        ((0, 1, 0), {2}),
        ((0, 0, 1), {3}),
        ((1, 1, 0), {2, 4}),
        ((1, 0, 1), {3, 4}),
        ((0, 1, 1), {2, 3}),
        ((1, 1, 1), {2, 3, 4}),
    ],
)
def test_weights(weights, sizes):
    insert, delete, alter = weights
    assert {len(statements) for statements in _outcomes(200, insert=insert, delete=delete, alter=alter)} == sizes


def test_never_above_the_maximum():
    assert {len(statements) for statements in _outcomes(300, max_statements=3)} == {2, 3}
    program, random, config, sizes = TINY, Random(1), MutationConfig(insert=5.0, max_statements=9), []
    for _ in range(120):
        program = mutate(program, canonical_hash(program), random, config).program
        sizes.append(len(program.statements))
    assert max(sizes) == 9


def test_empty_program_can_only_grow():
    empty = type(TINY)((), TINY.states)
    assert {len(statements) for statements in _outcomes(50, empty, insert=0.001, delete=1, alter=1)} == {1}


def test_time_is_an_input_of_what_reads_it_alone():
    """A child of the extended language may read step, progress and budget; what does not is the program that it would be without them."""
    sgd, random, extras = load("sgd"), Random(0), set()
    for _ in range(300):
        child = mutate(sgd, canonical_hash(sgd), random, MutationConfig(), extended=True).program
        pruned = prune(child)
        extras.add(pruned.extra)
        read, assigned = set(), set()
        for target, _, args in pruned.statements:
            read |= {*args} - assigned  # a variable may have taken the name of an input
            assigned.add(target)
        assert set(pruned.extra) == read & {"step", "progress", "budget"}
        assert canonical_hash(child) == canonical_hash(pruned)
        assert parse(to_text(child)) == child
    assert extras >= {(), ("step",), ("progress",), ("budget",)}


def test_a_variable_named_step_stays_what_it_was():
    parent = parse("def train(w, g, lr):\n    step = g * 0.1\n    update = step * lr\n    return update")
    child = mutant(parent, Random(0), MutationConfig(insert=0.0, delete=0.0, constant=1.0), extended=True)[0]
    assert child.extra == ("step", "progress", "budget")
    assert canonical_hash(child) == canonical_hash(Program(child.statements, child.states))


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("name", names())
def test_children_are_valid_and_new(name, extended):
    parent, random = load(name), Random(5)
    key, program, program_hash = canonical_hash(parent), parent, canonical_hash(parent)
    same = 0
    for _ in range(60):
        child = mutate(parent, key, random, MutationConfig(), extended)
        same += child.hash == key
        # And far from the parent, where a program may be so dead that neutral mutations exhaust their limit.
        far = mutate(program, program_hash, random, MutationConfig(), extended)
        for each in (child, far):
            assert len(infer(each.program)) == len(each.program.statements) <= max(32, len(parent.statements))
            assert is_live(each.program)
            assert each.hash == canonical_hash(each.program)
            assert each.rejected >= 0 and each.mutation
        program, program_hash = far.program, far.hash
    assert same <= 6  # only after 16 neutral mutations in a row, which the smallest programs see now and then


def test_rejects_what_ignores_the_gradient():
    parent = parse("def train(w, g, lr):\n    x = w * lr\n    update = x * g\n    return update")
    config = MutationConfig(insert=0.0, delete=0.0, constant=0.0, rescale=0.0)
    children = {mutate(parent, canonical_hash(parent), Random(seed), config).program.statements[1].args for seed in range(300)}
    # `g` replaced by another variable would lose it, unless x has it.
    assert ("x", "w") not in children and ("g", "g") in children and ("x", "lr") not in children
    assert sum(mutate(parent, canonical_hash(parent), Random(seed), config).rejected for seed in range(50)) > 0


def test_neutral_mutants_are_counted():
    """One that changes dead code alone is mutated further, sixteen times."""
    config = MutationConfig(only_constants=True)
    dead = parse("def train(w, g, lr):\n    x = w * 0.5\n    update = g * lr\n    return update")
    live = parse("def train(w, g, lr):\n    update = g * 0.5\n    return update")
    for seed in range(20):
        child = mutate(dead, canonical_hash(dead), Random(seed), config)
        assert (child.neutral, child.rejected, child.hash) == (16, 0, canonical_hash(dead))
        assert mutate(live, canonical_hash(live), Random(seed), config).neutral == 0


def test_deterministic_by_seed():
    parent = load("adamw")
    key = canonical_hash(parent)
    first, again = ([mutate(parent, key, Random(seed), MutationConfig()) for seed in range(30)] for _ in range(2))
    assert first == again
    assert len({child.hash for child in first}) > 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"insert": -1.0}, "at least 0 and not all 0"),
        ({"insert": 0.0, "delete": 0.0, "alter": 0.0}, "at least 0 and not all 0"),
        ({"constant": 1.5}, "mutation.constant is a probability"),
        ({"rescale": -0.1}, "mutation.rescale is a probability"),
        ({"fresh_target": 2.0}, "mutation.fresh_target is a probability"),
        ({"max_statements": 0}, "must be 1 to 64"),
        ({"max_statements": 65}, "must be 1 to 64"),
    ],
)
def test_bad_config(settings, message):
    with pytest.raises(ValueError, match=message):
        MutationConfig(**settings).check()


def test_a_cap_on_the_states_rejects_what_carries_more():
    lion, config = load("lion"), MutationConfig(max_states=1)
    for seed in range(300):
        child = mutate(lion, canonical_hash(lion), Random(seed), config)
        assert len(prune(child.program).states) <= 1
    adamw = load("adamw")
    assert any(len(prune(mutate(adamw, canonical_hash(adamw), Random(s), MutationConfig()).program).states) == 2 for s in range(9))


def test_a_child_knows_what_of_it_lives():
    adamw = load("adamw")
    for seed in range(50):
        child = mutate(adamw, canonical_hash(adamw), Random(seed), MutationConfig())
        assert child.pruned == prune(child.program)
