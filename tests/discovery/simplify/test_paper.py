"""The paper's programs: its raw one becomes Lion without a hand in it, the three others train, shrink and are exported."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from obfuscation import outputs, same

from stepsmith.discovery import simplify
from stepsmith.discovery.evaluate import Status
from stepsmith.discovery.evaluate.training_run import evaluate, prepare
from stepsmith.discovery.export import separate, to_optax
from stepsmith.discovery.language import canonical_hash, load, parse
from stepsmith.discovery.simplify import Settings, to_short_text
from stepsmith.discovery.simplify.rounding import constants, with_constant

LION = r"""def train\(w, g, m, lr\):
    blend = interp\(g, m, (?P<b1>[0-9.]+)\)
    m = interp\(g, m, (?P<b2>[0-9.]+)\)
    direction = sign\(blend\)
    update = \(direction \+ w \* (?P<decay>[0-9.]+)\) \* \(lr \* (?P<rate>[0-9.]+)\)
    return update, m"""
# name -> a learning rate, as a factor of the program's own, at which it trains the digits
OTHERS = {"paper_regularizing": 1.0, "paper_adagrad_like": 0.1, "paper_adabelief_like": 0.3}


def _with_constants_of(program, other):
    """The program with the constants of another one of the same form."""
    values = [other.statements[i].args[j] for i, j in constants(other)]
    for place, value in zip(constants(program), values, strict=True):
        program = with_constant(program, place, value)
    return program


@pytest.mark.heavy
def test_the_raw_program_becomes_lion():
    """On two tasks and with all mutants it takes minutes: python tests/benchmarks/simplify.py tasks --programs lion_raw."""
    settings = Settings(mutants=50)
    found = simplify(load("lion_raw"), ("digits_mlp",), settings)
    lion = re.fullmatch(LION, to_short_text(found.program))
    assert lion is not None, to_short_text(found.program)
    assert float(lion["b1"]) == 0.9 and 0.997 < float(lion["b2"]) < 0.999
    assert 0.4 <= float(lion["decay"]) <= 0.5 and 0.0002 <= float(lion["rate"]) <= 0.00023
    assert canonical_hash(_with_constants_of(found.program, load("lion"))) == canonical_hash(load("lion"))
    assert found.confirmed.difference < settings.tolerance
    assert len(found.program.statements) == len(load("lion").statements) == 7


@pytest.mark.heavy
def test_the_others_train():
    task = prepare("digits_mlp", "linear")
    for name, factor in OTHERS.items():
        found = evaluate(task, load(name), 0, factor)
        assert found.status is Status.OK and found.loss < 0.6  # a model that knows nothing has log 10, 2.3


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_shrink_and_are_exported(name, load_module):
    program = load(name)
    short = simplify(program).program
    assert len(short.statements) <= len(program.statements)
    assert same(outputs(program), outputs(short))
    assert same(outputs(program), outputs(parse(to_short_text(short))))
    assert separate(short).learning_rate == pytest.approx(separate(program).learning_rate)
    rule = getattr(load_module(to_optax(short, name), name), name)()
    params = {"a": jnp.asarray([0.3, -0.5]), "b": jnp.asarray(0.2)}
    updates, _ = rule.update(jax.tree.map(jnp.sin, params), rule.init(params), params)
    assert jnp.isfinite(jnp.concatenate([x.ravel() for x in jax.tree.leaves(optax.apply_updates(params, updates))])).all()
