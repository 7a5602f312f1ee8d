"""A flax nnx module as two pure functions."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

from flax import nnx
from jax import Array

Variables = dict[str, Any]  # a nested dict of arrays


class Model(Hashable, Protocol):
    """Settings of a model that can be built: a frozen dataclass, such as `models.MLP`."""

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the module. Its `__call__(inputs, rngs=None)` trains where it gets `rngs` and is deterministic where not."""
        ...


class Functional(NamedTuple):
    """A model without objects.

    Attributes:
        init: key -> (parameters, state); the state holds batch statistics and is an empty dict for most models.
        apply: (parameters, state, inputs, key) -> (output, new state). With a key the model trains: dropout draws from
            it and batch norm uses the batch; with None it is deterministic and the state stays.
    """

    init: Callable[[Array], tuple[Variables, Variables]]
    apply: Callable[[Variables, Variables, Array, Array | None], tuple[Array, Variables]]


def split(build: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
    """Splits the module that `build` makes, once; `apply` merges it again while it is traced.

    Args:
        build: makes the module from its source of randomness; see `Model.build`. Its variables are `nnx.Param` and
            `nnx.BatchStat`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from stepsmith.tasks.models import MLP
        >>> model = split(MLP((2, 3)).build)
        >>> params, state = model.init(jax.random.key(0))
        >>> output, state = model.apply(params, state, jnp.ones((4, 2)), None)
        >>> sorted(params), state, output.shape
        (['linear_0'], {}, (4, 3))
    """
    # Shapes alone are enough for the structure: nothing is computed here.
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: Array) -> tuple[Variables, Variables]:
        module = build(nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(module, nnx.Param)), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def apply(params: Variables, state: Variables, inputs: Array, key: Array | None) -> tuple[Array, Variables]:
        module: Any = nnx.merge(graphdef, nnx.State(params), nnx.State(state))
        output = module(inputs, rngs=None if key is None else nnx.Rngs(key))
        return output, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return Functional(init, apply)
