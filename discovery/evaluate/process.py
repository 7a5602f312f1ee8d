"""The skeleton of a worker process: how it is started, limited and ended. `worker.py` and `benchmark/worker.py` say what it does."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax

from ...tasks.reference import cache_folder
from ..language.message import one_line
from .identity import machine

MIN_COMPILE_SECONDS = 0.2  # of what is worth a file


def run(serve: Callable[[Connection], None]) -> None:
    """Serves the coordinator at the other end of the pipe whose descriptor is the process's argument, until it is gone."""
    _die_with_the_coordinator()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    _open_device()
    _keep_compiled()
    try:
        serve(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the coordinator is gone


def limit_memory(megabytes: int) -> None:
    """Caps the address space at what the process has now plus the allowance, so that an allocation fails instead of the machine."""
    if not megabytes or not sys.platform.startswith("linux") or jax.default_backend() != "cpu":
        return
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _open_device() -> None:
    """Lets jax open its device before anything else, so that a missing one is said in one line."""
    try:
        jax.devices()
    except Exception as error:  # jax 0.10 has a bare AssertionError for cuda where the host has no GPU
        platform, said = os.environ.get("JAX_PLATFORMS", ""), one_line(str(error)) or type(error).__name__
        sys.exit(f"jax {jax.__version__} opens no device of the platform {platform}, is stepsmith[{platform}] installed? It said: {said}")


def _keep_compiled() -> None:
    """Lets later processes of this machine find what this one compiles, unless jax has been told where that goes."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "compiled" / machine()
    with contextlib.suppress(OSError):  # where nothing can be written each process compiles for itself
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def _die_with_the_coordinator() -> None:
    """A worker inside a compiled loop cannot notice that nobody waits for it any more; Linux kills it (PR_SET_PDEATHSIG)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
