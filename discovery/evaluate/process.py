"""The skeleton of a worker process: how it is started, limited and ended. `worker.py` and `benchmark/worker.py` say what it does."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax

from ..language.message import one_line


def run(serve: Callable[[Connection], None]) -> None:
    """Serves the coordinator at the other end of the pipe whose descriptor is the process's argument, until it is gone."""
    _die_with_the_coordinator()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    _open_device()
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


def _die_with_the_coordinator() -> None:
    """A worker inside a compiled loop cannot notice that nobody waits for it any more; Linux kills it (PR_SET_PDEATHSIG)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
