"""From a program to a file.

Start with `optax_file.py`, which writes the module; `separate.py` finds learning rate and weight decay in a rule, `emit.py` writes its
arithmetic over pytrees.
"""

from .optax_file import Provenance, to_optax
from .separate import Separated, separate

__all__ = ["Provenance", "Separated", "separate", "to_optax"]
