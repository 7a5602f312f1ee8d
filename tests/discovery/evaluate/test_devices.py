"""Where workers run: what `plan` decides, what real processes get of it, and what a run remembers."""

import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from jaxlib import xla_client

from stepsmith.discovery import ConfigError, Devices, Run, recorder, resume, search, session
from stepsmith.discovery.evaluate import Job, Place, WorkerError, WorkerPool, WorkerSpec, plan
from stepsmith.discovery.evaluate.devices import visible_gpus, visible_tpus
from stepsmith.discovery.language import load
from stepsmith.discovery.ledger import Ledger, Step
from stepsmith.discovery.session import _places

LION = load("lion").to_json()
NO_GPU = "99"  # a number that no host has: jax finds nothing there, with or without its plugin
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """A host of which the environment says nothing about accelerators."""
    for name in [name for name in os.environ if name.startswith(("CUDA_", "TPU_", "XLA_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Puts a script of that name alone on the path; without text there is none."""

    def install(text=None):
        if text is not None:
            script = tmp_path / "nvidia-smi"
            script.write_text("#!/bin/sh\n" + text)
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        ("0,1", ("0", "1")),
        (" 3 , 2", ("3", "2")),
        ("GPU-5a,MIG-1b", ("GPU-5a", "MIG-1b")),
        ("0,-1,1", ("0",)),
        ("1,1", ("1",)),
    ],
)
def test_the_gpus_that_the_environment_allows(monkeypatch, allowed, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert visible_gpus() == found


TWO_GPUS = """test "$1" = -L || exit 1
echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5a)"
echo "  MIG 1g.5gb      Device  0: (UUID: MIG-1b)"
echo "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5b)"
"""


def test_the_gpus_that_the_driver_lists(nvidia_smi):
    nvidia_smi(TWO_GPUS)
    assert visible_gpus() == ("0", "1")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "CUDA_VISIBLE_DEVICES is not set, there is no nvidia-smi on the path"),
        ("echo NVIDIA-SMI has failed; exit 9", "nvidia-smi failed: NVIDIA-SMI has failed"),
        ("echo No devices found.", "nvidia-smi lists: No devices found."),
    ],
)
def test_no_gpu_says_where_it_was_looked_for_and_how_to_mend_it(nvidia_smi, script, words):
    nvidia_smi(script)
    with pytest.raises(ConfigError) as caught:
        plan("gpu")
    assert words in str(caught.value) and "stepsmith[cuda]" in str(caught.value) and "use device cpu" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "found"),
    [(("accel0", "accel1", "accel"), ("0", "1")), (("vfio/0", "vfio/3", "vfio/vfio"), ("0", "1"))],
    ids=["v4", "v5e"],
)
def test_the_tpus_of_the_device_files(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert visible_tpus(tmp_path) == found


def test_no_tpu_says_where_it_was_looked_for_and_how_to_mend_it(tmp_path):
    with pytest.raises(ConfigError, match=r"device tpu: none found \(.*accel0.*vfio/0\); install stepsmith\[tpu\].*or use device cpu"):
        visible_tpus(tmp_path)


def test_each_gpu_has_one_worker_and_the_cpu_workers_have_cores_of_their_own(monkeypatch, eight_cores):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    shared = {
        "JAX_PLATFORMS": "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
        "XLA_CLIENT_MEM_FRACTION": "0.5",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops=true",
    }
    on_cpu = {"JAX_PLATFORMS": "cpu", "NPROC": "1"}
    assert plan("gpu", 0, 3, 0.5) == (
        Place("gpu", 0, shared | {"CUDA_VISIBLE_DEVICES": "4"}, (0, 2, 4), False),
        Place("gpu", 1, shared | {"CUDA_VISIBLE_DEVICES": "7"}, (1, 3), False),
        *(Place("cpu", index, on_cpu, (5 + index,), True) for index in range(3)),
    )
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in plan("gpu", 1)] == ["4"]


def test_more_gpus_than_cores_share_them(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2}, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [place.cores for place in plan("gpu")] == [(2,), (2,)]


