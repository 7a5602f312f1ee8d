"""Schedules as programs: read and printed, run with a rule, exported; each against the registry's schedules or plain NumPy."""

from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery.export import to_python
from stepsmith.discovery.language import (
    SCHEDULE,
    Program,
    ProgramError,
    as_transformation,
    canonical_hash,
    extended_operations,
    infer,
    is_live,
    load,
    parse,
    prune,
    schedule_names,
    simplify_exact,
    to_text,
    with_schedule,
)
from stepsmith.discovery.search import MutationConfig, mutate
from stepsmith.discovery.vm import Clock, assemble, register_machine
from stepsmith.schedules import create

STEPS = 12
SGD = parse("def train(w, g, lr):\n    update = g * lr\n    return update")


def _program(expression, inputs="progress"):
    return parse(f"def schedule({inputs}):\n    multiplier = {expression}\n    return multiplier")


def _multipliers(program, steps=STEPS):
    """By the interpreter: what comes out of a gradient of -1. # [steps]"""
    transformation = as_transformation(with_schedule(SGD, program), optax.constant_schedule(1.0), steps)
    return _updates(transformation, steps)


def _updates(transformation, steps=STEPS):
    params = {"x": jnp.zeros((2,))}
    state, found = transformation.init(params), []
    update = jax.jit(transformation.update)
    for _ in range(steps):
        updates, state = update({"x": -jnp.ones((2,))}, state, params)
        found.append(float(updates["x"][0]))
    return np.array(found)


def _mutants(count):
    """Far from the shipped schedules, each valid."""
    for seed in range(count):
        random = Random(seed)
        program = load(random.choice(schedule_names()))
        for _ in range(random.randrange(1, 12)):
            program = mutate(program, canonical_hash(program), random, MutationConfig()).program
        yield program


@pytest.mark.parametrize("name", schedule_names())
def test_shipped_schedules_are_those_of_the_registry(name, load_module):
    expected = [float(create(name, 1.0, STEPS)(step)) for step in range(STEPS)]
    program = load(name)
    np.testing.assert_allclose(_multipliers(program), expected, rtol=1e-6, atol=1e-7)
    machine = register_machine(assemble(with_schedule(SGD, program), Clock.create(np.ones(STEPS))))
    np.testing.assert_allclose(_updates(machine), expected, rtol=1e-6, atol=1e-7)
    schedule = load_module(to_python(program, "mine"), "mine").mine(0.3, STEPS)
    values = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(3 * STEPS)))
    np.testing.assert_allclose(values[:STEPS], 0.3 * np.array(expected), rtol=1e-6, atol=1e-7)
    assert (values[STEPS:] == values[STEPS]).all()


def test_every_input_means_the_same_everywhere(load_module):
    program = _program("log10(budget) * (1.0 - progress) / sqrt(step)", "step, progress, budget")
    count = np.arange(STEPS)
    expected = np.log10(STEPS) * (1 - count / STEPS) / (np.sqrt(count + 1) + 1e-8)
    machine = register_machine(assemble(with_schedule(SGD, program), Clock.create(np.ones(STEPS))))
    schedule = load_module(to_python(program, "mine"), "mine").mine(1.0, STEPS)
    for found in (_multipliers(program), _updates(machine), np.array([schedule(step) for step in range(STEPS)])):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    rule = load_module(to_python(with_schedule(SGD, program), "rule"), "rule").rule(total_steps=STEPS)
    np.testing.assert_allclose(_updates(rule), expected, rtol=1e-5)


def test_a_schedule_overwrites_no_variable_of_its_rule():
    rule = parse("def train(w, g, m, lr, progress):\n    s1 = g * progress\n    m = s1 + g\n    update = m * lr\n    return update, m")
    schedule = parse("def schedule(progress):\n    progress = progress * 0.5\n    multiplier = 1.0 - progress\n    return multiplier")
    count = np.arange(STEPS) / STEPS
    transformation = as_transformation(with_schedule(rule, schedule), optax.constant_schedule(1.0), STEPS)
    np.testing.assert_allclose(_updates(transformation), (1 + count) * (1 - count / 2), rtol=1e-6)
    for pair in ((schedule, schedule), (rule, rule)):
        with pytest.raises(ProgramError, match="expected an update rule and a schedule"):
            with_schedule(*pair)


