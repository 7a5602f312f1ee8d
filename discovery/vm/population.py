"""The kernel as an optax transformation: of one candidate where it stands, of all of them in one launch under `jax.vmap`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from . import pallas
from .bytecode import Bytecode
from .packing import Layout, Programs, pack


class Candidates(NamedTuple):
    """Programs of a population as run-time input; the first axis of every array runs over the candidates."""

    programs: Programs
    scalars: Float[Array | np.ndarray, "candidates steps scalars"]

    @classmethod
    def of(cls, codes: Sequence[Bytecode]) -> "Candidates":
        """Those of the given bytecodes, each for as many steps."""
        return cls(pack(codes), np.stack([code.scalars for code in codes]))


class PopulationState(NamedTuple):
    """Of one candidate."""

    states: Float[Array, "states rows lanes"]
    count: Int[Array, ""]  # steps taken  # pyright: ignore[reportIncompatibleMethodOverride]


def population_machine(
    candidate: Candidates, num_states: int, target: pallas.Target, interpret: Any = False
) -> optax.GradientTransformation:
    """The transformation that executes a candidate's program; to be called under `jax.vmap` over candidates.

    Args:
        candidate: `Candidates`, whose first axis `jax.vmap` has taken off.
        num_states: that any program keeps at most; at least 1.
        target: what the kernel is compiled for.
        interpret: as of `pallas.update`.

    Example:
        >>> from .bytecode import Clock, assemble
        >>> from ..language import load
        >>> candidates = Candidates.of([assemble(load(name), Clock.create(np.ones(1))) for name in ("sgd", "lion")])
        >>> def first_update(candidate):
        ...     machine = population_machine(candidate, 1, "gpu", interpret=True)
        ...     w = jnp.ones(3)
        ...     return machine.update(0.5 * w, machine.init(w), w)[0][0]
        >>> [f"{number:.4g}" for number in jax.vmap(first_update)(candidates)]
        ['-0.05', '-0.00033']
    """

    def layout_of(params: optax.Params | None) -> Layout:
        return pallas.layout([leaf.shape for leaf in jax.tree.leaves(params)], target)

    def init_fn(params: optax.Params) -> PopulationState:
        layout = layout_of(params)
        return PopulationState(jnp.zeros((num_states, *layout.flat_shape), jnp.float32), jnp.zeros((), jnp.int32))

    def update_fn(
        updates: optax.Updates, state: PopulationState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PopulationState]:
        layout = layout_of(params)
        gradients, treedef = jax.tree.flatten(updates)
        w, g = (layout.flatten([leaf[None] for leaf in leaves])[0] for leaves in (jax.tree.leaves(params), gradients))
        scalars = lax.dynamic_index_in_dim(jnp.asarray(candidate.scalars), state.count, 0, keepdims=False)
        step = _for_all_at_once(partial(pallas.update, layout, target=target, interpret=interpret))
        flat, states = step(candidate.programs, scalars, w, g, state.states)
        steps = [-leaf[0] for leaf in layout.unflatten(flat[None])]
        return jax.tree.unflatten(treedef, steps), PopulationState(states, state.count + 1)

    return optax.GradientTransformation(init_fn, update_fn)  # pyright: ignore[reportArgumentType]


def _for_all_at_once(update: Callable[..., Any]) -> Callable[..., Any]:
    """A function of candidates as one of a candidate, which under `jax.vmap` is called once for all of them."""

    @jax.custom_batching.custom_vmap
    def of_one(*arguments: Any) -> Any:
        return jax.tree.map(lambda x: x[0], update(*jax.tree.map(lambda x: jnp.asarray(x)[None], arguments)))

    @of_one.def_vmap
    def of_all(size: int, batched: Any, *arguments: Any) -> Any:
        def spread(x: Any, is_batched: bool) -> Any:
            return x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))

        return update(*jax.tree.map(spread, arguments, tuple(batched))), (True, True)

    return of_one
