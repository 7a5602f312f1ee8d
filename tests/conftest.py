"""What every test relies on: the CPU unless asked otherwise, and shapes checked in `stepsmith.discovery`."""

import atexit
import dataclasses
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# Read by jax when it is imported. To run the tests marked gpu or tpu: JAX_PLATFORMS=cuda pytest -m gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads wait longer for each other than they compute on as small matrices. Read when scipy is imported, whose LAPACK jax calls.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# All processes of a session share what they compile: the same few training loops, hundreds of times.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jaxtyping


def _modules_with_shapes(package: str, folder: Path) -> list[str]:
    """Those of a package that name shapes: others would pay for the check at every call, and seconds at import."""
    paths = [path.relative_to(folder) for path in folder.rglob("*.py") if "from jaxtyping import" in path.read_text()]
    return [".".join((package, *path.parent.parts, *([] if path.stem == "__init__" else [path.stem]))) for path in paths]


_SPEC = importlib.util.find_spec("stepsmith.discovery")
assert _SPEC is not None and _SPEC.origin is not None


# Before the first import of the package; modules imported earlier would stay unchecked.
jaxtyping.install_import_hook(_modules_with_shapes(_SPEC.name, Path(_SPEC.origin).parent), "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

# jax_numpy_dtype_promotion stays "standard": under "strict" optax itself fails (radam, nadam and yogi, among others,
# and the schedules that raise a float to the power of the integer step count).

# What libtpu would ask a TPU's host for, and that processes which only compile may run side by side.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests for what is not here: a gpu, a tpu, the compiler for TPUs; the notebooks, the longest of all, go first."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)
    no_compiler = importlib.util.find_spec("libtpu") is None
    for item in items:
        if no_compiler and item.get_closest_marker("tpu_compiler"):
            item.add_marker(pytest.mark.skip(reason="needs libtpu, which is not installed: pip install 'jax[tpu]' (Linux on x86-64)"))
        for device in ("gpu", "tpu"):
            if item.get_closest_marker(device) and jax.default_backend() != device:
                item.add_marker(pytest.mark.skip(reason=f"needs a {device}, jax runs on the {jax.default_backend()}"))


@pytest.fixture
def quick_compile():
    """Lets XLA optimize little: for tests that compile for seconds to run for moments, and compare no bits with another process."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def modules_with_shapes():
    """(package, folder) -> names of the modules whose shapes are checked."""
    return _modules_with_shapes


@pytest.fixture(scope="session")
def task_or_skip():
    """Makes the task of a name; where its data are not on this machine the test is skipped and says what is missing."""
    from stepsmith.tasks import DataError, get

    def make(name):
        task = get(name)
        try:
            task.load()
        except DataError as error:
            pytest.skip(str(error))
        return task

    return make


class Lowering(NamedTuple):
    """What came of a function for a device that is not there."""

    text: str
    compiled: Any  # jax.stages.Compiled for a TPU; None for CUDA, whose compiler needs the device


@pytest.fixture
def two_threads():
    """Skips where jax has one thread: a kernel that it simulates on two cores would wait for it forever."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if int(os.environ.get("NPROC", cores)) < 2:
        pytest.skip("simulating two cores needs two: this process may use one")


@pytest.fixture
def plant_a_race(monkeypatch):
    """Makes all cells along the first axis of a module's kernels write to one block."""

    def plant(module):
        call = module.pl.pallas_call

        def moved(spec):
            return dataclasses.replace(spec, index_map=lambda first, *others: spec.index_map(0, *others))

        def wrong(*args, out_specs, **settings):
            return call(*args, out_specs=list(map(moved, out_specs)), **settings)

        monkeypatch.setattr(module.pl, "pallas_call", wrong)

    return plant


@pytest.fixture
def lower_for(request, monkeypatch):
    """Lowers for a device that is not there, and compiles for a TPU: (platform, function, *arguments, topology) -> `Lowering`.

    Arguments may be `jax.ShapeDtypeStruct`. Tests that ask for the platform "tpu" are marked tpu_compiler.
    """

    def lower(platform, function, *arguments, topology="v5e:2x2"):
        device = None
        abstract = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
        if platform == "tpu":
            assert request.node.get_closest_marker("tpu_compiler"), "mark this test tpu_compiler"
            from jax.experimental import topologies

            for name, value in LIBTPU.items():
                monkeypatch.setenv(name, value)
            device = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices[0]
            abstract = jax.sharding.AbstractDevice(device.device_kind, 1, "tpu")
            sharding = jax.sharding.SingleDeviceSharding(device)
            arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
        # On jax 0.12 a kernel asks the mesh which device it is lowered for.
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=abstract)):
            lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
        return Lowering(lowered.as_text(), lowered.compile() if device is not None else None)

    return lower
