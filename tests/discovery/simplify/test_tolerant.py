"""Proposals find a sign however it is written; the judge accepts what is as good, refuses what is worse and what is another rule."""

import itertools
import math
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith.discovery.evaluate import Evaluation, Status, Yardstick
from stepsmith.discovery.language import canonical_hash, infer, load, parse, to_text
from stepsmith.discovery.simplify import to_short_text
from stepsmith.discovery.simplify.exact import exact
from stepsmith.discovery.simplify.judge import EXTENSION, REPLICATES, Judge, interval
from stepsmith.discovery.simplify.probe import FAR, STEPS, Recording, change, record, updates
from stepsmith.discovery.simplify.shrink import shorter_mutants
from stepsmith.discovery.simplify.tolerant import proposals

LOSSES = [jnp.float32(2.0 / (1 + step)) for step in range(STEPS)]


@pytest.fixture(scope="module")
def recording():
    """Small gradients of both signs, as training gives them."""
    rng = np.random.default_rng(1)

    def tree(scale):
        return {"a": jnp.asarray(rng.normal(size=(4, 5)) * scale, jnp.float32), "b": jnp.asarray(rng.normal(size=6) * scale, jnp.float32)}

    return Recording([tree(1.0) for _ in range(STEPS)], LOSSES, [tree(0.01) for _ in range(STEPS)])


def _rule(direction):
    return f"def train(w, g, m, lr):\n    m = interp(g, m, 0.9)\n    update = {direction} * (lr * 0.01)\n    return update, m"


def test_a_change_is_what_it_is_on_the_task_where_it_is_largest(recording):
    """A bound that the gradients of one task never reach, and those of another do."""
    larger = recording._replace(gradients=[jax.tree.map(lambda g: g * 100.0, gradients) for gradients in recording.gradients])
    program = parse("def train(w, g, lr):\n    bounded = maximum(g, -0.5)\n    update = bounded * (lr * 0.01)\n    return update")
    unbounded = canonical_hash(parse("def train(w, g, lr):\n    update = g * (lr * 0.01)\n    return update"))

    def changes(*recordings):
        return {canonical_hash(proposal.program): proposal.change for proposal in proposals(program, recordings)}

    assert changes(recording)[unbounded] == 0.0 < 0.1 < changes(larger)[unbounded]
    assert changes(recording, larger) == changes(larger, recording) == changes(larger) | changes(recording, larger)
    assert changes(recording, larger)[unbounded] == changes(larger)[unbounded]


def test_what_holds_on_any_of_the_tasks_is_proposed(recording):
    larger = recording._replace(gradients=[jax.tree.map(lambda g: g * 1e6, gradients) for gradients in recording.gradients])
    program = parse("def train(w, g, lr):\n    x = g * 1000.0\n    x = tanh(x)\n    update = x * (lr * 0.01)\n    return update")
    sign = canonical_hash(parse("def train(w, g, lr):\n    update = sign(g) * (lr * 0.01)\n    return update"))
    tiny = recording._replace(gradients=[jax.tree.map(lambda g: g * 1e-6, gradients) for gradients in recording.gradients])
    found = [{canonical_hash(p.program) for p in proposals(program, each)} for each in ([tiny], [larger], [tiny, larger])]
    assert [sign in hashes for hashes in found] == [False, True, True]


SIGNS = {
    "root of the square": "(m / sqrt(m * m))",
    "root of square()": "(m / sqrt(square(m)))",
    "abs": "(m / abs(m))",
    "reciprocal": "(m * reciprocal(sqrt(m * m)))",
    "the other way round": "(abs(m) / m)",
    "maximum": "(m / maximum(m, -m))",
    "power": "(m / power(m * m, 0.5))",
    "saturated": "tanh(m * 1000000.0)",
}


@pytest.mark.parametrize("case", SIGNS)
def test_a_sign_in_any_spelling(recording, case):
    wanted = canonical_hash(parse(_rule("sign(m)")))
    found = proposals(exact(parse(_rule(SIGNS[case]))), [recording])
    signs = [proposal for proposal in found if canonical_hash(proposal.program) == wanted]
    assert signs and signs[0].change < 0.05
    assert signs[0] in found[:3]


def test_a_factor_outside_the_root():
    """As in the program that became Lion: m * lr / sqrt(m * m)."""
    program = parse("""def train(w, g, m, lr):
        m = interp(g, m, 0.9)
        rate = lr * 0.01
        update = m * rate / sqrt(m * m)
        return update, m""")
    rng = np.random.default_rng(1)
    trees = [{"a": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)} for _ in range(2 * STEPS)]
    found = proposals(program, [Recording(trees[:STEPS], LOSSES, trees[STEPS:])])
    assert canonical_hash(parse(_rule("sign(m)"))) in {canonical_hash(proposal.program) for proposal in found}


