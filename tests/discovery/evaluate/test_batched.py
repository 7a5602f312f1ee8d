"""Many runs at once come to what each of them comes to alone."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from stepsmith.discovery import ConfigError, Devices
from stepsmith.discovery.evaluate import Evaluation, Job, Status, WorkerPool, WorkerSpec, batched
from stepsmith.discovery.evaluate.batched import Trial, evaluate_batch, prepare_batch
from stepsmith.discovery.evaluate.fitness import Yardstick
from stepsmith.discovery.evaluate.job import evaluate_all
from stepsmith.discovery.evaluate.together import evaluate_together
from stepsmith.discovery.evaluate.training_run import BatchError, bytecode, evaluate, prepare_task
from stepsmith.discovery.language import load, parse
from stepsmith.discovery.session import _places
from stepsmith.discovery.vm import packing
from stepsmith.optimizers.kernels import BackendError
from stepsmith.tasks import get
from stepsmith.tasks.models import MLP

RTOL = 1e-3  # of a loss; sums in another order, 60 steps long


def _program(*lines):
    return parse("\n    ".join(["def train(w, g, m, v, lr, step):", *lines, "return update, m, v"]))


DIVERGES = _program("update = w * -1.0")
DIVERGES_LATER = _program("update = w * maximum(step - 25.0, 0.0) * -1.0")
NONFINITE = _program("update = g / (w - w) * 1e38")
INVALID = _program("s = dot(g, w)", *["g = interp(g, w, s)"] * 40, "update = g")
ALONE = _program("x = g", *["x = x * norm(x)"] * 17, "update = x * 0.0")
THREE_STATES = parse(
    """def train(w, g, m, v, c, lr):
    m = interp(g, m, 0.9)
    v = interp(m, v, 0.9)
    c = interp(v, c, 0.5)
    update = c * lr
    return update, m, v, c