def test_what_the_user_says_about_a_gpu_is_kept(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    (place,) = plan("gpu")
    assert place.environment["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=false"
    assert place.environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_jax_reads_the_memory_fraction_from_this_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")  # jax refuses the old name beside the new one
    for name, value in plan("gpu", memory_fraction=0.55)[0].environment.items():
        monkeypatch.setenv(name, value)
    options = xla_client.generate_pjrt_gpu_plugin_options()
    assert options["memory_fraction"] == 0.55 and options["preallocate"] is True


def test_each_tpu_chip_has_one_worker(monkeypatch, eight_cores):
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "1,3")
    places = plan("tpu", cpu_workers=6)
    assert [place.platform for place in places] == ["tpu"] * 2 + ["cpu"] * 6
    assert [place.cores for place in places] == [(core,) for core in range(8)]
    assert places[1].environment == {
        "JAX_PLATFORMS": "tpu",
        "TPU_VISIBLE_CHIPS": "3",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def test_workers_on_the_cpu_take_turns_on_its_cores(eight_cores):
    assert plan("auto") == plan("cpu") == plan("cpu", 8)
    assert [place.cores for place in plan("cpu", 9)] == [*((core,) for core in range(8)), (0,)]
    assert [place.cores for place in plan("cpu", 2)] == [tuple(range(8))] * 2


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ({}, ("gpux",), "device must be one of auto, cpu, gpu, tpu, got 'gpux'"),
        ({}, ("cpu", -1), "workers must be 0 or more, got -1"),
        ({}, ("cpu", 1, -2), "cpu_workers must be 0 or more, got -2"),
        ({}, ("cpu", 1, 0, 0.0), "memory_fraction must be above 0 and at most 1, got 0.0"),
        ({}, ("cpu", 1, 0, 1.01), "memory_fraction must be above 0 and at most 1, got 1.01"),
        ({}, ("cpu", 1, 0, float("nan")), "memory_fraction must be above 0 and at most 1, got nan"),
        ({}, ("cpu", 1, 1), "cpu_workers are those beside a gpu or tpu, got 1 with device cpu; use workers"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ("gpu",), "device gpu: none found (CUDA_VISIBLE_DEVICES is '')"),
        ({"CUDA_VISIBLE_DEVICES": "-1,0"}, ("gpu",), "device gpu: none found (CUDA_VISIBLE_DEVICES is '-1,0')"),
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, ("gpu", 3), "3 workers asked, and one runs on each gpu: found 2 (4, 7)"),
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, ("gpu", 2, 7), "7 cpu_workers asked, at most 6 have a core: 8 cores"),
        ({"TPU_VISIBLE_CHIPS": "0,x"}, ("tpu",), "device tpu: none found (TPU_VISIBLE_CHIPS is '0,x', not a list of chips such as 0,1)"),
        ({"TPU_VISIBLE_CHIPS": "0,0"}, ("tpu",), "device tpu: none found (TPU_VISIBLE_CHIPS is '0,0'"),
    ],
)
def test_bad_input_ends_with_one_clear_line(monkeypatch, eight_cores, environment, arguments, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        plan(*arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def environment_of(pid):
    """Of a process that `plan` placed; until it has replaced the fork of this one it shows this one's."""
    while b"evaluate.worker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.01)
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@needs_proc
def test_a_worker_on_a_gpu_gets_its_environment_and_says_that_jax_finds_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", NO_GPU)
    places = plan("gpu", memory_fraction=0.25)
    with WorkerPool(WorkerSpec(("digits_mlp",), initial=LION), places) as pool:
        (worker,) = pool._workers
        found = environment_of(worker.process.pid)
        assert {name: found[name] for name in places[0].environment} == places[0].environment
        assert os.sched_getaffinity(worker.process.pid) == set(places[0].cores) == os.sched_getaffinity(0)
        with pytest.raises(WorkerError, match=r"jax \S+ opens no device of the platform cuda, is stepsmith\[cuda\] installed\?") as caught:
            pool.wait_until_ready()
    assert "\n" not in str(caught.value)


@needs_proc
def test_a_result_carries_the_identity_of_the_worker_that_it_came_from():
    one, two = plan("cpu", 2)
    two = dataclasses.replace(two, environment={**two.environment, "NPROC": "2"}, address_space_limit=False)
    with WorkerPool(WorkerSpec(("digits_mlp",), initial=LION), (one, two)) as pool:
        while not all(worker.ready for worker in pool._workers):
            pool.poll(0.2)
        for worker, place in zip(pool._workers, (one, two), strict=True):
            pid = worker.process.pid
            assert place.environment.items() <= environment_of(pid).items()
            assert os.sched_getaffinity(pid) == set(place.cores)
            limit = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "address space" in line)
            assert (limit.split()[3] == "unlimited") is not place.address_space_limit
        for key in range(2):
            pool.submit(Job(key, LION, (key,)))
        results = []
        while len(results) < 2:
            results += pool.poll(0.2)
    assert sorted(result.identity["threads"] for result in results) == ["1", "2"]


def test_a_mix_of_platforms_is_refused_where_results_must_repeat(monkeypatch, eight_cores, small_config, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    mix = Devices("gpu", cpu_workers=1)
    with pytest.raises(ConfigError, match="cpu_workers beside a gpu need mode async"):
        search(small_config, tmp_path / "run", devices=mix)
    assert not (tmp_path / "run").exists()
    places = _places(dataclasses.replace(small_config, mode="async"), mix, 0, "cpu")
    assert [place.platform for place in places] == ["gpu", "cpu"]


def interrupted_run(config, path):
    """A run whose session was asked to stop after a few evaluations."""

    def stop(snapshot):
        if snapshot.phase == "searching" and snapshot.counters.evaluated >= 3 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    asked = []

    run = search(config, path, workers=1, on_progress=stop)
    assert run.status()["status"] == "interrupted"
    return run


def edit(run, column, table, change):
    """Rewrites a JSON column of the run's ledger."""
    with sqlite3.connect(run.folder / "ledger.sqlite") as database:
        value = change(json.loads(database.execute(f"select {column} from {table}").fetchone()[0]))
        database.execute(f"update {table} set {column} = ?", (json.dumps(value),))
    database.close()


def moved(state):
    """The state as if all that was evaluated so far had been so on another device."""
    ((digest, identity),) = state["identities"].items()
    return state | {"identities": {digest[::-1]: identity | {"device": "gpu:Old", "instruction_set": "none"}}}


@pytest.mark.heavy
@pytest.mark.parametrize(("mode", "elsewhere"), [("deterministic", True), ("deterministic", False), ("async", True)])
def test_resuming_elsewhere_goes_on_and_is_noted(monkeypatch, caplog, small_config, finished_run, tmp_path, mode, elsewhere):
    monkeypatch.setattr(recorder, "COMMIT_SECONDS", 0.0)
    run = interrupted_run(dataclasses.replace(small_config, mode=mode), tmp_path / "run")
    if elsewhere:
        edit(run, "state", "search_state", moved)
    assert resume(run.folder, workers=1).status()["status"] == "finished"
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        notes = [event.message for event in ledger.events() if event.kind == "identity"]
        identities = ledger.state()["identities"]
        rows = [row for program_hash in ledger.outcomes() for row in ledger.evaluations(program_hash)]
    assert notes == [record.message for record in caplog.records]
    assert len(identities) == (2 if elsewhere else 1)
    last = list(identities)[-1]
    assert identities[last]["device"].startswith("cpu") and {row.identity for row in rows} == {last}
    if mode == "deterministic" and elsewhere:
        (note,) = notes
        assert "device gpu:Old -> cpu:cpu, instruction_set none -> " in note and "jax" not in note
    else:
        assert not notes
    if mode == "deterministic":
        assert run.digest() == finished_run.digest()


def test_a_run_is_resumed_on_the_device_that_it_began_on(monkeypatch, finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.folder, tmp_path / "run"))
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        ledger.commit(Step(status="interrupted"))
    assert run.status()["versions"]["platform"] == "cpu"
    edit(run, "versions", "run", lambda versions: versions | {"platform": "gpu"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="device gpu: none found"):
        resume(run.folder)
    assert resume(run.folder, workers=1, devices=Devices("cpu")).status()["status"] == "finished"


def test_a_run_is_resumed_in_the_batches_that_it_began_with(monkeypatch, small_config, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", NO_GPU)
    batches = []

    def pool(spec, places):
        batches.append((places[0].platform, spec.batch))
        raise WorkerError("no further")

    monkeypatch.setattr(session, "WorkerPool", pool)
    with pytest.raises(WorkerError):
        search(small_config, tmp_path / "run", devices=Devices("gpu", batch=8))
    for devices in (Devices(), Devices(batch=4), Devices("cpu"), Devices()):
        with pytest.raises(WorkerError):
            resume(tmp_path / "run", devices=devices)
    assert batches == [("gpu", 8), ("gpu", 8), ("gpu", 4), ("cpu", 8), ("gpu", 8)]


@pytest.mark.parametrize("command", [("select", "runs/none", "--config", "none.toml"), ("tune", "lion", "--tasks", "digits_mlp")])
def test_commands_that_train_no_batches_refuse_one(stepsmith, command):
    code, printed, said = stepsmith(*command, "--batch", "8")
    assert (code, printed) == (2, "")
    assert said == "stepsmith: batch 8 asked, and only searches train several runs at once; leave it out\n"


def test_the_command_runs_on_the_device_that_it_is_told(start_command, small_toml, finished_run, tmp_path):
    options = ("--device", "cpu", "--workers", "1", "--cpu-workers", "0", "--memory-fraction", "0.5")
    with start_command("search", "--config", small_toml, "--run", tmp_path / "run", *options) as process:
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert Run(tmp_path / "run").digest() == finished_run.digest()


@pytest.mark.parametrize(
    ("visible", "code", "words"),
    [
        ("", 2, "stepsmith: device gpu: none found (CUDA_VISIBLE_DEVICES is ''); install its driver and stepsmith[cuda]"),
        (NO_GPU, 1, "opens no device of the platform cuda, is stepsmith[cuda] installed?"),
    ],
)
def test_the_command_refuses_a_device_that_is_not_there(monkeypatch, start_command, small_toml, tmp_path, visible, code, words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with start_command("search", "--config", small_toml, "--run", tmp_path / "run", "--device", "gpu") as process:
        lines = process.communicate()[0].splitlines()
    assert process.returncode == code, lines
    assert words in lines[-1] and len([line for line in lines if "stepsmith: " in line]) == 1 and "Traceback" not in "".join(lines)
    assert code == 1 or not (tmp_path / "run").exists()
