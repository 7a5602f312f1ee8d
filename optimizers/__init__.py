"""Update rules as optax transformations. Start with `registry`: `create(name, learning_rate)` makes any rule by its name.

Nothing here knows of tasks or of the search; a rule works in any optax chain.
"""

from .registry import OPTIMIZERS, Optimizer, create, get, names

__all__ = ["OPTIMIZERS", "Optimizer", "create", "get", "names"]
