"""Real worker processes: what comes back, and what is lost when they die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepsmith.discovery.evaluate import Job, Status, WorkerError, WorkerPool, WorkerSpec
from stepsmith.discovery.evaluate.training_run import evaluate, prepare
from stepsmith.discovery.language import load, parse

pytestmark = pytest.mark.heavy

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def moves_parameters_to(value):
    return parse(f"def train(w, g, lr):\n    update = w - {value}\n    return update\n").to_json()


KILLER, HANGER = moves_parameters_to(1e6), moves_parameters_to(1e3)  # norms 5e7 and 5e4
LION, SGD = load("lion").to_json(), load("sgd").to_json()


def collect(pool, count):
    """Results by key, once there are that many."""
    results = {}
    while len(results) < count:
        results.update({result.key: result for result in pool.poll(0.2)})
    assert pool.poll(0.0) == []
    return results


@pytest.fixture(scope="module")
def pool(traps):
    """Two workers with a time limit of 4 s. Tests leave it idle."""
    with WorkerPool(WorkerSpec(("digits_mlp", f"{traps}:trap"), initial=load("adamw").to_json()), 2, time_limit=4.0) as pool:
        pool.wait_until_ready()
        yield pool


def test_workers_compute_what_this_process_computes(pool):
    prepared = prepare("digits_mlp", "linear")
    pool.submit(Job(0, LION, (3, 4), tasks=("digits_mlp",)))
    pool.submit(Job(1, SGD, (3,), (0.5,), tasks=("digits_mlp",)))
    results = collect(pool, 2)
    there = [*results[0].evaluations, *results[1].evaluations]
    here = [evaluate(prepared, load(name), seed, factor) for name, seed, factor in (("lion", 3, 1.0), ("lion", 4, 1.0), ("sgd", 3, 0.5))]
    assert [e[:4] for e in there] == [e[:4] for e in here]
    # Not bit for bit: this process has as many threads as cores, a worker has one.
    assert [e.loss for e in there] == pytest.approx([e.loss for e in here], rel=1e-3)
    assert there[0].loss != there[1].loss and all(e.steps == 200 for e in there)


def test_a_failure_ends_a_job(pool):
    doubling = parse("def train(w, g, lr):\n    update = w * -1.0\n    return update\n").to_json()
    pool.submit(Job(0, doubling, (0, 1)))  # the second task would be the trap
    done = collect(pool, 1)[0].evaluations
    assert [(e.task, e.seed) for e in done] == [("digits_mlp", 0)]
    assert done[0].status in (Status.DIVERGED, Status.NONFINITE) and done[0].loss is None


@pytest.mark.parametrize(("program", "status"), [(KILLER, Status.CRASHED), (HANGER, Status.TIMEOUT)], ids=["killer", "hanger"])
def test_a_program_that_costs_two_workers_is_charged_and_no_other(pool, traps, program, status):
    lost = pool.workers_lost
    for key in range(6):
        pool.submit(Job(key, program if key == 1 else LION, (key,), tasks=(f"{traps}:trap",)))
    results = collect(pool, 6)
    assert results[1] == (1, (), status, {})
    for key in (0, 2, 3, 4, 5):
        assert results[key].status is None
        assert [(e.seed, e.status) for e in results[key].evaluations] == [(key, Status.OK)]
    assert pool.workers_lost == lost + 2
    pool.submit(Job(9, LION, (0,), tasks=(f"{traps}:trap",)))
    assert collect(pool, 1)[9].evaluations[0].loss == results[0].evaluations[0].loss


def test_a_worker_killed_from_outside_costs_nobody_anything(pool):
    lost = pool.workers_lost
    seeds = tuple(range(400))
    pool.submit(Job(0, LION, seeds, tasks=("digits_mlp",)))
    pool.poll(0.1)
    busy = next(worker for worker in pool._workers if worker.jobs)
    busy.process.send_signal(signal.SIGKILL)
    pool.submit(Job(1, SGD, (0,), tasks=("digits_mlp",)))
    results = collect(pool, 2)
    assert tuple(e.seed for e in results[0].evaluations) == seeds
    assert all(e.status is Status.OK for e in (*results[0].evaluations, *results[1].evaluations))
    assert pool.workers_lost == lost + 1


@needs_proc
def test_the_environment_of_a_worker(pool):
    for worker in pool._workers:
        pid = worker.process.pid
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"NPROC=1" in environment and b"JAX_PLATFORMS=cpu" in environment
        assert len(os.sched_getaffinity(pid)) == 1
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        if worker.ready:
            assert int(status["SigIgn"], 16) >> (signal.SIGINT - 1) & 1
            assert worker.identity["threads"] == "1" and worker.identity["device"].startswith("cpu")


HUNGRY = """
import jax.numpy as jnp
from stepsmith.discovery.evaluate import process, worker
from stepsmith.discovery.language import load
digits = worker.prepare("digits_mlp", "linear")
hog = digits._replace(run=lambda code, seed, limits: jnp.zeros(2**30))
print(worker.evaluate(digits, load("lion"), 0).status)
process.limit_memory(500)
for task in (hog, digits, hog):
    print(worker.evaluate(task, load("lion"), 0).status)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS holds on Linux")
def test_too_much_memory_is_a_status():
    # Not through the pool: a task's first run, before the limit, would take what a later one needs, and XLA keeps it.
    done = subprocess.run([sys.executable, "-c", HUNGRY], env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.stdout.split() == ["ok", "oom", "ok", "oom"], done.stderr


def test_workers_that_cannot_start_end_the_pool_with_their_last_words():
    with WorkerPool(WorkerSpec(("no_such_task",), initial=LION), 1) as pool, pytest.raises(WorkerError, match="no_such_task"):
        pool.wait_until_ready()


OWNER = f"""
import time
from stepsmith.discovery.evaluate import WorkerPool, WorkerSpec
pool = WorkerPool(WorkerSpec(("digits_mlp",), initial={LION!r}), 2)
pool.wait_until_ready()
print(*[worker.process.pid for worker in pool._workers], flush=True)
time.sleep(3600)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_proc
def test_workers_exit_when_the_coordinator_is_gone():
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        owner.kill()
    deadline = time.monotonic() + 120  # one of them may still be compiling
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def test_a_later_process_finds_what_was_compiled(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled, losses = [], []
    for _ in range(2):
        with WorkerPool(WorkerSpec(("logistic",), initial=LION), 1) as pool:
            pool.submit(Job(0, LION, (3,)))
            losses.append(collect(pool, 1)[0].evaluations[0].loss)
        compiled.append({path.name: path.stat().st_size for path in tmp_path.rglob("*-cache")})
    assert compiled[0] == compiled[1] and any(name.startswith("jit_run") for name in compiled[0])
    assert losses[0] == losses[1]


def test_without_a_folder_to_keep_it_in_workers_compile_for_themselves(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with WorkerPool(WorkerSpec(("logistic",), initial=LION), 1) as pool:
        pool.submit(Job(0, LION, (3,)))
        assert collect(pool, 1)[0].evaluations[0].status is Status.OK