"""
)
RULES = [load(name) for name in ("lion", "adamw", "sgd", "lamb", "rmsprop")]


@pytest.fixture(scope="session")
def small():
    """Digits with 4 hidden units, 3 chunks of steps."""
    return prepare_task(dataclasses.replace(get("digits_mlp"), model=MLP((64, 4, 10)), steps=60, batch_size=16), "linear")


@pytest.fixture(scope="session")
def compacted(small):
    """The reference machine in batches of 16, 8 and 4."""
    return prepare_batch(small, 16, machine="xla")


@pytest.fixture(scope="session")
def fixed(compacted):
    """The same in batches of 8 alone, compiled once for both."""
    return compacted._replace(capacity=8, fixed=True)


@pytest.fixture(scope="session")
def kernel(small):
    """The kernel, simulated, in batches of 16."""
    return prepare_batch(small, 16, fixed=True, interpret=True)


def _same(found, expected, rtol=RTOL):
    assert [(e.task, e.seed, e.learning_rate_factor, e.status, e.steps) for e in found] == [
        (e.task, e.seed, e.learning_rate_factor, e.status, e.steps) for e in expected
    ]
    losses = [[np.nan if e.loss is None else e.loss for e in each] for each in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=rtol)


def test_the_kernel_on_digits_equals_one_at_a_time(small, kernel):
    """With what the kernel has no form of, and what has no bytecode."""
    trials = [Trial(rule, seed, factor) for rule in RULES for seed, factor in ((0, 1.0), (1, 0.3))]
    trials += [Trial(each, 2) for each in (DIVERGES, DIVERGES_LATER, NONFINITE, INVALID, ALONE, load("muon"))]
    expected = [evaluate(small, *trial) for trial in trials]
    assert {e.status for e in expected} == {Status.OK, Status.DIVERGED, Status.NONFINITE, Status.INVALID}
    assert kernel.identity == {"batch": "16 fixed", "machine": "pallas"}
    _same(evaluate_batch(kernel, trials), expected)


def test_programs_of_the_extended_language_run_beside_the_kernel(small, kernel):
    alone, lion = [], bytecode(small, load("lion"), 1.0)

    def run(code, seed, limits):  # in the place of a loop that has the operations on matrices, which takes long to compile
        alone.append(code)
        return small.run(lion, seed, limits)

    batched = kernel._replace(prepared=small._replace(extended=True, run=run))
    found = evaluate_batch(batched, [Trial(load("muon"), 0), Trial(load("sgd"), 1)])
    _same(found, [evaluate(small, load("lion"), 0), evaluate(small, load("sgd"), 1)])
    assert len(alone) == 1 and packing.unsupported(alone[0])


@pytest.mark.parametrize(("program", "extended", "times"), [(ALONE, False, 1), (load("muon"), True, 16), (load("lion"), True, 16)])
def test_warming_up_packs_nothing_that_the_kernel_lacks(small, kernel, monkeypatch, program, extended, times):
    """A stand-in for the compiled functions; where many runs may have to go alone, the time allows for all of them."""
    packed, alone = [], []

    def train(batch, codes, trials, num_states=0):
        packed.append((len(codes), num_states, packing.unsupported(codes[0])))

    def run(prepared, program, seed):
        alone.append(program)
        return Evaluation(prepared.name, seed, 1.0, Status.OK, 1.0, 60, 1e6)

    monkeypatch.setattr(batched, "_train", train)
    monkeypatch.setattr(batched, "evaluate", run)
    seconds = batched.warm_up(kernel._replace(prepared=small._replace(extended=extended)), program)
    assert packed == [(16, 6, ""), (16, 0, "")] and alone == [program] * 2
    assert seconds == times * 1e6


def test_a_batch_shrinks_as_its_runs_end(small, compacted):
    trials = [Trial(program, 0) for program in [DIVERGES] * 8 + [DIVERGES_LATER] * 3 + [NONFINITE] * 2] + [Trial(r, 1) for r in RULES[:3]]
    order = np.random.default_rng(0).permutation(len(trials))
    trials = [trials[i] for i in order]
    sizes = []

    def advance(data, argument, carries):
        sizes.append(len(carries.step))
        return compacted.advance(data, argument, carries)

    _same(evaluate_batch(compacted._replace(advance=advance), trials), [evaluate(small, *trial) for trial in trials])
    assert sizes == [16, 8, 4]


@pytest.mark.parametrize("machine", ["fixed", "compacted"])
def test_runs_that_wait_take_the_places_of_those_that_ended(small, machine, request):
    """In a fixed batch, bit for bit what each of them comes to alone in it, though the steps of its neighbours are others."""
    batch, sizes = request.getfixturevalue(machine), []
    ending = [Trial(DIVERGES, seed) for seed in range(batch.capacity - 2)]
    longer = [Trial(RULES[i % 3], i) for i in range(5)]
    trials = [*ending[:1], longer[0], *ending[1:], *longer[1:]]

    def advance(data, argument, carries):
        sizes.append(len(carries.step))
        return batch.advance(data, argument, carries)

    found = evaluate_batch(batch._replace(advance=advance), trials)
    _same(found, [evaluate(small, *trial) for trial in trials])
    # One chunk for those that end; then the two beside them have two chunks left, and the three that waited three.
    assert sizes == ([8] * 4 if batch.fixed else [16, 8, 8, 4])
    if batch.fixed:
        alone = [evaluate_batch(batch, [trial])[0].loss for trial in longer]
        assert [found[trials.index(trial)].loss for trial in longer] == alone


def test_all_runs_ended_ends_the_batch(compacted):
    calls = []

    def advance(*arguments):
        calls.append(1)
        return compacted.advance(*arguments)

    found = evaluate_batch(compacted._replace(advance=advance), [Trial(DIVERGES, seed) for seed in range(3)])
    assert [(e.status, e.steps) for e in found] == [(Status.DIVERGED, 20)] * 3 and len(calls) == 1


def test_more_runs_than_the_capacity(small, compacted):
    trials = [Trial(RULES[i % 3], i) for i in range(18)]
    _same(evaluate_batch(compacted, trials), [evaluate(small, *trial) for trial in trials])


def test_limits_and_curves(small, compacted):
    limits = (("digits_mlp", 1.0, (None, None, 0.0, None, None)),)  # a mean loss of 1 in the chunk of 35 % of the steps
    trials = [Trial(rule, 0, 1.0, limits, True) for rule in RULES] + [Trial(rule, 0, 1.0, (), True) for rule in RULES]
    found, expected = evaluate_batch(compacted, trials), [evaluate(small, *trial) for trial in trials]
    assert Status.STOPPED in {e.status for e in found}
    _same(found, expected)
    assert [len(e.curve) for e in found] == [len(e.curve) for e in expected]
    np.testing.assert_allclose([e.curve for e in found if e.curve], [e.curve for e in expected if e.curve], atol=2e-3)


@pytest.mark.parametrize("machine", ["fixed", "kernel"])
def test_what_is_beside_a_run_in_a_fixed_batch_changes_no_bit(machine, request):
    """Among them rules with 0, 1, 2 and 3 states, for which a batch that does not promise this carries other arrays."""
    batch, states, carried = request.getfixturevalue(machine), [], []
    lion, adamw, sgd, lamb, three = *RULES[:4], THREE_STATES
    for rule in (sgd, lion, adamw, three):
        states.append(packing.num_states(bytecode(batch.prepared, rule, 1.0)))

    def begin(argument, keys, num_states):
        carried.append(num_states)
        return batch.begin(argument, keys, num_states)

    counted = batch._replace(begin=begin)
    some = evaluate_batch(counted, [Trial(lion, 0), Trial(DIVERGES, 1), Trial(adamw, 1), Trial(sgd, 2)])
    others = evaluate_batch(counted, [Trial(sgd, 5), Trial(lion, 0), Trial(three, 3), *[Trial(lamb, 2)] * 4, Trial(adamw, 1)])
    assert states == [0, 1, 2, 3] and len(set(carried)) == 1
    assert some[0].loss == others[1].loss and some[2].loss == others[-1].loss
    assert len({e.loss for e in others[3:7]}) == 1
    (alone,) = evaluate_batch(counted, [Trial(three, 3)])
    assert alone.loss == others[2].loss


def test_what_does_not_fit_is_tried_in_halves(small, compacted):
    sizes = []

    def advance(data, argument, carries):
        sizes.append(len(carries.step))
        if len(carries.step) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return compacted.advance(data, argument, carries)

    trials = [Trial(RULES[i % 3], i) for i in range(12)]
    _same(evaluate_batch(compacted._replace(advance=advance), trials), [evaluate(small, *trial) for trial in trials])
    assert sizes[:2] == [16, 8] and set(sizes[2:]) <= {8, 4, 2, 1}


def test_a_fixed_batch_that_does_not_fit_is_not_halved(fixed):
    def advance(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    full = fixed._replace(advance=advance)
    for ask in (lambda: evaluate_batch(full, [Trial(RULES[0], 0)]), lambda: batched.warm_up(full, RULES[0])):
        with pytest.raises(BatchError, match="a batch of 8 runs of digits_mlp does not fit .* differ .* --batch 4$"):
            ask()


def test_other_failures_are_not_taken_for_a_lack_of_memory(compacted):
    def advance(*arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        evaluate_batch(compacted._replace(advance=advance), [Trial(RULES[0], 0)])


def test_the_capacity_follows_the_free_memory(compacted, monkeypatch):
    found = []
    for free in (0, 2**23, 2**25, 2**60):
        monkeypatch.setattr(batched, "_free_memory", lambda free=free: free)
        found.append(batched._fitting(compacted))
    assert found[0] == 1 and found[2] == 4 * found[1] and found[3] == batched.LARGEST


def test_without_a_count_of_free_pages_the_memory_is_all_there_is(monkeypatch):
    if jax.default_backend() != "cpu":
        pytest.skip("an accelerator tells its memory itself")
    free = batched._free_memory()
    monkeypatch.delitem(os.sysconf_names, "SC_AVPHYS_PAGES", raising=False)  # as on macOS
    assert 0 < free <= batched._free_memory()


def test_schedules_in_batches(small, compacted, monkeypatch):
    """Where programs are schedules, each is trained with the task's rule, and the capacity is measured all the same."""
    scheduled = small._replace(rule=load("adamw_corrected"), base_factor=0.5)
    monkeypatch.setattr(batched, "_free_memory", lambda: 2**60)
    assert prepare_batch(scheduled, machine="xla").capacity == batched.LARGEST
    trials = [Trial(load(name), seed, factor) for name in ("linear", "cosine") for seed, factor in ((0, 1.0), (1, 0.3))]
    trials.append(Trial(load("adamw"), 0))  # which is no schedule
    expected = [evaluate(scheduled, *trial) for trial in trials]
    assert [e.status for e in expected] == [Status.OK] * 4 + [Status.INVALID]
    _same(evaluate_batch(compacted._replace(prepared=scheduled), trials), expected)
    other = [evaluate(small, load("adamw_corrected"), trial.seed, trial.learning_rate_factor).loss for trial in trials[:2]]
    assert not np.allclose([e.loss for e in expected[:2]], other, rtol=RTOL)  # the factor of the task counts


