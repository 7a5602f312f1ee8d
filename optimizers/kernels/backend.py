"""Which code runs an update: plain XLA, the default, a Pallas kernel of a device, or a kernel's code interpreted."""

import jax

XLA, AUTO, TRITON, TPU = "xla", "auto", "pallas-triton", "pallas-tpu"
INTERPRET_TRITON, INTERPRET_TPU = "interpret-triton", "interpret-tpu"
BACKENDS = (XLA, AUTO, TRITON, TPU, INTERPRET_TRITON, INTERPRET_TPU)

# jax's name of the platform that a kernel is compiled for, and what to call it.
_NEEDS = {TRITON: ("gpu", "an NVIDIA GPU"), TPU: ("tpu", "a TPU")}
_OF_PLATFORM = {"gpu": TRITON, "tpu": TPU}


class BackendError(ValueError):
    """A backend that is not known or cannot run here."""


def platform() -> str:
    """What jax compiles for here: ``cpu``, ``gpu`` or ``tpu``; that of `jax.default_device` where it is set.

    Where that or JAX_PLATFORMS says it, no device is opened to find out.
    """
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    named = getattr(chosen, "platform", chosen) or (jax.config.values["jax_platforms"] or "").partition(",")[0]
    return {"cuda": "gpu", "rocm": "gpu"}.get(named, named) or jax.default_backend()


def resolve(backend: str | None) -> str:
    """The backend to use.

    Args:
        backend: one of `BACKENDS`. None is plain ``xla`` everywhere, until figures of the kernels exist. ``auto`` asks for the kernel
            where the platform has one: ``pallas-triton`` on a gpu, ``pallas-tpu`` on a tpu and ``xla`` on anything else; never an
            interpreted kernel.

    Raises:
        BackendError: it is neither None nor one of `BACKENDS`; ``pallas-triton`` where the platform is no gpu; ``pallas-tpu`` where
            it is no tpu. Plain XLA and interpreted kernels run anywhere, and ``auto`` is always answered.

    Example:
        >>> resolve(None)
        'xla'
    """
    if backend is None:
        return XLA
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}, and None, which is xla")
    if backend == AUTO:
        return _OF_PLATFORM.get(platform(), XLA)
    wanted, device = _NEEDS.get(backend, (platform(), ""))
    if wanted != platform():
        interpreted = INTERPRET_TPU if backend == TPU else INTERPRET_TRITON
        raise BackendError(
            f"backend {backend!r} needs {device} and jax runs on the {platform()} here; use backend='auto', which picks what runs here, "
            f"or {interpreted!r}, which runs the kernel's code slowly anywhere"
        )
    return backend
