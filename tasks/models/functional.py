"""A flax nnx module as two pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jax import Array


class Functional(NamedTuple):
    """A model without objects.

    Attributes:
        init: key -> parameters, a nested dict of arrays.
        apply: parameters and the module's inputs -> its output.
    """

    init: Callable[[Array], dict[str, Any]]
    apply: Callable[..., Array]


def split(build: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
    """Splits the module that `build` makes, once; `apply` merges it again while it is traced.

    Args:
        build: makes the module from its source of randomness. Every variable of the module must be an `nnx.Param`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = split(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
        >>> params = model.init(jax.random.key(0))
        >>> sorted(params), model.apply(params, jnp.ones((4, 2))).shape
        (['bias', 'kernel'], (4, 3))
    """
    # Shapes alone are enough for the structure: nothing is computed here.
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: Array) -> dict[str, Any]:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def apply(params: dict[str, Any], *inputs: Array) -> Array:
        return nnx.merge(graphdef, nnx.State(params))(*inputs)

    return Functional(init, apply)
