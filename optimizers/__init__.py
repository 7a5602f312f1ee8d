"""Update rules as optax transformations. Start with `registry`: `create(name, learning_rate)` makes any rule by its name.

`lion` and `adamw` are also there by their own names, with `fused=True`; `discovered` holds what searches found and comparisons confirmed,
`kernels` makes one pass of any elementwise rule.
Nothing here knows of tasks or of the search; a rule works in any optax chain.
"""

from .adamw import adamw, adamw_8bit, fused_adamw
from .discovered import muon_rows
from .lion import fused_lion, lion, lion_8bit
from .registry import OPTIMIZERS, Optimizer, create, get, names

__all__ = [
    "OPTIMIZERS",
    "Optimizer",
    "adamw",
    "adamw_8bit",
    "create",
    "fused_adamw",
    "fused_lion",
    "get",
    "lion",
    "lion_8bit",
    "muon_rows",
    "names",
]