def test_a_request_that_cannot_be_met_says_why(small, monkeypatch):
    if jax.default_backend() == "cpu":
        with pytest.raises(BackendError, match="jax has the cpu here; leave the choice to the device"):
            prepare_batch(small, 4)
    fed = small._replace(name="streamed", task=get("lm1b_transformer"))
    with pytest.raises(ValueError, match="streamed is fed by the host and cannot be trained in batches; train its programs one at a time"):
        prepare_batch(fed, 4, machine="xla")


@pytest.mark.parametrize(("batch", "words"), [(8, "batch 8 asked with device cpu, which trains one"), (-1, "batch must be 0 or more")])
def test_batches_on_a_cpu_are_refused(small_config, batch, words):
    with pytest.raises(ConfigError, match=words):
        _places(small_config, Devices("cpu", batch=batch), 1, "cpu")


def test_jobs_together_answer_as_alone(small, compacted):
    """Whatever ends a job: a failure, a hurdle, or that all its runs are done; and where the best factor counts."""
    yardsticks = {"digits_mlp": Yardstick(0.0, 1.0)}
    jobs = [
        Job(0, RULES[0].to_json(), (0, 1), (0.3, 1.0)),
        Job(1, DIVERGES.to_json(), (0, 1)),
        Job(2, RULES[2].to_json(), (0, 1, 2), hurdle=-5.0),
        Job(3, RULES[1].to_json(), (3,), (0.1, 1.0, 1e6), best_factor=True),
        Job(4, DIVERGES.to_json(), (3, 4), (0.1, 1.0), best_factor=True),
        Job(5, RULES[1].to_json(), (5,), curves=True),
        Job(6, RULES[1].to_json(), (3, 4), (0.1, 1.0), best_factor=True, hurdle=-5.0),
        Job(7, RULES[1].to_json(), (3, 4), (0.1, 1.0), best_factor=True, hurdle=5.0),
    ]
    prepared = {"digits_mlp": small}
    expected = [evaluate_all(prepared, yardsticks, job) for job in jobs]
    assert [len(expected[job]) for job in (0, 1, 2, 3, 6, 7)] == [4, 1, 1, 3, 2, 4]
    for found, alone in zip(evaluate_together({"digits_mlp": compacted}, yardsticks, jobs), expected, strict=True):
        _same(found, alone)


LION = load("lion").to_json()


@pytest.mark.heavy
def test_a_pool_gives_a_worker_its_batches_and_a_lost_one_costs_nothing():
    """Two batches' runs at once, where so many wait: those of the second take places as the first's end."""
    spec = WorkerSpec(("quadratic",), initial=LION, batch=4, in_flight=8, machine="xla")
    with WorkerPool(spec, 1) as pool:
        pool.wait_until_ready()
        worker = pool._workers[0]
        assert worker.batch == 4 and worker.identity["batch"] == "4 fixed" and worker.identity["machine"] == "xla"
        for key in range(10):
            pool.submit(Job(key, LION, (key,)))
        assert not worker.jobs
        pool.poll(0.0)
        assert [job.key for job in worker.jobs] == list(range(2 * worker.batch))
        worker.process.kill()
        results = []
        while len(results) < 10:
            results += pool.poll(0.2)
    assert pool.workers_lost == 1
    assert sorted(result.key for result in results) == list(range(10))
    assert all(e.status is Status.OK and e.seed == result.key for result in results for e in result.evaluations)
