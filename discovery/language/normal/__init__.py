"""The exact normal form of what a program computes.

Start with `nodes.py`, the values; `ring.py` has sums and products, `functions.py` and `matrices.py` (of the extended language)
the identities of the other operations,
`flow.py` runs a program over such values and settles its states, `emit.py` prints the values back as statements.

What "exact" means: equal in real arithmetic wherever the original's intermediate values are finite, so rounding, overflow
and underflow are left aside. Nothing is dropped that can be infinite or undefined at finite inputs (``0 * log(v)`` stays).
"""

from .emit import emit
from .flow import NormalForm, normal_form, with_scales

__all__ = ["NormalForm", "emit", "normal_form", "with_scales"]
