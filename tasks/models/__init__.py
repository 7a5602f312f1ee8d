"""The models that tasks train, small flax nnx modules. Start with `functional`, then `mlp`.

`functional.split` turns a module into two pure functions over a dict of parameters, which is all that a task sees.
`mlp` also makes the autoencoder (a network whose narrowest layer is in its middle); `transformer` is a decoder over bytes.
"""

from . import functional, mlp, transformer
from .functional import Functional, split
from .mlp import MLP
from .transformer import Transformer

__all__ = ["MLP", "Functional", "Transformer", "functional", "mlp", "split", "transformer"]
