"""Which code runs an update: plain XLA, a Pallas kernel of a device, or a kernel's code interpreted."""

import jax

XLA, TRITON, TPU = "xla", "pallas-triton", "pallas-tpu"
INTERPRET_TRITON, INTERPRET_TPU = "interpret-triton", "interpret-tpu"
BACKENDS = (XLA, TRITON, TPU, INTERPRET_TRITON, INTERPRET_TPU)

# jax's name of the platform that a kernel is compiled for, and what to call it.
_NEEDS = {TRITON: ("gpu", "an NVIDIA GPU"), TPU: ("tpu", "a TPU")}
_OF_PLATFORM = {"gpu": TRITON, "tpu": TPU}


class BackendError(ValueError):
    """A backend that is not known or cannot run here."""


def platform() -> str:
    """What jax compiles for by default: ``cpu``, ``gpu`` or ``tpu``. Where JAX_PLATFORMS says it, no device is opened to find out."""
    named = (jax.config.values["jax_platforms"] or "").partition(",")[0]
    return {"cuda": "gpu", "rocm": "gpu"}.get(named, named) or jax.default_backend()


def resolve(backend: str | None) -> str:
    """The backend to use.

    Args:
        backend: one of `BACKENDS`. None picks by `platform`: ``pallas-triton`` on a gpu, ``pallas-tpu`` on a tpu and ``xla`` on
            anything else; never an interpreted kernel.

    Raises:
        BackendError: it is neither None nor one of `BACKENDS`; ``pallas-triton`` where the platform is no gpu; ``pallas-tpu`` where
            it is no tpu. Plain XLA and interpreted kernels run anywhere, and None is always answered.

    Example:
        >>> resolve("xla")
        'xla'
    """
    if backend is None:
        return _OF_PLATFORM.get(platform(), XLA)
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}, and None, which picks")
    wanted, device = _NEEDS.get(backend, (platform(), ""))
    if wanted != platform():
        interpreted = INTERPRET_TPU if backend == TPU else INTERPRET_TRITON
        raise BackendError(
            f"backend {backend!r} needs {device} and jax runs on the {platform()} here; use backend=None, which picks what runs here, "
            f"or {interpreted!r}, which runs the kernel's code slowly anywhere"
        )
    return backend
