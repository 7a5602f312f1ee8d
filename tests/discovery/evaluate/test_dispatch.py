"""Which worker is given what: a pool whose workers are this process at the other ends of the pipes."""

from multiprocessing import Pipe

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepsmith.discovery.evaluate import Job, Status, WorkerError, WorkerPool, WorkerSpec, worker
from stepsmith.discovery.evaluate.pool import ROUNDS, _Worker
from stepsmith.discovery.evaluate.protocol import receive, send
from stepsmith.discovery.evaluate.training_run import BatchError


class _Process:
    def kill(self):
        pass

    def wait(self):
        pass


class _Pool(WorkerPool):
    """Workers that train batches of the given capacities and are ready."""

    def __init__(self, *capacities):
        self.ends = []
        super().__init__(WorkerSpec(("quadratic",)), len(capacities))
        for end, capacity in zip(self.ends, capacities, strict=True):
            send(end, {"ready": 1.0, "identity": {}, "batch": capacity})
        self.poll(0.0)

    def _start(self, number):
        ours, theirs = Pipe()
        self.ends.append(theirs)
        return _Worker(number, _Process(), ours)

    def given(self, number):
        """Keys of the jobs that a worker has been sent since the last look."""
        keys = []
        while self.ends[number].poll():
            message = receive(self.ends[number])
            keys += [job["key"] for job in message.get("jobs", [message])]
        return keys

    def answer(self, number, keys):
        """All of them in one message."""
        rows = [["quadratic", 0, 1.0, "ok", 1.0, 200, 0.1, []]]
        send(self.ends[number], {"answers": [{"key": key, "evaluations": rows} for key in keys]})


@pytest.fixture
def make_pool():
    pools = []

    def make(*capacities):
        pools.append(_Pool(*capacities))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def _submit(pool, keys, runs=1):
    for key in keys:
        pool.submit(Job(key, "", tuple(range(runs))))


def test_accelerators_that_are_idle_share_what_waits(make_pool):
    pool = make_pool(16, 16)
    _submit(pool, range(10), runs=2)
    assert pool.given(0) == pool.given(1) == []  # more may be submitted before the next poll
    pool.poll(0.0)
    assert pool.given(0) == [0, 1, 2, 3, 4] and pool.given(1) == [5, 6, 7, 8, 9]


def test_no_batch_is_given_before_what_its_results_lead_to(make_pool):
    pool = make_pool(2, 2)  # each is given as many again, to take the places of those that end
    _submit(pool, range(9))
    pool.poll(0.0)
    assert pool.given(0) == [0, 1, 2, 3] and pool.given(1) == [4, 5, 6, 7]
    pool.answer(0, [0, 1, 2, 3])
    assert [result.key for result in pool.poll(0.0)] == [0, 1, 2, 3]
    assert pool.given(0) == []  # though 8 waits
    _submit(pool, range(9, 13))
    pool.poll(0.0)
    assert pool.given(0) == [8, 9, 10, 11] and pool.given(1) == []
    pool.answer(1, [4, 5, 6, 7])
    pool.poll(0.0)
    _submit(pool, range(13, 14))
    pool.poll(0.0)
    assert pool.given(1) == [12, 13]


def test_one_poll_takes_in_all_that_has_come(make_pool):
    pool = make_pool(1, 1)
    _submit(pool, range(4))
    assert pool.given(0) == [0, 2] and pool.given(1) == [1, 3]
    for number, key in ((0, 0), (0, 2), (1, 1), (1, 3)):
        pool.answer(number, [key])
    assert sorted(result.key for result in pool.poll(0.0)) == [0, 1, 2, 3]


def test_a_worker_on_the_cpu_does_not_wait_for_batches(make_pool):
    pool = make_pool(4, 1)
    _submit(pool, range(6))
    assert pool.given(1) == [0, 1] and pool.given(0) == []
    pool.poll(0.0)
    assert pool.given(0) == [2, 3, 4, 5]
    _submit(pool, [6])
    pool.answer(1, [0])
    pool.poll(0.0)
    assert pool.given(1) == [6]


def test_a_batch_that_is_answered_in_part_is_dropped_and_done_again(make_pool):
    pool = make_pool(4)
    _submit(pool, range(3))
    pool.poll(0.0)
    pool.answer(0, [0, 0])
    assert [(result.key, result.status) for result in pool.poll(0.0)] == [(0, None)]
    assert list(pool.dropped) == [0]
    pool.ends[0].close()
    assert pool.poll(0.0) == [] and pool.workers_lost == 1
    send(pool.ends[1], {"ready": 1.0, "identity": {}, "batch": 4})
    for key in (1, 2):  # each alone
        pool.poll(0.0)
        assert pool.given(1) == [key]
        pool.answer(1, [key])
        assert [(result.key, result.status, result.evaluations[0].status) for result in pool.poll(0.0)] == [(key, None, Status.OK)]


def test_what_keeps_a_worker_from_going_on_ends_the_work(make_pool, monkeypatch):
    def fail(connection):
        raise BatchError("a batch of 4 runs does not fit")

    monkeypatch.setattr(worker, "_serve", fail)
    pool = make_pool(4)
    worker.serve(pool.ends[0])
    with pytest.raises(WorkerError, match="^a batch of 4 runs does not fit$"):
        pool.poll(0.0)


@given(runs=st.lists(st.integers(1, 6), min_size=1, max_size=20), capacities=st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_every_job_is_given_once_and_no_batch_is_too_large(runs, capacities):
    pool, told = _Pool(*capacities), []
    for key, count in enumerate(runs):
        _submit(pool, [key], count)
    while len(told) < len(runs):
        told += [result.key for result in pool.poll(0.0)]
        for number, capacity in enumerate(capacities):
            if keys := pool.given(number):
                assert len(keys) == 1 or sum(runs[key] for key in keys) <= ROUNDS * capacity
                pool.answer(number, keys)
    pool.close()
    assert sorted(told) == list(range(len(runs))) and not pool.dropped
