"""The models that tasks train. Start with `functional`, then `mlp`.

Each file has a frozen dataclass, the settings, whose `build` makes a flax nnx module. `functional.split` turns the module
into two pure functions over dicts of arrays, which is all that a task sees. `mlp` also makes the autoencoder (a network
whose narrowest layer is in its middle); `transformer` and `vit` share the blocks of `attention`.
"""

from .cnn import CNN
from .functional import Functional, Model, split
from .gru import GRU
from .mlp import MLP
from .transformer import Transformer
from .vit import ViT

__all__ = ["CNN", "GRU", "MLP", "Functional", "Model", "Transformer", "ViT", "split"]
