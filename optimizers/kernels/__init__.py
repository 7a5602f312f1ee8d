"""Optimizers whose step is one pass over the parameters. Start with `fuse` in fused.py; rule.py holds the arithmetic of all backends.

`xla.py` is the reference, plain jax; `gpu.py` (Triton) and `tpu.py` (Mosaic) are the kernels, `backend.py` says which runs where,
`elementwise.py` which rules can; `blockwise.py` holds states of one byte, `rounding.py` their random bits, `substitutes.py` the
functions that a compiler lacks.
"""

from .backend import BACKENDS, BackendError, resolve
from .blockwise import SIGNED, UNSIGNED, Blockwise
from .fused import Fused, FusedState, bytes_moved, fuse
from .rule import Rule, State

__all__ = [
    "BACKENDS",
    "SIGNED",
    "UNSIGNED",
    "BackendError",
    "Blockwise",
    "Fused",
    "FusedState",
    "Rule",
    "State",
    "bytes_moved",
    "fuse",
    "resolve",
]
