"""Which processes a host runs: a worker on each accelerator, or one on each core, and what each finds in its environment.

Nothing here imports jax: a process that has opened a device keeps its memory from the workers.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..config import ConfigError
from ..language.message import one_line

Device = Literal["auto", "cpu", "gpu", "tpu"]

# XLA's autotuner and its atomic additions otherwise give other last bits from run to run (openxla/xla pull request 12520).
DETERMINISTIC_OPS = "--xla_gpu_deterministic_ops=true"
NVIDIA_SMI_SECONDS = 60.0
_MENDING = {
    "gpu": "install its driver and stepsmith[cuda] on a host with an NVIDIA GPU",
    "tpu": "install stepsmith[tpu] on a TPU host",
}


@dataclass(frozen=True)
class Devices:
    """What the workers run on."""

    device: Device = "auto"
    """cpu, gpu (NVIDIA) or tpu; auto: the cpu for a new run, the device of the run when it is resumed"""
    cpu_workers: int = 0
    """workers on the cpu beside those on a gpu or tpu; needs mode async"""
    memory_fraction: float = 0.9
    """of a gpu's memory that its worker may take, above 0 and at most 1"""
    batch: int = 0
    """runs that a gpu or tpu trains at once; 0: of a new run as many as fit into its memory and are in flight, of a resumed one as it
    began; 1: one at a time"""

    def places(self, workers: int = 0, batches: bool = False) -> "tuple[Place, ...]":
        """Where the workers run, as `plan` gives it.

        Args:
            workers: on the device; 0: one on each core, gpu or tpu.
            batches: whether they can train several runs at once.

        Raises:
            ConfigError: a batch that they cannot train, or what `plan` refuses.
        """
        if self.batch < 0:
            raise ConfigError(f"batch must be 0 or more, got {self.batch}")
        if self.batch > 1 and not batches:
            raise ConfigError(f"batch {self.batch} asked, and only searches train several runs at once; leave it out")
        if self.batch > 1 and self.device in ("auto", "cpu"):
            raise ConfigError(
                f"batch {self.batch} asked with device cpu, which trains one run at a time; leave it out, or use a gpu or tpu"
            )
        return plan(self.device, workers, self.cpu_workers, self.memory_fraction)


@dataclass(frozen=True)
class Place:
    """Where one worker runs."""

    platform: Literal["cpu", "gpu", "tpu"]
    index: int  # among the places of its platform
    environment: Mapping[str, str]  # over that of the coordinator
    cores: tuple[int, ...]  # that it may use, where the system binds processes to cores
    address_space_limit: bool = True  # not beside an accelerator: its driver maps more addresses than there is memory


def plan(device: str = "auto", workers: int = 0, cpu_workers: int = 0, memory_fraction: float = 0.9) -> tuple[Place, ...]:
    """Where the workers of this host run.

    A worker on the CPU has one thread, since the number of threads changes the last bits of a result. An
    accelerator has one worker; the cores that the CPU workers leave are shared out among the accelerators' workers.

    Args:
        device: cpu, gpu, tpu, or auto, which is the cpu; a run that is resumed asks for its own device instead.
        workers: on that device; 0: one on each core, or on each gpu or tpu that this process may use.
        cpu_workers: on the CPU beside an accelerator, each with a core of its own.
        memory_fraction: of a gpu's memory that its worker allocates when it starts.

    Returns:
        A place for each worker, those on the accelerators first.

    Raises:
        ConfigError: a value that is not allowed, no such device here, or too few of them, or too few cores.

    >>> [place.platform for place in plan("cpu", 2)]
    ['cpu', 'cpu']
    """
    if device not in get_args(Device):
        raise ConfigError(f"device must be one of {', '.join(get_args(Device))}, got {device!r}")
    for name, number in (("workers", workers), ("cpu_workers", cpu_workers)):
        if number < 0:
            raise ConfigError(f"{name} must be 0 or more, got {number}")
    if not 0 < memory_fraction <= 1:
        raise ConfigError(f"memory_fraction must be above 0 and at most 1, got {memory_fraction}")
    cores = _cores()
    if device in ("gpu", "tpu"):
        return _beside_each_other(device, workers, cpu_workers, memory_fraction, cores)
    if cpu_workers:
        raise ConfigError(f"cpu_workers are those beside a gpu or tpu, got {cpu_workers} with device {device}; use workers")
    count = workers or len(cores)
    # With cores to spare the system chooses: two runs of one worker each would else share the first core.
    return tuple(_on_cpu(i, tuple(cores) if count < len(cores) else (cores[i % len(cores)],)) for i in range(count))