def test_small_changes_come_first(recording):
    program = parse("""def train(w, g, m, lr):
        g = arcsin(g)
        m = interp(g, m, 0.9)
        update = m * (lr * 0.01) + g * 0.0001
        return update, m""")
    found = proposals(program, [recording])
    assert "arcsin(g) becomes g" in [proposal.what for proposal in found[:3]]
    assert [proposal.change for proposal in found] == sorted(proposal.change for proposal in found)
    texts = [to_text(proposal.program) for proposal in found]
    assert len(set(texts)) == len(texts)
    for proposal in found:
        infer(proposal.program)
        assert len(proposal.program.statements) < len(program.statements)
        assert "g" in to_text(proposal.program)


def test_a_change_is_measured_or_far(recording):
    lion = load("lion")
    reference = updates(lion, recording)
    told = updates(parse("def train(w, g, lr):\n    update = sign(g) * batch_loss()\n    return update"), recording)
    np.testing.assert_allclose(np.abs(told).max(1), LOSSES, rtol=1e-6)
    assert change(lion, reference, recording) == 0.0
    assert 0 < change(parse(to_text(lion).replace("0.9)", "0.8)")), reference, recording) < 1
    assert change(parse("def train(w, g, lr):\n    update = log(g - g)\n    return update"), reference, recording) == FAR


def test_recorded_gradients_are_those_of_the_task():
    found = record("digits_mlp", load("sgd"), 0.5)
    assert len(found.params) == len(found.gradients) == STEPS
    rate = 0.1 * 0.5  # of sgd.txt at the first step of the schedule, times the factor
    expected = _flat(found.params[0]) - rate * _flat(found.gradients[0])
    np.testing.assert_allclose(_flat(found.params[1]), expected, rtol=1e-5, atol=1e-7)


def _flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_walks_without_insertion_are_shorter():
    program = load("adamw")
    found = list(shorter_mutants(program, Random(0), 200))
    assert len(found) > 20
    assert len({canonical_hash(p) for p, _ in found}) == len(found)
    assert all(len(p.statements) < len(program.statements) for p, _ in found)
    assert all(what for _, what in found)


ORIGINAL, OTHER = load("adamw"), load("lion")
SCALE = 0.5


def _judge(shift, noise, *, fails=False, stream=7, **settings):
    """A judge of runs whose log loss is normal noise, that of the candidate shifted; each seed adds its own to both."""
    draws = itertools.count()

    def run(program, task, seed, factor):
        shared = np.random.default_rng(seed).normal()
        own = np.random.default_rng((stream, next(draws))).normal() * noise
        mine = canonical_hash(program) == canonical_hash(OTHER)
        if mine and fails:
            return Evaluation(task, seed, 1.0, Status.DIVERGED, None, 1, 0.0)
        return Evaluation(task, seed, 1.0, Status.OK, math.exp(shared + SCALE * (own + shift * mine)), 1, 0.0)

    return Judge(ORIGINAL, run, {"toy": Yardstick(0.0, SCALE)}, **settings)


@pytest.mark.parametrize("noise", [1e-9, 0.01, 0.05])
def test_judge_accepts_what_is_as_good(noise):
    verdict = _judge(0.0, noise)(OTHER)
    assert verdict.accepted and verdict.high < 0.02 and verdict.seeds >= 8


@pytest.mark.parametrize(("shift", "noise"), [(0.03, 1e-9), (0.05, 0.01), (1.0, 0.3)])
def test_judge_refuses_what_is_worse(shift, noise):
    judge = _judge(shift, noise)
    assert not judge(OTHER).accepted
    assert judge.better() is None


def test_judge_refuses_a_clear_case_after_two_seeds():
    assert _judge(1.0, 0.01)(OTHER).seeds == 2


def test_judge_refuses_what_it_cannot_decide():
    verdict = _judge(0.0, 3.0, seeds=4)(OTHER)
    assert not verdict.accepted and verdict.seeds <= 4 * EXTENSION


def test_judge_refuses_another_rule():
    judge = _judge(-1.0, 0.01)
    assert not judge(OTHER).accepted
    assert judge.better() is not None and judge.better()[0] == OTHER
    assert _judge(-1.0, 0.01, gain=math.inf)(OTHER).accepted
    assert not _judge(-0.3, 0.5)(OTHER).accepted  # nor one that is likely to be another


def test_judge_refuses_failures():
    judge = _judge(0.0, 0.0, fails=True)
    assert not judge(OTHER).accepted and judge(OTHER).difference == math.inf
    assert judge.better() is None


def test_judge_runs_each_program_once():
    judge = _judge(0.0, 1e-9)
    first = judge(OTHER)
    runs = judge.runs
    assert judge(parse(to_text(OTHER))) == first and judge.runs == runs == 8 * (1 + REPLICATES)


def test_judge_errs_rarely():
    """One in twenty of programs that are worse by the tolerance passes one look; looks at growing numbers of seeds add some."""
    accepted = sum(_judge(0.02, 0.03, stream=stream)(OTHER).accepted for stream in range(200))
    assert 0 < accepted <= 40


def test_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    above = [interval(rng.normal(size=8).tolist())[2] < 0 for _ in range(2000)]
    assert 0.03 < np.mean(above) < 0.07


def test_short_text_of_a_proposal(recording):
    found = proposals(parse(_rule("(m / abs(m))")), [recording])
    assert any("sign(m)" in to_short_text(proposal.program) for proposal in found)