def test_what_a_schedule_observes_is_the_same_everywhere(load_module):
    """Against NumPy: a quadratic's loss and gradient norm decide the step size."""
    program = _program("loss / (loss + gradient_norm) * (1.0 - progress)", "progress, loss, gradient_norm")
    both = with_schedule(SGD, program)
    assert set(extended_operations(program)) == {"loss", "gradient_norm"} and extended_operations(both) == ("batch_loss",)
    w, expected = np.array([3.0, -4.0]), []
    for step in range(STEPS):
        loss, norm = w @ w / 2 + 1, np.sqrt(w @ w)
        w = w - loss / (loss + norm + 1e-8) * (1 - step / STEPS) * w
        expected.append(w)
    rule = load_module(to_python(both, "rule"), "rule").rule(total_steps=STEPS)
    wrapper = load_module(to_python(program, "mine"), "mine").mine(optax.sgd(1.0), decay_steps=STEPS)
    machine = register_machine(assemble(both, Clock.create(np.ones(STEPS)), extended=True), extended=True)
    for transformation in (as_transformation(both, optax.constant_schedule(1.0), STEPS), machine, rule, wrapper):
        params, found = jnp.array([3.0, -4.0]), []
        state, update = transformation.init(params), jax.jit(transformation.update)
        for _ in range(STEPS):
            updates, state = update(params, state, params, value=params @ params / 2 + 1)
            params = params + updates
            found.append(np.asarray(params))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_file_that_observes_asks_for_the_loss_only_where_it_reads_it(load_module):
    norm = load_module(to_python(_program("1.0 / gradient_norm", "gradient_norm"), "by_norm"), "by_norm").by_norm(optax.sgd(0.5), 10)
    updates, _ = norm.update(jnp.array([3.0, 4.0]), norm.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, [-0.3, -0.4], rtol=1e-6)
    loss = load_module(to_python(_program("loss", "loss"), "by_loss"), "by_loss").by_loss(optax.sgd(0.5), 10)
    with pytest.raises(ValueError, match="by_loss reads the loss: call update"):
        loss.update(jnp.ones(2), loss.init(jnp.zeros(2)))
    with pytest.raises(ValueError, match="decay_steps must be at least 1, got 0"):
        load_module(to_python(_program("loss", "loss"), "none"), "none").none(optax.sgd(0.5), 0)


def test_only_the_extended_language_observes():
    read = {extended: set() for extended in (False, True)}
    for seed in range(300):
        for extended, names in read.items():
            program = load("linear")
            for _ in range(4):
                program = mutate(program, canonical_hash(program), Random(seed), MutationConfig(), extended).program
            names |= set(prune(program).extra)
    assert read[False] == {"step", "progress", "budget"} and read[True] == {*read[False], "loss", "gradient_norm"}
    assert is_live(_program("loss * 0.5", "loss")) and not is_live(_program("budget * 0.5", "budget"))
    with pytest.raises(ProgramError, match="unknown input 'loss' after `lr`; allowed there: step, progress, budget"):
        parse("def train(w, g, lr, loss):\n    update = g * loss\n    return update")


@pytest.mark.heavy
def test_mutants_are_valid_and_their_files_equal_the_interpreter(load_module):
    """Ill-conditioned ones, such as the sine of a huge number, may differ: one folds constants in double precision."""
    told, close = 0, 0
    for number, program in enumerate(_mutants(40)):
        assert program.kind == SCHEDULE and set(infer(program)) <= {0} and is_live(program)
        assert parse(to_text(program)) == program == Program.from_json(program.to_json())
        expected = _multipliers(program)
        schedule = load_module(to_python(program, f"mutant_{number}"), f"mutant_{number}")
        found = np.array([getattr(schedule, f"mutant_{number}")(1.0, STEPS)(step) for step in range(STEPS)])
        close += np.allclose(found, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
        told += np.isfinite(expected).all()
        simple = simplify_exact(program)
        assert len(simple.statements) <= len(prune(program).statements)
    assert told >= 20 and close >= 37


def test_equal_schedules_have_equal_hashes():
    assert canonical_hash(_program("1.0 - progress")) == canonical_hash(_program("(2.0 - progress * 2.0) * 0.5"))
    assert canonical_hash(_program("1.0 - progress")) != canonical_hash(_program("1.0 - square(progress)"))


BAD = {
    "an input of rules": ("def schedule(w):\n    multiplier = w\n    return multiplier", "unknown input 'w' of a schedule"),
    "arrays": ("def schedule(progress):\n    multiplier = norm(progress)\n    return multiplier", "norm works on arrays"),
    "another output": ("def schedule(progress):\n    update = progress\n    return update", "must be `return multiplier`"),
    "no output": ("def schedule(progress):\n    x = progress\n    return multiplier", "`multiplier` is never assigned"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_schedule_is_named(case):
    text, words = BAD[case]
    with pytest.raises(ProgramError, match=words):
        parse(text)
    with pytest.raises(ProgramError, match="of kind update, or schedule"):
        Program.from_json('[["m"],["progress"],[],"schedule"]')
    with pytest.raises(ProgramError, match="is no name"):
        to_python(load("rex"), "decay_steps")