def _beside_each_other(
    device: Literal["gpu", "tpu"], workers: int, cpu_workers: int, memory_fraction: float, cores: list[int]
) -> tuple[Place, ...]:
    found = visible_gpus() if device == "gpu" else visible_tpus()
    if workers > len(found):
        raise ConfigError(f"{workers} workers asked, and one runs on each {device}: found {len(found)} ({', '.join(found)})")
    names = found[: workers or None]
    free = max(0, len(cores) - len(names))
    if cpu_workers > free:
        raise ConfigError(
            f"{cpu_workers} cpu_workers asked, at most {free} have a core: {len(cores)} cores, one left to each of {len(names)} {device}"
        )
    left = cores[: len(cores) - cpu_workers]
    places = []
    for index, name in enumerate(names):
        environment = _gpu_environment(name, memory_fraction) if device == "gpu" else _tpu_environment(name)
        share = tuple(left[index :: len(names)]) or (left[index % len(left)],)
        places.append(Place(device, index, environment, share, address_space_limit=False))
    return (*places, *(_on_cpu(index, (core,)) for index, core in enumerate(cores[len(left) :])))


def visible_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ConfigError: there is none; the message says where it was looked for.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        count, why = _ask_nvidia_smi()
        return _some("gpu", tuple(map(str, range(count))), f"CUDA_VISIBLE_DEVICES is not set, {why}")
    names: list[str] = []
    for name in (entry.strip() for entry in allowed.split(",")):
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-\S+", name) or name in names:
            break  # CUDA too looks no further than the first entry that names no device
        names.append(name)
    return _some("gpu", tuple(names), f"CUDA_VISIBLE_DEVICES is {allowed!r}")


def visible_tpus(folder: Path = Path("/dev")) -> tuple[str, ...]:
    """The TPU chips that this process may use, by their numbers.

    Args:
        folder: of the device files: accel0, accel1... up to v4, vfio/0, vfio/1... since v5e.

    Raises:
        ConfigError: there is none; the message says where it was looked for.
    """
    allowed = os.environ.get("TPU_VISIBLE_CHIPS")
    if allowed:
        names = tuple(entry.strip() for entry in allowed.split(","))
        good = all(map(str.isdecimal, names)) and len(set(names)) == len(names)
        return _some("tpu", names if good else (), f"TPU_VISIBLE_CHIPS is {allowed!r}, not a list of chips such as 0,1")
    files = [*folder.glob("accel[0-9]*")] or [*folder.glob("vfio/[0-9]*")]
    where = f"TPU_VISIBLE_CHIPS is not set, there is neither {folder}/accel0 nor {folder}/vfio/0"
    return _some("tpu", tuple(map(str, range(len(files)))), where)


def _some(device: str, names: tuple[str, ...], where: str) -> tuple[str, ...]:
    if names:
        return names
    raise ConfigError(f"device {device}: none found ({where}); {_MENDING[device]}, or use device cpu")


def _ask_nvidia_smi() -> tuple[int, str]:
    """How many GPUs the driver lists, and in words what it said."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, errors="replace", timeout=NVIDIA_SMI_SECONDS)
    except FileNotFoundError:
        return 0, "there is no nvidia-smi on the path"
    except (OSError, subprocess.TimeoutExpired) as error:
        return 0, f"nvidia-smi gave no answer ({type(error).__name__})"
    if done.returncode:
        return 0, f"nvidia-smi failed: {one_line(done.stdout + done.stderr)}"
    return len(re.findall(r"^GPU [0-9]+:", done.stdout, re.MULTILINE)), f"nvidia-smi lists: {one_line(done.stdout) or 'none'}"


def _on_cpu(index: int, cores: tuple[int, ...]) -> Place:
    return Place("cpu", index, {"JAX_PLATFORMS": "cpu", "NPROC": "1"}, cores)


def _gpu_environment(name: str, memory_fraction: float) -> dict[str, str]:
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_deterministic_ops" not in flags:  # who sets it means it
        flags = f"{flags} {DETERMINISTIC_OPS}".strip()
    return {
        "JAX_PLATFORMS": "cuda",
        "CUDA_VISIBLE_DEVICES": name,
        "XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true"),
        "XLA_CLIENT_MEM_FRACTION": f"{memory_fraction:g}",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "",  # its old name; jax refuses to start if both are set
        "XLA_FLAGS": flags,
    }


def _tpu_environment(name: str) -> dict[str, str]:
    """One chip a process, none of which speaks to another."""
    return {
        "JAX_PLATFORMS": "tpu",
        "TPU_VISIBLE_CHIPS": name,
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else the first process locks the others out; jax's own multi-process tests set it
    }


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
