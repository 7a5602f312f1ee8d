"""What every test relies on: the CPU unless asked otherwise, and shapes checked in `stepsmith.discovery`."""

import atexit
import os
import shutil
import tempfile

# Read by jax when it is imported. To run the tests marked gpu or tpu: JAX_PLATFORMS=cuda pytest -m gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# All processes of a session share what they compile: the same few training loops, hundreds of times.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jaxtyping

# Before the first import of the package; modules imported earlier would stay unchecked.
jaxtyping.install_import_hook("stepsmith.discovery", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

# jax_numpy_dtype_promotion stays "standard": under "strict" optax itself fails (radam, nadam and yogi, among others,
# and the schedules that raise a float to the power of the integer step count).


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked gpu or tpu where jax runs on something else; the notebooks, the longest of all, go first."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)
    for item in items:
        for device in ("gpu", "tpu"):
            if item.get_closest_marker(device) and jax.default_backend() != device:
                item.add_marker(pytest.mark.skip(reason=f"needs a {device}, jax runs on the {jax.default_backend()}"))


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


@pytest.fixture(scope="session")
def lower_for():
    """Lowers a function for a device that is not there, and for TPUs compiles it too: (platform, function, *arguments) -> its text.

    Arguments may be `jax.ShapeDtypeStruct`. Compiling for TPUs needs libtpu (Linux on x86-64); without it the test is skipped.
    """
    kinds = {"cuda": ("NVIDIA H100", 132), "tpu": ("TPU v5e", 1)}

    def lower(platform, function, *arguments):
        device = None
        if platform == "tpu":
            pytest.importorskip("libtpu", reason="libtpu is not installed: nothing here compiles for TPUs")
            from jax.experimental import topologies

            # What libtpu would ask a TPU's host for; CLOUD hosts answer, this one does not.
            os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
            device = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu").devices[0]
            sharding = jax.sharding.SingleDeviceSharding(device)
            arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
        kind, cores = kinds[platform]
        abstract = jax.sharding.AbstractDevice(kind, cores, platform if platform == "tpu" else "gpu")
        # On jax 0.12 a kernel asks the mesh which device it is lowered for.
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=abstract)):
            lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
        if device is not None:
            lowered.compile()
        return lowered.as_text()

    return lower
