"""What, besides program, task and seed, decides the last bits of a result."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata

import jax


def identity() -> dict[str, str]:
    """Versions, device and thread count of this process; part of every stored result."""
    device = jax.devices()[0]
    return {
        "stepsmith": metadata.version("stepsmith"),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "device": f"{device.platform}:{device.device_kind}",
        "instruction_set": _instruction_set(),
        "threads": os.environ.get("NPROC", "all"),
        "batch": "1",
        "precision": "float32",
    }


def digest_of(identity: Mapping[str, str]) -> str:
    """16 hexadecimal digits that stand for an identity in a ledger's rows.

    >>> digest_of({"jax": "0.10.2", "batch": "1"}) == digest_of({"batch": "1", "jax": "0.10.2"})
    True
    """
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]


def _instruction_set() -> str:
    """The vector extensions that XLA compiles for, where the system tells them."""
    wanted = ("avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "neon", "sve")
    flags = _processor_flags()
    return "+".join([platform.machine(), *[flag for flag in wanted if flag in flags]])


def machine() -> str:
    """16 hexadecimal digits that stand for what this process compiles for: versions, device and every feature of the processor."""
    return digest_of(identity() | {"flags": " ".join(sorted(_processor_flags()))})


def _processor_flags() -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split() for line in file if line.startswith(("flags", "Features"))), [])
    except OSError:
        return []
